"""Read the directories of a tif: the tags of each image that GDAL does not report, and where its strips or tiles are.

TIFF 6.0, section 2, and BigTIFF. `tiff_structure` bounds the number of directories and tags before anything is read here; what
cannot be read is left out, because GDAL rejects such a file in its own words. `pages` chooses among the images.
"""

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from ls4_assets.raster.tiff_structure import MAX_BLOCKS, MAX_IMAGES, MAX_TAGS, Layout

NEW_SUBFILE_TYPE, SUBFILE_TYPE = 254, 255
WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, FILL_ORDER = 256, 257, 258, 259, 262, 266
STRIP_OFFSETS, SAMPLES, ROWS_PER_STRIP, STRIP_BYTES = 273, 277, 278, 279
PLANAR, TILE_WIDTH, TILE_HEIGHT, TILE_OFFSETS, TILE_BYTES = 284, 322, 323, 324, 325
SUB_IFDS, EXTRA_SAMPLES = 330, 338
MIN_SAMPLE, MAX_SAMPLE, S_MIN_SAMPLE, S_MAX_SAMPLE = 280, 281, 340, 341
ICC_PROFILE = 34675
_LONG = (STRIP_OFFSETS, STRIP_BYTES, TILE_OFFSETS, TILE_BYTES, ICC_PROFILE)

# Formats of `struct` by TIFF type. Text, rational numbers and unknown types are not needed here.
_FORMATS = {1: "B", 3: "H", 4: "I", 6: "b", 7: "B", 8: "h", 9: "i", 11: "f", 12: "d", 13: "I", 16: "Q", 17: "q", 18: "Q"}
_MAX_VALUES = 256
"""Values of a tag other than the offsets and sizes of blocks: one for each band, or the list of sub-images."""

Number = int | float


@dataclass(frozen=True)
class _Location:
    """Where the values of a long tag are in the file."""

    offset: int
    format: str
    count: int


@dataclass(frozen=True)
class Directory:
    """One image of a tif. `offset`: of its directory, in bytes; `values`: its numeric tags; `positions`: where each value is;
    `long_tags`: where the lists of strips or tiles and the profile are."""

    offset: int
    order: str
    values: Mapping[int, tuple[Number, ...]]
    positions: Mapping[int, int]
    long_tags: Mapping[int, _Location]

    def number(self, tag: int, default: int = 0) -> int:
        values = self.values.get(tag)
        return int(values[0]) if values else default

    @property
    def width(self) -> int:
        return self.number(WIDTH)

    @property
    def height(self) -> int:
        return self.number(HEIGHT)

    @property
    def is_reduced(self) -> bool:
        return bool(self.number(NEW_SUBFILE_TYPE) & 1) or self.number(SUBFILE_TYPE) == 2

    @property
    def is_mask(self) -> bool:
        return bool(self.number(NEW_SUBFILE_TYPE) & 4) or self.number(PHOTOMETRIC) == 4

    @property
    def block_shape(self) -> tuple[int, int]:
        """Rows and columns of a strip or tile."""
        if TILE_WIDTH in self.values:
            return max(1, self.number(TILE_HEIGHT)), max(1, self.number(TILE_WIDTH))
        return max(1, min(self.number(ROWS_PER_STRIP, self.height), self.height)), max(1, self.width)

    def block_window(self, index: int) -> tuple[int, int, int, int]:
        """First row, first column, rows and columns of the block with this index, of any band."""
        rows, columns = self.block_shape
        across, down = -(-self.width // columns), -(-self.height // rows)
        row, column = divmod(index % max(1, across * down), max(1, across))
        top, left = row * rows, column * columns
        return top, left, min(rows, self.height - top), min(columns, self.width - left)


def read_directories(path: Path) -> tuple[list[Directory], list[Directory]]:
    """Return the images of the file's list, and the sub-images that they point to."""
    with path.open("rb") as file:
        try:
            layout, first = Layout.read(file)
        except struct.error:
            return [], []
        size = path.stat().st_size
        images = list(_follow(file, layout, first, size))
        subimages = []
        for offset in [int(value) for image in images for value in image.values.get(SUB_IFDS, ())][:MAX_IMAGES]:
            subimages += list(_follow(file, layout, offset, size, limit=1))
    return images, subimages


def _follow(file: BinaryIO, layout: Layout, offset: int, size: int, limit: int = MAX_IMAGES) -> Iterator[Directory]:
    seen: set[int] = set()
    while 0 < offset < size and offset not in seen and len(seen) < limit:
        seen.add(offset)
        try:
            directory, offset = _read_directory(file, layout, offset, size)
        except struct.error:
            return
        yield directory


def _read_directory(file: BinaryIO, layout: Layout, offset: int, size: int) -> tuple[Directory, int]:
    """Return the directory at `offset`, and the offset of the next one."""
    file.seek(offset)
    (count,) = layout.count.unpack(file.read(layout.count.size))
    order, inline = layout.tag.format[0], layout.link.size
    start = offset + layout.count.size
    entries = file.read(min(count, MAX_TAGS) * layout.tag.size)
    (following,) = layout.link.unpack(file.read(layout.link.size))
    values: dict[int, tuple[Number, ...]] = {}
    positions: dict[int, int] = {}
    long_tags: dict[int, _Location] = {}
    for index, (tag, kind, length, value) in enumerate(layout.tag.iter_unpack(entries)):
        if kind not in _FORMATS or length == 0:
            continue
        form = order + _FORMATS[kind]
        width = struct.calcsize(form)
        place = start + (index + 1) * layout.tag.size - inline if width * length <= inline else value
        if tag in _LONG:
            long_tags[tag] = _Location(place, form, min(length, MAX_BLOCKS))
        elif length <= _MAX_VALUES and place + width * length <= size:
            file.seek(place)
            values[tag] = struct.unpack(f"{order}{length}{_FORMATS[kind]}", file.read(width * length))
            positions[tag] = place
    return Directory(offset, order, values, positions, long_tags), following


def read_icc_profile(path: Path, directory: Directory, max_bytes: int) -> bytes:
    """Return the embedded ICC profile of an image; empty when it has none, or a larger one."""
    location = directory.long_tags.get(ICC_PROFILE)
    if location is None or location.count > max_bytes or location.offset >= path.stat().st_size:
        return b""
    with path.open("rb") as file:
        file.seek(location.offset)
        return file.read(location.count)


def read_blocks(path: Path, directory: Directory) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Return the offsets and the sizes in bytes of all strips or tiles of an image; empty when they cannot be read."""
    tags = (TILE_OFFSETS, TILE_BYTES) if TILE_OFFSETS in directory.long_tags else (STRIP_OFFSETS, STRIP_BYTES)
    arrays = []
    with path.open("rb") as file:
        for tag in tags:
            location = directory.long_tags.get(tag)
            if location is None or location.offset >= path.stat().st_size:
                return np.zeros(0, np.uint64), np.zeros(0, np.uint64)
            file.seek(location.offset)
            dtype = np.dtype(location.format)
            data = file.read(dtype.itemsize * location.count)
            arrays.append(np.frombuffer(data[: len(data) // dtype.itemsize * dtype.itemsize], dtype).astype(np.uint64))
    count = min(map(len, arrays))
    return arrays[0][:count], arrays[1][:count]
