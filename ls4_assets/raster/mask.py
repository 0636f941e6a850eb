"""Which pixels of a scan are photograph, and which are collar.

The rules, in this order; the first that applies is believed:
1. a mask, internal or in a `.msk` file;
2. an alpha band, when its values are practically only 0 and 255 (otherwise it is near infrared, wrongly tagged alpha);
3. a nodata tag: a pixel is invalid where all its bands hold nodata;
4. nothing declared: a collar of pure black or white is looked for. When two corners or more of the image are that
   value, everything outside the convex hull of all other pixels is collar. So no pixel of another value is
   ever lost, and true black inside the photograph stays.

Everything is read by strips: memory grows with the rows of the image, not with its pixels.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from rasterio.io import DatasetReader
from rasterio.windows import Window

from ls4_assets.errors import FrameError
from ls4_assets.raster.source import Source, reading
from ls4_assets.raster.windows import strips

Rule = Literal["mask", "alpha", "nodata", "collar"]
Valid = NDArray[np.bool_]

_MAX_PARTIAL_ALPHA = 0.05
"""Share of pixels with alpha other than 0 and 255 above which the band is not alpha. (Soft edges stay far below.)"""
_MIN_COLLAR = 0.001
"""Share of the image below which what lies outside the hull is not worth a mask."""


@dataclass(frozen=True)
class Mask:
    """The valid pixels of a source: `read(dataset, window)` gives True for valid, shape (rows, columns)."""

    rule: Rule
    read: Callable[[DatasetReader, Window], Valid]


def find_mask(source: Source, dataset: DatasetReader, *, detect_collar: bool) -> Mask | None:
    """The mask of an open source by the rules above; None when every pixel is valid.

    Raises FrameFault when the file cannot be read to its end.
    """
    if source.declared == "mask":
        return Mask("mask", lambda data, window: _band_mask(source, data, window))
    if source.alpha_band is not None and _is_true_alpha(source, dataset, source.alpha_band):
        alpha = source.alpha_band
        return Mask("alpha", lambda data, window: _read_band(source, data, alpha, window) > 127)
    if source.nodata is not None:
        values = np.array(source.nodata, dtype=np.uint8)[:, None, None]
        return Mask("nodata", lambda data, window: (source.read(data, window) != values).any(axis=0))
    return _collar(source, dataset) if detect_collar else None


def _strips_of(source: Source, dataset: DatasetReader) -> Iterator[Window]:
    return strips(source.width, source.height, source.count, dataset.block_shapes[0][0])


def _read_band(source: Source, dataset: DatasetReader, band: int, window: Window) -> NDArray[np.uint8]:
    with reading(source.path):
        pixels: NDArray[np.uint8] = dataset.read(band, window=window)
    return pixels


def _band_mask(source: Source, dataset: DatasetReader, window: Window) -> Valid:
    with reading(source.path):
        valid: Valid = dataset.read_masks(1, window=window) > 0
    return valid


def _is_true_alpha(source: Source, dataset: DatasetReader, alpha: int) -> bool:
    allowed = _MAX_PARTIAL_ALPHA * source.width * source.height
    partial = 0
    for window in _strips_of(source, dataset):
        # 0 - 1 wraps round to 255 and 255 - 1 is 254: below 254 are exactly the values 1 to 254.
        partial += int(np.count_nonzero(_read_band(source, dataset, alpha, window) - np.uint8(1) < 254))
        if partial > allowed:
            return False
    return True


def _collar(source: Source, dataset: DatasetReader) -> Mask | None:
    corners = [
        source.read(dataset, Window(column, row, 1, 1)).ravel()
        for row in (0, source.height - 1)
        for column in (0, source.width - 1)
    ]
    for value in (0, 255):
        if sum(bool((corner == value).all()) for corner in corners) < 2:
            continue
        first, last = _extent_of_rows(source, dataset, value)
        if not (first <= last).any():
            raise FrameError(
                f"{source.path.name} has no valid pixel: all of it is {'black' if value == 0 else 'white'}; "
                "check the scan and drop it again."
            )
        left, right = _hull_of_rows(first, last)
        collar = 1 - np.maximum(right - left, 0).sum() / (source.width * source.height)
        if collar >= _MIN_COLLAR:
            return Mask("collar", lambda _, window, left=left, right=right: _between(left, right, window))  # type: ignore[misc]
    return None


def _extent_of_rows(source: Source, dataset: DatasetReader, value: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First and last column that is not `value`, of each row; first > last where the whole row is `value`."""
    first = np.full(source.height, source.width, dtype=np.int64)
    last = np.full(source.height, -1, dtype=np.int64)
    for window in _strips_of(source, dataset):
        other = (source.read(dataset, window) != value).any(axis=0)
        rows = np.flatnonzero(other.any(axis=1))
        top = int(window.row_off)
        first[top + rows] = other[rows].argmax(axis=1)
        last[top + rows] = source.width - 1 - other[rows, ::-1].argmax(axis=1)
    return first, last


def _hull_of_rows(first: NDArray[np.int64], last: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The columns [left, right) of each row whose pixel centres lie in the convex hull of the centres given.

    Centres, not pixels as areas: the hull of the areas runs half a pixel outside a sloping edge, which would leave a
    fringe of collar along it.
    """
    rows = np.flatnonzero(first <= last)
    west, east = _lower_chain(rows, first[rows]), _lower_chain(rows, -last[rows])
    every_row = np.arange(len(first))
    # Tolerance: a centre exactly on the hull's edge is inside, whatever the division has rounded.
    left = np.ceil(np.interp(every_row, west[:, 0], west[:, 1]) - 1e-6).astype(np.int64)
    right = np.floor(-np.interp(every_row, east[:, 0], east[:, 1]) + 1e-6).astype(np.int64) + 1
    outside = (every_row < rows[0]) | (every_row > rows[-1])
    right[outside] = left[outside]
    return left, right


def _lower_chain(y: NDArray[np.int64], x: NDArray[np.int64]) -> NDArray[np.int64]:
    """Vertices (y, x) of the convex hull on the side of small x (monotone chain); `y` rises."""
    chain: list[tuple[int, int]] = []
    for point in zip(y.tolist(), x.tolist(), strict=True):
        while len(chain) > 1 and _not_convex(chain[-2], chain[-1], point):
            chain.pop()
        chain.append(point)
    return np.array(chain)


def _not_convex(before: tuple[int, int], middle: tuple[int, int], after: tuple[int, int]) -> bool:
    return (middle[1] - before[1]) * (after[0] - before[0]) >= (after[1] - before[1]) * (middle[0] - before[0])


def _between(left: NDArray[np.int64], right: NDArray[np.int64], window: Window) -> Valid:
    rows = slice(int(window.row_off), int(window.row_off + window.height))
    columns = np.arange(int(window.col_off), int(window.col_off + window.width))
    valid: Valid = (columns >= left[rows, None]) & (columns < right[rows, None])
    return valid
