"""Find damage in the strips and tiles of a tif, and say where it is.

libtiff and the codecs report some damage as an error and some only as a warning: libjpeg then decodes gray, and the CCITT decoder
white. GDAL's messages while it reads a source therefore count as findings, except those about tags. The codecs skip the checksum
of a DEFLATE stream, so `find_corrupt_streams` compares it. JPEG, WebP, ZSTD, LZW and uncompressed data have no checksum: damage
that still decodes to the right number of bytes cannot be found in them.
"""

import logging
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.windows import Window

from ls4_assets.domain.printable import printable
from ls4_assets.errors import FrameError
from ls4_assets.raster.gdal_env import GDAL_ERRORS, gdal_env, is_out_of_memory
from ls4_assets.raster.pages import Page
from ls4_assets.raster.tiff_directories import COMPRESSION, FILL_ORDER, Directory, read_blocks

_COPY_AGAIN = "copy it again from the scanner's disk and drop it again"
# rasterio logs GDAL's messages to the second while it waits for the result of a call, and otherwise to the first.
_LOGGERS = (logging.getLogger("rasterio._env"), logging.getLogger("rasterio._err"))
_MAX_MESSAGES = 100
# Messages about tags and sidecars, which GDAL reads when they are first needed. They say nothing about the pixels.
_ABOUT_TAGS = re.compile(
    r"TIFFReadDirectory|TIFFFetch|TIFFReadCustomDirectory|Unknown field|tag \"?\w+\"?|ASCII value|ExtraSamples|GeoTIFF|GeogCS|"
    r"nodata value|EPSG|PROJ|\.aux\.xml|PAM|ICC|EXIF|world ?file",
    re.ASCII | re.IGNORECASE,
)
# While a source is read, GDAL may write blocks of a product from its cache, and fail because the disk is full.
_ABOUT_WRITING = re.compile(
    r"TIFFWrite|TIFFAppendToStrip|write error|error writing|(cannot|failed to|unable to) write|no space left|flush", re.IGNORECASE
)
_DEFLATE = (8, 32946)
_PIECE_BYTES = 1 << 20


class _Collector(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if len(self.messages) < _MAX_MESSAGES and not (_ABOUT_TAGS.search(message) or _ABOUT_WRITING.search(message)):
            self.messages.append(message)


def is_about_writing(error: BaseException | None) -> bool:
    """True when an error or one of its causes is about writing, although it was raised where a source was read."""
    while error is not None:
        if _ABOUT_WRITING.search(str(error)):
            return True
        error = error.__cause__ or error.__context__
    return False


@contextmanager
def collect_findings() -> Iterator[list[str]]:
    """Yield the list to which GDAL's warnings and errors about pixels are added while the block runs."""
    collector = _Collector()
    before = [(logger, logger.level, logger.disabled) for logger in _LOGGERS]
    for logger in _LOGGERS:
        logger.disabled = False
        if not logger.isEnabledFor(logging.WARNING):
            logger.setLevel(logging.WARNING)
        logger.addHandler(collector)
    try:
        yield collector.messages
    finally:
        for logger, level, disabled in before:
            logger.removeHandler(collector)
            logger.setLevel(level)
            logger.disabled = disabled


@dataclass(frozen=True)
class Damage:
    """Damaged blocks of an image: how many of how many, and rows and columns of the first, counted from 0."""

    count: int
    total: int
    first: Window

    @property
    def place(self) -> str:
        top, left = int(self.first.row_off), int(self.first.col_off)
        rows = f"rows {top} to {top + int(self.first.height) - 1}"
        return f"{rows} and columns {left} to {left + int(self.first.width) - 1} ({self.count:,} of {self.total:,} blocks)"


def describe_damage(path: Path, gdal_name: str, reason: str) -> FrameError:
    """Return the rejection of a file that GDAL could not read, with the place of the first damaged block.

    The damage may lie in the `.msk` beside it.
    """
    damage, is_mask = _locate(gdal_name)
    mask = path.with_name(f"{path.name}.msk")
    if damage and is_mask and mask.is_file():
        return FrameError(
            f"{path.name} has a mask {mask.name} that is truncated or corrupt in {damage.place}; delete it, or copy it again and "
            "drop it."
        )
    if damage is None:
        return FrameError(f"{path.name} is truncated or corrupt; {_COPY_AGAIN}.")
    if damage.count == damage.total > 1:
        return FrameError(
            f"{path.name} is truncated, corrupt or stored in a way that this system cannot read, because all of its "
            f"{damage.total:,} blocks fail ({printable(reason)[:120]}); {_COPY_AGAIN}, or export it again as a GeoTIFF with "
            "DEFLATE or LZW."
        )
    return FrameError(f"{path.name} is truncated or corrupt in {damage.place}; {_COPY_AGAIN}.")


def _locate(gdal_name: str) -> tuple[Damage | None, bool]:
    """Read an image block by block, and then its mask: the damage, and whether it is in the mask; None when every block can be
    read alone."""
    with gdal_env(pam=True), rasterio.open(gdal_name) as dataset:
        windows = [window for _, window in dataset.block_windows(1)]
        reads = (lambda window: dataset.read(window=window), lambda window: dataset.read_masks(1, window=window))
        for is_mask, read in zip((False, True), reads, strict=True):
            damage = _summarize((window, not _is_readable(partial(read, window))) for window in windows)
            if damage:
                return damage, is_mask
    return None, False


def _is_readable(read: Callable[[], object]) -> bool:
    try:
        with collect_findings() as findings:
            read()
    except GDAL_ERRORS as error:
        if is_out_of_memory(error):
            raise
        return False
    return not findings


def _summarize(blocks: Iterable[tuple[Window, bool]]) -> Damage | None:
    first, count, total = None, 0, 0
    for window, is_damaged in blocks:
        total += 1
        count += is_damaged
        if is_damaged and first is None:
            first = window
    return Damage(count, total, first) if first is not None else None


def reject_corrupt_streams(page: Page | None) -> None:
    """Raise FrameError when the checksum of a DEFLATE stream does not match: libtiff stops reading before it."""
    if page is None or page.directory.number(COMPRESSION, 1) not in _DEFLATE or page.directory.number(FILL_ORDER, 1) != 1:
        return
    offsets, sizes = read_blocks(page.path, page.directory)
    corrupt = []
    with page.path.open("rb") as file:
        for index, (offset, size) in enumerate(zip(offsets.tolist(), sizes.tolist(), strict=True)):
            file.seek(min(offset, page.path.stat().st_size))
            if size and not _is_intact(iter(lambda: file.read(_PIECE_BYTES), b""), size):
                corrupt.append(index)
    if corrupt:
        damage = Damage(len(corrupt), len(offsets), _window(page.directory, corrupt[0]))
        raise FrameError(f"{page.path.name} is truncated or corrupt in {damage.place}; {_COPY_AGAIN}.")


def _is_intact(pieces: Iterator[bytes], size: int) -> bool:
    """True when the stream of `size` bytes has no error. A stream that ends early is left to GDAL, which may have enough."""
    inflater = zlib.decompressobj()
    try:
        for piece in pieces:
            data = piece[:size]
            size -= len(data)
            while data and not inflater.eof:
                inflater.decompress(data, _PIECE_BYTES)
                data = inflater.unconsumed_tail
            if size <= 0 or inflater.eof:
                return True
    except zlib.error:
        return False
    return True


def reject_unwritten(page: Page | None, read_valid: Callable[[Window], NDArray[np.bool_]] | None) -> None:
    """Raise FrameError for strips or tiles that were never written, where the photograph should be.

    GDAL reads them as nodata, or as black. They are accepted where the file itself declares that nothing is there: `read_valid`
    returns the valid pixels by its mask, alpha or nodata; None when it declares nothing. Then nothing
    distinguishes a file that is sparse on purpose from a scan that was interrupted.
    """
    if page is None:
        return
    offsets, sizes = read_blocks(page.path, page.directory)
    windows = [_window(page.directory, int(index)) for index in np.flatnonzero((offsets == 0) | (sizes == 0))]
    if read_valid is not None:
        windows = [window for window in windows if read_valid(window).any()]
    if windows:
        damage = Damage(len(windows), len(offsets), windows[0])
        raise FrameError(
            f"{page.path.name} has strips or tiles that were never written, first in {damage.place}; {_COPY_AGAIN}, or, when "
            "they are meant to be black, write them with gdal_translate and drop the result."
        )


def _window(directory: Directory, index: int) -> Window:
    top, left, rows, columns = directory.block_window(index)
    return Window(left, top, columns, rows)
