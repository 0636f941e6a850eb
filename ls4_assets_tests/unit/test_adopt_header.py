"""Checks of the headers of finished COGs: which can be adopted."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import rasterio.shutil
import shapely
from affine import Affine
from rio_cogeo.cogeo import cog_validate

from ls4_assets.domain.film_types import FilmType
from ls4_assets.domain.profiles import PROFILES
from ls4_assets.errors import FrameError
from ls4_assets.operations.adopt.cog_header import CogHeader, read_header
from ls4_assets.raster.footprint import trace_footprint
from ls4_assets.raster.frame import process, product_path
from ls4_assets.raster.gdal_env import gdal_env
from ls4_assets.raster.overviews import write_overviews
from ls4_assets.raster.source import Limits
from ls4_assets_tests.rasters import NORTH, WEST, photograph, rotated_rectangle, write_tif

SIZE = 1300
TILED = {"tiled": True, "blockxsize": 256, "blockysize": 256, "compress": "DEFLATE"}


def inspect(path: Path, film_type: FilmType = "bw") -> CogHeader:
    with gdal_env(GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR"):
        return read_header(str(path), path.stat().st_size, film_type)


def find_defect(path: Path, film_type: FilmType = "bw") -> str:
    with pytest.raises(FrameError) as error:
        inspect(path, film_type)
    return str(error.value)


def is_strictly_valid(path: Path) -> bool:
    return bool(cog_validate(path, strict=True, quiet=True)[0])


def write_cog(path: Path, source: Path, **options: object) -> Path:
    with gdal_env():
        rasterio.shutil.copy(source, path, driver="COG", **options)
    return path


def write_legacy_cog(path: Path, source: Path) -> Path:
    """Write a COG as lambda-s4 did: overviews first, then a tiled copy that includes them."""
    tiled = path.with_name("tiled.tif")
    with gdal_env():
        rasterio.shutil.copy(source, tiled, driver="GTiff", **TILED)
        with rasterio.open(tiled, "r+") as dataset:
            dataset.build_overviews([2, 4, 8])
        rasterio.shutil.copy(tiled, path, driver="GTiff", copy_src_overviews=True, **TILED)
    return path


@pytest.mark.parametrize(("film_type", "bands"), [("bw", 1), ("nc", 3)])
def test_a_cog_of_ls4_is_accepted_with_its_outline(tmp_path: Path, film_type: FilmType, bands: int) -> None:
    valid = rotated_rectangle(SIZE, SIZE)
    source = write_tif(tmp_path / "s.tif", photograph(SIZE, SIZE, bands), mask=valid)
    process(source, tmp_path, "x", film_type, PROFILES[film_type], Limits(10**9, 10**9), source_sha256="ab" * 32)
    cog = product_path(tmp_path, "x", "cog")
    header = inspect(cog, film_type)
    assert (header.width, header.height, header.source_sha256) == (SIZE, SIZE, "ab" * 32)
    outline, fine = shapely.from_wkb(header.footprint), trace_footprint(cog)
    assert outline.contains(fine.buffer(-4))
    assert outline.area < 1.02 * fine.area
    assert outline.area < 0.7 * SIZE * SIZE


def test_a_legacy_cog_without_a_mask_is_accepted_with_its_rectangle(tmp_path: Path) -> None:
    cog = write_legacy_cog(tmp_path / "cog.tif", write_tif(tmp_path / "s.tif", photograph(SIZE, SIZE)))
    assert is_strictly_valid(cog)
    header = inspect(cog)
    assert shapely.from_wkb(header.footprint).equals(shapely.box(WEST, NORTH - SIZE, WEST + SIZE, NORTH))
    assert header.source_sha256 == ""


def test_a_no_data_value_defines_the_outline(tmp_path: Path) -> None:
    pixels = photograph(SIZE, SIZE)
    pixels[0][~rotated_rectangle(SIZE, SIZE)] = 0
    cog = write_cog(tmp_path / "cog.tif", write_tif(tmp_path / "s.tif", pixels, nodata=0))
    assert 0.5 < shapely.from_wkb(inspect(cog).footprint).area / SIZE**2 < 0.65


def test_a_small_image_needs_no_overviews(tmp_path: Path) -> None:
    cog = write_cog(tmp_path / "cog.tif", write_tif(tmp_path / "s.tif", photograph(300, 400)))
    assert is_strictly_valid(cog)
    assert inspect(cog).width == 400


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"crs": "EPSG:26914"}, "is not in EPSG:3857"),
        ({"crs": None}, "is not in EPSG:3857 (its coordinate system: none)"),
        ({"nodata": 255}, "shows true white as transparent"),
        ({"transform": Affine(1, 0.1, WEST, 0.1, -1, NORTH)}, "is rotated"),
        ({"dtype": "uint16"}, "has 1 band(s) of uint16"),
    ],
)
def test_a_cog_that_the_map_cannot_show_correctly_is_rejected(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    source = write_tif(tmp_path / "s.tif", photograph(600, 600).astype(options.get("dtype", "uint8")), **options)
    assert message in find_defect(write_cog(tmp_path / "cog.tif", source))


def test_the_number_of_bands_must_match_the_film_type(tmp_path: Path) -> None:
    color = write_cog(tmp_path / "c.tif", write_tif(tmp_path / "s.tif", photograph(600, 600, 3)))
    assert inspect(color, "nc").width == 600
    assert "a COG under bw/ has 1" in find_defect(color)
    gray = write_cog(tmp_path / "g.tif", write_tif(tmp_path / "t.tif", photograph(600, 600)))
    assert "a COG under nc/ has 3" in find_defect(gray, "nc")


def test_a_cog_without_overviews_is_rejected(tmp_path: Path) -> None:
    source = write_tif(tmp_path / "s.tif", photograph(SIZE, SIZE))
    assert find_defect(write_cog(tmp_path / "cog.tif", source, overviews="NONE")) == "has no overviews"


def test_a_cog_with_too_few_overviews_is_rejected(tmp_path: Path) -> None:
    source = write_tif(tmp_path / "s.tif", photograph(2600, 2600))
    cog = write_cog(tmp_path / "cog.tif", source, overview_count=1)
    assert find_defect(cog) == "has too few overviews (down to 1:2 only)"


def test_a_cog_with_only_external_overviews_is_rejected(tmp_path: Path) -> None:
    cog = write_cog(tmp_path / "cog.tif", write_tif(tmp_path / "s.tif", photograph(SIZE, SIZE)), overviews="NONE")
    write_overviews(cog, PROFILES["bw"])
    assert (tmp_path / "cog.tif.ovr").exists()
    assert find_defect(cog) == "has no overviews"


def test_tifs_that_are_not_cogs_are_rejected(tmp_path: Path) -> None:
    """The results equal those of rio-cogeo's strict validation, which takes several times as long."""
    source = write_tif(tmp_path / "s.tif", photograph(SIZE, SIZE))
    striped, appended, edited = (tmp_path / f"{name}.tif" for name in ("striped", "appended", "edited"))
    with gdal_env():
        rasterio.shutil.copy(source, striped, driver="GTiff")
        rasterio.shutil.copy(source, appended, driver="GTiff", **TILED)
        for path in (striped, appended):
            with rasterio.open(path, "r+") as dataset:
                dataset.build_overviews([2, 4])
        with rasterio.open(write_cog(edited, source), "r+", IGNORE_COG_LAYOUT_BREAK="YES") as dataset:
            # Noise compresses worse than the photograph, so the tiles move to the end of the file.
            dataset.write(np.random.default_rng(1).integers(1, 255, dataset.shape, dtype=np.uint8), 1)
    for path in (striped, appended, edited):
        assert not is_strictly_valid(path)
    assert find_defect(striped) == "is not a COG: it is not tiled"
    assert find_defect(appended).startswith("is not a COG: the tiles of its overviews")
    assert find_defect(edited) == "is no longer a COG: it was edited after it was written"


def test_a_truncated_cog_is_rejected(tmp_path: Path) -> None:
    """Header and overviews were complete, so only a zoomed-in map would have shown the hole."""
    data = write_cog(tmp_path / "cog.tif", write_tif(tmp_path / "s.tif", photograph(SIZE, SIZE))).read_bytes()
    cut, empty, text = (tmp_path / f"{name}.tif" for name in ("cut", "empty", "text"))
    cut.write_bytes(data[:-1000])
    empty.touch()
    text.write_text("not a tif")
    assert find_defect(cut) == "is truncated: its last tile is missing"
    assert find_defect(empty).startswith("cannot be read")
    assert find_defect(text).startswith("cannot be read")


def test_a_cog_without_valid_pixels_is_rejected(tmp_path: Path) -> None:
    mask = np.zeros((600, 600), dtype=bool)
    source = write_tif(tmp_path / "s.tif", photograph(600, 600), mask=mask)
    assert find_defect(write_cog(tmp_path / "cog.tif", source)) == "has no valid pixel"


def run_gdal(*arguments: str | Path) -> None:
    if shutil.which(str(arguments[0])) is None:
        pytest.skip("GDAL's commands are not installed; install them with `apt-get install gdal-bin`")
    subprocess.run([str(argument) for argument in arguments], check=True, capture_output=True, timeout=60)


def run_legacy_commands(
    folder: Path, source: Path, nodata: str | None, film_type: FilmType = "bw", *, overviews: bool = True
) -> Path:
    """Run the three commands of lambda-s4.

    Without `overviews` the last command cannot read them, as with CPL_VSIL_CURL_ALLOWED_EXTENSIONS=.tif in the bucket.
    """
    deflate, cog = folder / "deflate.tif", folder / "legacy.tif"
    bands = ["-b", "1"] if film_type == "bw" else ["-b", "1", "-b", "2", "-b", "3"]
    tiled = ["-co", "TILED=YES", "-co", "BLOCKXSIZE=512", "-co", "BLOCKYSIZE=512"]
    nodata_options = ["-a_nodata", nodata] if nodata else []
    compression = ["-co", "COMPRESS=DEFLATE", "-co", "PREDICTOR=2"]
    run_gdal("gdal_translate", "-ot", "Byte", *nodata_options, *bands, *tiled, *compression, source, deflate)
    run_gdal("gdaladdo", "-r", "average", "-ro", deflate, "2", "4", "8", "16", "32", "64")
    codec = ["-co", "COMPRESS=DEFLATE"] if film_type == "bw" else ["-co", "COMPRESS=JPEG", "-co", "PHOTOMETRIC=YCBCR"]
    if not overviews:
        deflate.with_name("deflate.tif.ovr").unlink()
    run_gdal("gdal_translate", "-ot", "Byte", *nodata_options, *tiled, *codec, "-co", "COPY_SRC_OVERVIEWS=YES", deflate, cog)
    return cog


def test_current_output_of_the_legacy_commands_is_rejected(tmp_path: Path) -> None:
    """`-a_nodata 256` became 255, and the overviews were lost. Each defect is reported."""
    pixels = photograph(SIZE, SIZE)
    pixels[0, 400:500, 400:500] = 255
    source = write_tif(tmp_path / "s.tif", pixels)
    transparent_white = "shows true white as transparent (its no-data value is 255)"
    assert find_defect(run_legacy_commands(tmp_path, source, "256")) == transparent_white
    assert find_defect(run_legacy_commands(tmp_path, source, None, overviews=False)) == "has no overviews"
    assert find_defect(run_legacy_commands(tmp_path, source, "255")) == transparent_white


def test_former_output_of_the_legacy_commands_is_accepted_without_a_mask(tmp_path: Path) -> None:
    header = inspect(run_legacy_commands(tmp_path, write_tif(tmp_path / "s.tif", photograph(SIZE, SIZE)), None))
    assert not header.has_mask
    color = write_tif(tmp_path / "c.tif", photograph(SIZE, SIZE, 3))
    assert not inspect(run_legacy_commands(tmp_path, color, None, "nc"), "nc").has_mask


@pytest.mark.parametrize(("film_type", "codec"), [("bw", "DEFLATE"), ("nc", "JPEG")])
def test_a_mask_derived_from_white_pixels_is_rejected(tmp_path: Path, film_type: FilmType, codec: str) -> None:
    """Without a no-data value in the tags, white roofs were still holes in the map."""
    pixels = photograph(SIZE, SIZE, 1 if film_type == "bw" else 3)
    pixels[:, 400:480, 400:480] = 255
    mask_by_value = (pixels != 255).any(axis=0) & rotated_rectangle(SIZE, SIZE)
    white = write_cog(tmp_path / "w.tif", write_tif(tmp_path / "s.tif", pixels, mask=mask_by_value), compress=codec)
    assert find_defect(white, film_type) == "shows true white as transparent (its mask has holes where the photograph is white)"
    # A hole that is not white, such as a label that was cut out, is valid; so is a white collar.
    pixels[:, 400:480, 400:480] = 90
    pixels[:, ~rotated_rectangle(SIZE, SIZE)] = 255
    cut = write_cog(tmp_path / "c.tif", write_tif(tmp_path / "t.tif", pixels, mask=mask_by_value), compress=codec)
    assert inspect(cut, film_type).has_mask


def test_a_cog_with_an_alpha_band_is_rejected(tmp_path: Path) -> None:
    pixels = np.concatenate([photograph(600, 600), np.full((1, 600, 600), 255, np.uint8)])
    source = write_tif(tmp_path / "s.tif", pixels, alpha="yes")
    assert find_defect(write_cog(tmp_path / "cog.tif", source)) == "has an alpha band where the COGs of the archive have a mask"
