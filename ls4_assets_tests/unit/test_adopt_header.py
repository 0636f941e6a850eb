"""Which finished COGs may be adopted as they are, told from their headers."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import rasterio
import rasterio.shutil
import shapely
from affine import Affine
from rio_cogeo.cogeo import cog_validate

from ls4_assets.domain.names import FilmType
from ls4_assets.domain.profiles import PROFILES
from ls4_assets.errors import FrameError
from ls4_assets.operations.adopt.cog_header import Header, read_header
from ls4_assets.raster.footprint import footprint
from ls4_assets.raster.frame import process, product_path
from ls4_assets.raster.gdal_env import gdal_env
from ls4_assets.raster.overviews import write_overviews
from ls4_assets.raster.source import Limits
from ls4_assets_tests.rasters import NORTH, WEST, photograph, rotated_rectangle, write_tif

SIZE = 1300
TILED = {"tiled": True, "blockxsize": 256, "blockysize": 256, "compress": "DEFLATE"}


def inspected(path: Path, band: FilmType = "bw") -> Header:
    with gdal_env(GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR"):
        return read_header(str(path), path.stat().st_size, band)


def defect(path: Path, band: FilmType = "bw") -> str:
    with pytest.raises(FrameError) as fault:
        inspected(path, band)
    return str(fault.value)


def strictly_valid(path: Path) -> bool:
    return bool(cog_validate(path, strict=True, quiet=True)[0])


def through_driver(path: Path, source: Path, **options: object) -> Path:
    with gdal_env():
        rasterio.shutil.copy(source, path, driver="COG", **options)
    return path


def legacy_cog(path: Path, source: Path) -> Path:
    """As lambda-s4 made them: overviews first, then a tiled copy that takes them over."""
    tiled = path.with_name("tiled.tif")
    with gdal_env():
        rasterio.shutil.copy(source, tiled, driver="GTiff", **TILED)
        with rasterio.open(tiled, "r+") as dataset:
            dataset.build_overviews([2, 4, 8])
        rasterio.shutil.copy(tiled, path, driver="GTiff", copy_src_overviews=True, **TILED)
    return path


@pytest.mark.parametrize(("band", "bands"), [("bw", 1), ("nc", 3)])
def test_a_cog_of_ls4_is_accepted_with_its_outline(tmp_path: Path, band: FilmType, bands: int) -> None:
    valid = rotated_rectangle(SIZE, SIZE)
    source = write_tif(tmp_path / "s.tif", photograph(SIZE, SIZE, bands), mask=valid)
    process(source, tmp_path, "x", band, PROFILES[band], Limits(10**9, 10**9), source_sha256="ab" * 32)
    cog = product_path(tmp_path, "x", "cog")
    header = inspected(cog, band)
    assert (header.width, header.height, header.source_sha256) == (SIZE, SIZE, "ab" * 32)
    drawn, fine = shapely.from_wkb(header.footprint), footprint(cog)
    assert drawn.contains(fine.buffer(-4))
    assert drawn.area < 1.02 * fine.area
    assert drawn.area < 0.7 * SIZE * SIZE


def test_a_legacy_cog_without_a_mask_is_accepted_with_its_rectangle(tmp_path: Path) -> None:
    cog = legacy_cog(tmp_path / "cog.tif", write_tif(tmp_path / "s.tif", photograph(SIZE, SIZE)))
    assert strictly_valid(cog)
    header = inspected(cog)
    assert shapely.from_wkb(header.footprint).equals(shapely.box(WEST, NORTH - SIZE, WEST + SIZE, NORTH))
    assert header.source_sha256 == ""


def test_an_honest_no_data_value_draws_the_outline(tmp_path: Path) -> None:
    pixels = photograph(SIZE, SIZE)
    pixels[0][~rotated_rectangle(SIZE, SIZE)] = 0
    cog = through_driver(tmp_path / "cog.tif", write_tif(tmp_path / "s.tif", pixels, nodata=0))
    assert 0.5 < shapely.from_wkb(inspected(cog).footprint).area / SIZE**2 < 0.65


def test_a_small_image_needs_no_overviews(tmp_path: Path) -> None:
    cog = through_driver(tmp_path / "cog.tif", write_tif(tmp_path / "s.tif", photograph(300, 400)))
    assert strictly_valid(cog)
    assert inspected(cog).width == 400


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"crs": "EPSG:26914"}, "is not in EPSG:3857"),
        ({"crs": None}, "is not in EPSG:3857 (its coordinate system: none)"),
        ({"nodata": 255}, "shows true white as transparent"),
        ({"transform": Affine(1, 0.1, WEST, 0.1, -1, NORTH)}, "is rotated"),
        ({"dtype": "uint16"}, "has 1 band(s) of uint16"),
    ],
)
def test_what_the_map_cannot_show_rightly_is_not_accepted(tmp_path: Path, options: dict[str, object], said: str) -> None:
    source = write_tif(tmp_path / "s.tif", photograph(600, 600).astype(options.get("dtype", "uint8")), **options)
    assert said in defect(through_driver(tmp_path / "cog.tif", source))


def test_the_bands_are_those_of_the_prefix(tmp_path: Path) -> None:
    colour = through_driver(tmp_path / "c.tif", write_tif(tmp_path / "s.tif", photograph(600, 600, 3)))
    assert inspected(colour, "nc").width == 600
    assert "under bw/ a COG has 1" in defect(colour)
    grey = through_driver(tmp_path / "g.tif", write_tif(tmp_path / "t.tif", photograph(600, 600)))
    assert "under nc/ a COG has 3" in defect(grey, "nc")


def test_one_without_overviews_is_not_accepted(tmp_path: Path) -> None:
    source = write_tif(tmp_path / "s.tif", photograph(SIZE, SIZE))
    assert defect(through_driver(tmp_path / "cog.tif", source, overviews="NONE")) == "has no overviews"


def test_one_whose_overviews_end_too_early_is_not_accepted(tmp_path: Path) -> None:
    source = write_tif(tmp_path / "s.tif", photograph(2600, 2600))
    cog = through_driver(tmp_path / "cog.tif", source, overview_count=1)
    assert defect(cog) == "has too few overviews (down to 1:2 only)"


def test_one_with_external_overviews_only_is_not_accepted(tmp_path: Path) -> None:
    cog = through_driver(tmp_path / "cog.tif", write_tif(tmp_path / "s.tif", photograph(SIZE, SIZE)), overviews="NONE")
    write_overviews(cog, PROFILES["bw"])
    assert (tmp_path / "cog.tif.ovr").exists()
    assert defect(cog) == "has no overviews"


def test_tifs_that_are_no_cogs_are_not_accepted(tmp_path: Path) -> None:
    """The verdicts are those of rio-cogeo's strict validation, which would take several times as long."""
    source = write_tif(tmp_path / "s.tif", photograph(SIZE, SIZE))
    striped, appended, edited = (tmp_path / f"{name}.tif" for name in ("striped", "appended", "edited"))
    with gdal_env():
        rasterio.shutil.copy(source, striped, driver="GTiff")
        rasterio.shutil.copy(source, appended, driver="GTiff", **TILED)
        for path in (striped, appended):
            with rasterio.open(path, "r+") as dataset:
                dataset.build_overviews([2, 4])
        with rasterio.open(through_driver(edited, source), "r+", IGNORE_COG_LAYOUT_BREAK="YES") as dataset:
            # Noise needs more room than what was there: the tiles move to the end.
            dataset.write(np.random.default_rng(1).integers(1, 255, dataset.shape, dtype=np.uint8), 1)
    for path in (striped, appended, edited):
        assert not strictly_valid(path)
    assert defect(striped) == "is no COG: it is not tiled"
    assert defect(appended).startswith("is no COG: the tiles of its overviews")
    assert defect(edited) == "is no COG any more: it was edited after it had been made"


def test_one_that_was_cut_off_is_not_accepted(tmp_path: Path) -> None:
    """Its header and overviews are whole: only the map, zoomed in, would have shown a hole."""
    data = through_driver(tmp_path / "cog.tif", write_tif(tmp_path / "s.tif", photograph(SIZE, SIZE))).read_bytes()
    cut, empty, text = (tmp_path / f"{name}.tif" for name in ("cut", "empty", "text"))
    cut.write_bytes(data[:-1000])
    empty.touch()
    text.write_text("no tif")
    assert defect(cut) == "is truncated: its last tile is missing"
    assert defect(empty).startswith("cannot be read")
    assert defect(text).startswith("cannot be read")


def test_one_without_a_valid_pixel_is_not_accepted(tmp_path: Path) -> None:
    nothing = np.zeros((600, 600), dtype=bool)
    source = write_tif(tmp_path / "s.tif", photograph(600, 600), mask=nothing)
    assert defect(through_driver(tmp_path / "cog.tif", source)) == "has no valid pixel"


def gdal(*arguments: str | Path) -> None:
    if shutil.which(str(arguments[0])) is None:
        pytest.skip("GDAL's own commands are not installed here: `apt-get install gdal-bin` brings them")
    subprocess.run([str(argument) for argument in arguments], check=True, capture_output=True, timeout=60)


def by_the_legacy_commands(
    folder: Path, source: Path, nodata: str | None, band: FilmType = "bw", *, overviews: bool = True
) -> Path:
    """The three commands of lambda-s4. Without `overviews`: the last could not read them, as by
    CPL_VSIL_CURL_ALLOWED_EXTENSIONS=.tif in the bucket."""
    deflate, cog = folder / "deflate.tif", folder / "legacy.tif"
    bands = ["-b", "1"] if band == "bw" else ["-b", "1", "-b", "2", "-b", "3"]
    tiled = ["-co", "TILED=YES", "-co", "BLOCKXSIZE=512", "-co", "BLOCKYSIZE=512"]
    named = ["-a_nodata", nodata] if nodata else []
    gdal(
        "gdal_translate", "-ot", "Byte", *named, *bands, *tiled, "-co", "COMPRESS=DEFLATE", "-co", "PREDICTOR=2", source, deflate
    )
    gdal("gdaladdo", "-r", "average", "-ro", deflate, "2", "4", "8", "16", "32", "64")
    codec = ["-co", "COMPRESS=DEFLATE"] if band == "bw" else ["-co", "COMPRESS=JPEG", "-co", "PHOTOMETRIC=YCBCR"]
    if not overviews:
        deflate.with_name("deflate.tif.ovr").unlink()
    gdal("gdal_translate", "-ot", "Byte", *named, *tiled, *codec, "-co", "COPY_SRC_OVERVIEWS=YES", deflate, cog)
    return cog


def test_what_the_legacy_commands_make_today_is_not_accepted(tmp_path: Path) -> None:
    """`-a_nodata 256` became 255 on the way, and the overviews were lost; each of both is told."""
    pixels = photograph(SIZE, SIZE)
    pixels[0, 400:500, 400:500] = 255
    source = write_tif(tmp_path / "s.tif", pixels)
    assert defect(by_the_legacy_commands(tmp_path, source, "256")) == "shows true white as transparent (its no-data value is 255)"
    assert defect(by_the_legacy_commands(tmp_path, source, None, overviews=False)) == "has no overviews"
    assert defect(by_the_legacy_commands(tmp_path, source, "255")) == "shows true white as transparent (its no-data value is 255)"


def test_what_the_legacy_commands_made_once_is_accepted_and_known_to_have_no_mask(tmp_path: Path) -> None:
    header = inspected(by_the_legacy_commands(tmp_path, write_tif(tmp_path / "s.tif", photograph(SIZE, SIZE)), None))
    assert not header.masked
    colour = write_tif(tmp_path / "c.tif", photograph(SIZE, SIZE, 3))
    assert not inspected(by_the_legacy_commands(tmp_path, colour, None, "nc"), "nc").masked


@pytest.mark.parametrize(("band", "codec"), [("bw", "DEFLATE"), ("nc", "JPEG")])
def test_a_mask_drawn_by_the_value_of_white_is_not_accepted(tmp_path: Path, band: FilmType, codec: str) -> None:
    """The no-data value is gone from the tags, and white roofs are holes in the map all the same."""
    pixels = photograph(SIZE, SIZE, 1 if band == "bw" else 3)
    pixels[:, 400:480, 400:480] = 255
    by_value = (pixels != 255).any(axis=0) & rotated_rectangle(SIZE, SIZE)
    white = through_driver(tmp_path / "w.tif", write_tif(tmp_path / "s.tif", pixels, mask=by_value), compress=codec)
    assert defect(white, band) == "shows true white as transparent (its mask has holes where the photograph is white)"
    # A hole that is not white, as where a label was cut out, is nobody's fault; nor is a white collar.
    pixels[:, 400:480, 400:480] = 90
    pixels[:, ~rotated_rectangle(SIZE, SIZE)] = 255
    cut = through_driver(tmp_path / "c.tif", write_tif(tmp_path / "t.tif", pixels, mask=by_value), compress=codec)
    assert inspected(cut, band).masked


def test_one_with_an_alpha_band_is_not_accepted(tmp_path: Path) -> None:
    pixels = np.concatenate([photograph(600, 600), np.full((1, 600, 600), 255, np.uint8)])
    source = write_tif(tmp_path / "s.tif", pixels, alpha="yes")
    assert defect(through_driver(tmp_path / "cog.tif", source)) == "has an alpha band where the COGs of the archive have a mask"
