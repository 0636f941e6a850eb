"""Tests of overviews and COGs: transparent collars at every level, validation, and assembled COGs equal to the driver's."""

import logging
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import tifffile
from affine import Affine

from ls4_assets.domain.film_types import FilmType
from ls4_assets.domain.profiles import PROFILES, FrameProfile
from ls4_assets.raster.cog import write_cog
from ls4_assets.raster.cog_assembly import assemble_cog
from ls4_assets.raster.deflate import write_deflate
from ls4_assets.raster.gdal_env import gdal_env
from ls4_assets.raster.overviews import overviews_path, write_overviews
from ls4_assets.raster.source import Limits, open_source
from ls4_assets.raster.validate import check_cog
from ls4_assets_tests.rasters import (
    BW,
    NC,
    NORTH,
    WEST,
    Pixels,
    photograph,
    read,
    read_mask,
    rotated_rectangle,
    write_tif,
)

HEIGHT, WIDTH = 1301, 1543
"""Odd sizes, no multiples of a block: averages in overviews fail at such sizes first."""


def build_products(
    folder: Path, film_type: FilmType = "bw", *, collar: bool = True, profile: FrameProfile | None = None
) -> tuple[Pixels, Path, Path]:
    """Write the products of a frame; returns the source's pixels, the deflate tif and the COG."""
    profile = profile or PROFILES[film_type]
    pixels = photograph(HEIGHT, WIDTH, profile.bands)
    if collar:
        pixels = np.where(rotated_rectangle(HEIGHT, WIDTH), pixels, np.uint8(255))
    source = write_tif(folder / "a.tif", pixels)
    deflate_tif, cog = folder / "deflate" / "a.tif", folder / "cog" / "a.tif"
    write_deflate(open_source(source, film_type, Limits()), deflate_tif, profile)
    write_overviews(deflate_tif, profile)
    write_cog(deflate_tif, cog, profile)
    return pixels, deflate_tif, cog


def test_overviews_are_external_and_compressed_down_to_one_block(tmp_path: Path) -> None:
    _, deflate_tif, _ = build_products(tmp_path, collar=False)
    with rasterio.open(deflate_tif) as dataset:
        assert dataset.overviews(1) == [2, 4]
    assert overviews_path(deflate_tif).name == "a.tif.ovr"
    with tifffile.TiffFile(overviews_path(deflate_tif)) as tif:
        assert [page.shape for page in tif.pages] == [(651, 772), (326, 386)]
        assert {int(page.compression) for page in tif.pages} == {8}
        assert {page.aspage().predictor for page in tif.pages} == {2}
        assert {page.aspage().tilewidth for page in tif.pages} == {512}


@pytest.mark.parametrize("film_type", ["bw", "nc"])
def test_overviews_equal_those_of_gdal(tmp_path: Path, film_type: FilmType) -> None:
    """Without a mask GDAL's external overviews are correct; ours must have the same pixels."""
    pixels, deflate_tif, _ = build_products(tmp_path, film_type, collar=False)
    plain = write_tif(tmp_path / "plain.tif", pixels)
    with gdal_env(TIFF_USE_OVR="YES"), rasterio.open(plain, "r+") as dataset:
        dataset.build_overviews([2, 4], rasterio.enums.Resampling.average)
    for level in (0, 1):
        assert (read(deflate_tif, level) == read(plain, level)).all()


@pytest.mark.parametrize("film_type", ["bw", "nc"])
def test_collar_is_transparent_and_not_averaged_in_at_any_level(tmp_path: Path, film_type: FilmType) -> None:
    """In a flat frame with a white collar, any valid pixel with another value contains collar."""
    inside = rotated_rectangle(HEIGHT, WIDTH)
    profile = PROFILES[film_type]
    pixels = np.where(inside, np.uint8(90), np.uint8(255))[None].repeat(profile.bands, axis=0)
    source = write_tif(tmp_path / "a.tif", pixels)
    deflate_tif, cog = tmp_path / "deflate" / "a.tif", tmp_path / "cog" / "a.tif"
    write_deflate(open_source(source, film_type, Limits()), deflate_tif, profile)
    write_overviews(deflate_tif, profile)
    write_cog(deflate_tif, cog, profile)
    for product in (deflate_tif, cog):
        # JPEG rings in 8 x 8 cells that contain both photograph and collar: a few pixels, not the average.
        tolerance = 40 if (product, film_type) == (cog, "nc") else 0
        for level in (None, 0, 1):
            valid = read_mask(product, level)
            assert (valid == read_mask(deflate_tif, level)).all()
            assert valid.mean() == pytest.approx(inside.mean(), abs=0.012)
            assert not valid[0].any() and not valid[:, -1].any()
            values = read(product, level)[:, valid].astype(int)
            assert np.abs(values - 90).max() <= tolerance
            assert np.abs(values - 90).mean() < 0.5


def test_bw_cog_equals_the_deflate_tif_at_every_level(tmp_path: Path) -> None:
    pixels, deflate_tif, cog = build_products(tmp_path)
    inside = rotated_rectangle(HEIGHT, WIDTH)
    assert (read(cog)[:, inside] == pixels[:, inside]).all()
    for level in (None, 0, 1):
        assert (read(cog, level) == read(deflate_tif, level)).all()
        assert (read_mask(cog, level) == read_mask(deflate_tif, level)).all()


@pytest.mark.parametrize("collar", [False, True])
def test_nc_cog_is_close_to_the_photograph(tmp_path: Path, collar: bool) -> None:
    pixels, deflate_tif, cog = build_products(tmp_path, "nc", collar=collar)
    inside = rotated_rectangle(HEIGHT, WIDTH) if collar else np.ones((HEIGHT, WIDTH), bool)
    error = read(cog)[:, inside].astype(float) - pixels[:, inside]
    assert 10 * np.log10(255**2 / (error**2).mean()) > 35
    assert (read_mask(cog) == inside).all()
    assert cog.stat().st_size < 0.5 * deflate_tif.stat().st_size


@pytest.mark.parametrize("film_type", ["bw", "nc"])
@pytest.mark.parametrize("collar", [False, True])
def test_cog_passes_every_check(tmp_path: Path, film_type: FilmType, collar: bool) -> None:
    _, deflate_tif, cog = build_products(tmp_path, film_type, collar=collar)
    assert check_cog(cog, PROFILES[film_type], deflate_tif) == []


def test_check_cog_reports_each_defect(tmp_path: Path) -> None:
    _, deflate_tif, cog = build_products(tmp_path, "bw")
    assert any("compression" in finding for finding in check_cog(cog, NC))
    legacy = BW.model_copy(update={"overview_levels": (4,)})
    assert any("overview levels" in finding for finding in check_cog(cog, legacy))
    assert any("block size" in finding for finding in check_cog(cog, BW.model_copy(update={"blocksize": 256})))
    unmasked = write_tif(tmp_path / "plain.tif", photograph(HEIGHT, WIDTH), transform=Affine(1, 0, WEST, 0, -1, NORTH))
    assert any("mask" in finding for finding in check_cog(cog, BW, unmasked))
    assert check_cog(deflate_tif, BW), "a deflate tif is not a COG"


@pytest.mark.parametrize("collar", [False, True])
@pytest.mark.parametrize("lossless", [BW, NC.model_copy(update={"cog_compression": "DEFLATE"})], ids=["bw", "nc"])
def test_assembled_cog_equals_the_drivers(tmp_path: Path, lossless: FrameProfile, collar: bool) -> None:
    """Equal size, pixels, masks and tags at every level."""
    pixels = photograph(HEIGHT, WIDTH, lossless.bands)
    if collar:
        pixels = pixels * rotated_rectangle(HEIGHT, WIDTH)
    deflate_tif, assembled, driver = tmp_path / "a.tif", tmp_path / "assembled.tif", tmp_path / "driver.tif"
    write_deflate(open_source(write_tif(tmp_path / "s.tif", pixels), lossless.film_type, Limits()), deflate_tif, lossless)
    write_overviews(deflate_tif, lossless)
    assert write_cog(deflate_tif, assembled, lossless) == "assembled"
    with gdal_env():
        rasterio.shutil.copy(
            deflate_tif, driver, driver="COG", compress="DEFLATE", predictor="YES",
            level=lossless.deflate_zlevel, blocksize=512, overviews="AUTO", overview_resampling="AVERAGE",
        )  # fmt: skip
    assert assembled.stat().st_size == driver.stat().st_size
    for level in (None, 0, 1):
        assert (read(assembled, level) == read(driver, level)).all()
        assert (read_mask(assembled, level) == read_mask(driver, level)).all()
    with rasterio.open(assembled) as ours, rasterio.open(driver) as theirs:
        assert ours.profile == theirs.profile
        assert ours.tags() == theirs.tags()
        assert ours.tags(ns="IMAGE_STRUCTURE") == theirs.tags(ns="IMAGE_STRUCTURE")
        assert ours.mask_flag_enums == theirs.mask_flag_enums


@pytest.mark.parametrize("collar", [False, True])
def test_bigtiff_cog_has_the_same_pixels(tmp_path: Path, collar: bool) -> None:
    _, deflate_tif, cog = build_products(tmp_path, collar=collar)
    big = tmp_path / "big.tif"
    assert assemble_cog(deflate_tif, overviews_path(deflate_tif), big, bigtiff=True)
    assert big.read_bytes()[:4] == b"II+\0"
    assert check_cog(big, BW, deflate_tif) == []
    for level in (None, 0, 1):
        assert (read(big, level) == read(cog, level)).all()
        assert (read_mask(big, level) == read_mask(cog, level)).all()


@pytest.mark.parametrize("bigtiff", [False, True])
def test_tiles_have_leader_and_trailer_bytes(tmp_path: Path, bigtiff: bool) -> None:
    """The ghost area declares them, and GDAL relies on them to read a tile without its directory entry."""
    _, deflate_tif, _ = build_products(tmp_path)
    cog = tmp_path / "c.tif"
    assemble_cog(deflate_tif, overviews_path(deflate_tif), cog, bigtiff=bigtiff)
    data = cog.read_bytes()
    ghost = data[16 if bigtiff else 8 :]
    size = int(ghost[len("GDAL_STRUCTURAL_METADATA_SIZE=") :][:6])
    first_line = len("GDAL_STRUCTURAL_METADATA_SIZE=000000 bytes\n")
    assert ghost[first_line : first_line + size].endswith(b"MASK_INTERLEAVED_WITH_IMAGERY=YES\n")
    with tifffile.TiffFile(cog) as tif:
        pages = [page.aspage() for page in tif.pages]
        offsets = [page.offset for page in pages]
        tiles = [(o, n) for page in pages for o, n in zip(page.dataoffsets, page.databytecounts, strict=True)]
        smallest_first = [min(page.dataoffsets) for page in pages if not page.subfiletype & 4]
        full, mask = pages[0], pages[1]
        assert mask.dataoffsets == tuple(o + n + 8 for o, n in zip(full.dataoffsets, full.databytecounts, strict=True)), (
            "mask tiles follow image tiles"
        )
    assert offsets[0] == min(offsets)
    assert smallest_first == sorted(smallest_first, reverse=True)
    assert max(offsets) < min(offset for offset, _ in tiles)
    for offset, count in tiles:
        assert struct.unpack("<I", data[offset - 4 : offset]) == (count,)
        assert data[offset + count : offset + count + 4] == data[offset + count - 4 : offset + count]


@pytest.mark.parametrize("change", [{"sparse_ok": True}, {"compress": "LZW"}, {"tiled": False}], ids=str)
def test_unsupported_layouts_use_the_driver(tmp_path: Path, change: dict[str, Any]) -> None:
    pixels = photograph(HEIGHT, WIDTH)
    pixels[:, 512:] = 0
    layout: dict[str, Any] = {"tiled": True, "blockxsize": 512, "blockysize": 512, "compress": "DEFLATE", "predictor": 2}
    if change.get("tiled") is False:
        layout = {"compress": "DEFLATE"}
    deflate_tif = write_tif(tmp_path / "a.tif", pixels, **{**layout, **change})
    write_overviews(deflate_tif, BW)
    assert not assemble_cog(deflate_tif, overviews_path(deflate_tif), tmp_path / "no.tif")
    assert not (tmp_path / "no.tif").exists()
    assert write_cog(deflate_tif, tmp_path / "cog.tif", BW) == "driver"
    assert (read(tmp_path / "cog.tif") == pixels).all()
    assert check_cog(tmp_path / "cog.tif", BW, deflate_tif) == []


def test_big_endian_uses_the_driver(tmp_path: Path) -> None:
    layout: dict[str, Any] = {"tiled": True, "blockxsize": 512, "blockysize": 512, "compress": "DEFLATE", "endianness": "BIG"}
    deflate_tif = write_tif(tmp_path / "a.tif", photograph(HEIGHT, WIDTH), **layout)
    write_overviews(deflate_tif, BW)
    assert write_cog(deflate_tif, tmp_path / "cog.tif", BW) == "driver"


def test_single_block_image_has_an_overview(tmp_path: Path) -> None:
    source = write_tif(tmp_path / "s.tif", photograph(60, 50))
    deflate_tif = tmp_path / "a.tif"
    write_deflate(open_source(source, "bw", Limits()), deflate_tif, BW)
    write_overviews(deflate_tif, BW)
    assert write_cog(deflate_tif, tmp_path / "cog.tif", BW) == "assembled"
    assert check_cog(tmp_path / "cog.tif", BW, deflate_tif) == []


def test_profile_with_other_levels_and_block_size(tmp_path: Path) -> None:
    profile = BW.model_copy(update={"overview_levels": (4, 8), "blocksize": 256})
    _, deflate_tif, cog = build_products(tmp_path, profile=profile)
    assert check_cog(cog, profile, deflate_tif) == []
    with rasterio.open(cog) as dataset:
        assert dataset.overviews(1) == [4, 8]


def test_rewritten_overviews_replace_the_existing(tmp_path: Path) -> None:
    _, deflate_tif, _ = build_products(tmp_path)
    before = overviews_path(deflate_tif).read_bytes()
    write_overviews(deflate_tif, BW)
    assert overviews_path(deflate_tif).read_bytes() == before


@pytest.mark.parametrize("film_type", ["bw", "nc"])
def test_gdal_logs_no_warning(tmp_path: Path, film_type: FilmType, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="rasterio"):
        _, deflate_tif, cog = build_products(tmp_path, film_type)
        for product in (deflate_tif, overviews_path(deflate_tif), cog):
            read(product)
            read_mask(product)
    assert caplog.records == []


def test_settings_of_the_process_do_not_leak_in(tmp_path: Path) -> None:
    process_settings = {
        "COMPRESS_OVERVIEW": "JPEG", "PHOTOMETRIC_OVERVIEW": "YCBCR", "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
        "GDAL_TIFF_INTERNAL_MASK": "NO", "TIFF_USE_OVR": "YES", "CPL_VSIL_CURL_ALLOWED_EXTENSIONS": ".tif",
    }  # fmt: skip
    with rasterio.Env(**process_settings):
        _, deflate_tif, cog = build_products(tmp_path, "nc")
    assert check_cog(cog, NC, deflate_tif) == []
    assert {path.name for path in deflate_tif.parent.iterdir()} == {"a.tif", "a.tif.ovr"}
