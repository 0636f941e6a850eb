"""The convex hull of all pixels that do not have a collar's exact value."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import shapely
from numpy.typing import NDArray
from rasterio.windows import Window

Valid = NDArray[np.bool_]

_TIGHT_PX = 1.5
_SIMPLIFY_PX = 2.0


@dataclass(frozen=True)
class Hull:
    """The columns [left, right) of each row that are inside.

    first, last: the first and last column of each row without the value; first > last where the whole row has it.
    rim: how far the pixels at `first` and `last` differ from the value, shape (2, rows).
    """

    width: int
    left: NDArray[np.int64]
    right: NDArray[np.int64]
    first: NDArray[np.int64]
    last: NDArray[np.int64]
    rim: NDArray[np.uint8]

    @cached_property
    def collar_share(self) -> float:
        """Share of the image that is outside the hull."""
        return float(1 - np.maximum(self.right - self.left, 0).sum() / (self.width * len(self.left)))

    @cached_property
    def _edges(self) -> tuple[Valid, Valid]:
        """Which rows have collar on the left, and which on the right."""
        is_inside = self.left < self.right
        return is_inside & (self.left > 0), is_inside & (self.right < self.width)

    @cached_property
    def tight_share(self) -> float:
        """Share of the rows' edges where the outermost pixel lies on the hull's edge, measured at right angles to it."""
        gaps = [
            _across(self.first - self.left, self.left)[self._edges[0]],
            _across(self.right - 1 - self.last, self.right)[self._edges[1]],
        ]
        all_gaps = np.concatenate(gaps)
        return float((all_gaps <= _TIGHT_PX).mean()) if len(all_gaps) else 1.0

    def near_share(self, tolerance: int) -> float:
        """Share of the outermost pixels that differ from the value by no more than `tolerance`, in any band."""
        has_pixels = self.first <= self.last
        rows = (has_pixels & (self.first > 0), has_pixels & (self.last < self.width - 1))
        rim = np.concatenate([self.rim[0][rows[0]], self.rim[1][rows[1]]])
        if not len(rim):
            # The collar is above or below: its edge is the outermost rows.
            rim = self.rim[:, np.flatnonzero(has_pixels)[[0, -1]]].ravel()
        return float((rim <= tolerance).mean())

    @cached_property
    def outside_corners(self) -> int:
        """How many corners of the image are outside."""
        return sum(
            not self.left[row] <= column < self.right[row] for row in (0, len(self.left) - 1) for column in (0, self.width - 1)
        )

    @cached_property
    def is_one_sided(self) -> bool:
        """Whether one straight line separates the hull from what is outside."""
        rows = np.flatnonzero(self.left < self.right)
        points = np.concatenate([np.column_stack((self.left[rows], rows)), np.column_stack((self.right[rows] - 1, rows))])
        ring = np.asarray(shapely.convex_hull(shapely.multipoints(points)).simplify(_SIMPLIFY_PX).boundary.coords)
        right, bottom = self.width - 1, len(self.left) - 1
        borders = [ring[:, 0] <= 1, ring[:, 0] >= right - 1, ring[:, 1] <= 1, ring[:, 1] >= bottom - 1]
        on_border = np.logical_or.reduce([on[:-1] & on[1:] for on in borders])
        return int(np.count_nonzero(~on_border)) <= 1

    def inside(self, window: Window) -> Valid:
        """Return True for the pixels of a window that are inside."""
        rows = slice(int(window.row_off), int(window.row_off + window.height))
        columns = np.arange(int(window.col_off), int(window.col_off + window.width))
        valid: Valid = (columns >= self.left[rows, None]) & (columns < self.right[rows, None])
        return valid

    def contains(self, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> Valid:
        """Return True for each pixel that is inside. Pixels outside the image are outside."""
        in_image = (rows >= 0) & (rows < len(self.left))
        clipped = np.clip(rows, 0, len(self.left) - 1)
        valid: Valid = in_image & (columns >= self.left[clipped]) & (columns < self.right[clipped])
        return valid


def _across(gap: NDArray[np.int64], edge: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return horizontal gaps to a sloping edge as distances at right angles to it."""
    slope = np.gradient(edge.astype(float)) if len(edge) > 1 else np.zeros(len(edge))
    distances: NDArray[np.float64] = gap / np.hypot(1, slope)
    return distances


class HullFinder:
    """Collects the extents of the rows, strip by strip."""

    def __init__(self, value: int, width: int, height: int) -> None:
        self._value, self._width = value, width
        self._first = np.full(height, width, dtype=np.int64)
        self._last = np.full(height, -1, dtype=np.int64)
        self._rim = np.zeros((2, height), dtype=np.uint8)

    def add(self, top: int, pixels: NDArray[np.uint8]) -> None:
        """Add the pixels (bands, rows, columns) of the rows from `top`."""
        other = (pixels != self._value).any(axis=0)
        rows = np.flatnonzero(other.any(axis=1))
        first = other[rows].argmax(axis=1)
        last = self._width - 1 - other[rows, ::-1].argmax(axis=1)
        self._first[top + rows], self._last[top + rows] = first, last
        for side, columns in enumerate((first, last)):
            self._rim[side, top + rows] = np.abs(pixels[:, rows, columns].astype(np.int16) - self._value).max(axis=0)

    def result(self) -> Hull | None:
        """Return the hull; None when all pixels have the value."""
        if not (self._first <= self._last).any():
            return None
        left, right = _row_hulls(self._first, self._last)
        return Hull(self._width, left, right, self._first, self._last, self._rim)


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
