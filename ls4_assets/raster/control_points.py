"""Ground control points: fitting a transformation to them, its residuals, and the rejection of points that do not fit.

GDAL's warper repeats the fit when it rectifies the frame (`deflate`), with `Fit.warp_options`. Reading the points is in
`sidecar_readers`, choosing between them and other georeferences in `position`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, cast
from xml.sax.saxutils import quoteattr

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from rasterio.crs import CRS

from ls4_assets.domain.profiles import GcpTransformation

Floats = NDArray[np.float64]
Fitted = Literal["polynomial 1", "polynomial 2", "polynomial 3", "thin-plate spline"]

_TERMS = {"polynomial 1": 3, "polynomial 2": 6, "polynomial 3": 10, "thin-plate spline": 4}
# With six points a polynomial of order 2 passes through each of them, and no residual shows a wrong one.
_MIN_ORDER_2 = 7
MIN_SPLINE_POINTS = 30
"""From this number of points on, the default is a thin-plate spline."""
MAX_POINTS = 1_000
"""The fit of a thin-plate spline takes memory with the square of the points, and time with their third power."""


@dataclass(frozen=True)
class ControlPoint:
    """A point of the image, in pixels from its upper left corner, and its place in the coordinates of a CRS.

    `label` is what people find it by in the file, such as "3".
    """

    label: str
    column: float
    row: float
    x: float
    y: float


@dataclass(frozen=True)
class Fit:
    """A transformation fitted to control points.

    residuals_px: distance of each point from where the transformation has it, in pixels of the scan: for a thin-plate spline,
        and only for it, that of a spline through all other points, because it passes through its own. None where there are no
        more points than the transformation has terms.
    approximation: the affine geotransform that fits best.
    """

    points: tuple[ControlPoint, ...]
    crs: CRS
    kind: Fitted
    residuals_px: Floats | None
    approximation: Affine
    to_map: Callable[[Floats], Floats]

    @property
    def rms_px(self) -> float | None:
        return None if self.residuals_px is None else float(np.sqrt(np.mean(self.residuals_px**2)))

    @property
    def max_px(self) -> float | None:
        return None if self.residuals_px is None else float(self.residuals_px.max())

    @property
    def warp_options(self) -> dict[str, str]:
        """Options of GDAL's warper for the same transformation."""
        if self.kind == "thin-plate spline":
            return {"METHOD": "GCP_TPS"}
        return {"METHOD": "GCP_POLYNOMIAL", "MAX_GCP_ORDER": self.kind[-1]}

    def vrt_xml(self) -> str:
        """The points as the element of a VRT."""
        points = "".join(
            f'<GCP Id="{number}" Pixel="{point.column!r}" Line="{point.row!r}" X="{point.x!r}" Y="{point.y!r}"/>'
            for number, point in enumerate(self.points, start=1)
        )
        return f"<GCPList Projection={quoteattr(self.crs.to_wkt())}>{points}</GCPList>"

    def describe_worst(self, count: int = 3) -> str:
        """The points with the largest residuals."""
        assert self.residuals_px is not None
        worst = np.argsort(self.residuals_px)[::-1][:count]
        return ", ".join(
            f"{self.points[index].label} (column {self.points[index].column:.0f}, row {self.points[index].row:.0f}: "
            f"{self.residuals_px[index]:,.1f} px)"
            for index in worst
        )


class ControlPointError(Exception):
    """Control points to which no transformation can be fitted; the text is the predicate of a sentence, with advice."""


def fit(points: tuple[ControlPoint, ...], crs: CRS, width: int, height: int, wanted: GcpTransformation = "auto") -> Fit:
    """Fit a transformation of pixels to coordinates; `wanted` "auto" chooses it by the number of points.

    Raises ControlPointError when the points are too few, lie on a line, or are not points of an image of this size.
    """
    kind = choose(len(points), wanted)
    if len(points) < _TERMS[kind]:
        raise ControlPointError(
            f"has {len(points)} of the {_TERMS[kind]} or more ground control points that a {kind} needs; add some"
        )
    if len(points) > MAX_POINTS:
        raise ControlPointError(f"has {len(points):,} ground control points and the limit is {MAX_POINTS:,}; remove some")
    pixels = np.array([(point.column, point.row) for point in points])
    places = np.array([(point.x, point.y) for point in points])
    if not (np.isfinite(pixels).all() and np.isfinite(places).all()):
        raise ControlPointError("has a ground control point with a value that is not a finite number; correct it")
    _reject_outside(pixels, width, height)
    try:
        forward, affine = _solve(pixels, places, kind), _solve(pixels, places, "polynomial 1")
        (x, y), right, down = affine(np.array([(0.0, 0.0), (1.0, 0.0), (0.0, 1.0)]))
        approximation = Affine(right[0] - x, down[0] - x, x, right[1] - y, down[1] - y, y)
        residuals = _residuals(pixels, places, kind, approximation)
    except np.linalg.LinAlgError as error:
        raise ControlPointError("has ground control points on one line, or twice at one place; spread them out") from error
    return Fit(points, crs, kind, residuals, approximation, forward)


def choose(count: int, wanted: GcpTransformation = "auto") -> Fitted:
    """The transformation for a number of points."""
    if wanted != "auto":
        return wanted
    if count >= MIN_SPLINE_POINTS:
        return "thin-plate spline"
    return "polynomial 2" if count >= _MIN_ORDER_2 else "polynomial 1"


def _reject_outside(pixels: Floats, width: int, height: int) -> None:
    """Points of another image, or in other units such as inches, give a position that looks plausible."""
    margin = 0.25 * max(width, height)
    if (pixels < -margin).any() or (pixels > np.array([width, height]) + margin).any():
        raise ControlPointError(f"has ground control points outside its {width:,} x {height:,} pixels; export them for this tif")
    if (np.ptp(pixels, axis=0) < 0.1 * np.array([width, height])).any():
        raise ControlPointError(
            "has ground control points that cover less than a tenth of its width or height; spread them over the whole image, "
            "in pixels"
        )


def _solve(here: Floats, there: Floats, kind: Fitted) -> Callable[[Floats], Floats]:
    """A function from `here` to `there`, both of shape (n, 2). Raises LinAlgError when the points do not determine it."""
    center, scale = here.mean(axis=0), float(np.ptp(here, axis=0).max()) or 1.0
    scaled = (here - center) / scale
    if kind == "thin-plate spline":
        inverse = np.linalg.inv(_spline_matrix(scaled))
        weights = inverse @ np.vstack([there, np.zeros((3, 2))])
        return lambda points: _spline_rows((points - center) / scale, scaled) @ weights
    terms = _polynomial_terms(scaled, int(kind[-1]))
    if np.linalg.matrix_rank(terms, tol=1e-7) < terms.shape[1]:
        raise np.linalg.LinAlgError
    coefficients = np.linalg.lstsq(terms, there, rcond=None)[0]
    return lambda points: _polynomial_terms((points - center) / scale, int(kind[-1])) @ coefficients


def _residuals(pixels: Floats, places: Floats, kind: Fitted, approximation: Affine) -> Floats | None:
    """Distances in pixels between the points and where the transformation has them, the larger of those of both directions.

    GDAL warps with the one from places to pixels. A wrong place far from all others pulls that one to itself, and only the
    other direction shows it.
    """
    if len(places) <= _TERMS[kind] and kind != "thin-plate spline":
        return None
    to_pixels = np.linalg.inv(np.array([[approximation.a, approximation.b], [approximation.d, approximation.e]]))
    forward = _errors(pixels, places, kind) @ to_pixels.T
    return cast(Floats, np.maximum(np.hypot(*forward.T), np.hypot(*_errors(places, pixels, kind).T)))


def _errors(here: Floats, there: Floats, kind: Fitted) -> Floats:
    """What the transformation from `here` misses of `there`; for a spline, that of the one through all other points."""
    if kind != "thin-plate spline":
        return _solve(here, there, kind)(here) - there
    scaled = (here - here.mean(axis=0)) / np.ptp(here, axis=0).max()
    inverse = np.linalg.inv(_spline_matrix(scaled))
    weights = inverse @ np.vstack([there, np.zeros((3, 2))])
    # Rippa's formula for the error at a point of the spline through all others, without fitting each of these splines.
    count = len(here)
    return weights[:count] / np.diag(inverse)[:count, None]


def _polynomial_terms(points: Floats, order: int) -> Floats:
    x, y = points.T
    return np.stack([x**i * y**j for total in range(order + 1) for i in range(total, -1, -1) for j in [total - i]], axis=1)


def _spline_rows(points: Floats, nodes: Floats) -> Floats:
    distances = np.sum((points[:, None, :] - nodes[None, :, :]) ** 2, axis=2)
    kernel = np.where(distances > 0, distances * np.log(np.maximum(distances, 1e-300)), 0.0)
    return np.hstack([kernel, np.ones((len(points), 1)), points])


def _spline_matrix(nodes: Floats) -> Floats:
    """The equations of a spline through the nodes. Raises LinAlgError for two at one place, and for nodes on one line."""
    rows = _spline_rows(nodes, nodes)
    count = len(nodes)
    if len(np.unique(nodes.round(9), axis=0)) < count or np.linalg.matrix_rank(rows[:, count:], tol=1e-7) < 3:
        raise np.linalg.LinAlgError
    return np.vstack([rows, np.hstack([rows[:, count:].T, np.zeros((3, 3))])])
