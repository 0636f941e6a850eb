"""Find which pixels of a scan are photograph and which are collar.

The first of these rules that applies decides:
1. a mask, internal or in a `.msk` file;
2. an alpha band: a pixel is valid where it is at least half opaque. `alpha` recognizes near infrared that is wrongly tagged;
3. a nodata tag: a pixel is invalid where all of its bands hold nodata;
4. nothing declared: search for a collar of pure black or white. When at least two corners of the image have that value,
   everything outside the convex hull of all other pixels is collar. This never masks a pixel of another value, and keeps true
   black inside the photograph. Line work of pure black and white has no collar that could be recognized.

Images are read in strips: memory grows with the rows of the image, not with its pixels.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from rasterio.io import DatasetReader
from rasterio.windows import Window

from ls4_assets.errors import FrameError
from ls4_assets.raster.alpha import count_alpha, is_mask
from ls4_assets.raster.source import Source, translate_read_errors
from ls4_assets.raster.windows import iter_strips

Rule = Literal["mask", "alpha", "nodata", "collar"]
Valid = NDArray[np.bool_]

_MIN_COLLAR_SHARE = 0.001
"""A collar that covers a smaller share of the image gets no mask."""


@dataclass(frozen=True)
class Mask:
    """The valid pixels of a source: `read(dataset, window)` returns True for valid, shape (rows, columns)."""

    rule: Rule
    read: Callable[[DatasetReader, Window], Valid]


def find_mask(source: Source, dataset: DatasetReader, *, detect_collar: bool) -> Mask | None:
    """Return the mask of an open source by the rules above; None when every pixel is valid.

    `detect_collar` enables rule 4. Raises FrameError when the file is truncated or has no valid pixel.
    """
    if source.declared_mask == "mask":
        return Mask("mask", lambda data, window: _read_mask_band(source, data, window))
    if source.alpha_band is not None and _is_true_alpha(source, dataset, source.alpha_band):
        alpha = source.alpha_band
        return Mask("alpha", lambda data, window: _read_band(source, data, alpha, window) > 127)
    if source.nodata is not None:
        values = np.array(source.nodata, dtype=np.uint8)[:, None, None]
        return Mask("nodata", lambda data, window: (source.read(data, window) != values).any(axis=0))
    return _find_collar(source, dataset) if detect_collar and not _is_bilevel(source, dataset) else None


def _iter_source_strips(source: Source, dataset: DatasetReader) -> Iterator[Window]:
    return iter_strips(source.width, source.height, source.count, dataset.block_shapes[0][0])


def _read_band(source: Source, dataset: DatasetReader, band: int, window: Window) -> NDArray[np.uint8]:
    with translate_read_errors(source):
        pixels: NDArray[np.uint8] = dataset.read(band, window=window)
    return pixels


def _read_mask_band(source: Source, dataset: DatasetReader, window: Window) -> Valid:
    with translate_read_errors(source):
        valid: Valid = dataset.read_masks(1, window=window) > 0
    return valid


def _is_true_alpha(source: Source, dataset: DatasetReader, alpha: int) -> bool:
    strips = (_read_band(source, dataset, alpha, window) for window in _iter_source_strips(source, dataset))
    return is_mask(count_alpha(strips, 255), source.path.name, may_be_infrared=len(source.bands) > 1)


def _is_bilevel(source: Source, dataset: DatasetReader) -> bool:
    """True for a gray scan of nothing but black and white, such as line work: its black or white may reach the border."""
    if len(source.bands) > 1:
        return False
    found = np.zeros(2, bool)
    # The middle of a photograph has grays, so that hardly any scan is read whole.
    middle = Window(source.width // 2, source.height // 2, min(64, source.width // 2), min(64, source.height // 2))
    for window in (middle, *_iter_source_strips(source, dataset)):
        pixels = source.read(dataset, window)
        # In uint8, 0 - 1 is 255 and 255 - 1 is 254: exactly the values 1 to 254 end up below 254.
        if (pixels - np.uint8(1) < 254).any():
            return False
        found |= [bool((pixels == 0).any()), bool((pixels == 255).any())]
    return bool(found.all())


def _find_collar(source: Source, dataset: DatasetReader) -> Mask | None:
    corners = [
        source.read(dataset, Window(column, row, 1, 1)).ravel()
        for row in (0, source.height - 1)
        for column in (0, source.width - 1)
    ]
    for value in (0, 255):
        if sum(bool((corner == value).all()) for corner in corners) < 2:
            continue
        first, last = _row_extents(source, dataset, value)
        if not (first <= last).any():
            raise FrameError(
                f"{source.path.name} has no valid pixel: all of it is {'black' if value == 0 else 'white'}; "
                "check the scan and drop it again."
            )
        left, right = _row_hulls(first, last)
        collar_share = 1 - np.maximum(right - left, 0).sum() / (source.width * source.height)
        if collar_share >= _MIN_COLLAR_SHARE:
            return Mask("collar", lambda _, window, left=left, right=right: _inside_hull(left, right, window))  # type: ignore[misc]
    return None


def _row_extents(source: Source, dataset: DatasetReader, value: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First and last column of each row that is not `value`; first > last where the whole row is `value`."""
    first = np.full(source.height, source.width, dtype=np.int64)
    last = np.full(source.height, -1, dtype=np.int64)
    for window in _iter_source_strips(source, dataset):
        other = (source.read(dataset, window) != value).any(axis=0)
        rows = np.flatnonzero(other.any(axis=1))
        top = int(window.row_off)
        first[top + rows] = other[rows].argmax(axis=1)
        last[top + rows] = source.width - 1 - other[rows, ::-1].argmax(axis=1)
    return first, last


def _row_hulls(first: NDArray[np.int64], last: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The columns [left, right) of each row whose pixel centers are in the convex hull of the given pixel centers.

    The hull is built from centers, not from pixel areas: the hull of the areas runs half a pixel outside a sloping edge, which
    would leave a fringe of collar along it.
    """
    rows = np.flatnonzero(first <= last)
    west, east = _lower_chain(rows, first[rows]), _lower_chain(rows, -last[rows])
    every_row = np.arange(len(first))
    # Tolerance: a center exactly on the hull's edge is inside, however the division was rounded.
    left = np.ceil(np.interp(every_row, west[:, 0], west[:, 1]) - 1e-6).astype(np.int64)
    right = np.floor(-np.interp(every_row, east[:, 0], east[:, 1]) + 1e-6).astype(np.int64) + 1
    outside = (every_row < rows[0]) | (every_row > rows[-1])
    right[outside] = left[outside]
    return left, right


def _lower_chain(y: NDArray[np.int64], x: NDArray[np.int64]) -> NDArray[np.int64]:
    """Vertices (y, x) of the convex hull on the side of small x (monotone chain); `y` must ascend."""
    chain: list[tuple[int, int]] = []
    for point in zip(y.tolist(), x.tolist(), strict=True):
        while len(chain) > 1 and _is_not_convex(chain[-2], chain[-1], point):
            chain.pop()
        chain.append(point)
    return np.array(chain)


def _is_not_convex(before: tuple[int, int], middle: tuple[int, int], after: tuple[int, int]) -> bool:
    return (middle[1] - before[1]) * (after[0] - before[0]) >= (after[1] - before[1]) * (middle[0] - before[0])


def _inside_hull(left: NDArray[np.int64], right: NDArray[np.int64], window: Window) -> Valid:
    rows = slice(int(window.row_off), int(window.row_off + window.height))
    columns = np.arange(int(window.col_off), int(window.col_off + window.width))
    valid: Valid = (columns >= left[rows, None]) & (columns < right[rows, None])
    return valid
