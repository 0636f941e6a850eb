"""Bounds of a tif's structure, checked before GDAL opens it: every later step may then assume that its work is bounded.

Only the directories are read (TIFF 6.0, section 2, and BigTIFF). What cannot be read here is left to GDAL, which rejects it.
"""

import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ls4_assets.errors import FrameError

MAX_IMAGES = 256
"""A photograph has one, its overviews and masks some twenty more."""
MAX_TAGS = 4_096
MAX_BLOCKS = 4_000_000
"""As many as a gigapixel in tiles of 16 x 16, the smallest that TIFF allows."""
MAX_METADATA_BYTES = 1_000_000
"""Of the tag GDAL_METADATA: GDAL's time to read it grows with the square of its size."""

_BLOCK_OFFSETS = (273, 324)
_GDAL_METADATA = 42112


@dataclass(frozen=True)
class Layout:
    """Formats and sizes of classic TIFF or BigTIFF. `count` counts the tags, `tag` is one, `link` leads to the next directory."""

    count: struct.Struct
    tag: struct.Struct
    link: struct.Struct

    @classmethod
    def read(cls, file: BinaryIO) -> tuple["Layout", int]:
        """Returns the layout, and the offset of the first directory."""
        order = "<" if file.read(2) == b"II" else ">"
        if struct.unpack(f"{order}H", file.read(2))[0] == 43:
            file.read(4)
            layout = cls(struct.Struct(f"{order}Q"), struct.Struct(f"{order}HHQQ"), struct.Struct(f"{order}Q"))
        else:
            layout = cls(struct.Struct(f"{order}H"), struct.Struct(f"{order}HHLL"), struct.Struct(f"{order}L"))
        return layout, layout.link.unpack(file.read(layout.link.size))[0]


def reject_unbounded(path: Path) -> None:
    """Raise FrameError for a tif of too many images, tags, strips or tiles, or whose list of images never ends."""
    file_bytes = path.stat().st_size
    with path.open("rb") as file, suppress(struct.error):
        layout, offset = Layout.read(file)
        seen: set[int] = set()
        # An offset of BigTIFF may be larger than any that a file can be read at.
        while 0 < offset < file_bytes:
            if offset in seen:
                raise FrameError(
                    f"{path.name} has a list of images that leads back to itself, so it is corrupt; "
                    "copy it again from the scanner's disk and drop it again."
                )
            if len(seen) == MAX_IMAGES:
                raise FrameError(
                    f"{path.name} holds more than {MAX_IMAGES} images and a frame is one; export the photograph alone with "
                    "gdal_translate and drop the result."
                )
            seen.add(offset)
            file.seek(offset)
            for number, size in _read_tags(file, layout, path):
                _check_tag(number, size, path)
            offset = layout.link.unpack(file.read(layout.link.size))[0]


def _read_tags(file: BinaryIO, layout: Layout, path: Path) -> Iterator[tuple[int, int]]:
    """Yield number and count of values of each tag in the directory at the file's position."""
    (count,) = layout.count.unpack(file.read(layout.count.size))
    if count > MAX_TAGS:
        raise FrameError(
            f"{path.name} has an image with {count:,} tags and the limit is {MAX_TAGS:,}, so it is corrupt; copy it again from "
            "the scanner's disk and drop it again."
        )
    for _ in range(count):
        number, _type, values, _value = layout.tag.unpack(file.read(layout.tag.size))
        yield number, values


def _check_tag(number: int, size: int, path: Path) -> None:
    if number in _BLOCK_OFFSETS and size > MAX_BLOCKS:
        raise FrameError(
            f"{path.name} is stored in {size:,} strips or tiles and the limit is {MAX_BLOCKS:,}; convert it with gdal_translate "
            "-co TILED=YES and drop the result."
        )
    if number in _BLOCK_OFFSETS and size == 0:
        raise FrameError(
            f"{path.name} has an image without strips or tiles, so it is corrupt; copy it again from the scanner's disk and "
            "drop it again."
        )
    if number == _GDAL_METADATA and size > MAX_METADATA_BYTES:
        raise FrameError(
            f"{path.name} has {size:,} bytes of GDAL metadata and the limit is {MAX_METADATA_BYTES:,}; convert it with "
            "gdalwarp -nomd and drop the result."
        )
