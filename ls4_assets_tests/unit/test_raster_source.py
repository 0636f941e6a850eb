"""Tests of the inspection of a dropped tif: each rejection is one sentence with advice, before any pixel is read."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import rasterio
from affine import Affine
from rasterio.crs import CRS
from rasterio.enums import ColorInterp

from ls4_assets.domain.film_types import FilmType
from ls4_assets.errors import FrameError
from ls4_assets.raster.source import Limits, open_source
from ls4_assets_tests.rasters import NORTH, UTM_PLACE, WEST, photograph, write_tif

ESRI_UTM14 = (
    'PROJCS["NAD_1983_UTM_Zone_14N",GEOGCS["GCS_North_American_1983",DATUM["D_North_American_1983",'
    'SPHEROID["GRS_1980",6378137.0,298.257222101]],PRIMEM["Greenwich",0.0],UNIT["Degree",0.0174532925199433]],'
    'PROJECTION["Transverse_Mercator"],PARAMETER["False_Easting",500000.0],PARAMETER["False_Northing",0.0],'
    'PARAMETER["Central_Meridian",-99.0],PARAMETER["Scale_Factor",0.9996],PARAMETER["Latitude_Of_Origin",0.0],'
    'UNIT["Meter",1.0]]'
)
GOOGLE_MERCATOR = (
    "+proj=merc +a=6378137 +b=6378137 +lat_ts=0 +lon_0=0 +x_0=0 +y_0=0 +k=1 +units=m +nadgrids=@null +wktext +no_defs"
)
WORLD_FILE = f"1.0\n0.0\n0.0\n-1.0\n{UTM_PLACE[0] + 0.5}\n{UTM_PLACE[1] - 0.5}\n"
UTM_TRANSFORM = Affine(1, 0, UTM_PLACE[0], 0, -1, UTM_PLACE[1])
NO_GEOREFERENCE: dict[str, Any] = {"crs": None, "transform": Affine.identity()}


def rejection(path: Path, film_type: FilmType = "bw", limits: Limits | None = None) -> str:
    """Return the message of the rejection, which must be one sentence that names the file."""
    with pytest.raises(FrameError) as caught:
        open_source(path, film_type, limits or Limits())
    message = str(caught.value)
    assert path.stem in message
    assert message.endswith(".")
    assert "\n" not in message
    return message


def test_web_mercator_frame_needs_no_warp(tmp_path: Path) -> None:
    source = open_source(write_tif(tmp_path / "a.tif", photograph(60, 50)), "bw", Limits())
    assert (source.width, source.height, source.count, source.bands) == (50, 60, 1, (1,))
    assert (source.crs_label, source.needs_warp, source.declared_mask) == ("EPSG:3857", False, "nothing")
    assert source.transform == Affine(1, 0, WEST, 0, -1, NORTH)


@pytest.mark.parametrize("crs", ["ESRI:102100", "ESRI:102113", "EPSG:3857", GOOGLE_MERCATOR])
def test_older_names_of_web_mercator_need_no_warp(tmp_path: Path, crs: str) -> None:
    path = write_tif(tmp_path / "a.tif", photograph(60, 50), crs=crs)
    assert not open_source(path, "bw", Limits()).needs_warp


@pytest.mark.parametrize(
    "options",
    [
        {"crs": "EPSG:26914", "transform": UTM_TRANSFORM},
        {"transform": Affine.translation(WEST, NORTH) @ Affine.rotation(5) @ Affine.scale(1, -1)},
        {"transform": Affine(1, 0, WEST, 0, 1, NORTH)},
        {"transform": Affine(-1, 0, WEST, 0, -1, NORTH)},
    ],
    ids=["utm", "rotated", "south-up", "mirrored"],
)
def test_other_crs_rotated_or_flipped_needs_warp(tmp_path: Path, options: dict[str, Any]) -> None:
    path = write_tif(tmp_path / "a.tif", photograph(60, 50), **options)
    assert open_source(path, "bw", Limits()).needs_warp


@pytest.mark.parametrize("suffix", [".tfw", ".tifw", ".wld"])
def test_world_file_and_esri_prj_are_read(tmp_path: Path, suffix: str) -> None:
    path = write_tif(tmp_path / "a.tif", photograph(60, 50), **NO_GEOREFERENCE)
    path.with_suffix(suffix).write_text(WORLD_FILE)
    path.with_suffix(".prj").write_text(ESRI_UTM14)
    source = open_source(path, "bw", Limits())
    assert source.crs == CRS.from_epsg(26914)
    assert source.crs_label == "EPSG:26914"
    assert source.transform == UTM_TRANSFORM


@pytest.mark.parametrize("name", ["a.tif.aux.xml", "a.aux.xml"])
def test_aux_xml_is_read_under_both_names(tmp_path: Path, name: str) -> None:
    path = write_tif(tmp_path / "a.tif", photograph(60, 50), **NO_GEOREFERENCE)
    numbers = ", ".join(str(number) for number in UTM_TRANSFORM.to_gdal())
    (tmp_path / name).write_text(
        f"<PAMDataset><SRS>{ESRI_UTM14.replace('<', '')}</SRS><GeoTransform>{numbers}</GeoTransform></PAMDataset>"
    )
    source = open_source(path, "bw", Limits())
    assert (source.crs, source.transform) == (CRS.from_epsg(26914), UTM_TRANSFORM)


def test_upper_case_sidecars_are_read(tmp_path: Path) -> None:
    path = write_tif(tmp_path / "A.TIF", photograph(60, 50), **NO_GEOREFERENCE)
    (tmp_path / "A.TFW").write_text(WORLD_FILE)
    (tmp_path / "A.PRJ").write_text(ESRI_UTM14)
    assert open_source(path, "bw", Limits()).transform == UTM_TRANSFORM


def test_empty_file_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "a.tif").touch()
    assert "zero bytes" in rejection(tmp_path / "a.tif")


def test_other_format_named_tif_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_bytes(b"\xff\xd8\xff\xe0 a jpeg")
    assert "not a tif" in rejection(tmp_path / "a.tif")


def test_truncated_header_is_rejected(tmp_path: Path) -> None:
    path = write_tif(tmp_path / "a.tif", photograph(60, 50))
    path.write_bytes(path.read_bytes()[:40])
    assert "copy it again" in rejection(path)


def test_missing_georeference_asks_for_a_world_file(tmp_path: Path) -> None:
    assert ".tfw" in rejection(write_tif(tmp_path / "a.tif", photograph(60, 50), **NO_GEOREFERENCE))


def test_missing_crs_asks_for_a_prj(tmp_path: Path) -> None:
    assert ".prj" in rejection(write_tif(tmp_path / "a.tif", photograph(60, 50), crs=None))


def test_prj_that_is_not_wkt_is_rejected(tmp_path: Path) -> None:
    path = write_tif(tmp_path / "a.tif", photograph(60, 50), crs=None)
    path.with_suffix(".prj").write_text("UTM zone 14, I think")
    assert "a.prj" in rejection(path)


def test_local_coordinate_system_is_rejected(tmp_path: Path) -> None:
    path = write_tif(tmp_path / "a.tif", photograph(60, 50), crs=None)
    path.with_suffix(".prj").write_text('LOCAL_CS["paper",UNIT["metre",1]]')
    assert "local coordinate system" in rejection(path)


@pytest.mark.parametrize(
    ("bands", "film_type", "advice"),
    [
        (3, "bw", "drop it under nc/ if it is in natural color"),
        (3, "bw", ", or keep its first band"),
        (4, "bw", "under cir/"),
        (2, "bw", "needs one band (black and white); keep its first band with gdal_translate -b 1."),
        (1, "nc", "needs three bands (natural color); drop it under bw/ if it is in black and white"),
        (2, "cir", "under bw/"),
        (5, "nc", "-b 3"),
        (4, "cir", "-b 4 -b 1 -b 2"),  # its first three bands are red, green and blue
    ],
)
def test_wrong_band_count_is_rejected_with_advice(tmp_path: Path, bands: int, film_type: FilmType, advice: str) -> None:
    path = write_tif(tmp_path / "a.tif", photograph(60, 50, bands), photometric="MINISBLACK")
    assert advice in rejection(path, film_type)


def test_gray_with_alpha_is_a_bw_frame(tmp_path: Path) -> None:
    path = write_tif(tmp_path / "a.tif", photograph(60, 50, 2), alpha="YES")
    source = open_source(path, "bw", Limits())
    assert (source.bands, source.declared_mask, source.alpha_band) == ((1,), "alpha", 2)


@pytest.mark.parametrize("tagged", [True, False])
def test_four_bands_are_an_nc_frame_with_or_without_an_alpha_tag(tmp_path: Path, tagged: bool) -> None:
    path = write_tif(tmp_path / "a.tif", photograph(60, 50, 4))
    with rasterio.open(path, "r+") as target:
        last = ColorInterp.alpha if tagged else ColorInterp.undefined
        target.colorinterp = [ColorInterp.red, ColorInterp.green, ColorInterp.blue, last]
    source = open_source(path, "nc", Limits())
    assert source.bands == (1, 2, 3)
    assert source.alpha_band == (4 if tagged else None)


@pytest.mark.parametrize(("dtype", "kind"), [("uint8", "plain"), ("uint16", "wide"), ("int16", "wide"), ("float32", "wide")])
def test_other_pixel_types_are_recognized_by_the_header(tmp_path: Path, dtype: str, kind: str) -> None:
    """What happens to them is in test_traits.py."""
    source = open_source(write_tif(tmp_path / "a.tif", photograph(60, 50).astype(dtype)), "bw", Limits())
    assert (source.format.kind, source.needs_conversion) == (kind, kind != "plain")


def test_pixel_limit_is_checked_before_reading_pixels(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    options = {"tiled": True, "blockxsize": 512, "blockysize": 512, "sparse_ok": True, "bigtiff": "YES"}
    with rasterio.open(
        path, "w", driver="GTiff", width=1_000_000, height=1_000_000, count=1, dtype="uint8", crs="EPSG:3857",
        transform=Affine(0.1, 0, WEST, 0, -0.1, NORTH), **options,
    ):  # fmt: skip
        pass
    message = rejection(path, limits=Limits(max_pixels=400_000_000))
    assert "1,000,000,000,000" in message
    assert "400,000,000" in message


def test_byte_limit_is_checked(tmp_path: Path) -> None:
    path = write_tif(tmp_path / "a.tif", photograph(60, 50))
    assert f"{path.stat().st_size:,}" in rejection(path, limits=Limits(max_bytes=1000))


@pytest.mark.parametrize(
    ("crs", "transform"),
    [
        ("EPSG:3857", Affine(float("nan"), 0, WEST, 0, -1, NORTH)),
        ("EPSG:3857", Affine(0, 0, WEST, 0, 0, NORTH)),
        ("EPSG:3857", Affine(1, 0, 9e7, 0, -1, NORTH)),
        ("EPSG:4326", UTM_TRANSFORM),
        ("EPSG:26914", Affine(1, 0, 6e8, 0, -1, 3e9)),
    ],
    ids=["nan", "zero", "off the map", "meters as degrees", "outside UTM"],
)
def test_implausible_geotransforms_are_rejected(tmp_path: Path, crs: str, transform: Affine) -> None:
    assert "correct its georeference" in rejection(
        write_tif(tmp_path / "a.tif", photograph(60, 50), crs=crs, transform=transform)
    )


def test_inspection_writes_no_files(tmp_path: Path) -> None:
    path = write_tif(tmp_path / "a.tif", photograph(60, 50))
    open_source(path, "bw", Limits())
    assert list(tmp_path.iterdir()) == [path]


def test_path_with_blanks_and_umlauts(tmp_path: Path) -> None:
    folder = tmp_path / "Löwen & <Söhne>"
    folder.mkdir()
    path = folder / "a b'\"é.tif"
    shutil.copy(write_tif(tmp_path / "a.tif", photograph(60, 50)), path)
    assert open_source(path, "bw", Limits()).width == 50
