"""Iterate over an image in windows, so that memory does not grow with the number of its pixels."""

from collections.abc import Iterator

from rasterio.windows import Window

_STRIP_BYTES = 32_000_000

CHUNK_PX = 2048
"""Side of a chunk. Chunks are square because a long strip of a rotated frame needs nearly the whole source to be read."""


def iter_strips(width: int, height: int, bands: int, rows_multiple: int) -> Iterator[Window]:
    """Yield full-width windows that cover an image; each has a multiple of `rows_multiple` rows and at most about 32 MB."""
    rows = max(1, _STRIP_BYTES // (width * bands * rows_multiple)) * rows_multiple
    for top in range(0, height, rows):
        yield Window(0, top, width, min(rows, height - top))


def iter_chunks(width: int, height: int, blocksize: int) -> Iterator[Window]:
    """Yield square windows that cover an image, row by row. Each has whole blocks, so that no block is written twice."""
    size = max(1, CHUNK_PX // blocksize) * blocksize
    for top in range(0, height, size):
        for left in range(0, width, size):
            yield Window(left, top, min(size, width - left), min(size, height - top))
