"""A lossless COG put together from the tiles of a deflate tif and of its overviews, nothing compressed again.

The layout is the one GDAL's COG driver writes (gdal.org/drivers/raster/cog.html, "File format details"):
header; a text area that promises what follows; the directories (IFDs), full image first; their arrays of tile
offsets and sizes; then the tiles, smallest overview first, so that a reader gets a preview with its first
request. Every tile stands between its size (4 bytes) and a copy of its last 4 bytes; the tile of a mask
follows the tile of the image that it belongs to.

A layout that is not handled here (big-endian, sparse, stripped, another codec) is left to the driver.
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
_IMAGE_TAGS = {256, 257, 258, 259, 262, 277, 284, 317, 322, 323, 338, 339}
# Tags whose value is an offset in the file they come from: copying them would point at nonsense.
_POINTER_TAGS = {330, 347, 34665, 34853}

# The blank after the last line leaves room for an editor to turn its NO into YES without moving anything.
_GHOST = (
    "LAYOUT=IFDS_BEFORE_DATA\nBLOCK_ORDER=ROW_MAJOR\nBLOCK_LEADER=SIZE_AS_UINT4\n"
    "BLOCK_TRAILER=LAST_4_BYTES_REPEATED\nKNOWN_INCOMPATIBLE_EDITION=NO\n "
)
_GHOST_MASK = "MASK_INTERLEAVED_WITH_IMAGERY=YES\n"


@dataclass(frozen=True)
class _Entry:
    """One tag of a directory: TIFF type, number of values, and the values as bytes."""

    code: int
    dtype: int
    count: int
    value: bytes


@dataclass(frozen=True)
class _Image:
    """One directory of the COG to be: where its tiles are now, and its tags without the tile arrays."""

    path: Path
    entries: tuple[_Entry, ...]
    offsets: tuple[int, ...]
    sizes: tuple[int, ...]


@dataclass(frozen=True)
class _Level:
    image: _Image
    mask: _Image | None

    @property
    def parts(self) -> tuple[_Image, ...]:
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

    def entry(self, entry: _Entry, value_or_offset: bytes) -> bytes:
        head = struct.pack("<HHQ" if self.big else "<HHI", entry.code, entry.dtype, entry.count)
        return head + value_or_offset.ljust(self.word, b"\0")


def assemble_cog(deflate_tif: Path, overviews: Path, out: Path, *, bigtiff: bool | None = None) -> bool:
    """Write the COG of `deflate_tif` and its external `overviews` to `out`; False, and no file, if their layout is not handled.

    `bigtiff`: None takes BigTIFF only where the file would pass 4 GB. Tiles are copied one by one.
    """
    levels = _read_levels(deflate_tif, overviews)
    if levels is None:
        return False
    for big in (False, True) if bigtiff is None else (bigtiff,):
        head, end = _layout(levels, _Format(big))
        if big or end < _CLASSIC_END:
            break
    with out.open("wb") as target:
        target.write(head)
        _copy_tiles(levels, target)
    return True


def _read_levels(deflate_tif: Path, overviews: Path) -> list[_Level] | None:
    """The levels of the COG, full image first; None for a layout that is not handled."""
    levels: list[_Level] = []
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
                    levels.append(_Level(_image(page, path, reduced), _image(mask, path, reduced | _MASK) if mask else None))
        except TiffFileError:
            return None
    # All levels masked or none: the ghost area promises one or the other.
    return levels if len({level.mask is None for level in levels}) == 1 else None


def _is_handled(page: TiffPage) -> bool:
    tiles = page.is_tiled and page.compression == _DEFLATE and page.planarconfig == 1
    whole = len(page.dataoffsets) > 0 and min(page.dataoffsets) > 0 and min(page.databytecounts) >= 4
    return bool(tiles and whole and not any(tag.code in _POINTER_TAGS for tag in page.tags))


def _image(page: TiffPage, path: Path, subfile_type: int) -> _Image:
    entries = [_Entry(_NEW_SUBFILE_TYPE, _LONG, 1, struct.pack("<I", subfile_type))] if subfile_type else []
    for tag in page.tags:
        if tag.code in (_NEW_SUBFILE_TYPE, _TILE_OFFSETS, _TILE_BYTE_COUNTS):
            continue
        if not subfile_type or tag.code in _IMAGE_TAGS:
            handle = page.parent.filehandle
            handle.seek(tag.valueoffset)
            entries.append(_Entry(tag.code, int(tag.dtype), tag.count, handle.read(tag.valuebytecount)))
    return _Image(path, tuple(entries), tuple(page.dataoffsets), tuple(page.databytecounts))


def _layout(levels: list[_Level], form: _Format) -> tuple[bytes, int]:
    """Everything before the tiles, and the size of the whole file.

    Laid out twice: the offsets of the tiles, which stand in the head, depend on the size of the head.
    """
    directories = _in_order_of_gdal(levels)
    unknown = {id(image): (0,) * len(image.sizes) for image in directories}
    head_size = len(_head(levels, directories, unknown, form))
    offsets, end = _tile_offsets(levels, head_size)
    if end >= _CLASSIC_END and not form.big:
        return b"", end
    return _head(levels, directories, offsets, form), end


def _in_order_of_gdal(levels: list[_Level]) -> list[_Image]:
    """Full image, its mask, the overviews, their masks: the order in which GDAL writes the directories."""
    overview_masks = [level.mask for level in levels[1:] if level.mask is not None]
    return [*levels[0].parts, *(level.image for level in levels[1:]), *overview_masks]


def _tile_offsets(levels: list[_Level], start: int) -> tuple[dict[int, tuple[int, ...]], int]:
    offsets: dict[int, list[int]] = {id(image): [] for level in levels for image in level.parts}
    position = start
    for image, number in _tiles_in_order(levels):
        offsets[id(image)].append(position + 4)
        position += image.sizes[number] + 8
    return {key: tuple(values) for key, values in offsets.items()}, position


def _tiles_in_order(levels: list[_Level]) -> Iterator[tuple[_Image, int]]:
    for level in reversed(levels):
        for number in range(len(level.image.sizes)):
            for image in level.parts:
                yield image, number


def _head(levels: list[_Level], directories: list[_Image], offsets: dict[int, tuple[int, ...]], form: _Format) -> bytes:
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


def _tile_arrays(image: _Image, offsets: tuple[int, ...], form: _Format) -> tuple[_Entry, _Entry]:
    count = len(image.sizes)
    return (
        _Entry(_TILE_OFFSETS, form.offset_type, count, form.pack(offsets, form.offset_type)),
        _Entry(_TILE_BYTE_COUNTS, _LONG, count, form.pack(image.sizes, _LONG)),
    )


def _place_directories(tables: list[list[_Entry]], start: int, form: _Format) -> list[int]:
    places = [start]
    for table in tables[:-1]:
        places.append(places[-1] + _even(_directory_length(table, form)))
    return places


def _directory_length(table: list[_Entry], form: _Format) -> int:
    """Length of a directory with the values that do not fit into it, the tile arrays left out."""
    beside = sum(_even(len(entry.value)) for entry in table if not _is_array(entry) and len(entry.value) > form.word)
    return form.directory_size(len(table)) + beside


def _directory(
    table: list[_Entry], place: int, following: int, arrays: bytes, arrays_at: int, form: _Format
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


def _is_array(entry: _Entry) -> bool:
    return entry.code in (_TILE_OFFSETS, _TILE_BYTE_COUNTS)


def _even(length: int) -> int:
    return length + length % 2


def _copy_tiles(levels: list[_Level], target: BinaryIO) -> None:
    with ExitStack() as stack:
        paths = {image.path for level in levels for image in level.parts}
        sources = {path: stack.enter_context(path.open("rb")) for path in paths}
        for image, number in _tiles_in_order(levels):
            size = image.sizes[number]
            sources[image.path].seek(image.offsets[number])
            tile = sources[image.path].read(size)
            if len(tile) != size:
                raise EOFError(f"{image.path} ends inside tile {number}; make it again from its source.")
            target.write(struct.pack("<I", size) + tile + tile[-4:])
