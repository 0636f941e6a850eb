"""Find a collar that the file does not declare: the flat border around the photograph of a georeferenced scan.

Two recognitions use the same pass over the image:

- exact: at least two corners of the image are pure black (or pure white). Everything outside the convex hull of all other pixels
  is collar. This never masks a pixel of another value.
- by outline (`collar_outline`): at least two corners are nearly flat, of any color. The collar is what lies outside the straight
  edges of a rectangle, within a tolerance of that color. A second pass locates the edges, only where the exact recognition
  leaves a doubt: nothing found, a rim of nearly black pixels, or a hull that a speck stretches.

What might be a real photograph stays: a flat region along one side that is too large for a collar, or whose edge is a coast.

PIXELS_VERSION counts only changes of frames that were right. A frame whose collar the exact recognition outlines tightly gets
the same mask, bit for bit, as before the outline was recognized too; only masks that were wrong have changed, so the version has
not. `ls4 reconcile` therefore does not remake an archive; dropping a scan again does remake its frame.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rasterio.io import DatasetReader
from rasterio.windows import Window
from scipy import ndimage

from ls4_assets.errors import FrameError
from ls4_assets.raster.collar_edges import TOLERANCE
from ls4_assets.raster.collar_hull import Hull, HullFinder
from ls4_assets.raster.collar_outline import (
    MAX_ONE_SIDED_SHARE,
    Outline,
    ReducedImage,
    flat_background,
    locate_outline,
    reduction_step,
)
from ls4_assets.raster.source import Source
from ls4_assets.raster.windows import iter_strips

Valid = NDArray[np.bool_]

_MIN_COLLAR_SHARE = 0.001
"""A collar that covers a smaller share of the image gets no mask."""
_CORNER_PX = 6
"""Side of the corner of the image that must be flat."""
_MIN_TIGHT_SHARE = 0.98
"""Share of a hull's edge that pixels must touch, so that no speck stretches it."""
_MAX_NEAR_SHARE = 0.5
"""With a larger share of nearly black pixels at the hull's edge, these are a rim of the collar and not the photograph."""
_MAX_COAST_SHARE = 0.5
"""With a larger share of flat pixels just inside the hull's edge, the edge is a coast and not the end of the photograph."""
_DOUBTFUL_COAST_SHARE = 0.05


@dataclass(frozen=True)
class Collar:
    """The valid pixels are inside the hull, and inside the outline; either may be None."""

    hull: Hull | None
    outline: Outline | None

    def valid(self, window: Window) -> Valid:
        """Return True for valid, shape (rows, columns)."""
        if self.hull is None or self.outline is None:
            part = self.hull or self.outline
            assert part is not None
            return part.inside(window)
        return self.hull.inside(window) & self.outline.inside(window)


def find_collar(source: Source, dataset: DatasetReader) -> Collar | None:
    """Return the collar of an open source; None when there is none, or when it may be photograph.

    Raises FrameError when the file is truncated, or entirely black or white.
    """
    corners = _read_corners(source, dataset)
    values = [value for value in (0, 255) if sum(bool((corner[1] == value).all()) for corner in corners) >= 2]
    colors = _flat_colors([corner[0] for corner in corners])
    if not values and not colors:
        return None
    hulls, reduced = _scan(source, dataset, values)
    for value in values:
        if hulls[value] is None:
            raise FrameError(
                f"{source.path.name} has no valid pixel: all of it is {'black' if value == 0 else 'white'}; "
                "check the scan and drop it again."
            )
    hull = None
    for value, candidate in hulls.items():
        assert candidate is not None
        if candidate.collar_share < _MIN_COLLAR_SHARE:
            continue
        # A hull that leaves all four corners outside is no coast.
        coast_share = 0.0 if candidate.outside_corners == 4 else _coast_share(candidate, reduced, value)
        if _may_be_photograph(candidate, coast_share):
            continue
        hull = candidate
        if _is_exact(hull, coast_share):
            return Collar(hull, None)
        break
    for color in colors:
        outline = locate_outline(reduced, color, lambda: _iter_pixels(source, dataset))
        if outline is None or outline.collar_share < _MIN_COLLAR_SHARE:
            continue
        if hull is None or outline.cuts(hull.contains):
            return Collar(hull, outline)
    return Collar(hull, None) if hull else None


def _is_exact(hull: Hull, coast_share: float) -> bool:
    """Return whether the hull is the outline of the photograph, neither stretched by specks nor around a rim."""
    is_tight = hull.tight_share >= _MIN_TIGHT_SHARE and coast_share <= _DOUBTFUL_COAST_SHARE
    return is_tight and hull.near_share(TOLERANCE) <= _MAX_NEAR_SHARE


def _read_corners(source: Source, dataset: DatasetReader) -> list[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    """Return the pixels of each corner of the image, shape (bands, rows, columns), and its outermost pixel."""
    height, width = min(_CORNER_PX, source.height), min(_CORNER_PX, source.width)
    corners = []
    for row in (0, source.height - height):
        for column in (0, source.width - width):
            pixels = source.read(dataset, Window(column, row, width, height))
            corners.append((pixels, pixels[:, -1 if row else 0, -1 if column else 0]))
    return corners


def _flat_colors(corners: list[NDArray[np.uint8]]) -> list[NDArray[np.int16]]:
    """Return the colors (one value per band) that at least two corners have throughout, the most frequent first."""
    colors = [np.median(corner, axis=(1, 2)).astype(np.int16) for corner in corners]
    found: list[tuple[int, NDArray[np.int16]]] = []
    for color in colors:
        is_flat = [(np.abs(corner - color[:, None, None]).max(axis=0) <= TOLERANCE).mean() > 0.9 for corner in corners]
        is_new = all(np.abs(color - other).max() > TOLERANCE for _, other in found)
        if sum(is_flat) >= 2 and is_new:
            found.append((sum(is_flat), color))
    return [color for _, color in sorted(found, key=lambda item: -item[0])]


def _iter_pixels(source: Source, dataset: DatasetReader) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Yield the image in strips: the first row, and the pixels of shape (bands, rows, columns)."""
    for window in iter_strips(source.width, source.height, source.count, dataset.block_shapes[0][0]):
        yield int(window.row_off), source.read(dataset, window)


def _scan(source: Source, dataset: DatasetReader, values: list[int]) -> tuple[dict[int, Hull | None], ReducedImage]:
    """Read the image once. Returns the hull of the pixels of other values for each of `values`, and the reduced image."""
    step = reduction_step(source.width, source.height)
    rows: list[NDArray[np.uint8]] = []
    finders = {value: HullFinder(value, source.width, source.height) for value in values}
    for top, pixels in _iter_pixels(source, dataset):
        rows.append(pixels[:, (step // 2 - top) % step :: step, step // 2 :: step].copy())
        for finder in finders.values():
            finder.add(top, pixels)
    reduced = ReducedImage(np.concatenate(rows, axis=1), step, source.width, source.height)
    return {value: finder.result() for value, finder in finders.items()}, reduced


def _coast_share(hull: Hull, reduced: ReducedImage, value: int) -> float:
    """Return which share of the reduced image just inside the hull's edge is flat and connected to the image's border."""
    rows, columns = reduced.centers()
    outside = ~((columns >= hull.left[rows][:, None]) & (columns < hull.right[rows][:, None]))
    flat = flat_background((reduced.pixels == value).all(axis=0))
    ring = ndimage.binary_dilation(outside, iterations=4) & ~ndimage.binary_dilation(outside, iterations=2)
    return float(flat[ring].mean()) if ring.any() else 0.0


def _may_be_photograph(hull: Hull, coast_share: float) -> bool:
    """Return whether what is outside the hull may be black water or snow: a coast, or one side that is too large for a collar."""
    is_large_side = hull.is_one_sided and hull.collar_share > MAX_ONE_SIDED_SHARE
    return hull.outside_corners < 4 and (coast_share > _MAX_COAST_SHARE or is_large_side)
