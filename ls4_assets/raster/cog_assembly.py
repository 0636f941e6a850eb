"""A COG put together from tiles that are compressed already: those of a deflate tif and its overviews, or any others.

The layout is the one GDAL's COG driver writes (gdal.org/drivers/raster/cog.html, "File format details"):
header; a text area that promises what follows; the directories (IFDs), full image first; their arrays of tile
offsets and sizes; then the tiles, smallest overview first, so that a reader gets a preview with its first
request. Every tile stands between its size (4 bytes) and a copy of its last 4 bytes; the tile of a mask
follows the tile of the image that it belongs to.

A deflate tif of a layout that is not handled here (big-endian, sparse, stripped, another codec) is left to the driver.
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
_CLASSIC_END = 2**32
_LONG, _LONG8 = 4, 16

# What describes the pixels; an overview needs no more. (GDAL writes georeference and metadata on the full
# image only.)
_IMAGE_TAGS = {256, 257, 258, 259, 262, 277, 284, 317, 322, 323, 338, 339, 530, 532}
# Tags whose value is an offset in the file they come from: copying them would point at nonsense.
_POINTER_TAGS = {330, 347, 34665, 34853}

# The blank after the last line leaves room for an editor to turn its NO into YES without moving anything.
_GHOST = (
    "LAYOUT=IFDS_BEFORE_DATA\nBLOCK_ORDER=ROW_MAJOR\nBLOCK_LEADER=SIZE_AS_UINT4\n"
    "BLOCK_TRAILER=LAST_4_BYTES_REPEATED\nKNOWN_INCOMPATIBLE_EDITION=NO\n "
)
_GHOST_MASK = "MASK_INTERLEAVED_WITH_IMAGERY=YES\n"


@dataclass(frozen=True)
class Entry:
    """One tag of a directory: TIFF type, number of values, and the values as bytes."""

    code: int
    dtype: int
    count: int
    value: bytes


@dataclass(frozen=True)
class RawTile:
    """Where the compressed bytes of a tile are now. A `size` of 0: nowhere, as nothing is in it."""

    path: Path
    offset: int
    size: int


@dataclass(frozen=True)
class Image:
    """One directory of the COG to be: its tags without the tile arrays, and its tiles, row by row."""

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
class _Format:
    """Classic TIFF or BigTIFF: the widths of what differs between the two."""

    big: bool

    @property
    def word(self) -> int:
        return 8 if self.big else 4

    @property
    def offset_type(self) -> int:
        return _LONG8 if self.big else _LONG

    def header(self, first_directory: int) -> bytes:
        if self.big:
            return struct.pack("<2sHHHQ", b"II", 43, 8, 0, first_directory)
        return struct.pack("<2sHI", b"II", 42, first_directory)

    def directory_size(self, entries: int) -> int:
        return 8 + 20 * entries + 8 if self.big else 2 + 12 * entries + 4

    def pack(self, values: tuple[int, ...], dtype: int) -> bytes:
        return struct.pack(f"<{len(values)}{'Q' if dtype == _LONG8 else 'I'}", *values)

    def entry(self, entry: Entry, value_or_offset: bytes) -> bytes:
        head = struct.pack("<HHQ" if self.big else "<HHI", entry.code, entry.dtype, entry.count)
        return head + value_or_offset.ljust(self.word, b"\0")


def assemble_cog(deflate_tif: Path, overviews: Path, out: Path, *, bigtiff: bool | None = None) -> bool:
    """Write the COG of `deflate_tif` and its external `overviews` to `out`; False, and no file, if their layout is not handled.

    `bigtiff`: None takes BigTIFF only where the file would pass 4 GB. Tiles are copied one by one.
    """
    levels = _read_levels(deflate_tif, overviews)
    if levels is None:
        return False
    write_levels(levels, out, bigtiff=bigtiff)
    return True


def write_levels(levels: list[Level], out: Path, *, bigtiff: bool | None = None) -> None:
    """Write the COG of `levels`, full image first; all of them have a mask, or none."""
    for big in (False, True) if bigtiff is None else (bigtiff,):
        head, end = _layout(levels, _Format(big))
        if big or end < _CLASSIC_END:
            break
    with out.open("wb") as target:
        target.write(head)
        _copy_tiles(levels, target)


def _read_levels(deflate_tif: Path, overviews: Path) -> list[Level] | None:
    """The levels of the COG, full image first; None for a layout that is not handled."""
    levels: list[Level] = []
    for path, reduced in ((deflate_tif, 0), (overviews, _REDUCED)):
        try:
            with TiffFile(path) as tif:
                pages = [page for page in tif.pages if isinstance(page, TiffPage)]
                if tif.byteorder != "<" or len(pages) != len(tif.pages) or not all(map(_is_handled, pages)):
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
    # All levels masked or none: the ghost area promises one or the other.
    return levels if len({level.mask is None for level in levels}) == 1 else None


def _is_handled(page: TiffPage) -> bool:
    tiles = page.is_tiled and page.compression == _DEFLATE and page.planarconfig == 1
    whole = len(page.dataoffsets) > 0 and min(page.dataoffsets) > 0 and min(page.databytecounts) >= 4
    return bool(tiles and whole and not any(tag.code in _POINTER_TAGS for tag in page.tags))


def read_image(page: TiffPage, path: Path, subfile_type: int) -> Image:
    """The directory `page` of the file at `path`, as it shall stand in the COG."""
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


def _layout(levels: list[Level], form: _Format) -> tuple[bytes, int]:
    """Everything before the tiles, and the size of the whole file.

    Laid out twice: the offsets of the tiles, which stand in the head, depend on the size of the head.
    """
    directories = _in_order_of_gdal(levels)
    unknown = {id(image): (0,) * len(image.tiles) for image in directories}
    head_size = len(_head(levels, directories, unknown, form))
    offsets, end = _tile_offsets(levels, head_size)
    if end >= _CLASSIC_END and not form.big:
        return b"", end
    return _head(levels, directories, offsets, form), end


def _in_order_of_gdal(levels: list[Level]) -> list[Image]:
    """Full image, its mask, the overviews, their masks: the order in which GDAL writes the directories."""
    overview_masks = [level.mask for level in levels[1:] if level.mask is not None]
    return [*levels[0].parts, *(level.image for level in levels[1:]), *overview_masks]


def _tile_offsets(levels: list[Level], start: int) -> tuple[dict[int, tuple[int, ...]], int]:
    offsets: dict[int, list[int]] = {id(image): [] for level in levels for image in level.parts}
    position = start
    for image, number in _tiles_in_order(levels):
        size = image.tiles[number].size
        offsets[id(image)].append(position + 4 if size else 0)
        position += size + 8 if size else 0
    return {key: tuple(values) for key, values in offsets.items()}, position


def _tiles_in_order(levels: list[Level]) -> Iterator[tuple[Image, int]]:
    for level in reversed(levels):
        for number in range(len(level.image.tiles)):
            for image in level.parts:
                yield image, number


def _head(levels: list[Level], directories: list[Image], offsets: dict[int, tuple[int, ...]], form: _Format) -> bytes:
    ghost = _GHOST + _GHOST_MASK if levels[0].mask else _GHOST
    ghost = f"GDAL_STRUCTURAL_METADATA_SIZE={len(ghost):06d} bytes\n{ghost}"
    start = len(form.header(0)) + len(ghost)
    start += start % 2
    tables = [
        sorted((*image.entries, *_tile_arrays(image, offsets[id(image)], form)), key=lambda entry: entry.code)
        for image in directories
    ]
    places = _place_directories(tables, start, form)
    arrays_at = _even(places[-1] + _directory_length(tables[-1], form))
    blocks, arrays = [], b""
    for number, (table, place) in enumerate(zip(tables, places, strict=True)):
        following = places[number + 1] if number + 1 < len(places) else 0
        block, arrays = _directory(table, place, following, arrays, arrays_at, form)
        blocks.append(block.ljust(_even(len(block)), b"\0"))
    head = (form.header(start) + ghost.encode()).ljust(start, b"\0") + b"".join(blocks)
    return head + arrays


def _tile_arrays(image: Image, offsets: tuple[int, ...], form: _Format) -> tuple[Entry, Entry]:
    sizes = tuple(tile.size for tile in image.tiles)
    return (
        Entry(_TILE_OFFSETS, form.offset_type, len(sizes), form.pack(offsets, form.offset_type)),
        Entry(_TILE_BYTE_COUNTS, _LONG, len(sizes), form.pack(sizes, _LONG)),
    )


def _place_directories(tables: list[list[Entry]], start: int, form: _Format) -> list[int]:
    places = [start]
    for table in tables[:-1]:
        places.append(places[-1] + _even(_directory_length(table, form)))
    return places


def _directory_length(table: list[Entry], form: _Format) -> int:
    """Length of a directory with the values that do not fit into it, the tile arrays left out."""
    beside = sum(_even(len(entry.value)) for entry in table if not _is_array(entry) and len(entry.value) > form.word)
    return form.directory_size(len(table)) + beside


def _directory(
    table: list[Entry], place: int, following: int, arrays: bytes, arrays_at: int, form: _Format
) -> tuple[bytes, bytes]:
    """A directory with its values, and `arrays` lengthened by its tile arrays."""
    beside_at = place + form.directory_size(len(table))
    lines, beside = [], b""
    for entry in table:
        if len(entry.value) <= form.word:
            lines.append(form.entry(entry, entry.value))
        elif _is_array(entry):
            lines.append(form.entry(entry, form.pack((arrays_at + len(arrays),), form.offset_type)))
            arrays += entry.value
        else:
            lines.append(form.entry(entry, form.pack((beside_at + len(beside),), form.offset_type)))
            beside += entry.value.ljust(_even(len(entry.value)), b"\0")
    count = struct.pack("<Q" if form.big else "<H", len(table))
    return count + b"".join(lines) + form.pack((following,), form.offset_type) + beside, arrays


def _is_array(entry: Entry) -> bool:
    return entry.code in (_TILE_OFFSETS, _TILE_BYTE_COUNTS)


def _even(length: int) -> int:
    return length + length % 2


def _copy_tiles(levels: list[Level], target: BinaryIO) -> None:
    with ExitStack() as stack:
        sources: dict[Path, BinaryIO] = {}
        for image, number in _tiles_in_order(levels):
            tile = image.tiles[number]
            if not tile.size:
                continue
            if tile.path not in sources:
                sources[tile.path] = stack.enter_context(tile.path.open("rb"))
            sources[tile.path].seek(tile.offset)
            data = sources[tile.path].read(tile.size)
            if len(data) != tile.size:
                raise EOFError(f"{tile.path} ends inside tile {number}; make it again from its source.")
            target.write(struct.pack("<I", tile.size) + data + data[-4:])
