"""Where a scan lies on the ground: its CRS and geotransform, from the tif or from the sidecars beside it.

GDAL reads world files and `x.tif.aux.xml` by itself. It does not read `x.prj`, nor the `x.aux.xml` of older
ArcGIS: both are read here, for a tif that names no CRS of its own.
"""

import math
import re
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

from ls4_assets.errors import FrameError
from ls4_assets.raster.gdal_env import GDAL_ERRORS, gdal_env

WEB_MERCATOR = CRS.from_epsg(3857)
# Half the circumference, and as much again to the north and south: Web Mercator has no edge there, sense ends.
_EDGE_OF_MAP = (20_037_508.35 * 1.01, 20_037_508.35 * 2)
_SAME_PLACE = 0.001
"""Of a pixel: reprojection that moves no corner further than this is none."""
_ADVICE = "georeference it anew and drop it again"


@dataclass(frozen=True)
class Georeference:
    """CRS and affine geotransform (pixel corner to CRS units) of a scan; `crs_label` is for people: "EPSG:26914"."""

    crs: CRS
    transform: Affine
    crs_label: str
    needs_warp: bool


def georeference_of(dataset: DatasetReader, path: Path) -> Georeference:
    """The georeference of an open scan; raises FrameFault when there is none, or none that leads to a map."""
    transform, crs = dataset.transform, dataset.crs
    if transform.is_identity:
        transform = _from_world_file(path)
    if transform.is_identity:
        transform, sidecar_crs = _from_older_aux_xml(path)
        crs = crs or sidecar_crs
    if transform.is_identity:
        raise FrameError(_no_georeference(path, bool(dataset.gcps[0])))
    crs = crs or _from_prj(path) or _from_older_aux_xml(path)[1]
    if not crs:
        raise FrameError(
            f"{path.name} has a geotransform but names no coordinate reference system; drop its .prj beside it, "
            "or write it into the tif with gdal_edit.py -a_srs."
        )
    if not (crs.is_projected or crs.is_geographic):
        raise FrameError(
            f"{path.name} is in a local coordinate system that cannot be placed on the earth; georeference it in "
            "a projected system such as UTM and drop it again."
        )
    label = _label(crs)
    corners = _corners(dataset, transform, path)
    on_map = _on_map(crs, label, corners, path)
    turned = transform.b != 0 or transform.d != 0 or transform.a <= 0 or transform.e >= 0
    # A CRS whose numbers are those of EPSG:3857 is EPSG:3857, whatever name the scan's software gave it.
    moved = np.abs(on_map - corners).max() > _SAME_PLACE * abs(transform.a)
    return Georeference(crs, transform, label, needs_warp=bool(turned or moved))


def _no_georeference(path: Path, has_control_points: bool) -> str:
    if has_control_points:
        return (
            f"{path.name} has ground control points but no geotransform; rectify it first, for example with "
            "gdalwarp, and drop the result."
        )
    return f"{path.name} has no georeference; drop its world file (.tfw) and .prj beside it, or a georeferenced GeoTIFF."


def _corners(dataset: DatasetReader, transform: Affine, path: Path) -> NDArray[np.float64]:
    """Ground coordinates of the image's four corners, shape (4, 2), in the scan's own CRS."""
    if not all(math.isfinite(number) for number in transform[:6]):
        raise FrameError(f"{path.name} has a geotransform that is not made of numbers; {_ADVICE}.")
    if transform.determinant == 0:
        raise FrameError(f"{path.name} has a geotransform with a pixel size of zero; {_ADVICE}.")
    pixels = [(0, 0), (dataset.width, 0), (dataset.width, dataset.height), (0, dataset.height)]
    return np.array([transform @ pixel for pixel in pixels])


def _on_map(crs: CRS, label: str, corners: NDArray[np.float64], path: Path) -> NDArray[np.float64]:
    """The corners in EPSG:3857; raises FrameFault where that makes no sense."""
    fault = FrameError(
        f"{path.name} lies outside the area of {label}; check that its world file belongs to {label}, then {_ADVICE}."
    )
    if crs.is_geographic and (np.abs(corners) > (540, 90)).any():
        raise fault
    try:
        on_map = np.array(transform_points(crs, WEB_MERCATOR, corners[:, 0], corners[:, 1])).T
    except GDAL_ERRORS as error:
        raise fault from error
    if not np.isfinite(on_map).all() or (np.abs(on_map) > _EDGE_OF_MAP).any():
        raise fault
    return on_map


def _from_world_file(path: Path) -> Affine:
    """The geotransform of a world file beside a tif that itself says "identity", which is no place; identity: none."""
    with gdal_env(GDAL_GEOREF_SOURCES="WORLDFILE"), rasterio.open(path, driver="GTiff") as dataset:
        return Affine(*dataset.transform[:6])


def _from_prj(path: Path) -> CRS | None:
    """The CRS of `x.prj` beside `x.tif`, OGC or ESRI WKT; None when there is no such file."""
    sidecar = _beside(path, ".prj")
    if sidecar is None:
        return None
    try:
        return CRS.from_wkt(sidecar.read_text(encoding="utf-8-sig", errors="replace").strip())
    except CRSError as error:
        raise FrameError(
            f"{sidecar.name} is not a coordinate reference system in WKT; write it again from the GIS and drop it."
        ) from error


def _from_older_aux_xml(path: Path) -> tuple[Affine, CRS | None]:
    """Geotransform (identity: none) and CRS of `x.aux.xml`, which older ArcGIS writes instead of `x.tif.aux.xml`."""
    sidecar = _beside(path, ".aux.xml")
    if sidecar is None:
        return Affine.identity(), None
    text = sidecar.read_text(encoding="utf-8", errors="replace")
    try:
        numbers = [float(number) for number in _element(text, "GeoTransform").split(",") if number.strip()]
        crs = CRS.from_wkt(_element(text, "SRS")) if _element(text, "SRS") else None
    except (ValueError, CRSError) as error:
        raise FrameError(f"{sidecar.name} cannot be read as GDAL's auxiliary metadata; delete it or write it again.") from error
    return (Affine.from_gdal(*numbers) if len(numbers) == 6 else Affine.identity()), crs


def _element(xml: str, name: str) -> str:
    """The text of the first element `name`, without a parser: the file is a stranger's, and two elements are enough."""
    found = re.search(rf"<{name}\b[^>]*>(.*?)</{name}>", xml, re.DOTALL)
    return unescape(found.group(1)).strip() if found else ""


def _beside(path: Path, suffix: str) -> Path | None:
    for candidate in (path.with_suffix(suffix), path.with_suffix(suffix.upper())):
        if candidate.is_file():
            return candidate
    return None


def _label(crs: CRS) -> str:
    authority = crs.to_authority()
    return ":".join(authority) if authority else str(crs.to_wkt().split('"')[1])
