"""Assemble a COG from compressed tiles: those of a deflate tif and its overviews (`cog`), or of a mosaic (`overview_tiles`).

The layout is that of GDAL's COG driver (gdal.org/drivers/raster/cog.html, "File format details"): the header; the ghost area, a
text that declares the layout; the directories (IFDs), full image first; their arrays of tile offsets and sizes; then the tiles,
smallest overview first, so that a reader gets a preview with its first request. Each tile is preceded by its size (4 bytes) and
followed by a copy of its last 4 bytes; the tile of a mask follows the tile of its image.

Unsupported layouts of a deflate tif (big-endian, sparse, stripped, another codec) are left to GDAL's driver.
"""

import struct
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from tifffile import TiffFile, TiffFileError, TiffPage

_NEW_SUBFILE_TYPE, _TILE_OFFSETS, _TILE_BYTE_COUNTS = 254, 324, 325
_REDUCED, _MASK = 1, 4
_DEFLATE = 8
_CLASSIC_MAX_BYTES = 2**32
_LONG, _LONG8 = 4, 16

# Tags that describe the pixels; an overview has no others. (GDAL writes georeference and metadata to the full image only.)
_IMAGE_TAGS = {256, 257, 258, 259, 262, 277, 284, 317, 322, 323, 338, 339, 530, 532}
# Tags whose value is an offset in the original file: a copy would be meaningless.
_POINTER_TAGS = {330, 347, 34665, 34853}

# The trailing blank lets an editor replace NO with YES without moving anything.
_GHOST = (
    "LAYOUT=IFDS_BEFORE_DATA\nBLOCK_ORDER=ROW_MAJOR\nBLOCK_LEADER=SIZE_AS_UINT4\n"
    "BLOCK_TRAILER=LAST_4_BYTES_REPEATED\nKNOWN_INCOMPATIBLE_EDITION=NO\n "
)
_GHOST_MASK = "MASK_INTERLEAVED_WITH_IMAGERY=YES\n"


@dataclass(frozen=True)
class Entry:
    """A directory entry: tag code, TIFF data type, number of values, and the values as bytes."""

    code: int
    dtype: int
    count: int
    value: bytes


@dataclass(frozen=True)
class RawTile:
    """Location of a tile's compressed bytes. An empty tile has a `size` of 0."""

    path: Path
    offset: int
    size: int


@dataclass(frozen=True)
class Image:
    """A directory of the new COG: its entries without the tile arrays, and its tiles, row by row."""

    entries: tuple[Entry, ...]
    tiles: tuple[RawTile, ...]


@dataclass(frozen=True)
class Level:
    """The full image, or one overview."""

    image: Image
    mask: Image | None

    @property
    def parts(self) -> tuple[Image, ...]:
        return (self.image,) if self.mask is None else (self.image, self.mask)


@dataclass(frozen=True)
class _TiffFormat:
    """Classic TIFF or BigTIFF: the field widths that differ."""

    is_big: bool

    @property
    def word_bytes(self) -> int:
        return 8 if self.is_big else 4

    @property
    def offset_type(self) -> int:
        return _LONG8 if self.is_big else _LONG

    def pack_header(self, first_directory: int) -> bytes:
        if self.is_big:
            return struct.pack("<2sHHHQ", b"II", 43, 8, 0, first_directory)
        return struct.pack("<2sHI", b"II", 42, first_directory)

    def directory_bytes(self, entry_count: int) -> int:
        return 8 + 20 * entry_count + 8 if self.is_big else 2 + 12 * entry_count + 4

    def pack(self, values: tuple[int, ...], dtype: int) -> bytes:
        return struct.pack(f"<{len(values)}{'Q' if dtype == _LONG8 else 'I'}", *values)

    def pack_entry(self, entry: Entry, value_or_offset: bytes) -> bytes:
        head = struct.pack("<HHQ" if self.is_big else "<HHI", entry.code, entry.dtype, entry.count)
        return head + value_or_offset.ljust(self.word_bytes, b"\0")


def assemble_cog(deflate_tif: Path, overviews: Path, out: Path, *, bigtiff: bool | None = None) -> bool:
    """Write the COG of `deflate_tif` and its external `overviews` to `out`; returns False, without a file, for other layouts.

    `bigtiff`: None selects BigTIFF only when the file would exceed 4 GB. Tiles are copied one by one.
    """
    levels = _read_levels(deflate_tif, overviews)
    if levels is None:
        return False
    write_levels(levels, out, bigtiff=bigtiff)
    return True


def write_levels(levels: list[Level], out: Path, *, bigtiff: bool | None = None) -> None:
    """Write the COG of `levels`, full image first; either all of them have a mask, or none."""
    for is_big in (False, True) if bigtiff is None else (bigtiff,):
        head, end = _lay_out(levels, _TiffFormat(is_big))
        if is_big or end < _CLASSIC_MAX_BYTES:
            break
    with out.open("wb") as target:
        target.write(head)
        _copy_tiles(levels, target)


def _read_levels(deflate_tif: Path, overviews: Path) -> list[Level] | None:
    """Read the levels of the COG, full image first; None for an unsupported layout."""
    levels: list[Level] = []
    for path, reduced in ((deflate_tif, 0), (overviews, _REDUCED)):
        try:
            with TiffFile(path) as tif:
                pages = [page for page in tif.pages if isinstance(page, TiffPage)]
                if tif.byteorder != "<" or len(pages) != len(tif.pages) or not all(map(_is_supported, pages)):
                    return None
                images = [page for page in pages if not page.subfiletype & _MASK]
                masks = {page.shape[:2]: page for page in pages if page.subfiletype & _MASK}
                if (masks and {page.shape[:2] for page in images} != set(masks)) or len(images) + len(masks) != len(pages):
                    return None
                for page in sorted(images, key=lambda page: -page.imagelength * page.imagewidth):
                    mask = masks.get(page.shape[:2])
                    masked = read_image(mask, path, reduced | _MASK) if mask else None
                    levels.append(Level(read_image(page, path, reduced), masked))
        except TiffFileError:
            return None
    # All levels have a mask, or none: the ghost area declares one or the other.
    return levels if len({level.mask is None for level in levels}) == 1 else None


def _is_supported(page: TiffPage) -> bool:
    is_tiled = page.is_tiled and page.compression == _DEFLATE and page.planarconfig == 1
    is_complete = len(page.dataoffsets) > 0 and min(page.dataoffsets) > 0 and min(page.databytecounts) >= 4
    return bool(is_tiled and is_complete and not any(tag.code in _POINTER_TAGS for tag in page.tags))


def read_image(page: TiffPage, path: Path, subfile_type: int) -> Image:
    """Read the directory `page` of the file at `path`, with the entries that it gets in the COG."""
    entries = [Entry(_NEW_SUBFILE_TYPE, _LONG, 1, struct.pack("<I", subfile_type))] if subfile_type else []
    for tag in page.tags:
        if tag.code in (_NEW_SUBFILE_TYPE, _TILE_OFFSETS, _TILE_BYTE_COUNTS):
            continue
        if not subfile_type or tag.code in _IMAGE_TAGS:
            handle = page.parent.filehandle
            handle.seek(tag.valueoffset)
            entries.append(Entry(tag.code, int(tag.dtype), tag.count, handle.read(tag.valuebytecount)))
    tiles = zip(page.dataoffsets, page.databytecounts, strict=True)
    return Image(tuple(entries), tuple(RawTile(path, offset, size) for offset, size in tiles))


def _lay_out(levels: list[Level], tiff_format: _TiffFormat) -> tuple[bytes, int]:
    """Return everything before the tiles, and the size of the file in bytes.

    The head is built twice: it contains the offsets of the tiles, which depend on the size of the head.
    """
    directories = _order_directories(levels)
    placeholders = {id(image): (0,) * len(image.tiles) for image in directories}
    head_size = len(_build_head(levels, directories, placeholders, tiff_format))
    offsets, end = _compute_tile_offsets(levels, head_size)
    if end >= _CLASSIC_MAX_BYTES and not tiff_format.is_big:
        return b"", end
    return _build_head(levels, directories, offsets, tiff_format), end


def _order_directories(levels: list[Level]) -> list[Image]:
    """Return the directories in GDAL's order: full image, its mask, the overviews, their masks."""
    overview_masks = [level.mask for level in levels[1:] if level.mask is not None]
    return [*levels[0].parts, *(level.image for level in levels[1:]), *overview_masks]


def _compute_tile_offsets(levels: list[Level], start: int) -> tuple[dict[int, tuple[int, ...]], int]:
    offsets: dict[int, list[int]] = {id(image): [] for level in levels for image in level.parts}
    position = start
    for image, number in _iter_tiles(levels):
        size = image.tiles[number].size
        offsets[id(image)].append(position + 4 if size else 0)
        position += size + 8 if size else 0
    return {key: tuple(values) for key, values in offsets.items()}, position


def _iter_tiles(levels: list[Level]) -> Iterator[tuple[Image, int]]:
    for level in reversed(levels):
        for number in range(len(level.image.tiles)):
            for image in level.parts:
                yield image, number


def _build_head(
    levels: list[Level], directories: list[Image], offsets: dict[int, tuple[int, ...]], tiff_format: _TiffFormat
) -> bytes:
    ghost = _GHOST + _GHOST_MASK if levels[0].mask else _GHOST
    ghost = f"GDAL_STRUCTURAL_METADATA_SIZE={len(ghost):06d} bytes\n{ghost}"
    start = len(tiff_format.pack_header(0)) + len(ghost)
    start += start % 2
    tables = [
        sorted((*image.entries, *_tile_arrays(image, offsets[id(image)], tiff_format)), key=lambda entry: entry.code)
        for image in directories
    ]
    positions = _place_directories(tables, start, tiff_format)
    arrays_at = _even(positions[-1] + _directory_bytes(tables[-1], tiff_format))
    blocks, arrays = [], b""
    for number, (table, position) in enumerate(zip(tables, positions, strict=True)):
        next_position = positions[number + 1] if number + 1 < len(positions) else 0
        block, arrays = _build_directory(table, position, next_position, arrays, arrays_at, tiff_format)
        blocks.append(block.ljust(_even(len(block)), b"\0"))
    head = (tiff_format.pack_header(start) + ghost.encode()).ljust(start, b"\0") + b"".join(blocks)
    return head + arrays


def _tile_arrays(image: Image, offsets: tuple[int, ...], tiff_format: _TiffFormat) -> tuple[Entry, Entry]:
    sizes = tuple(tile.size for tile in image.tiles)
    return (
        Entry(_TILE_OFFSETS, tiff_format.offset_type, len(sizes), tiff_format.pack(offsets, tiff_format.offset_type)),
        Entry(_TILE_BYTE_COUNTS, _LONG, len(sizes), tiff_format.pack(sizes, _LONG)),
    )


def _place_directories(tables: list[list[Entry]], start: int, tiff_format: _TiffFormat) -> list[int]:
    positions = [start]
    for table in tables[:-1]:
        positions.append(positions[-1] + _even(_directory_bytes(table, tiff_format)))
    return positions


def _directory_bytes(table: list[Entry], tiff_format: _TiffFormat) -> int:
    """Size of a directory and of its out-of-line values, without the tile arrays."""
    out_of_line = sum(
        _even(len(entry.value)) for entry in table if not _is_tile_array(entry) and len(entry.value) > tiff_format.word_bytes
    )
    return tiff_format.directory_bytes(len(table)) + out_of_line


def _build_directory(
    table: list[Entry], position: int, next_position: int, arrays: bytes, arrays_at: int, tiff_format: _TiffFormat
) -> tuple[bytes, bytes]:
    """Return a directory with its out-of-line values, and `arrays` extended by its tile arrays."""
    values_at = position + tiff_format.directory_bytes(len(table))
    entries, values = [], b""
    for entry in table:
        if len(entry.value) <= tiff_format.word_bytes:
            entries.append(tiff_format.pack_entry(entry, entry.value))
        elif _is_tile_array(entry):
            entries.append(tiff_format.pack_entry(entry, tiff_format.pack((arrays_at + len(arrays),), tiff_format.offset_type)))
            arrays += entry.value
        else:
            entries.append(tiff_format.pack_entry(entry, tiff_format.pack((values_at + len(values),), tiff_format.offset_type)))
            values += entry.value.ljust(_even(len(entry.value)), b"\0")
    count = struct.pack("<Q" if tiff_format.is_big else "<H", len(table))
    return count + b"".join(entries) + tiff_format.pack((next_position,), tiff_format.offset_type) + values, arrays


def _is_tile_array(entry: Entry) -> bool:
    return entry.code in (_TILE_OFFSETS, _TILE_BYTE_COUNTS)


def _even(length: int) -> int:
    return length + length % 2


def _copy_tiles(levels: list[Level], target: BinaryIO) -> None:
    with ExitStack() as stack:
        sources: dict[Path, BinaryIO] = {}
        for image, number in _iter_tiles(levels):
            tile = image.tiles[number]
            if not tile.size:
                continue
            if tile.path not in sources:
                sources[tile.path] = stack.enter_context(tile.path.open("rb"))
            sources[tile.path].seek(tile.offset)
            data = sources[tile.path].read(tile.size)
            if len(data) != tile.size:
                raise EOFError(f"{tile.path} ends inside tile {number}; rebuild it from its source.")
            target.write(struct.pack("<I", tile.size) + data + data[-4:])
