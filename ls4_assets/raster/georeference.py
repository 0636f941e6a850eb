"""Read the georeference of a scan: its CRS and geotransform, from the tif or from its sidecars.

GDAL itself reads world files and `x.tif.aux.xml`. It does not read `x.prj`, nor the `x.aux.xml` of older ArcGIS; this module
reads both for a tif that names no CRS of its own.
"""

import math
from dataclasses import dataclass
from html import unescape
from pathlib import Path

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.errors import CRSError
from rasterio.io import DatasetReader
from rasterio.warp import transform as transform_points

from ls4_assets.errors import FrameError, MissingGeoreferenceError
from ls4_assets.raster import datums
from ls4_assets.raster.crs_files import reject_crs_files
from ls4_assets.raster.datums import DatumRules
from ls4_assets.raster.gdal_env import GDAL_ERRORS, gdal_env
from ls4_assets.raster.transformations import NONE, Transformation, find_transformation, map_degrees

WEB_MERCATOR = CRS.from_epsg(3857)
# Largest plausible easting and northing: half the circumference, and twice that to the north and south, where Web Mercator has
# no edge.
_MAP_LIMITS = (20_037_508.35 * 1.01, 20_037_508.35 * 2)
_SAME_PLACE_PX = 0.001
"""No reprojection is needed when it would move every corner by at most this share of a pixel."""
# Plausible sizes of a pixel in meters on the map. Scans have 0.05 to 10; the location is checked later, in kilometers.
_PIXEL_LIMITS = (0.001, 10_000.0)
_ADVICE = "correct its georeference and drop it again"


@dataclass(frozen=True)
class Georeference:
    """CRS and affine geotransform (pixel corner to CRS units) of a scan; `crs_label` is for display, such as "EPSG:32719".

    `transformation`: from its datum to that of the map.
    """

    crs: CRS
    transform: Affine
    crs_label: str
    needs_warp: bool
    transformation: Transformation = NONE


def read_georeference(dataset: DatasetReader, path: Path, rules: DatumRules | None = None) -> Georeference:
    """Return the georeference of the open scan at `path`; raises FrameError when it is missing or cannot be placed on a map."""
    transform, crs = dataset.transform, dataset.crs
    if transform.is_identity:
        transform = _read_world_file(path)
    if transform.is_identity:
        transform, sidecar_crs = _read_arcgis_aux_xml(path)
        crs = crs or sidecar_crs
    if transform.is_identity:
        raise MissingGeoreferenceError(_explain_missing(path, bool(dataset.gcps[0])))
    crs = crs or _read_prj(path) or _read_arcgis_aux_xml(path)[1]
    if not crs:
        raise MissingGeoreferenceError(
            f"{path.name} has a geotransform but no coordinate reference system; drop its .prj beside it, "
            "or write it into the tif with gdal_edit.py -a_srs."
        )
    reject_crs_files(crs.to_wkt(), path)
    if not (crs.is_projected or crs.is_geographic):
        raise FrameError(
            f"{path.name} is in a local coordinate system that cannot be placed on the earth; georeference it in "
            "a projected system such as UTM and drop it again."
        )
    label = _label(crs)
    corners = _corners(dataset, transform, path)
    map_corners = _project_to_map(crs, label, corners, path)
    _reject_pixel_size(dataset, map_corners, path)
    is_turned = bool(transform.b != 0 or transform.d != 0 or transform.a <= 0 or transform.e >= 0)
    # A CRS with the same coordinates as EPSG:3857 needs no warp, regardless of the name that the scanning software gave it.
    is_moved = np.abs(map_corners - corners).max() > _SAME_PLACE_PX * abs(transform.a)
    if not is_moved:
        return Georeference(crs, transform, label, needs_warp=is_turned)
    crs, transformation = _find_transformation(crs, label, corners, map_corners, path, rules or DatumRules())
    return Georeference(crs, transform, _label(crs), needs_warp=True, transformation=transformation)


def _find_transformation(
    crs: CRS, label: str, corners: NDArray[np.float64], map_corners: NDArray[np.float64], path: Path, rules: DatumRules
) -> tuple[CRS, Transformation]:
    """Return the CRS, with an assumed datum if its own is unknown and the archive file says which is meant, and how it is moved.

    Raises FrameError for an unknown datum.
    """
    transformation = _describe(crs, label, corners, map_corners, path)
    if not datums.has_unknown_datum(crs, transformation):
        return crs, transformation
    assumed = datums.assume_datum(crs, rules.assumed)
    if assumed is None:
        raise datums.unknown_datum_error(path.name, crs, transformation)
    label = _label(assumed)
    transformation = _describe(assumed, label, corners, _project_to_map(assumed, label, corners, path), path)
    return assumed, datums.mark_assumed(transformation, assumed)


def _describe(crs: CRS, label: str, corners: NDArray[np.float64], map_corners: NDArray[np.float64], path: Path) -> Transformation:
    """The transformation at the center of the scan."""
    center = corners.mean(axis=0, keepdims=True)
    (x, y), (map_x, map_y) = center[0], _project_to_map(crs, label, center, path)[0]
    area = map_degrees(map_corners[:, 0], map_corners[:, 1])
    return find_transformation(crs, area, (float(x), float(y)), (float(map_x), float(map_y)))


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


def _explain_missing(path: Path, has_control_points: bool) -> str:
    if has_control_points:
        return (
            f"{path.name} has ground control points but no geotransform; rectify it first, for example with "
            "gdalwarp, and drop the result."
        )
    return f"{path.name} has no georeference; drop its world file (.tfw) and .prj beside it, or a georeferenced GeoTIFF."


def _corners(dataset: DatasetReader, transform: Affine, path: Path) -> NDArray[np.float64]:
    """Ground coordinates of the image's four corners, shape (4, 2), in the scan's own CRS."""
    if not all(math.isfinite(number) for number in transform[:6]):
        raise FrameError(f"{path.name} has a geotransform with values that are not finite numbers; {_ADVICE}.")
    if transform.determinant == 0:
        raise FrameError(f"{path.name} has a geotransform with a pixel size of zero; {_ADVICE}.")
    pixels = [(0, 0), (dataset.width, 0), (dataset.width, dataset.height), (0, dataset.height)]
    return np.array([transform @ pixel for pixel in pixels])


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


def _read_world_file(path: Path) -> Affine:
    """The geotransform of a world file beside a tif whose own geotransform is the identity; identity when there is none."""
    with gdal_env(GDAL_GEOREF_SOURCES="WORLDFILE"), rasterio.open(path, driver="GTiff") as dataset:
        return Affine(*dataset.transform[:6])


def _read_prj(path: Path) -> CRS | None:
    """The CRS of `x.prj` beside `x.tif`, in OGC or ESRI WKT; None when there is no such file."""
    sidecar = _find_sidecar(path, ".prj")
    if sidecar is None:
        return None
    try:
        return CRS.from_wkt(sidecar.read_text(encoding="utf-8-sig", errors="replace").strip())
    except CRSError as error:
        raise FrameError(
            f"{sidecar.name} is not a coordinate reference system in WKT; export it again from the GIS and drop it."
        ) from error


def _read_arcgis_aux_xml(path: Path) -> tuple[Affine, CRS | None]:
    """Geotransform (identity when missing) and CRS of `x.aux.xml`, which older ArcGIS writes instead of `x.tif.aux.xml`."""
    sidecar = _find_sidecar(path, ".aux.xml")
    if sidecar is None:
        return Affine.identity(), None
    text = sidecar.read_text(encoding="utf-8", errors="replace")
    try:
        numbers = [float(number) for number in _element_text(text, "GeoTransform").split(",") if number.strip()]
        crs = CRS.from_wkt(_element_text(text, "SRS")) if _element_text(text, "SRS") else None
    except (ValueError, CRSError) as error:
        raise FrameError(
            f"{sidecar.name} cannot be read as GDAL's auxiliary metadata; delete it, or export it again and drop it."
        ) from error
    return (Affine.from_gdal(*numbers) if len(numbers) == 6 else Affine.identity()), crs


def _element_text(xml: str, name: str) -> str:
    """Text of the first element `name`, or "". No XML parser: the file is untrusted input, and two elements are enough.

    Each character is passed at most twice. A regular expression would look for the end tag once for each start tag.
    """
    start = xml.find(f"<{name}")
    while start >= 0 and xml[start + len(name) + 1 : start + len(name) + 2] not in (">", " ", "\t", "\r", "\n"):
        start = xml.find(f"<{name}", start + 1)
    content = xml.find(">", start) + 1 if start >= 0 else 0
    end = xml.find(f"</{name}>", content) if content else -1
    return unescape(xml[content:end]).strip() if end >= 0 else ""


def _find_sidecar(path: Path, suffix: str) -> Path | None:
    for candidate in (path.with_suffix(suffix), path.with_suffix(suffix.upper())):
        if candidate.is_file():
            return candidate
    return None


def _label(crs: CRS) -> str:
    authority = crs.to_authority()
    return ":".join(authority) if authority else str(crs.to_wkt().split('"')[1])
