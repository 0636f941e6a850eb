"""Tests of datums: runs use the operator's PROJ grids, the transformation is named, and an unknown datum is rejected."""

import math
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.crs import CRS
from rasterio.warp import transform

from ls4_assets.domain.proj_data import link_proj_data
from ls4_assets.errors import ConfigurationError, FrameError
from ls4_assets.processing.pool import run_tasks
from ls4_assets.raster.datums import DatumRules
from ls4_assets.raster.frame import process
from ls4_assets.raster.georeference import Georeference
from ls4_assets.raster.position import WEB_MERCATOR, PositionOptions
from ls4_assets.raster.source import Limits, open_source
from ls4_assets_tests.proj_grids import SHIFT_SECONDS, write_grid
from ls4_assets_tests.rasters import BW, photograph, read, write_tif
from ls4_assets_tests.unit.test_pool import make_settings

NAD27_UTM14 = 26714
PLACE = (620_000.0, 3_350_000.0)
NAD27: dict[str, Any] = {"crs": f"EPSG:{NAD27_UTM14}", "transform": Affine(2, 0, PLACE[0], 0, -2, PLACE[1])}
CONUS = Path(os.environ.get("LS4_SHARED", "shared")) / "data" / "OSGeo+proj-datumgrid"
UNKNOWN_WKT = (
    'PROJCS["UTM Zone 14",GEOGCS["unnamed",DATUM["DATUM_NAME",SPHEROID["Clarke 1866",6378206.4,294.9786982]],'
    'PRIMEM["Greenwich",0],UNIT["degree",0.0174532925199433]],PROJECTION["Transverse_Mercator"],'
    'PARAMETER["latitude_of_origin",0],PARAMETER["central_meridian",-99],PARAMETER["scale_factor",0.9996],'
    'PARAMETER["false_easting",500000],PARAMETER["false_northing",0],UNIT["metre",1]]'
)
ESRI_TEXAS_CENTRAL = (
    'PROJCS["NAD_1927_StatePlane_Texas_Central_FIPS_4203",GEOGCS["GCS_North_American_1927",DATUM["D_North_American_1927",'
    'SPHEROID["Clarke_1866",6378206.4,294.9786982]],PRIMEM["Greenwich",0.0],UNIT["Degree",0.0174532925199433]],'
    'PROJECTION["Lambert_Conformal_Conic"],PARAMETER["False_Easting",2000000.0],PARAMETER["False_Northing",0.0],'
    'PARAMETER["Central_Meridian",-100.3333333333333],PARAMETER["Standard_Parallel_1",30.11666666666667],'
    'PARAMETER["Standard_Parallel_2",31.88333333333333],PARAMETER["Latitude_Of_Origin",29.66666666666667],'
    'UNIT["Foot_US",0.3048006096012192]]'
)
GEOGRAPHIC_PLACE = Affine(2e-5, 0, -97.75, 0, -2e-5, 30.27)
UNKNOWN_DATUMS: dict[str, dict[str, Any]] = {
    name: {"crs": CRS.from_wkt(UNKNOWN_WKT.replace("DATUM_NAME", name)), "transform": NAD27["transform"]}
    for name in ("unknown", "unnamed", "D_Unknown", "Not_specified_based_on_Clarke_1866_ellipsoid", "User_Defined")
} | {
    "EPSG ellipsoid only": {"crs": "EPSG:4008", "transform": GEOGRAPHIC_PLACE},
    "PROJ string": {"crs": "+proj=utm +zone=14 +ellps=clrk66", "transform": NAD27["transform"]},
    "no ellipsoid name": {
        "crs": CRS.from_wkt(UNKNOWN_WKT.replace('"Clarke 1866"', '"unnamed"')), "transform": NAD27["transform"],
    },
    "sphere": {"crs": "EPSG:4035", "transform": GEOGRAPHIC_PLACE},
    "International 1924": {"crs": "EPSG:4022", "transform": GEOGRAPHIC_PLACE},
}  # fmt: skip


def read_georeference(path: Any) -> Any:
    """Executed in a worker of the pool."""
    return open_source(path, "bw", Limits()).georeference


def build_frame(path: Any) -> Any:
    return process(path, path.parent / "work", path.stem, "bw", BW, Limits())


def run_in_pool(function: Any, path: Path, **settings: Any) -> Any:
    ((_, result),) = run_tasks(function, [path], make_settings(**settings))
    if isinstance(result, BaseException):
        raise result
    return result


def georeference(path: Path, **settings: Any) -> Georeference:
    result: Georeference = run_in_pool(read_georeference, path, **settings)
    return result


def test_a_run_places_nad27_frames_with_the_operators_grid(tmp_path: Path) -> None:
    """NAD27 frames were off by 1.6 to 3.5 m everywhere in Texas, silently, because no library carried the NADCON grid."""
    write_grid(tmp_path / "grids")
    path = write_tif(tmp_path / "a.tif", photograph(60, 50), **NAD27)
    found = georeference(path, proj_grids=tmp_path / "grids").transformation
    assert (found.name, found.accuracy_m) == ("NAD27 to WGS 84 (79)", 5.0)
    assert not found.is_insufficient(5.0)
    result = run_in_pool(build_frame, path, proj_grids=tmp_path / "grids")
    west, north = result.transform[2], result.transform[5]
    (longitude,), (latitude,) = transform(CRS.from_epsg(NAD27_UTM14), CRS.from_epsg(4267), [PLACE[0]], [PLACE[1]])
    shifted = longitude + SHIFT_SECONDS[0] / 3600, latitude + SHIFT_SECONDS[1] / 3600
    (x,), (y,) = transform(CRS.from_epsg(4326), WEB_MERCATOR, [shifted[0]], [shifted[1]])
    # The frame is turned by the convergence of its zone; its corner is within some pixels, and the shift is 190 m.
    assert math.hypot(west - x, north - y) < 10


def test_a_missing_grid_is_named_with_both_accuracies(tmp_path: Path) -> None:
    found = georeference(write_tif(tmp_path / "a.tif", photograph(60, 50), **NAD27)).transformation
    assert (found.name, found.accuracy_m) == ("NAD27 to WGS 84 (6)", 7.0)
    assert found.better_accuracy_m is not None and found.better_accuracy_m < 5
    assert "us_noaa_conus.tif" in found.missing_grids
    assert found.is_insufficient(5.0) and not found.is_insufficient(7.0)


@pytest.mark.parametrize(("crs", "accuracy"), [("EPSG:32614", 0.0), ("EPSG:26914", 4.0)])
def test_modern_datums_need_no_grid(tmp_path: Path, crs: str, accuracy: float) -> None:
    found = georeference(write_tif(tmp_path / "a.tif", photograph(60, 50), **{**NAD27, "crs": crs})).transformation
    assert (found.accuracy_m, found.is_insufficient(5.0)) == (accuracy, False)


def test_workers_fetch_grids_only_when_the_setting_allows_it(tmp_path: Path) -> None:
    """The variable alone came too late for a process that was forked from one that had imported GDAL."""
    write_grid(tmp_path / "cdn")
    path = write_tif(tmp_path / "a.tif", photograph(60, 50), **NAD27)
    script = """
import functools, http.server, os, sys, threading
from pathlib import Path
from ls4_assets_tests.unit.test_datums import georeference
if __name__ == "__main__":
    requests = []
    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self):
            requests.append(self.path)
            file = Path(sys.argv[1], "us_noaa_conus.tif").read_bytes()
            first, last = (int(number) for number in self.headers["Range"].removeprefix("bytes=").split("-"))
            part = file[first:last + 1]
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{first + len(part) - 1}/{len(file)}")
            self.send_header("Content-Length", str(len(part)))
            self.send_header("Last-Modified", "Mon, 01 Jan 2024 00:00:00 GMT")
            self.end_headers()
            self.wfile.write(part)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    os.environ["PROJ_NETWORK_ENDPOINT"] = f"http://127.0.0.1:{server.server_address[1]}"
    os.environ["PROJ_USER_WRITABLE_DIRECTORY"] = sys.argv[3]
    for is_on in (False, True):
        found = georeference(Path(sys.argv[2]), proj_network=is_on).transformation
        # The accuracy is that of the operation which GDAL used, and not only of one that pyproj lists.
        print(is_on, found.accuracy_m is not None and found.accuracy_m < 5, bool(requests))
"""
    (tmp_path / "cache").mkdir()
    (tmp_path / "script.py").write_text(script)
    argv = [sys.executable, str(tmp_path / "script.py"), str(tmp_path / "cdn"), str(path), str(tmp_path / "cache")]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    result = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert result.stdout == "False False False\nTrue True True\n", result.stderr


def test_a_network_without_egress_is_not_a_fault_of_the_frame(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = "import sys; from pathlib import Path; from ls4_assets_tests.unit.test_datums import georeference\n"
    script += "if __name__ == '__main__': georeference(Path(sys.argv[1]), proj_network=True)\n"
    path = write_tif(tmp_path / "a.tif", photograph(60, 50), **NAD27)
    (tmp_path / "script.py").write_text(script)
    environment = {
        **os.environ, "PROJ_NETWORK_ENDPOINT": "http://127.0.0.1:9", "PYTHONPATH": str(Path(__file__).parents[2]),
        "PROJ_USER_WRITABLE_DIRECTORY": str(tmp_path),
    }  # fmt: skip
    argv = [sys.executable, str(tmp_path / "script.py"), str(path)]
    result = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert "a.tif needs a grid that PROJ could not fetch" in result.stderr


def test_a_wrong_folder_of_grids_fails_the_run_with_advice(tmp_path: Path) -> None:
    path = write_tif(tmp_path / "a.tif", photograph(60, 50), **NAD27)
    with pytest.raises(ConfigurationError, match="LS4_PROJ_GRIDS"):
        georeference(path, proj_grids=tmp_path / "nowhere")


def test_linked_grids_follow_the_folder(tmp_path: Path) -> None:
    library, grids, target = (tmp_path / name for name in ("library", "grids", "target"))
    write_grid(grids)
    write_grid(grids, "old.tif")
    library.mkdir()
    (library / "proj.db").write_text("of the library")
    (grids / "proj.db").write_text("of another version of PROJ")
    link_proj_data(target, library, grids)
    (grids / "old.tif").unlink()
    link_proj_data(target, library, grids)
    assert sorted(path.name for path in target.iterdir()) == ["proj.db", "us_noaa_conus.tif"]
    assert (target / "proj.db").read_text() == "of the library"


@pytest.mark.parametrize("name", UNKNOWN_DATUMS)
def test_an_unknown_datum_is_rejected_and_the_advice_works(tmp_path: Path, name: str) -> None:
    """Scans on Clarke 1866 without a datum were 36 m off, silently."""
    path = write_tif(tmp_path / "a.tif", photograph(60, 50), **UNKNOWN_DATUMS[name])
    with pytest.raises(FrameError, match="unknown datum") as caught:
        open_source(path, "bw", Limits())
    message = str(caught.value)
    assert message.startswith("a.tif") and message.endswith(".") and "\n" not in message
    command = message[message.index("gdal_translate") :].split(",")[0].replace("CODE", "4267")
    subprocess.run(shlex.split(command), cwd=tmp_path, check=True, capture_output=True)
    (tmp_path / "fixed.tif").rename(path)
    found = open_source(path, "bw", Limits())
    assert found.georeference.transformation.name.startswith("NAD27 to WGS 84")


@pytest.mark.parametrize("name", [name for name in UNKNOWN_DATUMS if name not in ("sphere", "International 1924")])
def test_an_assumed_datum_has_the_ellipsoid_of_the_scan(tmp_path: Path, name: str) -> None:
    path = write_tif(tmp_path / "a.tif", photograph(60, 50), **UNKNOWN_DATUMS[name])
    source = open_source(path, "bw", Limits(), PositionOptions(datums=DatumRules(assumed=(4230, 4267))))
    assert "assumed North American Datum 1927" in source.georeference.transformation.name
    code = "EPSG:4267" if source.crs.is_geographic else f"EPSG:{NAD27_UTM14}"
    assert source.crs_label == code
    named = write_tif(tmp_path / "b.tif", photograph(60, 50), **{**UNKNOWN_DATUMS[name], "crs": code})
    options = PositionOptions(datums=DatumRules(assumed=(4267,)))
    frames = [
        process(file, tmp_path / file.stem, file.stem, "bw", BW, Limits(), ["deflate"], position=options)
        for file in (path, named)
    ]
    assert frames[0].transform == frames[1].transform


@pytest.mark.parametrize(
    ("code", "place", "sentence"),
    [
        # NAD27(76) of Ontario, and a datum of Venezuela without any transformation.
        (
            4608,
            (-80.0, 45.0),
            "has the datum North American Datum 1927 (1976), for which PROJ needs the grid ca_nrc_MAY76V20.tif",
        ),
        (4288, (-66.0, 7.5), '("Loma Quintana", ellipsoid "International 1924")'),
    ],
)
def test_a_named_datum_is_never_replaced(tmp_path: Path, code: int, place: tuple[float, float], sentence: str) -> None:
    options: dict[str, Any] = {"crs": f"EPSG:{code}", "transform": Affine(2e-5, 0, place[0], 0, -2e-5, place[1])}
    path = write_tif(tmp_path / "a.tif", photograph(60, 50), **options)
    with pytest.raises(FrameError) as caught:
        open_source(path, "bw", Limits(), PositionOptions(datums=DatumRules(assumed=(4267, 4248))))
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    "crs",
    ["+proj=utm +zone=14 +ellps=GRS80", "+proj=utm +zone=14 +ellps=clrk66 +towgs84=-8,159,175", "EPSG:26914+5703", "EPSG:32614"],
)
def test_a_known_or_modern_datum_is_not_rejected(tmp_path: Path, crs: str) -> None:
    assert open_source(write_tif(tmp_path / "a.tif", photograph(60, 50), **{**NAD27, "crs": crs}), "bw", Limits()).needs_warp


@pytest.mark.skipif(not (CONUS / "conus").is_file(), reason="needs NADCON's grid in LS4_SHARED/data/OSGeo+proj-datumgrid")
def test_state_plane_of_nad27_is_where_gdal_puts_it(tmp_path: Path) -> None:
    """An independent warp, by the system's GDAL with the same grid, gives the same pixels at the same place."""
    path = write_tif(tmp_path / "a.tif", photograph(300, 400), crs=None, transform=Affine.identity())
    path.with_suffix(".prj").write_text(ESRI_TEXAS_CENTRAL)
    path.with_suffix(".tfw").write_text("6.0\n0.0\n0.0\n-6.0\n2880003.0\n220000.0\n")
    result = run_in_pool(build_frame, path, proj_grids=CONUS)
    assert result.transformation.name == "NAD27 to WGS 84 (79)"
    product = tmp_path / "work" / "deflate" / "a.tif"
    with rasterio.open(product) as dataset:
        bounds, size = dataset.bounds, (dataset.width, dataset.height)
    transform = Affine(6, 0, 2_880_000, 0, -6, 220_003)
    same = write_tif(tmp_path / "same.tif", photograph(300, 400), crs="EPSG:32039", transform=transform)
    expected = tmp_path / "expected.tif"
    argv = ["gdalwarp", "-q", "-r", BW.resampling, "-t_srs", "EPSG:3857", "-te", *map(str, bounds)]
    argv += ["-ts", *map(str, size), str(same), str(expected)]
    subprocess.run(argv, check=True, env={**os.environ, "PROJ_LIB": f"{CONUS}:/usr/share/proj"})
    here, there = read(product)[0].astype(int), read(expected)[0].astype(int)
    inside = (here > 0) & (there > 0)
    differences = {shift: np.abs(np.roll(here, shift, (0, 1)) - there)[inside].mean() for shift in ((0, 0), (0, 1), (1, 0))}
    assert differences[0, 0] < 2 < min(differences[0, 1], differences[1, 0])


def test_grids_of_the_test_are_not_installed_for_everybody() -> None:
    assert not list(Path(rasterio.__file__).parent.rglob("us_noaa_conus.tif"))
    assert shutil.which("gdal_translate")
