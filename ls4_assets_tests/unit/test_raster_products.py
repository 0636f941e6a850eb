"""Overviews and COG: collars transparent at every level, levels and validity asserted, assembly equal to the driver."""

import logging
import struct
from pathlib import Path

import numpy as np
import pytest
import rasterio
import tifffile
from affine import Affine

from ls4_assets.domain.names import FilmType
from ls4_assets.domain.profiles import BW, NC, PROFILES, FrameProfile
from ls4_assets.raster.cog import write_cog
from ls4_assets.raster.cog_assembly import assemble_cog
from ls4_assets.raster.deflate import write_deflate
from ls4_assets.raster.gdal_env import gdal_env
from ls4_assets.raster.overviews import overviews_path, write_overviews
from ls4_assets.raster.source import Limits, open_source
from ls4_assets.raster.validate import check_cog
from ls4_assets_tests.rasters import (
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
"""Odd, and not a multiple of anything: overviews of such sizes are where averages go wrong."""


def products(
    folder: Path, band: FilmType = "bw", *, collar: bool = True, profile: FrameProfile | None = None
) -> tuple[Pixels, Path, Path]:
    """The source's pixels, its deflate tif with overviews beside it, and its COG."""
    profile = profile or PROFILES[band]
    pixels = photograph(HEIGHT, WIDTH, profile.bands)
    if collar:
        pixels = np.where(rotated_rectangle(HEIGHT, WIDTH), pixels, np.uint8(255))
    source = write_tif(folder / "a.tif", pixels)
    deflate_tif, cog = folder / "deflate" / "a.tif", folder / "cog" / "a.tif"
    write_deflate(open_source(source, band, Limits()), deflate_tif, profile)
    write_overviews(deflate_tif, profile)
    write_cog(deflate_tif, cog, profile)
    return pixels, deflate_tif, cog


def test_overviews_are_external_compressed_and_stop_at_one_block(tmp_path: Path) -> None:
    _, deflate_tif, _ = products(tmp_path, collar=False)
    with rasterio.open(deflate_tif) as dataset:
        assert dataset.overviews(1) == [2, 4]
    assert overviews_path(deflate_tif).name == "a.tif.ovr"
    with tifffile.TiffFile(overviews_path(deflate_tif)) as tif:
        assert [page.shape for page in tif.pages] == [(651, 772), (326, 386)]
        assert {int(page.compression) for page in tif.pages} == {8}
        assert {page.predictor for page in tif.pages} == {2}
        assert {page.tilewidth for page in tif.pages} == {512}


@pytest.mark.parametrize("band", ["bw", "nc"])
def test_overviews_are_those_that_gdal_builds(tmp_path: Path, band: FilmType) -> None:
    """Without a mask GDAL's own external overviews are right, so ours must be the same pixel for pixel."""
    pixels, deflate_tif, _ = products(tmp_path, band, collar=False)
    plain = write_tif(tmp_path / "plain.tif", pixels)
    with gdal_env(TIFF_USE_OVR="YES"), rasterio.open(plain, "r+") as dataset:
        dataset.build_overviews([2, 4], rasterio.enums.Resampling.average)
    for level in (0, 1):
        assert (read(deflate_tif, level) == read(plain, level)).all()


@pytest.mark.parametrize("band", ["bw", "nc"])
def test_collar_is_transparent_and_not_mixed_in_at_every_level(tmp_path: Path, band: FilmType) -> None:
    """A flat frame in a white collar: any valid pixel that is not flat has the collar in it."""
    inside = rotated_rectangle(HEIGHT, WIDTH)
    profile = PROFILES[band]
    pixels = np.where(inside, np.uint8(90), np.uint8(255))[None].repeat(profile.bands, axis=0)
    source = write_tif(tmp_path / "a.tif", pixels)
    deflate_tif, cog = tmp_path / "deflate" / "a.tif", tmp_path / "cog" / "a.tif"
    write_deflate(open_source(source, band, Limits()), deflate_tif, profile)
    write_overviews(deflate_tif, profile)
    write_cog(deflate_tif, cog, profile)
    for product in (deflate_tif, cog):
        # JPEG rings where its 8 x 8 cells hold photograph and collar: a few pixels, not the average.
        tolerance = 40 if (product, band) == (cog, "nc") else 0
        for level in (None, 0, 1):
            valid = read_mask(product, level)
            assert (valid == read_mask(deflate_tif, level)).all()
            assert valid.mean() == pytest.approx(inside.mean(), abs=0.012)
            assert not valid[0].any() and not valid[:, -1].any()
            values = read(product, level)[:, valid].astype(int)
            assert np.abs(values - 90).max() <= tolerance
            assert np.abs(values - 90).mean() < 0.5


def test_bw_cog_is_lossless_against_the_deflate_tif_at_every_level(tmp_path: Path) -> None:
    pixels, deflate_tif, cog = products(tmp_path)
    inside = rotated_rectangle(HEIGHT, WIDTH)
    assert (read(cog)[:, inside] == pixels[:, inside]).all()
    for level in (None, 0, 1):
        assert (read(cog, level) == read(deflate_tif, level)).all()
        assert (read_mask(cog, level) == read_mask(deflate_tif, level)).all()


@pytest.mark.parametrize("collar", [False, True])
def test_nc_cog_is_close_to_the_photograph(tmp_path: Path, collar: bool) -> None:
    pixels, deflate_tif, cog = products(tmp_path, "nc", collar=collar)
    inside = rotated_rectangle(HEIGHT, WIDTH) if collar else np.ones((HEIGHT, WIDTH), bool)
    error = read(cog)[:, inside].astype(float) - pixels[:, inside]
    assert 10 * np.log10(255**2 / (error**2).mean()) > 35
    assert (read_mask(cog) == inside).all()
    assert cog.stat().st_size < 0.5 * deflate_tif.stat().st_size


@pytest.mark.parametrize("band", ["bw", "nc"])
@pytest.mark.parametrize("collar", [False, True])
def test_cog_passes_every_check(tmp_path: Path, band: FilmType, collar: bool) -> None:
    _, deflate_tif, cog = products(tmp_path, band, collar=collar)
    assert check_cog(cog, PROFILES[band], deflate_tif) == []


def test_checks_find_what_is_wrong(tmp_path: Path) -> None:
    _, deflate_tif, cog = products(tmp_path, "bw")
    assert any("compression" in finding for finding in check_cog(cog, NC))
    legacy = BW.model_copy(update={"overview_levels": (4,)})
    assert any("overview levels" in finding for finding in check_cog(cog, legacy))
    assert any("block size" in finding for finding in check_cog(cog, BW.model_copy(update={"blocksize": 256})))
    unmasked = write_tif(tmp_path / "plain.tif", photograph(HEIGHT, WIDTH), transform=Affine(1, 0, WEST, 0, -1, NORTH))
    assert any("mask" in finding for finding in check_cog(cog, BW, unmasked))
    assert check_cog(deflate_tif, BW), "a deflate tif is no COG"


@pytest.mark.parametrize("collar", [False, True])
@pytest.mark.parametrize("lossless", [BW, NC.model_copy(update={"cog_compression": "DEFLATE"})], ids=["bw", "nc"])
def test_assembled_cog_is_the_drivers_file(tmp_path: Path, lossless: FrameProfile, collar: bool) -> None:
    """The same size, pixels, masks and tags, at every level."""
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
def test_bigtiff_assembly_reads_the_same(tmp_path: Path, collar: bool) -> None:
    _, deflate_tif, cog = products(tmp_path, collar=collar)
    big = tmp_path / "big.tif"
    assert assemble_cog(deflate_tif, overviews_path(deflate_tif), big, bigtiff=True)
    assert big.read_bytes()[:4] == b"II+\0"
    assert check_cog(big, BW, deflate_tif) == []
    for level in (None, 0, 1):
        assert (read(big, level) == read(cog, level)).all()
        assert (read_mask(big, level) == read_mask(cog, level)).all()


@pytest.mark.parametrize("bigtiff", [False, True])
def test_every_tile_stands_between_its_size_and_its_last_bytes(tmp_path: Path, bigtiff: bool) -> None:
    """What the ghost area promises, and GDAL relies on to read a tile without its directory entry."""
    _, deflate_tif, _ = products(tmp_path)
    cog = tmp_path / "c.tif"
    assemble_cog(deflate_tif, overviews_path(deflate_tif), cog, bigtiff=bigtiff)
    data = cog.read_bytes()
    ghost = data[16 if bigtiff else 8 :]
    size = int(ghost[len("GDAL_STRUCTURAL_METADATA_SIZE=") :][:6])
    first_line = len("GDAL_STRUCTURAL_METADATA_SIZE=000000 bytes\n")
    assert ghost[first_line : first_line + size].endswith(b"MASK_INTERLEAVED_WITH_IMAGERY=YES\n")
    with tifffile.TiffFile(cog) as tif:
        pages = list(tif.pages)
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
def test_layouts_that_are_not_handled_go_through_the_driver(tmp_path: Path, change: dict[str, object]) -> None:
    pixels = photograph(HEIGHT, WIDTH)
    pixels[:, 512:] = 0
    layout = {"tiled": True, "blockxsize": 512, "blockysize": 512, "compress": "DEFLATE", "predictor": 2}
    if change.get("tiled") is False:
        layout = {"compress": "DEFLATE"}
    deflate_tif = write_tif(tmp_path / "a.tif", pixels, **{**layout, **change})
    write_overviews(deflate_tif, BW)
    assert not assemble_cog(deflate_tif, overviews_path(deflate_tif), tmp_path / "no.tif")
    assert not (tmp_path / "no.tif").exists()
    assert write_cog(deflate_tif, tmp_path / "cog.tif", BW) == "driver"
    assert (read(tmp_path / "cog.tif") == pixels).all()
    assert check_cog(tmp_path / "cog.tif", BW, deflate_tif) == []


def test_big_endian_goes_through_the_driver(tmp_path: Path) -> None:
    layout = {"tiled": True, "blockxsize": 512, "blockysize": 512, "compress": "DEFLATE", "endianness": "BIG"}
    deflate_tif = write_tif(tmp_path / "a.tif", photograph(HEIGHT, WIDTH), **layout)
    write_overviews(deflate_tif, BW)
    assert write_cog(deflate_tif, tmp_path / "cog.tif", BW) == "driver"


def test_an_image_of_one_block_has_an_overview_too(tmp_path: Path) -> None:
    source = write_tif(tmp_path / "s.tif", photograph(60, 50))
    deflate_tif = tmp_path / "a.tif"
    write_deflate(open_source(source, "bw", Limits()), deflate_tif, BW)
    write_overviews(deflate_tif, BW)
    assert write_cog(deflate_tif, tmp_path / "cog.tif", BW) == "assembled"
    assert check_cog(tmp_path / "cog.tif", BW, deflate_tif) == []


def test_legacy_levels_and_smaller_blocks(tmp_path: Path) -> None:
    profile = BW.model_copy(update={"overview_levels": (4, 8), "blocksize": 256})
    _, deflate_tif, cog = products(tmp_path, profile=profile)
    assert check_cog(cog, profile, deflate_tif) == []
    with rasterio.open(cog) as dataset:
        assert dataset.overviews(1) == [4, 8]


def test_overviews_written_again_replace_the_old(tmp_path: Path) -> None:
    _, deflate_tif, _ = products(tmp_path)
    before = overviews_path(deflate_tif).read_bytes()
    write_overviews(deflate_tif, BW)
    assert overviews_path(deflate_tif).read_bytes() == before


@pytest.mark.parametrize("band", ["bw", "nc"])
def test_gdal_has_nothing_to_warn_of(tmp_path: Path, band: FilmType, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="rasterio"):
        _, deflate_tif, cog = products(tmp_path, band)
        for product in (deflate_tif, overviews_path(deflate_tif), cog):
            read(product)
            read_mask(product)
    assert caplog.records == []


def test_a_setting_of_the_surrounding_process_does_not_leak_in(tmp_path: Path) -> None:
    hostile = {
        "COMPRESS_OVERVIEW": "JPEG", "PHOTOMETRIC_OVERVIEW": "YCBCR", "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
        "GDAL_TIFF_INTERNAL_MASK": "NO", "TIFF_USE_OVR": "YES", "CPL_VSIL_CURL_ALLOWED_EXTENSIONS": ".tif",
    }  # fmt: skip
    with rasterio.Env(**hostile):
        _, deflate_tif, cog = products(tmp_path, "nc")
    assert check_cog(cog, NC, deflate_tif) == []
    assert {path.name for path in deflate_tif.parent.iterdir()} == {"a.tif", "a.tif.ovr"}
