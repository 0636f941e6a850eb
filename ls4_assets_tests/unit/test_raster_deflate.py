"""Tests of the deflate tif: exact values, mask, layout, reprojection."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import tifffile
from affine import Affine
from PIL import Image
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.warp import transform as transform_points
from tifffile import PHOTOMETRIC

from ls4_assets.domain.film_types import FilmType
from ls4_assets.domain.profiles import PROFILES, FrameProfile
from ls4_assets.errors import FrameError
from ls4_assets.raster.deflate import write_deflate
from ls4_assets.raster.source import Limits, open_source
from ls4_assets_tests.rasters import (
    BW,
    NORTH,
    UTM_PLACE,
    WEST,
    photograph,
    read,
    read_mask,
    rotated_rectangle,
    write_tif,
)

HEIGHT, WIDTH = 700, 900
UTM: dict[str, Any] = {"crs": "EPSG:26914", "transform": Affine(1, 0, UTM_PLACE[0], 0, -1, UTM_PLACE[1])}


def deflate(source: Path, film_type: FilmType = "bw", profile: FrameProfile | None = None) -> tuple[Path, float]:
    out = source.parent / "out" / "frame.tif"
    written = write_deflate(open_source(source, film_type, Limits()), out, profile or PROFILES[film_type], source_sha256="ab12")
    return out, written.valid_share


@pytest.mark.parametrize(("bands", "film_type"), [(1, "bw"), (3, "nc")])
def test_every_value_of_a_web_mercator_frame_is_kept(tmp_path: Path, bands: int, film_type: FilmType) -> None:
    pixels = photograph(HEIGHT, WIDTH, bands)
    pixels[:, 100:200, 100:200] = 0
    pixels[:, 300:400, 100:200] = 255
    out, share = deflate(write_tif(tmp_path / "a.tif", pixels), film_type)
    assert share == 1.0
    assert (read(out) == pixels).all()
    with rasterio.open(out) as dataset:
        assert dataset.mask_flag_enums[0] == [MaskFlags.all_valid]


@pytest.mark.parametrize(("bands", "film_type"), [(1, "bw"), (3, "nc")])
def test_layout_and_tags(tmp_path: Path, bands: int, film_type: FilmType) -> None:
    out, _ = deflate(write_tif(tmp_path / "a.tif", photograph(HEIGHT, WIDTH, bands)), film_type)
    with rasterio.open(out) as dataset:
        assert dataset.crs.to_epsg() == 3857
        assert dataset.transform == Affine(1, 0, WEST, 0, -1, NORTH)
        assert dataset.block_shapes == [(512, 512)] * bands
        assert dataset.tags()["LS4_PROFILE"] == PROFILES[film_type].hash("deflate")
        assert dataset.tags()["LS4_SOURCE"] == "ab12"
        assert ColorInterp.alpha not in dataset.colorinterp
    with tifffile.TiffFile(out) as tif:
        page = tif.pages.first
        assert (int(page.compression), page.predictor, len(page.extrasamples)) == (8, 2, 0)
        assert page.photometric == (PHOTOMETRIC.MINISBLACK if bands == 1 else PHOTOMETRIC.RGB)


@pytest.mark.parametrize(("bands", "film_type"), [(1, "bw"), (3, "nc")])
def test_collar_is_masked_and_true_black_and_white_are_kept(tmp_path: Path, bands: int, film_type: FilmType) -> None:
    inside = rotated_rectangle(HEIGHT, WIDTH)
    pixels = np.where(inside, photograph(HEIGHT, WIDTH, bands), np.uint8(255))
    pixels[:, 300:320, 400:420] = 0
    pixels[:, 340:360, 400:420] = 255
    out, share = deflate(write_tif(tmp_path / "a.tif", pixels), film_type)
    assert (read_mask(out) == inside).all()
    assert (read(out)[:, inside] == pixels[:, inside]).all()
    assert (read(out)[:, ~inside] == 0).all()
    assert share == pytest.approx(inside.mean())
    with rasterio.open(out) as dataset:
        assert dataset.mask_flag_enums[0] == [MaskFlags.per_dataset]
        assert dataset.nodata is None
    assert sorted(path.name for path in out.parent.iterdir()) == ["frame.tif"], "the mask is internal"


def test_near_infrared_is_dropped_and_masks_nothing(tmp_path: Path) -> None:
    pixels = photograph(HEIGHT, WIDTH, 4)
    path = write_tif(tmp_path / "a.tif", pixels)
    with rasterio.open(path, "r+") as target:
        target.colorinterp = [*target.colorinterp[:3], ColorInterp.alpha]
    out, share = deflate(path, "nc")
    assert share == 1.0
    assert (read(out) == pixels[:3]).all()


def test_min_is_white_matches_an_image_viewer(tmp_path: Path) -> None:
    pixels = photograph(HEIGHT, WIDTH)
    path = write_tif(tmp_path / "a.tif", pixels, photometric="MINISWHITE")
    with Image.open(path) as picture:
        expected = np.asarray(picture.convert("L"))
    out, _ = deflate(path)
    assert (read(out)[0] == expected).all()
    with tifffile.TiffFile(out) as tif:
        assert tif.pages.first.photometric == PHOTOMETRIC.MINISBLACK


def test_min_is_white_is_inverted_in_reprojection(tmp_path: Path) -> None:
    pixels = np.full((1, HEIGHT, WIDTH), 250, np.uint8)
    out, _ = deflate(write_tif(tmp_path / "a.tif", pixels, photometric="MINISWHITE", **UTM))
    assert set(np.unique(read(out)[0][read_mask(out)])) == {5}


def test_reprojected_frame_has_the_right_location(tmp_path: Path) -> None:
    """A bright square in UTM is at its coordinates in EPSG:3857, within a pixel."""
    pixels = np.full((1, HEIGHT, WIDTH), 60, np.uint8)
    pixels[0, 200:240, 500:540] = 250
    out, _ = deflate(write_tif(tmp_path / "a.tif", pixels, **UTM))
    rows, columns = np.nonzero(read(out)[0] > 155)
    with rasterio.open(out) as dataset:
        center = dataset.transform @ (columns.mean() + 0.5, rows.mean() + 0.5)
    x, y = transform_points("EPSG:26914", "EPSG:3857", [UTM_PLACE[0] + 520], [UTM_PLACE[1] - 220])
    assert center == pytest.approx((x[0], y[0]), abs=0.6)


def test_reprojection_does_not_bleed_the_collar_into_the_edges(tmp_path: Path) -> None:
    """A gray frame in a black collar stays gray up to its edge: the collar must not be resampled into it."""
    inside = rotated_rectangle(HEIGHT, WIDTH)
    pixels = np.where(inside, np.uint8(140), np.uint8(0))[None]
    out, share = deflate(write_tif(tmp_path / "a.tif", pixels, **UTM))
    valid = read_mask(out)
    assert set(np.unique(read(out)[0][valid])) == {140}
    assert (read(out)[0][~valid] == 0).all()
    assert share == pytest.approx(inside.mean(), abs=0.03)


@pytest.mark.parametrize("value", [0, 255])
def test_true_black_and_white_survive_reprojection(tmp_path: Path, value: int) -> None:
    pixels = np.full((1, HEIGHT, WIDTH), 140, np.uint8)
    pixels[0, 200:300, 200:300] = value
    out, _ = deflate(write_tif(tmp_path / "a.tif", pixels, **UTM))
    flat = read(out)[0]
    assert (flat[read_mask(out)] == value).sum() > 90 * 90 / 1.0
    rows, columns = np.nonzero((flat == value) & read_mask(out))
    block = read_mask(out)[rows.min() : rows.max(), columns.min() : columns.max()]
    assert block.all(), "the mask has no hole"


def test_rotated_frame_is_warped_north_up(tmp_path: Path) -> None:
    rotated = Affine.translation(WEST, NORTH) @ Affine.rotation(-20) @ Affine.scale(1, -1)
    out, share = deflate(write_tif(tmp_path / "a.tif", photograph(HEIGHT, WIDTH), transform=rotated))
    with rasterio.open(out) as dataset:
        assert dataset.transform.is_rectilinear
        assert dataset.transform.e < 0 < dataset.transform.a
        area = read_mask(out).sum() * dataset.transform.a**2
    assert area == pytest.approx(HEIGHT * WIDTH, rel=0.005)
    assert 0.5 < share < 0.75


def test_south_up_frame_is_flipped(tmp_path: Path) -> None:
    pixels = photograph(HEIGHT, WIDTH)
    out, _ = deflate(write_tif(tmp_path / "a.tif", pixels, transform=Affine(1, 0, WEST, 0, 1, NORTH)))
    assert (read(out)[0] == pixels[0, ::-1]).mean() > 0.99


def test_frame_over_the_limit_after_reprojection_is_rejected(tmp_path: Path) -> None:
    source = open_source(write_tif(tmp_path / "a.tif", photograph(HEIGHT, WIDTH), **UTM), "bw", Limits())
    with pytest.raises(FrameError, match="limit"):
        write_deflate(source, tmp_path / "out.tif", BW, limits=Limits(max_pixels=HEIGHT * WIDTH))


@pytest.mark.parametrize("options", [{}, UTM], ids=["plain", "warped"])
@pytest.mark.parametrize("layout", [{}, {"compress": "DEFLATE", "tiled": True}], ids=["strips", "tiles"])
def test_truncated_frame_is_rejected_and_leaves_no_files(tmp_path: Path, options: dict[str, Any], layout: dict[str, Any]) -> None:
    path = write_tif(tmp_path / "a.tif", photograph(HEIGHT, WIDTH), **options, **layout)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(FrameError, match=r"truncated or corrupt in rows \d+ to \d+ and columns \d+ to \d+ .*; copy it again"):
        deflate(path)
    assert list(tmp_path.glob("out/*")) == []


@pytest.mark.parametrize("options", [{}, UTM], ids=["plain", "warped"])
def test_frame_without_valid_pixels_is_rejected_and_leaves_no_files(tmp_path: Path, options: dict[str, Any]) -> None:
    path = write_tif(tmp_path / "a.tif", np.full((1, HEIGHT, WIDTH), 9, np.uint8), nodata=9, **options)
    with pytest.raises(FrameError, match="no valid pixel"):
        deflate(path)
    assert list(tmp_path.glob("out/*")) == []


def test_path_with_blanks_umlauts_and_markup(tmp_path: Path) -> None:
    folder = tmp_path / "Löwen & <Söhne> 'x'"
    folder.mkdir()
    _, share = deflate(write_tif(folder / 'a b"é.tif', photograph(HEIGHT, WIDTH), **UTM))
    assert share > 0.9


@pytest.mark.parametrize("options", [{}, UTM], ids=["plain", "warped"])
def test_gdal_logs_no_warning(tmp_path: Path, options: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    inside = rotated_rectangle(HEIGHT, WIDTH)
    path = write_tif(tmp_path / "a.tif", photograph(HEIGHT, WIDTH, 3) * inside, **options)
    with caplog.at_level(logging.WARNING, logger="rasterio"):
        out, _ = deflate(path, "nc")
        read(out)
        read_mask(out)
    assert caplog.records == []
