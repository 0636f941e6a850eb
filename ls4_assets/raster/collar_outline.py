"""Locate a photograph by the straight edges of its outline, inside a collar of any nearly constant color.

The reduced image shows roughly where the photograph is: all that is not flat and connected to the border of the image, without
specks and dust lines. The long sides of its hull are candidates for edges; `collar_edges` locates each in the full image. An edge
counts only when the photograph begins on one line along most of it, nearly all of the region outside it is flat, and it is
parallel or perpendicular to the longest edge. An edge that does not count masks nothing.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import shapely
from numpy.typing import NDArray
from rasterio.windows import Window
from scipy import ndimage

from ls4_assets.raster.collar_edges import MAX_BOW, TOLERANCE, Candidate, Edge, fit_edge, read_profiles

Valid = NDArray[np.bool_]
Floats = NDArray[np.float64]
Contains = Callable[[NDArray[np.int64], NDArray[np.int64]], Valid]
Strips = Iterable[tuple[int, NDArray[np.uint8]]]

MAX_ONE_SIDED_SHARE = 0.125
"""A flat region along only one side of the image is a collar up to this share of the image. A larger one may be water."""

_REDUCED_PX = 1200
_OPENING_SHARE = 0.006
"""Specks and dust lines narrower than twice this share of the image are ignored."""
_MIN_EDGE_SHARE = 0.08
"""Shorter sides of the hull, as a share of the longer side of the image, are no edges: for example a clipped corner."""
_MIN_FLAT_SHARE = 0.95
"""Share of the region outside an edge that must be flat. The rest is specks, dust, fiducial marks and writing."""
_MAX_COLLAR_SHARE = 0.75
"""A flat region that covers more of the image may be water around a lit dock, or snow around a house."""
_MIN_PART_SHARE = 0.1
"""Parts of the photograph that a flat band separates count from this share of the largest part."""
_MIN_RELATIVE_SUPPORT = 0.25
"""A shorter edge, compared with the longest one, would have to be extended too far."""
_MAX_SKEW_DEGREES = 5.0
_ON_BORDER_CELLS = 2
_STRAIGHT_CELLS = 1.5
_RINGING_PX = 16
"""How far a JPEG spreads an edge: two of its blocks."""
_MAX_CUT_PX = 3
_MIN_CUT_SHARE = 0.01


@dataclass(frozen=True)
class ReducedImage:
    """Every `step`-th pixel of every `step`-th row, shape (bands, rows, columns), of an image of `width` x `height` pixels."""

    pixels: NDArray[np.uint8]
    step: int
    width: int
    height: int

    def centers(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the rows and columns of the full image that the pixels come from."""
        _, rows, columns = self.pixels.shape
        offset = self.step // 2
        return np.arange(rows) * self.step + offset, np.arange(columns) * self.step + offset


def reduction_step(width: int, height: int) -> int:
    return max(1, -(-max(width, height) // _REDUCED_PX))


@dataclass(frozen=True)
class Outline:
    """The edges of a photograph. Pixels beyond any of them are collar."""

    edges: tuple[Edge, ...]
    collar_share: float

    def inside(self, window: Window) -> Valid:
        """Return True for the pixels of a window that no edge excludes."""
        rows = np.arange(int(window.row_off), int(window.row_off + window.height))
        columns = np.arange(int(window.col_off), int(window.col_off + window.width))
        return _inside_all(self.edges, rows, columns)

    def cuts(self, contains: Contains) -> bool:
        """Return whether the outline excludes pixels that `contains` includes, more than a few pixels beyond an edge."""
        return any(contains(*edge.points_outside(_MAX_CUT_PX)).mean() > _MIN_CUT_SHARE for edge in self.edges)


def flat_background(flat: Valid) -> Valid:
    """Return the flat pixels that are connected to the border of the image."""
    labels, count = ndimage.label(flat)
    on_border = np.zeros(count + 1, dtype=np.bool_)
    for line in (labels[0], labels[-1], labels[:, 0], labels[:, -1]):
        on_border[line] = True
    on_border[0] = False
    background: Valid = on_border[labels]
    return background


def locate_outline(reduced: ReducedImage, color: NDArray[np.int16], iter_pixels: Callable[[], Strips]) -> Outline | None:
    """Return the outline of a photograph in a collar of `color` (one value per band); None when there is a doubt.

    `iter_pixels` yields the full image in strips; it is read only when the reduced image shows candidates.
    """
    flat = np.abs(reduced.pixels - color[:, None, None]).max(axis=0) <= TOLERANCE
    candidates = _find_candidates(_main_parts(~flat_background(flat)), reduced)
    if not candidates:
        return None
    profiles = read_profiles(candidates, color, reduced.width, reduced.height, iter_pixels())
    fitted = [fit_edge(candidate, profile) for candidate, profile in zip(candidates, profiles, strict=True)]
    rows, columns = reduced.centers()
    edges = [edge for edge in fitted if edge is not None and _is_flat_outside(edge, flat, rows, columns)]
    edges = _square(edges)
    if not edges:
        return None
    outline = Outline(tuple(edges), float(1 - _inside_all(edges, rows, columns).mean()))
    return None if _may_be_photograph(outline) else outline


def _inside_all(edges: Sequence[Edge], rows: NDArray[np.int64], columns: NDArray[np.int64]) -> Valid:
    valid = edges[0].inside(rows, columns)
    for edge in edges[1:]:
        valid &= edge.inside(rows, columns)
    return valid


def _may_be_photograph(outline: Outline) -> bool:
    """Return whether what is outside may be water or snow. A dam is one straight edge; a rectangle in it is small."""
    if len(outline.edges) == 1:
        return outline.collar_share > MAX_ONE_SIDED_SHARE or not outline.edges[0].is_aligned
    return outline.collar_share > _MAX_COLLAR_SHARE


def _main_parts(photograph: Valid) -> Valid:
    """Return the large parts that remain without thin lines and small specks."""
    size = 2 * round(_OPENING_SHARE * max(photograph.shape)) + 1
    eroded = ndimage.minimum_filter(photograph, size, mode="nearest")
    labels, count = ndimage.label(ndimage.maximum_filter(eroded, size, mode="nearest"))
    if not count:
        return np.zeros_like(photograph)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    parts: Valid = (sizes >= _MIN_PART_SHARE * sizes.max())[labels] & (labels > 0)
    return parts


def _find_candidates(main: Valid, reduced: ReducedImage) -> list[Candidate]:
    """Return the long sides of the convex hull that do not run along the border of the image, in pixels of the full image.

    A bowed side is one candidate as a whole, and others for its parts.
    """
    rows = np.flatnonzero(main.any(axis=1))
    if not len(rows):
        return []
    first = main[rows].argmax(axis=1)
    last = main.shape[1] - 1 - main[rows, ::-1].argmax(axis=1)
    points = np.concatenate([np.column_stack((first, rows)), np.column_stack((last, rows))])
    hull = shapely.convex_hull(shapely.multipoints(points))
    if hull.geom_type != "Polygon":
        return []
    center = np.asarray(hull.centroid.coords[0])
    longer = max(main.shape)
    candidates = []
    for tolerance in (_STRAIGHT_CELLS, MAX_BOW * longer):
        for start, end in _inner_sides(hull.simplify(tolerance), main.shape):
            if np.hypot(*(end - start)) >= _MIN_EDGE_SHARE * longer:
                scaled = [point * reduced.step + reduced.step // 2 for point in (start, end, center)]
                margin = round((tolerance + _STRAIGHT_CELLS) * reduced.step) + _RINGING_PX
                candidates.append(Candidate.between(*scaled, margin=margin))
    return candidates


def _inner_sides(hull: shapely.Polygon, shape: tuple[int, ...]) -> Iterator[tuple[Floats, Floats]]:
    """Yield both ends, as (column, row), of each side that does not run along the border of an image of that shape."""
    ring = np.asarray(hull.exterior.coords)
    far = ring - (np.array(shape[::-1]) - 1)
    on_borders = np.column_stack((ring <= _ON_BORDER_CELLS, far >= -_ON_BORDER_CELLS))
    for (start, starts_on), (end, ends_on) in pairwise(zip(ring, on_borders, strict=True)):
        if not (starts_on & ends_on).any():
            yield start, end


def _is_flat_outside(edge: Edge, flat: Valid, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> bool:
    outside = ~edge.inside(rows, columns)
    return bool(outside.any()) and float(flat[outside].mean()) >= _MIN_FLAT_SHARE


def _square(edges: list[Edge]) -> list[Edge]:
    """Return the edge with the longest support, and at most one on each of the other three sides of a rectangle."""
    edges = sorted(edges, key=lambda edge: -edge.support)
    sides: dict[int, Edge] = {}
    for edge in edges:
        turn = (edge.degrees - edges[0].degrees) / 90
        is_square = abs(turn - round(turn)) * 90 <= _MAX_SKEW_DEGREES
        if is_square and edge.support >= _MIN_RELATIVE_SUPPORT * edges[0].support:
            sides.setdefault(round(turn) % 4, edge)
    return list(sides.values())
