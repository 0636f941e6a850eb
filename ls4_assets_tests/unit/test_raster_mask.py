"""Tests of the mask rules, compared pixel by pixel."""

from pathlib import Path

import numpy as np
import pytest
import rasterio
import shapely
from numpy.typing import NDArray
from rasterio.enums import ColorInterp
from rasterio.windows import Window

from ls4_assets.domain.film_types import FilmType
from ls4_assets.errors import FrameError
from ls4_assets.raster.gdal_env import gdal_env
from ls4_assets.raster.mask import find_mask
from ls4_assets.raster.source import Limits, open_source
from ls4_assets_tests.rasters import photograph, rotated_rectangle, write_nodata_tag, write_tif

HEIGHT, WIDTH = 300, 400


def read_rule_and_mask(
    path: Path, film_type: FilmType = "bw", detect_collar: bool = True
) -> tuple[str, NDArray[np.bool_]] | None:
    source = open_source(path, film_type, Limits())
    with gdal_env(pam=True), source.open() as dataset:
        mask = find_mask(source, dataset, detect_collar=detect_collar)
        if mask is None:
            return None
        return mask.rule, mask.read(dataset, Window(0, 0, source.width, source.height))


def collared(value: int, bands: int = 1) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    inside = rotated_rectangle(HEIGHT, WIDTH)
    return np.where(inside, photograph(HEIGHT, WIDTH, bands), np.uint8(value)), inside


def tag_last_band_alpha(path: Path) -> None:
    with rasterio.open(path, "r+") as target:
        target.colorinterp = [*target.colorinterp[:-1], ColorInterp.alpha]


def test_frame_without_collar_has_no_mask(tmp_path: Path) -> None:
    assert read_rule_and_mask(write_tif(tmp_path / "a.tif", photograph(HEIGHT, WIDTH))) is None


def test_internal_mask_wins_over_a_collar(tmp_path: Path) -> None:
    pixels, inside = collared(0)
    result = read_rule_and_mask(write_tif(tmp_path / "a.tif", pixels, mask=~inside))
    assert result is not None and result[0] == "mask"
    assert (result[1] == ~inside).all()


def test_external_mask_file_is_read(tmp_path: Path) -> None:
    inside = rotated_rectangle(HEIGHT, WIDTH)
    path = write_tif(tmp_path / "a.tif", photograph(HEIGHT, WIDTH))
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False), rasterio.open(path, "r+") as target:
        target.write_mask(inside)
    assert (tmp_path / "a.tif.msk").exists()
    result = read_rule_and_mask(path)
    assert result is not None and result[0] == "mask"
    assert (result[1] == inside).all()


@pytest.mark.parametrize(("bands", "film_type"), [(1, "bw"), (3, "nc")])
def test_alpha_band_is_read(tmp_path: Path, bands: int, film_type: FilmType) -> None:
    inside = rotated_rectangle(HEIGHT, WIDTH)
    pixels = np.concatenate([photograph(HEIGHT, WIDTH, bands), inside[None].astype(np.uint8) * 255])
    path = write_tif(tmp_path / "a.tif", pixels, photometric="RGB" if bands == 3 else "MINISBLACK", alpha="YES")
    result = read_rule_and_mask(path, film_type)
    assert result is not None and result[0] == "alpha"
    assert (result[1] == inside).all()


def test_near_infrared_tagged_alpha_is_not_a_mask(tmp_path: Path) -> None:
    path = write_tif(tmp_path / "a.tif", photograph(HEIGHT, WIDTH, 4))
    tag_last_band_alpha(path)
    assert read_rule_and_mask(path, "nc") is None


def test_near_infrared_tagged_alpha_does_not_hide_a_collar(tmp_path: Path) -> None:
    pixels, inside = collared(0, 4)
    path = write_tif(tmp_path / "a.tif", pixels)
    tag_last_band_alpha(path)
    result = read_rule_and_mask(path, "nc")
    assert result is not None and result[0] == "collar"
    assert (result[1] >= inside).all()


def test_nodata_of_a_bw_frame(tmp_path: Path) -> None:
    pixels, _ = collared(7)
    pixels[0, 150, 200] = 7
    result = read_rule_and_mask(write_tif(tmp_path / "a.tif", pixels, nodata=7))
    assert result is not None and result[0] == "nodata"
    assert (result[1] == (pixels[0] != 7)).all()


def test_nodata_of_an_nc_frame_needs_all_bands(tmp_path: Path) -> None:
    pixels = photograph(HEIGHT, WIDTH, 3)
    pixels[0, :50] = 0
    pixels[:, 100:120] = 0
    result = read_rule_and_mask(write_tif(tmp_path / "a.tif", pixels, nodata=0), "nc")
    assert result is not None and result[0] == "nodata"
    expected = np.ones((HEIGHT, WIDTH), bool)
    expected[100:120] = False
    assert (result[1] == expected).all()


@pytest.mark.parametrize("value", ["256", "-9999", "nan", "0.5"])
def test_nodata_outside_uint8_is_ignored(tmp_path: Path, value: str) -> None:
    pixels = photograph(HEIGHT, WIDTH)
    pixels[0, 100:150, 100:150] = 255
    assert read_rule_and_mask(write_nodata_tag(tmp_path / "a.tif", pixels, value)) is None


@pytest.mark.parametrize("value", ["255", "7"])
def test_nodata_inside_uint8_is_read(tmp_path: Path, value: str) -> None:
    pixels = photograph(HEIGHT, WIDTH)
    pixels[0, 100:150, 100:150] = int(value)
    result = read_rule_and_mask(write_nodata_tag(tmp_path / "a.tif", pixels, value))
    assert result is not None and result[0] == "nodata"


@pytest.mark.parametrize(("bands", "film_type"), [(1, "bw"), (3, "nc")])
@pytest.mark.parametrize("value", [0, 255])
def test_undeclared_collar_is_masked_exactly(tmp_path: Path, bands: int, film_type: FilmType, value: int) -> None:
    pixels, inside = collared(value, bands)
    pixels[:, 140:160, 190:210] = value
    result = read_rule_and_mask(write_tif(tmp_path / "a.tif", pixels), film_type)
    assert result is not None and result[0] == "collar"
    valid = result[1]
    assert valid[(pixels != value).any(axis=0)].all(), "no pixel of another value is masked"
    assert valid[140:160, 190:210].all(), "pixels of the collar's value inside the photograph stay valid"
    assert (valid == inside).all(), "the hull is not wider than the photograph"


def test_collar_detection_can_be_disabled(tmp_path: Path) -> None:
    pixels, _ = collared(0)
    assert read_rule_and_mask(write_tif(tmp_path / "a.tif", pixels), detect_collar=False) is None


def test_single_pixel_in_the_collar_is_masked(tmp_path: Path) -> None:
    pixels, inside = collared(0)
    pixels[0, 3, 5] = 1
    result = read_rule_and_mask(write_tif(tmp_path / "a.tif", pixels))
    assert result is not None
    assert not result[1][3, 5]
    assert (result[1] != inside).mean() < 0.001


def test_one_black_corner_is_not_a_collar(tmp_path: Path) -> None:
    pixels = photograph(HEIGHT, WIDTH)
    pixels[0, :90, :90] = 0
    assert read_rule_and_mask(write_tif(tmp_path / "a.tif", pixels)) is None


def test_collar_below_a_thousandth_gets_no_mask(tmp_path: Path) -> None:
    pixels = photograph(HEIGHT, WIDTH)
    pixels[0, 0, 0] = pixels[0, -1, -1] = 0
    assert read_rule_and_mask(write_tif(tmp_path / "a.tif", pixels)) is None


def test_collar_on_one_side_is_masked(tmp_path: Path) -> None:
    pixels = photograph(HEIGHT, WIDTH)
    pixels[0, :, :37] = 0
    result = read_rule_and_mask(write_tif(tmp_path / "a.tif", pixels))
    assert result is not None
    assert not result[1][:, :37].any()
    assert result[1][:, 37:].all()


@pytest.mark.parametrize("seed", range(5))
def test_hull_equals_shapelys_convex_hull(tmp_path: Path, seed: int) -> None:
    """A pixel is valid exactly when its center is in the hull of all pixels that are not black."""
    rng = np.random.default_rng(seed)
    pixels = np.zeros((1, 60, 80), np.uint8)
    rows, columns = rng.integers(8, 50, 12), rng.integers(9, 70, 12)
    pixels[0, rows, columns] = 99
    result = read_rule_and_mask(write_tif(tmp_path / "a.tif", pixels))
    assert result is not None
    hull = shapely.convex_hull(shapely.multipoints(np.column_stack((columns, rows))))
    y, x = np.mgrid[0:60, 0:80]
    center_in_hull = shapely.intersects_xy(hull.buffer(1e-6), x.ravel(), y.ravel()).reshape(60, 80)
    assert (result[1] == center_in_hull).all()


@pytest.mark.parametrize("value", [0, 255])
def test_frame_that_is_all_collar_is_rejected(tmp_path: Path, value: int) -> None:
    with pytest.raises(FrameError, match="no valid pixel"):
        read_rule_and_mask(write_tif(tmp_path / "a.tif", np.full((1, 60, 50), value, np.uint8)))
