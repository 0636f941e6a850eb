"""The traits that a dropped tif may have in its place, as data: its files, and what happens to it.

`unit/test_place_traits.py` inspects every one, and docs/reference/files.md has the table. A trait is accepted, and the scan lies
where `sidecar_files` places it, or where `shift_m` says; or it is rejected with `rejection` in the message.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import rasterio
from affine import Affine
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS

from ls4_assets_tests.rasters import photograph, write_tif
from ls4_assets_tests.sidecar_files import (
    CONTENTS,
    ESRI_WKT,
    HEADER,
    HEIGHT,
    NO_GEOREFERENCE,
    NORTH,
    POINTS,
    TRANSFORM,
    UTM,
    WEST,
    WIDTH,
    arcgis_points,
    pam_points,
    qgis_points,
    world_file,
)

_SHIFT_M = 120.0
_SHIFTED = Affine.translation(_SHIFT_M, 0) @ TRANSFORM
_CLARKE_1866 = CRS.from_proj4("+proj=utm +zone=14 +ellps=clrk66")
_WORLD_FILES = (".tfw", ".tfwx", ".tifw", ".wld")


@dataclass(frozen=True)
class PlaceTrait:
    """outcome: for people. header: how the tif is written. sidecars: text or bytes by suffix. late: suffixes of the files that
    arrived after the frame had been made. source: the file that the position comes from. shift_m: how far east of the place the
    scan lies; None: at another place, which is right for its CRS.
    """

    group: str
    name: str
    outcome: str
    header: Mapping[str, Any] = field(default_factory=lambda: HEADER)
    sidecars: Mapping[str, str | bytes] = field(default_factory=dict)
    late: tuple[str, ...] = ()
    source: str = "its header"
    shift_m: float | None = 0.0
    rejection: str = ""
    edit: Callable[[Path], None] | None = None

    @property
    def id(self) -> str:
        return f"{self.group}: {self.name}"

    def make(self, folder: Path) -> Path:
        """Write the tif and its sidecars."""
        path = write_tif(folder / "a.tif", photograph(HEIGHT, WIDTH), **self.header)
        if self.edit:
            self.edit(path)
        for suffix, content in self.sidecars.items():
            (folder / f"a{suffix}").write_bytes(content if isinstance(content, bytes) else content.encode())
        return path


def _write_points(path: Path) -> None:
    with rasterio.open(path, "r+") as target:
        target.gcps = ([GroundControlPoint(row, column, *(TRANSFORM @ (column, row))) for column, row in POINTS], UTM)


def _in(crs: Any, transform: Affine) -> dict[str, Any]:
    return {"crs": crs, "transform": transform}


def _utm(code: int | str) -> dict[str, Any]:
    return _in(code if isinstance(code, str) else f"EPSG:{code}", TRANSFORM)


def _name(suffix: str) -> str:
    return f"`{suffix}` and `.prj`" if suffix in _WORLD_FILES else f"`{suffix}`"


def _with_prj(suffix: str, content: str) -> dict[str, str | bytes]:
    return {suffix: content, ".prj": ESRI_WKT} if suffix in _WORLD_FILES else {suffix: content}


_USED = "accepted, the position is used"
_RECTIFIED = "accepted, rectified with the points"
_SYSTEM = "accepted, reprojected"
_ONE_WINS = "accepted, the file that came later is used, and the metadata says so"
_BOTH = "rejected with both places"
_NEGATIVE = Affine.translation(0, -2 * HEIGHT) @ TRANSFORM @ Affine.scale(1, -1)

PLACE_TRAITS: tuple[PlaceTrait, ...] = (
    PlaceTrait("georeference", "geotransform and CRS in the header", _USED),
    PlaceTrait("georeference", "rotated or sheared grid", "accepted, turned north up",
               _in(UTM, TRANSFORM @ Affine.rotation(7) @ Affine.shear(3)), shift_m=None),
    PlaceTrait("georeference", "south-up grid", "accepted, turned north up", _in(UTM, _NEGATIVE), shift_m=None),
    PlaceTrait("georeference", "control points in the header", _RECTIFIED, NO_GEOREFERENCE, edit=_write_points),
    PlaceTrait("georeference", "control points of GDAL in `.tif.aux.xml`", _RECTIFIED, NO_GEOREFERENCE,
               {".tif.aux.xml": pam_points()}, source="a.tif.aux.xml"),
    PlaceTrait("georeference", "control points of ArcGIS in `.tif.aux.xml`", _RECTIFIED, NO_GEOREFERENCE,
               {".tif.aux.xml": arcgis_points()}, source="a.tif.aux.xml"),
    PlaceTrait("georeference", "control points of ArcGIS in `.aux.xml`", _RECTIFIED, NO_GEOREFERENCE,
               {".aux.xml": arcgis_points()}, source="a.aux.xml"),
    PlaceTrait("georeference", "control points that lie outside the image", "rejected", NO_GEOREFERENCE,
               {".points": qgis_points().replace("50,-60", "5000,-6000")}, rejection="outside its 50 x 60 pixels"),
    PlaceTrait("georeference", "none", "rejected with what to drop", NO_GEOREFERENCE, rejection="a.tif has no georeference"),
    PlaceTrait("georeference", "a geotransform without a CRS", "rejected with what to drop", _in(None, TRANSFORM),
               rejection="no coordinate reference system"),
    *(
        PlaceTrait("sidecar", f"{_name(suffix)}, without a position in the header",
                   _RECTIFIED if suffix.endswith(".points") else _USED, NO_GEOREFERENCE, _with_prj(suffix, write(TRANSFORM)),
                   source=f"a{suffix}")
        for suffix, write in CONTENTS.items()
    ),
    *(
        PlaceTrait("sidecar", f"`{suffix}` that came later than the tif, at another place", _ONE_WINS,
                   sidecars={suffix: write(_SHIFTED)}, late=(suffix,), source=f"a{suffix}", shift_m=_SHIFT_M)
        for suffix, write in CONTENTS.items()
    ),
    *(
        PlaceTrait("sidecar", f"`{suffix}` that came with the tif, at another place", _BOTH, sidecars={suffix: write(_SHIFTED)},
                   rejection="a.tif has two positions")
        for suffix, write in CONTENTS.items()
    ),
    PlaceTrait("sidecar", "world file with a byte order mark", _USED, _in(UTM, Affine.identity()),
               {".tfw": b"\xef\xbb\xbf" + world_file().encode()}, source="a.tfw"),
    PlaceTrait("sidecar", "world file with decimal commas", _USED, _in(UTM, Affine.identity()),
               {".tfw": world_file().replace(".", ",")}, source="a.tfw"),
    PlaceTrait("sidecar", "`.prj` that came later, of another CRS", _ONE_WINS, sidecars={".prj": "EPSG:26915"}, late=(".prj",),
               shift_m=None),
    PlaceTrait("sidecar", "`.prj` that came with the tif, of another CRS", _BOTH, sidecars={".prj": "EPSG:26915"},
               rejection="a.tif has two coordinate systems"),
    PlaceTrait("sidecar", "`.prj` that came later, unreadable", "rejected", sidecars={".prj": "zone 14"}, late=(".prj",),
               rejection="a.prj is not a coordinate reference system"),
    *(
        PlaceTrait("sidecar", f"`.prj` as {name}", _USED, _in(None, TRANSFORM), {".prj": content})
        for name, content in (
            ("ESRI WKT", ESRI_WKT), ("OGC WKT", UTM.to_wkt()), ("WKT2", UTM.to_wkt(version="WKT2_2019")),
            ("`EPSG:n`", "EPSG:26914"), ("a PROJ string", "+proj=utm +zone=14 +datum=NAD83 +units=m +no_defs"),
            ("ESRI WKT with a byte order mark", b"\xef\xbb\xbf" + ESRI_WKT.encode()),
            ("ESRI WKT in UTF-16", ESRI_WKT.encode("utf-16")),
        )
    ),
    PlaceTrait("sidecar", "`.prj` that names another file", "rejected", _in(None, TRANSFORM),
               {".prj": "+proj=longlat +nadgrids=/etc/passwd"}, rejection="refers to another file"),
    PlaceTrait("CRS", "projected, in meters", _SYSTEM, _utm(26914)),
    PlaceTrait("CRS", "projected, in feet", _SYSTEM, _in("EPSG:2277", Affine(6, 0, 3_100_000, 0, -6, 10_000_000)), shift_m=None),
    PlaceTrait("CRS", "geographic", _SYSTEM, _in("EPSG:4269", Affine(2e-5, 0, -97.75, 0, -2e-5, 30.3)), shift_m=None),
    PlaceTrait("CRS", "compound, with heights", _SYSTEM, _in("EPSG:26914+5703", TRANSFORM)),
    PlaceTrait("CRS", "Web Mercator", "accepted, every pixel kept in its place",
               _in("EPSG:3857", Affine(2, 0, -10_880_000, 0, -2, 3_540_000)), shift_m=None),
    PlaceTrait("CRS", "Web Mercator under an old name (ESRI:102100)", "accepted, every pixel kept in its place",
               _in("ESRI:102100", Affine(2, 0, -10_880_000, 0, -2, 3_540_000)), shift_m=None),
    PlaceTrait("CRS", "an old datum", "accepted, the metadata names the transformation and its accuracy", _utm(26714),
               shift_m=None),
    PlaceTrait("CRS", "an unknown datum on an old ellipsoid", "rejected with a command, or assumed by a setting",
               _in(_CLARKE_1866, TRANSFORM), rejection="unknown datum"),
    PlaceTrait("CRS", "local", "rejected", _in(CRS.from_wkt('LOCAL_CS["site",UNIT["metre",1]]'), TRANSFORM),
               rejection="local coordinate system"),
    PlaceTrait("CRS", "a place at latitude 0 and longitude 0", "rejected", _in("EPSG:3857", Affine(1, 0, 0, 0, -1, 60)),
               rejection="latitude 0 and longitude 0"),
    PlaceTrait("CRS", "across the meridian of 180 degrees", "rejected", _in("EPSG:4326", Affine(2e-5, 0, 179.9995, 0, -2e-5, 30)),
               rejection="crosses the meridian of 180 degrees"),
    PlaceTrait("CRS", "coordinates outside the area of the CRS", "rejected", _in("EPSG:4326", Affine(2, 0, WEST, 0, -2, NORTH)),
               rejection="a.tif"),
    PlaceTrait("CRS", "pixels of 200 km", "rejected", _in(UTM, Affine(2e5, 0, WEST, 0, -2e5, NORTH)), rejection="a.tif"),
)  # fmt: skip
