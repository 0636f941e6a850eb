"""How an image is walked through, so that memory does not grow with its pixels."""

from collections.abc import Iterator

from rasterio.windows import Window

_STRIP_BYTES = 32_000_000

CHUNK = 2048
"""Side of a chunk in pixels. Square, because the source of a long strip of a rotated frame is nearly all of the frame."""


def strips(width: int, height: int, bands: int, rows_multiple: int) -> Iterator[Window]:
    """Full-width windows that cover an image, of as many times `rows_multiple` rows as a few megabytes hold."""
    rows = max(1, _STRIP_BYTES // (width * bands * rows_multiple)) * rows_multiple
    for top in range(0, height, rows):
        yield Window(0, top, width, min(rows, height - top))


def chunks(width: int, height: int, blocksize: int) -> Iterator[Window]:
    """Square windows that cover an image, row by row, each of whole blocks, so that no block is written twice."""
    size = max(1, CHUNK // blocksize) * blocksize
    for top in range(0, height, size):
        for left in range(0, width, size):
            yield Window(left, top, min(size, width - left), min(size, height - top))
