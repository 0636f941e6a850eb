"""Which file the position of a scan comes from: each kind of sidecar alone, and what happens when files contradict each other."""

import codecs
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import rasterio.shutil
import rasterio.warp
import tifffile
from affine import Affine
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS

from ls4_assets.domain.sidecars import SIDECARS
from ls4_assets.errors import FrameError
from ls4_assets.raster.georeference import Georeference
from ls4_assets.raster.position import PositionOptions
from ls4_assets.raster.sidecar_readers import READERS
from ls4_assets.raster.source import Limits, open_source
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
    mapinfo,
    pam,
    pam_points,
    qgis_points,
    world_file,
)


def scan(folder: Path, **options: Any) -> Path:
    return write_tif(folder / "a.tif", photograph(HEIGHT, WIDTH), **options)


def inspect(path: Path, *late: str, **options: Any) -> Georeference:
    """The georeference when the sidecars with the suffixes `late` were dropped after the tif had been processed."""
    position = PositionOptions(dict.fromkeys(late, 1), **options)
    return open_source(path, "bw", Limits(), position).georeference


def rejection(path: Path, *late: str, **options: Any) -> str:
    with pytest.raises(FrameError) as caught:
        inspect(path, *late, **options)
    message = str(caught.value)
    assert message.startswith("a.") and message.endswith(".") and "\n" not in message
    return message


def test_every_sidecar_with_a_georeference_has_a_reader_and_a_test() -> None:
    """A kind that was only listed would make a new version of the frame that is like the old one."""
    kinds = {kind.suffix for kind in SIDECARS if kind.is_text}
    assert kinds == {*READERS} - {".tif"} == {*CONTENTS, ".prj"}


@pytest.mark.parametrize("suffix", CONTENTS)
def test_each_sidecar_places_a_tif_without_a_position(tmp_path: Path, suffix: str) -> None:
    path = scan(tmp_path, **NO_GEOREFERENCE)
    (tmp_path / f"a{suffix}").write_text(CONTENTS[suffix](TRANSFORM))
    if CONTENTS[suffix] is world_file:
        (tmp_path / "a.prj").write_text(ESRI_WKT)
    georeference = inspect(path)
    assert georeference.transform.almost_equals(TRANSFORM, 1e-6)
    assert georeference.position_source == f"a{suffix}"
    assert georeference.crs_source == ("a.prj" if CONTENTS[suffix] is world_file else f"a{suffix}")
    assert (georeference.control_points is not None) == suffix.endswith(".points")


@pytest.mark.parametrize("suffix", CONTENTS)
def test_sidecar_that_came_later_overrules_the_header(tmp_path: Path, suffix: str) -> None:
    """A corrected world file made the frame again at the same wrong place."""
    path = scan(tmp_path, **HEADER)
    corrected = Affine.translation(120, 0) @ TRANSFORM
    (tmp_path / f"a{suffix}").write_text(CONTENTS[suffix](corrected))
    georeference = inspect(path, suffix)
    assert georeference.transform.almost_equals(corrected, 1e-6)
    assert georeference.position_source == f"a{suffix}"
    assert georeference.position_note == "dropped after its header, which lies 120 m away"


@pytest.mark.parametrize("suffix", CONTENTS)
def test_contradiction_of_files_that_came_together_is_rejected_with_both_places(tmp_path: Path, suffix: str) -> None:
    path = scan(tmp_path, **HEADER)
    (tmp_path / f"a{suffix}").write_text(CONTENTS[suffix](Affine.translation(120, 0) @ TRANSFORM))
    for late in ((), (".tif",), (".tif", suffix)):
        message = rejection(path, *late)
        assert "latitude 30.27520, longitude -97.75187" in message and "latitude 30.27519, longitude -97.75063" in message
        assert "120 m away" in message
        assert f"delete a{suffix} if the header of the tif is right, or drop a{suffix} again if it is right" in message


@pytest.mark.parametrize("suffix", CONTENTS)
def test_files_that_agree_within_a_pixel_change_nothing(tmp_path: Path, suffix: str) -> None:
    path = scan(tmp_path, **HEADER)
    # Half a pixel, as of a world file that was written for corners instead of centers.
    (tmp_path / f"a{suffix}").write_text(CONTENTS[suffix](Affine.translation(1, -1) @ TRANSFORM))
    georeference = inspect(path)
    if suffix != ".tif.aux.xml":
        assert (georeference.transform, georeference.position_source, georeference.position_note) == (TRANSFORM, "its header", "")


def test_two_sidecars_that_contradict_each_other_are_rejected(tmp_path: Path) -> None:
    path = scan(tmp_path, **NO_GEOREFERENCE)
    (tmp_path / "a.prj").write_text(ESRI_WKT)
    (tmp_path / "a.tfw").write_text(world_file())
    (tmp_path / "a.wld").write_text(world_file(Affine.translation(0, 500) @ TRANSFORM))
    assert "a.tfw places it" in (message := rejection(path)) and "delete the wrong one of the two, or drop the right" in message
    assert inspect(path, ".wld").position_source == "a.wld"


@pytest.mark.parametrize("name", ["a.tif.aux.xml", "a.aux.xml"])
def test_control_points_of_arcgis_are_read(tmp_path: Path, name: str) -> None:
    path = scan(tmp_path, **NO_GEOREFERENCE)
    (tmp_path / name).write_text(arcgis_points())
    georeference = inspect(path)
    assert georeference.control_points and georeference.transform.almost_equals(TRANSFORM, 1e-6)
    assert (georeference.position_source, georeference.crs) == (name, UTM)


@pytest.mark.parametrize("name", ["a.tif.aux.xml", "a.aux.xml"])
def test_geotransform_comes_before_control_points_that_agree(tmp_path: Path, name: str) -> None:
    """ArcGIS writes the points beside the world file that it made of them."""
    path = scan(tmp_path, **HEADER)
    (tmp_path / name).write_text(arcgis_points())
    georeference = inspect(path)
    assert (georeference.position_source, georeference.control_points) == ("its header", None)
    (tmp_path / name).write_text(arcgis_points(Affine.translation(120, 0) @ TRANSFORM))
    assert f"delete {name} if the header of the tif is right" in rejection(path)
    assert inspect(path, f".{name.partition('.')[2]}").position_source == name


def test_control_points_of_gdal_are_read_from_the_tif_and_from_its_aux_xml(tmp_path: Path) -> None:
    path = scan(tmp_path, **NO_GEOREFERENCE)
    (tmp_path / "a.tif.aux.xml").write_text(pam_points())
    assert inspect(path).facts()["control_points"] == 4
    (tmp_path / "a.tif.aux.xml").unlink()
    with rasterio.open(path, "r+") as target:
        target.gcps = ([GroundControlPoint(row, column, *(TRANSFORM @ (column, row))) for column, row in POINTS], UTM)
    georeference = inspect(path)
    assert georeference.transform.almost_equals(TRANSFORM, 1e-6)
    assert georeference.facts() | {"rms_px": 0, "max_px": 0, "rms_m": 0, "max_m": 0} == {
        "position": "its header", "crs": "its header", "control_points": 4, "transformation": "polynomial 1",
        "rms_px": 0, "max_px": 0, "rms_m": 0, "max_m": 0,
    }  # fmt: skip


@pytest.mark.parametrize(
    "text",
    [ESRI_WKT, UTM.to_wkt(), UTM.to_wkt(version="WKT2_2019"), "EPSG:26914", " epsg : 26914\n",
     "+proj=utm +zone=14 +datum=NAD83\n +units=m +no_defs"],
    ids=["esri", "ogc", "wkt2", "epsg", "epsg with blanks", "proj"],
)  # fmt: skip
@pytest.mark.parametrize(
    ("mark", "encoding"),
    [(b"", "utf-8"), (codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"),
     (b"", "utf-16-le")],
)  # fmt: skip
def test_prj_is_read_in_every_notation_and_encoding(tmp_path: Path, text: str, mark: bytes, encoding: str) -> None:
    path = scan(tmp_path, crs=None, transform=TRANSFORM)
    (tmp_path / "a.prj").write_bytes(mark + text.encode(encoding))
    georeference = inspect(path)
    assert georeference.crs.to_epsg(50) == 26914 and georeference.crs_source == "a.prj"


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig"])
def test_prj_that_names_a_file_is_rejected_in_every_encoding(tmp_path: Path, encoding: str) -> None:
    path = scan(tmp_path, crs=None, transform=TRANSFORM)
    (tmp_path / "a.prj").write_bytes("+proj=longlat +nadgrids=/etc/passwd".encode(encoding))
    assert "refers to another file, /etc/passwd" in rejection(path)


@pytest.mark.parametrize("data", [codecs.BOM_UTF8 + world_file().encode(), world_file().replace(".", ",").encode()])
def test_world_file_with_a_byte_order_mark_or_decimal_commas_is_read(tmp_path: Path, data: bytes) -> None:
    path = scan(tmp_path, crs=UTM, transform=Affine.identity())
    (tmp_path / "a.tfw").write_bytes(data)
    assert inspect(path).transform == TRANSFORM


@pytest.mark.parametrize(
    ("suffix", "text", "advice"),
    [
        (".tfw", "not numbers", "has six lines with a number each"),
        (".tfw", "0\n0\n0\n0\n5\n5", "pixel size of zero"),
        (".points", "a,b\n1,2", "the columns mapX, mapY"),
        (".points", "mapX,mapY,sourceX,sourceY,enable\n1,2,3,4,0", "no enabled control point"),
        (".aux.xml", "<PAMDataset><GeoTransform>a, b</GeoTransform></PAMDataset>", "delete it, or export it again"),
    ],
)
def test_unreadable_sidecar_counts_only_when_nothing_else_does(tmp_path: Path, suffix: str, text: str, advice: str) -> None:
    """The correction of a frame that cannot be read must not be ignored; an old scribble beside a good tif may be."""
    path = scan(tmp_path, **HEADER)
    (tmp_path / f"a{suffix}").write_text(text)
    assert inspect(path).position_source == "its header"
    assert advice in rejection(path, suffix)
    assert advice in rejection(scan(tmp_path, **NO_GEOREFERENCE))


def test_contradiction_between_header_and_prj(tmp_path: Path) -> None:
    """A .prj that corrects the zone of a tif was ignored."""
    path = scan(tmp_path, **HEADER)
    (tmp_path / "a.prj").write_text("EPSG:26915")
    message = rejection(path)
    assert "two coordinate systems: with EPSG:26914 of its header" in message and "with EPSG:26915 of a.prj" in message
    assert "delete a.prj if the header of the tif is right, or drop a.prj again if it is right" in message
    georeference = inspect(path, ".prj")
    assert (georeference.crs_label, georeference.crs_source, georeference.position_source) == (
        "EPSG:26915",
        "a.prj",
        "its header",
    )


def test_prj_with_another_name_of_the_same_system_changes_nothing(tmp_path: Path) -> None:
    path = scan(tmp_path, **HEADER)
    (tmp_path / "a.prj").write_text(ESRI_WKT)
    assert inspect(path).crs_source == "its header"


def test_prj_that_names_the_datum_counts_beside_a_header_that_names_only_an_ellipsoid(tmp_path: Path) -> None:
    """A scan with a right .prj was rejected for the unknown datum of its header."""
    unknown = CRS.from_wkt(
        'PROJCS["UTM 14",GEOGCS["unnamed",DATUM["unknown",SPHEROID["Clarke 1866",6378206.4,294.9786982]],PRIMEM["Greenwich",0],'
        'UNIT["degree",0.0174532925199433]],PROJECTION["Transverse_Mercator"],PARAMETER["latitude_of_origin",0],'
        'PARAMETER["central_meridian",-99],PARAMETER["scale_factor",0.9996],PARAMETER["false_easting",500000],'
        'PARAMETER["false_northing",0],UNIT["metre",1]]'
    )
    path = scan(tmp_path, crs=unknown, transform=Affine(300, 0, WEST, 0, -300, NORTH))
    assert "unknown datum" in rejection(path)
    (tmp_path / "a.prj").write_text("EPSG:26714")
    assert (inspect(path).crs_label, inspect(path).crs_source) == ("EPSG:26714", "a.prj")


def test_unreadable_prj_that_came_later_is_rejected(tmp_path: Path) -> None:
    path = scan(tmp_path, **HEADER)
    (tmp_path / "a.prj").write_text("zone 14, I think")
    assert inspect(path).crs_label == "EPSG:26914"
    assert "a.prj is not a coordinate reference system" in rejection(path, ".prj")


def test_null_island_has_its_own_sentence(tmp_path: Path) -> None:
    path = scan(tmp_path, crs="EPSG:3857", transform=Affine(1, 0, 0, 0, -1, 60))
    assert "latitude 0 and longitude 0" in rejection(path)


@pytest.mark.parametrize(("crs", "west"), [("EPSG:4326", 179.9995), ("EPSG:3857", 20_037_508.34 - 10), ("EPSG:32601", 300_000)])
def test_frame_across_180_degrees_has_its_own_sentence(tmp_path: Path, crs: str, west: float) -> None:
    size = 0.00002 if crs == "EPSG:4326" else 1.0
    north = 30.0 if crs == "EPSG:4326" else 3_500_000.0
    if crs == "EPSG:32601":
        (west,), _ = rasterio.warp.transform("EPSG:4326", crs, [180.0], [31.6])
        west -= 25
    path = scan(tmp_path, crs=crs, transform=Affine(size, 0, west, 0, -size, north))
    assert "crosses the meridian of 180 degrees" in rejection(path)


def test_points_of_another_image_are_rejected(tmp_path: Path) -> None:
    path = scan(tmp_path, **NO_GEOREFERENCE)
    (tmp_path / "a.points").write_text(qgis_points().replace("50,-60", "5000,-6000"))
    assert "outside its 50 x 60 pixels" in (message := rejection(path)) and "drop a.points again" in message


def test_worst_points_are_named(tmp_path: Path) -> None:
    path = scan(tmp_path, **NO_GEOREFERENCE)
    rng = np.random.default_rng(2)
    lines = ["mapX,mapY,sourceX,sourceY,enable"]
    for number in range(12):
        column, row = rng.uniform(0, WIDTH), rng.uniform(0, HEIGHT)
        x, y = TRANSFORM @ (column, row)
        lines.append(f"{x + 500 * (number == 7)},{y},{column},{-row},1")
    (tmp_path / "a.points").write_text("\n".join(lines))
    (tmp_path / "a.prj").write_text("EPSG:26914")
    message = rejection(path)
    assert "12 ground control points that do not fit a polynomial 2" in message and "the worst ones, 8 (column" in message
    assert message.count("px)") == 3 and "raise LS4_MAX_GCP_RMS_PX" in message
    assert inspect(path, max_gcp_rms_px=5000).control_points


def two_images(path: Path, first: tuple[int, int]) -> None:
    """A tif without a position: an image of `first` columns and rows, and then the photograph."""
    with tifffile.TiffWriter(path) as writer:
        writer.write(photograph(first[1], first[0])[0], subfiletype=1, photometric="minisblack")
        writer.write(photograph(4 * HEIGHT, 4 * WIDTH)[0], photometric="minisblack")


FINE = TRANSFORM @ Affine.scale(1 / 4)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.tif.aux.xml", pam()),
        ("a.tif.aux.xml", pam_points()),
        ("a.aux.xml", pam()),
        ("a.tab", mapinfo()),
        ("a.points", qgis_points()),
        ("a.tif.points", qgis_points()),
    ],
)
def test_sidecar_in_pixels_of_a_thumbnail_places_the_photograph_behind_it(tmp_path: Path, name: str, text: str) -> None:
    """The photograph was placed four times too large, because a GIS shows the first image and writes in its pixels."""
    two_images(tmp_path / "a.tif", (WIDTH, HEIGHT))
    (tmp_path / name).write_text(text)
    assert inspect(tmp_path / "a.tif").transform.almost_equals(FINE, precision=1e-6)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.tfw", world_file(FINE)),
        (
            "a.points",
            "#CRS: EPSG:26914\nmapX,mapY,sourceX,sourceY,enable\n"
            + "\n".join("{},{},{},{},1".format(*(FINE @ (4 * x, 4 * y)), 4 * x, -4 * y) for x, y in POINTS),
        ),
    ],
)
def test_sidecar_in_pixels_of_the_photograph_behind_a_thumbnail_is_not_scaled(tmp_path: Path, name: str, text: str) -> None:
    two_images(tmp_path / "a.tif", (WIDTH, HEIGHT))
    (tmp_path / name).write_text(text)
    (tmp_path / "a.prj").write_text("EPSG:26914")
    assert inspect(tmp_path / "a.tif").transform.almost_equals(FINE, precision=1e-6)


def test_points_on_a_label_before_the_photograph_are_rejected_with_a_command(tmp_path: Path) -> None:
    """Points on a label in front of the photograph placed the photograph."""
    two_images(tmp_path / "a.tif", (WIDTH, HEIGHT // 2))
    (tmp_path / "a.points").write_text(qgis_points(crs="EPSG:26914").replace("-60,1", "-30,1"))
    message = rejection(tmp_path / "a.tif")
    assert "is about the first image of a.tif" in message
    command = re.search(r"with (gdal_translate \S+) and", message)
    assert command
    rasterio.shutil.copy(command[1].split()[1].replace("a.tif", str(tmp_path / "a.tif")), tmp_path / "b.tif", driver="GTiff")
    with rasterio.open(tmp_path / "b.tif") as exported:
        assert exported.shape == (4 * HEIGHT, 4 * WIDTH)


def test_crs_that_came_later_says_what_it_overruled(tmp_path: Path) -> None:
    """A .prj that overruled the CRS of the header moved the photograph, and no page said so."""
    path = scan(tmp_path, **HEADER)
    (tmp_path / "a.prj").write_text("EPSG:26714")
    assert inspect(path, ".prj").position_note == "the CRS of a.prj was dropped after its header, whose CRS places it 207 m away"


CLARKE_1866 = "+proj=utm +zone=14 +ellps=clrk66"


@pytest.mark.parametrize(
    ("suffix", "content"),
    [(".points", qgis_points(crs=CLARKE_1866)), (".aux.xml", pam(srs=CRS.from_proj4(CLARKE_1866).to_wkt()))],
)
def test_unknown_datum_of_a_file_that_holds_the_position_too_keeps_that_file(tmp_path: Path, suffix: str, content: str) -> None:
    """The advice named the header, .prj and .aux.xml only, and following it left the CRS of the .points file."""
    path = scan(tmp_path, **NO_GEOREFERENCE)
    (tmp_path / f"a{suffix}").write_text(content)
    message = rejection(path)
    assert "unknown datum" in message and f"drop a .prj with the CRS that a{suffix} is in" in message
    match = re.search(r"if NAD27 is meant, the text (EPSG:[0-9]+)", message, re.ASCII)
    assert match
    (tmp_path / "a.prj").write_text(match[1])
    assert inspect(path, ".prj").crs_label == "EPSG:26714"
