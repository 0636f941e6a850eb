"""The georeference of a scan: its CRS and its geotransform or control points, if they place it where a photograph can be.

Reading the tif and its sidecars is in `sidecar_readers`, choosing between them in `position`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.io import DatasetReader
from rasterio.warp import transform as transform_points

from ls4_assets.errors import FrameError
from ls4_assets.raster import datums
from ls4_assets.raster.control_points import Fit
from ls4_assets.raster.crs_files import reject_crs_files
from ls4_assets.raster.datums import DatumRules
from ls4_assets.raster.gdal_env import GDAL_ERRORS
from ls4_assets.raster.position import EARTH_RADIUS_M, WEB_MERCATOR, Position, PositionOptions, crs_label, read_position
from ls4_assets.raster.sidecar_readers import HEADER, PAM, Reading
from ls4_assets.raster.transformations import NONE, Transformation, find_transformation, map_degrees

# Largest plausible easting and northing: half the circumference, and twice that to the north and south, where Web Mercator has
# no edge.
_MAP_EDGE = 20_037_508.35
_MAP_LIMITS = (_MAP_EDGE * 1.01, _MAP_EDGE * 2)
# About a degree. The Gulf of Guinea has no land there.
_NULL_ISLAND_M = 111_000.0
_SAME_PLACE_PX = 0.001
"""No reprojection is needed when it would move every corner by at most this share of a pixel."""
# Plausible sizes of a pixel in meters on the map. Scans have 0.05 to 10; the location is checked later, in kilometers.
_PIXEL_LIMITS = (0.001, 10_000.0)
_ADVICE = "correct its georeference and drop it again"


@dataclass(frozen=True)
class Georeference:
    """CRS and affine geotransform (pixel corner to CRS units) of a scan; `crs_label` is for display, such as "EPSG:32719".

    transformation: from its datum to that of the map.
    control_points: the fit to them, of a scan without a geotransform; `transform` is then its best approximation.
    position_source, crs_source: file names, or "its header". position_note: which other position was overruled.
    """

    crs: CRS
    transform: Affine
    crs_label: str
    needs_warp: bool
    transformation: Transformation = NONE
    control_points: Fit | None = None
    position_source: str = ""
    crs_source: str = ""
    position_note: str = ""

    def facts(self) -> dict[str, Any]:
        """Where the position came from, as JSON for people and for the frame's row; residuals in pixels and ground meters."""
        facts: dict[str, Any] = {"position": self.position_source, "crs": self.crs_source}
        if self.position_note:
            facts["note"] = self.position_note
        if fit := self.control_points:
            facts |= {"control_points": len(fit.points), "transformation": fit.kind}
            if fit.rms_px is not None and fit.max_px is not None:
                meters = self.ground_pixel_m
                facts |= {"rms_px": round(fit.rms_px, 2), "max_px": round(fit.max_px, 2)}
                facts |= {"rms_m": round(fit.rms_px * meters, 2), "max_m": round(fit.max_px * meters, 2)}
        return facts

    @property
    def warp_options(self) -> dict[str, str]:
        """Options with which GDAL's warper places the scan as this georeference does."""
        return self.control_points.warp_options if self.control_points else {}

    @property
    def ground_pixel_m(self) -> float:
        """Size of a pixel on the ground, the geometric mean of its sides."""
        origin, right, down = (self.transform @ pixel for pixel in ((0, 0), (1, 0), (0, 1)))
        xs, ys = transform_points(self.crs, WEB_MERCATOR, *zip(origin, right, down, strict=True))
        area = abs((xs[1] - xs[0]) * (ys[2] - ys[0]) - (xs[2] - xs[0]) * (ys[1] - ys[0]))
        return math.sqrt(area) / math.cosh(ys[0] / EARTH_RADIUS_M)


def read_georeference(
    dataset: DatasetReader, path: Path, options: PositionOptions, readings: Sequence[Reading] | None = None
) -> Georeference:
    """Return the georeference of the open scan at `path`; raises FrameError when it is missing or cannot be placed on a map.

    `readings`: see `read_position`.
    """
    position = read_position(path, (dataset.width, dataset.height), options, readings)
    crs, transform = position.crs, position.transform
    reject_crs_files(crs.to_wkt(), path)
    if not (crs.is_projected or crs.is_geographic):
        raise FrameError(
            f"{path.name} is in a local coordinate system that cannot be placed on the earth; georeference it in "
            "a projected system such as UTM and drop it again."
        )
    label = crs_label(crs)
    _reject_bad_transform(transform, path)
    corners = position.corners()
    map_corners = _project_to_map(crs, label, corners, path)
    _reject_no_place(map_corners, path)
    _reject_pixel_size(dataset, map_corners, path)
    is_turned = bool(transform.b != 0 or transform.d != 0 or transform.a <= 0 or transform.e >= 0)
    # A CRS with the same coordinates as EPSG:3857 needs no warp, regardless of the name that the scanning software gave it.
    is_moved = np.abs(map_corners - corners).max() > _SAME_PLACE_PX * abs(transform.a)
    control_points, transformation = position.control_points, NONE
    if is_moved:
        crs, transformation = _find_transformation(position, label, map_corners, path, options.datums)
        control_points = replace(control_points, crs=crs) if control_points else None
    georeference = Georeference(
        crs=crs, transform=transform, crs_label=crs_label(crs), needs_warp=bool(is_turned or is_moved or control_points),
        transformation=transformation, control_points=control_points, position_source=position.reading.label,
        crs_source=position.crs_reading.label, position_note=position.note,
    )  # fmt: skip
    _reject_residuals(georeference, options.max_gcp_rms_px, path)
    return georeference


def _find_transformation(
    position: Position, label: str, map_corners: NDArray[np.float64], path: Path, rules: DatumRules
) -> tuple[CRS, Transformation]:
    """Return the CRS, with an assumed datum if its own is unknown and the archive file says which is meant, and how it is moved.

    Raises FrameError for an unknown datum.
    """
    crs, corners = position.crs, position.corners()
    transformation = _describe(crs, label, corners, map_corners, path)
    if not datums.has_unknown_datum(crs, transformation):
        return crs, transformation
    assumed = datums.assume_datum(crs, rules.assumed)
    if assumed is None:
        source = position.crs_reading
        sidecar = source.name if source.has_position and source.suffix not in (HEADER, PAM) else None
        raise datums.unknown_datum_error(path.name, crs, transformation, sidecar)
    label = crs_label(assumed)
    transformation = _describe(assumed, label, corners, _project_to_map(assumed, label, corners, path), path)
    return assumed, datums.mark_assumed(transformation, assumed)


def _describe(crs: CRS, label: str, corners: NDArray[np.float64], map_corners: NDArray[np.float64], path: Path) -> Transformation:
    """The transformation at the center of the scan."""
    center = corners.mean(axis=0, keepdims=True)
    (x, y), (map_x, map_y) = center[0], _project_to_map(crs, label, center, path)[0]
    area = map_degrees(map_corners[:, 0], map_corners[:, 1])
    return find_transformation(crs, area, (float(x), float(y)), (float(map_x), float(map_y)))


def _reject_residuals(georeference: Georeference, limit_px: float, path: Path) -> None:
    """Raise FrameError when control points fit too badly for a photograph to be placed with them."""
    fit = georeference.control_points
    if fit and fit.rms_px is not None and fit.rms_px > limit_px:
        meters = fit.rms_px * georeference.ground_pixel_m
        raise FrameError(
            f"{path.name} has {len(fit.points)} ground control points that do not fit a {fit.kind}: their residuals are "
            f"{fit.rms_px:,.1f} px ({meters:,.0f} m) in the root mean square and the limit is {limit_px:g} px; correct the worst "
            f"ones, {fit.describe_worst()}, and drop it again, or ask the operator to raise LS4_MAX_GCP_RMS_PX."
        )


def _reject_pixel_size(dataset: DatasetReader, map_corners: NDArray[np.float64], path: Path) -> None:
    """Raise FrameError when a side of a pixel is implausible on the map; map_corners: shape (4, 2), clockwise from pixel 0, 0."""
    width = np.hypot(*(map_corners[1] - map_corners[0])) / dataset.width
    height = np.hypot(*(map_corners[3] - map_corners[0])) / dataset.height
    low, high = _PIXEL_LIMITS
    for size in (width, height):
        if not low <= size <= high:
            raise FrameError(
                f"{path.name} has pixels of {size:.3g} m and a scan has between {low:g} and {high:,.0f} m; {_ADVICE}."
            )


def _reject_bad_transform(transform: Affine, path: Path) -> None:
    if not all(math.isfinite(number) for number in transform[:6]):
        raise FrameError(f"{path.name} has a geotransform with values that are not finite numbers; {_ADVICE}.")
    if transform.determinant == 0:
        raise FrameError(f"{path.name} has a geotransform with a pixel size of zero; {_ADVICE}.")


def _reject_no_place(map_corners: NDArray[np.float64], path: Path) -> None:
    """Raise FrameError for a scan at coordinates that are none, and for one on both edges of the map."""
    if (np.abs(map_corners) < _NULL_ISLAND_M).all():
        raise FrameError(
            f"{path.name} lies at latitude 0 and longitude 0, where no land is and where missing coordinates end up; {_ADVICE}."
        )
    eastings = map_corners[:, 0]
    is_split = np.ptp(eastings) > _MAP_EDGE and np.ptp(eastings % (2 * _MAP_EDGE)) < _MAP_EDGE / 10
    if is_split or np.abs(eastings).max() > _MAP_EDGE * (1 + 1e-9):
        raise FrameError(
            f"{path.name} crosses the meridian of 180 degrees, where the map ends in the west and in the east; cut it there into "
            "two tifs and drop both."
        )


def _project_to_map(crs: CRS, label: str, corners: NDArray[np.float64], path: Path) -> NDArray[np.float64]:
    """Return the corners in EPSG:3857; raises FrameError when they are outside the area of the CRS."""
    outside = FrameError(
        f"{path.name} lies outside the area of {label}; check that its world file belongs to {label}, then {_ADVICE}."
    )
    if crs.is_geographic and (np.abs(corners) > (540, 90)).any():
        raise outside
    try:
        map_corners = np.array(transform_points(crs, WEB_MERCATOR, corners[:, 0], corners[:, 1])).T
    except GDAL_ERRORS as error:
        if reason := datums.network_failure(error):
            raise FrameError(
                f"{path.name} needs a grid that PROJ could not fetch from its network ({reason}); ask the operator to put PROJ's "
                "grids into the folder in LS4_PROJ_GRIDS or to open the network, then run ls4 retry."
            ) from error
        raise outside from error
    if not np.isfinite(map_corners).all() or (np.abs(map_corners) > _MAP_LIMITS).any():
        raise outside
    return map_corners
