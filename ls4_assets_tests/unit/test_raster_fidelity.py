"""Tests of the comparison of a COG with its scan: which differences it detects, and which it tolerates."""

import math
from pathlib import Path

import numpy as np
import pytest

from ls4_assets.domain.film_types import FilmType
from ls4_assets.domain.profiles import PROFILES
from ls4_assets.raster.deflate import write_deflate
from ls4_assets.raster.fidelity import (
    MAX_SAMPLES,
    Sample,
    choose_sample_windows,
    compare_cog,
    cut_samples,
    guaranteed_psnr_db,
    measure_valid_share,
    read_samples,
)
from ls4_assets.raster.frame import FrameResult, process, product_path
from ls4_assets.raster.source import Limits, open_source
from ls4_assets_tests.rasters import BW, NC, photograph, rotated_rectangle, write_tif

HEIGHT, WIDTH = 1300, 1700


def process_collared(folder: Path, film_type: FilmType, **changes: object) -> tuple[FrameResult, Path, Path]:
    """Process a frame with a collar; returns its result, deflate tif and COG."""
    profile = PROFILES[film_type].model_copy(update=changes)
    pixels = photograph(HEIGHT, WIDTH, profile.bands) * rotated_rectangle(HEIGHT, WIDTH)
    result = process(write_tif(folder / "s.tif", pixels), folder, "f", film_type, profile, Limits(), source_sha256="ab")
    return result, product_path(folder, "f", "deflate"), product_path(folder, "f", "cog")


def test_windows_are_spread_and_depend_only_on_the_seed() -> None:
    windows = choose_sample_windows(8192, 8000, 512, "a scan")
    assert len(set(windows)) == MAX_SAMPLES and windows == choose_sample_windows(8192, 8000, 512, "a scan")
    assert windows != choose_sample_windows(8192, 8000, 512, "another scan")
    assert len({int(window.row_off) // 1024 for window in windows}) == MAX_SAMPLES
    assert all(window.row_off + window.height <= 8000 for window in windows)
    assert all((window.height, window.width) <= (512, 512) for window in choose_sample_windows(9000, 9000, 4096, "x"))


def test_single_block_is_compared_whole() -> None:
    (window,) = choose_sample_windows(300, 200, 512, "x")
    assert (window.width, window.height) == (300, 200)


@pytest.mark.parametrize("film_type", ["bw", "nc"])
def test_good_frame_is_sufficient(tmp_path: Path, film_type: FilmType) -> None:
    result, _, cog = process_collared(tmp_path, film_type)
    assert result.fidelity and result.fidelity.is_sufficient and result.fidelity.differing_masks == 0
    assert (result.fidelity.psnr_db == math.inf) == (film_type == "bw")
    assert (
        result.valid_share
        == result.cog_valid_share
        == measure_valid_share(cog)
        == pytest.approx(rotated_rectangle(HEIGHT, WIDTH).mean())
    )


@pytest.mark.parametrize("film_type", ["bw", "nc"])
def test_samples_of_the_deflate_tif_equal_those_of_the_scan(tmp_path: Path, film_type: FilmType) -> None:
    """A COG that is built alone is compared with the deflate tif in the same blocks."""
    result, deflate_tif, cog = process_collared(tmp_path, film_type)
    fidelity = compare_cog(cog, read_samples(deflate_tif, 512, "ab"), PROFILES[film_type])
    assert fidelity == result.fidelity


def test_samples_are_read_from_the_scan_not_from_the_output(tmp_path: Path) -> None:
    pixels = photograph(600, 700)
    mask = rotated_rectangle(600, 700)
    source = open_source(write_tif(tmp_path / "s.tif", pixels, mask=mask), "bw", Limits())
    for sample in write_deflate(source, tmp_path / "d.tif", BW).samples:
        rows, columns = sample.window.toslices()
        assert np.array_equal(sample.pixels[0], pixels[0, rows, columns]), "masked pixels are written as 0, but sampled unchanged"
        assert sample.valid is not None and np.array_equal(sample.valid, mask[rows, columns])


def altered(sample: Sample, *, pixels: int = 0, mask: bool = False) -> Sample:
    """The sample with another value, or another mask, at its first valid pixel."""
    assert sample.valid is not None
    changed, valid = sample.pixels.copy(), sample.valid.copy()
    row, column = np.argwhere(valid)[0]
    changed[:, row, column] += np.uint8(pixels)
    if mask:
        valid[row, column] = False
    return Sample(sample.window, changed, valid)


def test_single_differing_pixel_of_a_lossless_cog_is_detected(tmp_path: Path) -> None:
    _, deflate_tif, cog = process_collared(tmp_path, "bw")
    samples = read_samples(deflate_tif, 512, "ab")
    number = next(index for index, sample in enumerate(samples) if sample.valid is not None and sample.valid.any())
    samples[number] = altered(samples[number], pixels=1)
    fidelity = compare_cog(cog, samples, BW)
    assert (fidelity.differing_blocks, fidelity.is_sufficient) == (1, False)
    samples[number] = altered(altered(samples[number], pixels=-1 % 256), mask=True)
    fidelity = compare_cog(cog, samples, BW)
    assert (fidelity.differing_blocks, fidelity.differing_masks) == (0, 1)


@pytest.mark.parametrize("quality", [10, 40, 60, 85, 95, 100])
def test_jpeg_of_noise_reaches_the_guaranteed_psnr(tmp_path: Path, quality: int) -> None:
    """The bound comes from the quantization table: no content may fail a good frame."""
    profile = NC.model_copy(update={"jpeg_quality": quality})
    noise = np.random.default_rng(1).integers(60, 190, (3, 600, 700), dtype=np.uint8)
    result = process(write_tif(tmp_path / "s.tif", noise), tmp_path, "f", "nc", profile, Limits())
    assert result.fidelity and result.fidelity.psnr_db >= guaranteed_psnr_db(quality) == result.fidelity.min_psnr_db
    shifted = np.roll(noise, 1, axis=2)
    window = choose_sample_windows(700, 600, 512, "")
    fidelity = compare_cog(
        product_path(tmp_path, "f", "cog"), cut_samples(window[0], shifted[:, :512, :512], None, window[:1]), profile
    )
    assert fidelity.is_sufficient == (quality < 60), "a shift by one pixel is detected, except at very low quality"
