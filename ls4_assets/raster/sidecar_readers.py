"""Read what a tif and each of its sidecars say about the position of the scan, each on its own.

GDAL merges the files that it knows by its own order and hides that they differ; so each is read alone here. `position` decides
between the readings, `control_points` fits a transformation to points.
"""

import csv
import re
from collections.abc import Callable
from dataclasses import dataclass
from html import unescape
from pathlib import Path

import rasterio
from affine import Affine
from rasterio.crs import CRS
from rasterio.errors import CRSError

from ls4_assets.raster.control_points import ControlPoint
from ls4_assets.raster.crs_files import read_text
from ls4_assets.raster.gdal_env import GDAL_ERRORS, gdal_env

HEADER = ".tif"
"""The suffix of the tif itself, among those of its sidecars."""
PAM = ".tif.aux.xml"
"""The suffix of GDAL's own sidecar."""


@dataclass(frozen=True)
class Reading:
    """What one file says: a geotransform, or control points, or a CRS, or several of them, or that it cannot be read.

    `error` is a sentence with advice.
    """

    suffix: str
    name: str
    transform: Affine | None = None
    points: tuple[ControlPoint, ...] = ()
    crs: CRS | None = None
    error: str = ""

    @property
    def has_position(self) -> bool:
        return self.transform is not None or bool(self.points)

    @property
    def label(self) -> str:
        """The file as people refer to it."""
        return "its header" if self.suffix == HEADER else self.name


class _UnreadableError(Exception):
    """The text says what the file is not, and what to do."""


def read_all(path: Path, header: Reading | None = None) -> list[Reading]:
    """The readings of the tif at `path` and of its sidecars, in the order in which GDAL and ls4 trust them.

    `header`: what the photograph's own image says, where it is not the first of the file.
    """
    readings = []
    for suffix, read in READERS.items():
        file = path if suffix == HEADER else find_sidecar(path, suffix)
        if file is None:
            continue
        try:
            readings.append(header if header and suffix == HEADER else read(path, file))
        except (_UnreadableError, ValueError, CRSError, *GDAL_ERRORS) as error:
            if suffix in _REQUIRED:
                raise
            detail = str(error) if isinstance(error, _UnreadableError) else _UNREADABLE
            readings.append(Reading(suffix, file.name, error=f"{file.name} {detail}."))
    return readings


# GDAL reads these whenever it opens the tif, for the pixels too; `source` explains its errors.
_REQUIRED = (HEADER, PAM)
_UNREADABLE = "cannot be read; delete it, or export it again from the GIS and drop it"


def find_sidecar(path: Path, suffix: str) -> Path | None:
    """The sidecar of the tif in lower or upper case; None without one."""
    candidates = (path.with_name(f"{path.stem}{spelling}") for spelling in (suffix, suffix.upper()))
    return next((candidate for candidate in candidates if candidate.is_file()), None)


def _read_with_gdal(source: str, suffix: str) -> Callable[[Path, Path], Reading]:
    """A reader that opens the tif with only one of GDAL's sources of georeferences."""

    def read(path: Path, file: Path) -> Reading:
        return _read_image(str(path), source, suffix, file.name)

    return read


def read_header(gdal_name: str, path: Path) -> Reading:
    """What the header of one image of the tif at `path` says."""
    return _read_image(gdal_name, "INTERNAL", HEADER, path.name)


def _read_image(gdal_name: str, source: str, suffix: str, name: str) -> Reading:
    with gdal_env(pam=source == "PAM", GDAL_GEOREF_SOURCES=source), rasterio.open(gdal_name, driver="GTiff") as dataset:
        transform = Affine(*dataset.transform[:6])
        gcps, gcp_crs = dataset.gcps
        points = tuple(ControlPoint(str(number), gcp.col, gcp.row, gcp.x, gcp.y) for number, gcp in enumerate(gcps, start=1))
        crs = dataset.crs or gcp_crs or None
    return Reading(suffix, name, None if transform.is_identity else transform, points, crs)


def _read_pam(path: Path, file: Path) -> Reading:
    """GDAL's x.tif.aux.xml, in which ArcGIS also writes control points that GDAL does not read from a tif."""
    reading = _read_with_gdal("PAM", PAM)(path, file)
    if reading.has_position:
        return reading
    points, crs = _arcgis_points(read_text(file))
    return Reading(reading.suffix, reading.name, None, points, reading.crs or crs)


def _read_arcgis_aux_xml(path: Path, file: Path) -> Reading:
    """The x.aux.xml of older ArcGIS, which GDAL does not read."""
    text = read_text(file)
    numbers = [float(number) for number in _element_text(text, "GeoTransform").split(",") if number.strip()]
    crs = parse_crs(_element_text(text, "SRS")) if _element_text(text, "SRS") else None
    transform = Affine.from_gdal(*numbers) if len(numbers) == 6 else None
    points, gcp_crs = _arcgis_points(text)
    return Reading(".aux.xml", file.name, transform, () if transform else points, crs or gcp_crs)


def _arcgis_points(text: str) -> tuple[tuple[ControlPoint, ...], CRS | None]:
    """Control points of ArcGIS's GeodataXform; rows count downwards from 0 to minus the height."""
    xform = _element_text(text, "GeodataXform", is_raw=True)
    source, target = (
        [float(number) for number in re.findall(r"<Double>([^<>]*)</Double>", _element_text(xform, name, is_raw=True))]
        for name in ("SourceGCPs", "TargetGCPs")
    )
    if not source or len(source) != len(target) or len(source) % 2:
        return (), None
    pairs = zip(source[::2], source[1::2], target[::2], target[1::2], strict=True)
    points = tuple(ControlPoint(str(number), x, -y, east, north) for number, (x, y, east, north) in enumerate(pairs, start=1))
    wkt = _element_text(_element_text(xform, "SpatialReference", is_raw=True), "WKT")
    return points, parse_crs(wkt) if wkt else None


def _read_world_file(suffix: str) -> Callable[[Path, Path], Reading]:
    def read(path: Path, file: Path) -> Reading:
        try:
            # Some programs write the decimal comma of their language.
            numbers = [float(line.replace(",", ".")) for line in read_text(file).split()[:6]]
        except ValueError:
            numbers = []
        if len(numbers) < 6:
            raise _UnreadableError(
                "is not a world file, which has six lines with a number each; export it again from the GIS and drop it"
            )
        a, d, b, e, x, y = numbers
        # A world file has the center of the first pixel.
        transform = Affine(a, b, x - 0.5 * a - 0.5 * b, d, e, y - 0.5 * d - 0.5 * e)
        if transform.determinant == 0:
            raise _UnreadableError("has a pixel size of zero; export it again from the GIS and drop it")
        return Reading(suffix, file.name, None if transform.is_identity else transform)

    return read


def _read_prj(path: Path, file: Path) -> Reading:
    try:
        return Reading(".prj", file.name, crs=parse_crs(read_text(file)))
    except (CRSError, ValueError) as error:
        raise _UnreadableError("is not a coordinate reference system in WKT; export it again from the GIS and drop it") from error


def parse_crs(text: str) -> CRS:
    """The CRS of a text: OGC or ESRI WKT, an EPSG or ESRI code, or a PROJ string. Raises CRSError."""
    text = text.strip().strip("\0").strip()
    if match := re.fullmatch(r"(EPSG|ESRI)\s*:\s*([0-9]{1,7})", text, re.ASCII | re.IGNORECASE):
        return CRS.from_authority(match[1].upper(), int(match[2]))
    if text.startswith("+"):
        return CRS.from_proj4(" ".join(text.split()))
    return CRS.from_wkt(text)


def _read_points(suffix: str) -> Callable[[Path, Path], Reading]:
    """QGIS: rows count downwards from 0 to minus the height, and points can be disabled."""

    def read(path: Path, file: Path) -> Reading:
        lines = [line for line in read_text(file).splitlines() if line.strip()]
        crs_lines = [line.partition(":")[2] for line in lines if line.lower().startswith("#crs:")]
        crs = parse_crs(crs_lines[0]) if crs_lines and crs_lines[0].strip() else None
        rows = csv.DictReader(line for line in lines if not line.startswith("#"))
        points = []
        for number, row in enumerate(rows, start=1):
            values = {(name or "").strip().lower(): value for name, value in row.items() if isinstance(value, str)}
            x, y = (values.get(f"source{axis}", values.get(f"pixel{axis}", "")) for axis in "xy")
            if values.get("enable", "1").strip() != "0":
                points.append(ControlPoint(str(number), float(x), -float(y), float(values["mapx"]), float(values["mapy"])))
        if not points:
            raise _UnreadableError("has no enabled control point; save the points of the QGIS georeferencer again and drop it")
        return Reading(suffix, file.name, points=tuple(points), crs=crs)

    def explain(path: Path, file: Path) -> Reading:
        try:
            return read(path, file)
        except (KeyError, ValueError, csv.Error) as error:
            raise _UnreadableError(
                "is not a list of control points of QGIS, with the columns mapX, mapY, sourceX, sourceY and enable; "
                "save the points of the georeferencer again and drop it"
            ) from error

    return explain


def _element_text(xml: str, name: str, *, is_raw: bool = False) -> str:
    """Text of the first element `name`, or "". No XML parser: the file is untrusted input, and a few elements are enough.

    Each character is passed at most twice. A regular expression would look for the end tag once for each start tag.
    """
    start = xml.find(f"<{name}")
    while start >= 0 and xml[start + len(name) + 1 : start + len(name) + 2] not in (">", " ", "\t", "\r", "\n"):
        start = xml.find(f"<{name}", start + 1)
    content = xml.find(">", start) + 1 if start >= 0 else 0
    end = xml.find(f"</{name}>", content) if content else -1
    if end < 0:
        return ""
    return xml[content:end] if is_raw else unescape(xml[content:end]).strip()


# By suffix, in the order in which GDAL and, after it, ls4 trusts the files when they agree.
READERS: dict[str, Callable[[Path, Path], Reading]] = {
    PAM: _read_pam,
    HEADER: _read_with_gdal("INTERNAL", HEADER),
    ".tab": _read_with_gdal("TABFILE", ".tab"),
    ".tfw": _read_world_file(".tfw"),
    ".tifw": _read_world_file(".tifw"),
    ".wld": _read_world_file(".wld"),
    ".tfwx": _read_world_file(".tfwx"),
    ".prj": _read_prj,
    ".aux.xml": _read_arcgis_aux_xml,
    ".tif.points": _read_points(".tif.points"),
    ".points": _read_points(".points"),
}
