"""The comparison of a COG with its scan: what it sees, and what it lets pass."""

import math
from pathlib import Path

import numpy as np
import pytest

from ls4_assets.domain.names import FilmType
from ls4_assets.domain.profiles import BW, NC, PROFILES
from ls4_assets.raster.deflate import write_deflate
from ls4_assets.raster.fidelity import BLOCKS, Sample, compare, cut, least_psnr, read_samples, sample_windows, valid_share
from ls4_assets.raster.frame import FrameResult, process, product_path
from ls4_assets.raster.source import Limits, open_source
from ls4_assets_tests.rasters import photograph, rotated_rectangle, write_tif

HEIGHT, WIDTH = 1300, 1700


def made(folder: Path, band: FilmType, **changes: object) -> tuple[FrameResult, Path, Path]:
    """A frame with a collar through all steps: its result, deflate tif and COG."""
    profile = PROFILES[band].model_copy(update=changes)
    pixels = photograph(HEIGHT, WIDTH, profile.bands) * rotated_rectangle(HEIGHT, WIDTH)
    result = process(write_tif(folder / "s.tif", pixels), folder, "f", band, profile, Limits(), source_sha256="ab")
    return result, product_path(folder, "f", "deflate"), product_path(folder, "f", "cog")


def test_windows_are_spread_the_same_in_each_run_and_others_in_each_frame() -> None:
    windows = sample_windows(8192, 8000, 512, "a scan")
    assert len(set(windows)) == BLOCKS and windows == sample_windows(8192, 8000, 512, "a scan")
    assert windows != sample_windows(8192, 8000, 512, "another scan")
    assert len({int(window.row_off) // 1024 for window in windows}) == BLOCKS
    assert all(window.row_off + window.height <= 8000 for window in windows)
    assert all((window.height, window.width) <= (512, 512) for window in sample_windows(9000, 9000, 4096, "x"))


def test_an_image_of_one_block_is_compared_whole() -> None:
    (window,) = sample_windows(300, 200, 512, "x")
    assert (window.width, window.height) == (300, 200)


@pytest.mark.parametrize("band", ["bw", "nc"])
def test_a_good_frame_is_kept(tmp_path: Path, band: FilmType) -> None:
    result, _, cog = made(tmp_path, band)
    assert result.fidelity and result.fidelity.is_kept and result.fidelity.masks_unlike == 0
    assert (result.fidelity.psnr == math.inf) == (band == "bw")
    assert (
        result.valid_share == result.cog_valid_share == valid_share(cog) == pytest.approx(rotated_rectangle(HEIGHT, WIDTH).mean())
    )


@pytest.mark.parametrize("band", ["bw", "nc"])
def test_the_deflate_tif_gives_the_samples_that_the_scan_gave(tmp_path: Path, band: FilmType) -> None:
    """A COG that is made alone is compared with the deflate tif, in the same blocks."""
    result, deflate_tif, cog = made(tmp_path, band)
    later = compare(cog, read_samples(deflate_tif, 512, "ab"), PROFILES[band])
    assert later == result.fidelity


def test_samples_are_of_the_scan_and_not_of_what_was_written(tmp_path: Path) -> None:
    pixels = photograph(600, 700)
    mask = rotated_rectangle(600, 700)
    source = open_source(write_tif(tmp_path / "s.tif", pixels, mask=mask), "bw", Limits())
    for sample in write_deflate(source, tmp_path / "d.tif", BW).samples:
        rows, columns = sample.window.toslices()
        assert np.array_equal(sample.pixels[0], pixels[0, rows, columns]), "masked pixels are written 0, and sampled as they are"
        assert sample.valid is not None and np.array_equal(sample.valid, mask[rows, columns])


def altered(sample: Sample, *, pixels: int = 0, mask: bool = False) -> Sample:
    """The sample as it would be if the scan's first valid pixel were another, or the first pixel's mask."""
    assert sample.valid is not None
    changed, valid = sample.pixels.copy(), sample.valid.copy()
    row, column = np.argwhere(valid)[0]
    changed[:, row, column] += np.uint8(pixels)
    if mask:
        valid[row, column] = False
    return Sample(sample.window, changed, valid)


def test_one_other_pixel_of_a_lossless_cog_is_seen(tmp_path: Path) -> None:
    _, deflate_tif, cog = made(tmp_path, "bw")
    samples = read_samples(deflate_tif, 512, "ab")
    number = next(index for index, sample in enumerate(samples) if sample.valid is not None and sample.valid.any())
    samples[number] = altered(samples[number], pixels=1)
    found = compare(cog, samples, BW)
    assert (found.unlike, found.is_kept) == (1, False)
    samples[number] = altered(altered(samples[number], pixels=-1 % 256), mask=True)
    found = compare(cog, samples, BW)
    assert (found.unlike, found.masks_unlike) == (0, 1)


@pytest.mark.parametrize("quality", [10, 40, 60, 85, 95, 100])
def test_every_jpeg_is_as_like_as_its_quality_promises_even_of_noise(tmp_path: Path, quality: int) -> None:
    """The bound is the table's, not the picture's: no content may make a good frame fail."""
    profile = NC.model_copy(update={"jpeg_quality": quality})
    noise = np.random.default_rng(1).integers(60, 190, (3, 600, 700), dtype=np.uint8)
    result = process(write_tif(tmp_path / "s.tif", noise), tmp_path, "f", "nc", profile, Limits())
    assert result.fidelity and result.fidelity.psnr >= least_psnr(quality) == result.fidelity.least
    shifted = np.roll(noise, 1, axis=2)
    window = sample_windows(700, 600, 512, "")
    wrong = compare(product_path(tmp_path, "f", "cog"), cut(window[0], shifted[:, :512, :512], None, window[:1]), profile)
    assert wrong.is_kept == (quality < 60), "a pixel off is seen, unless the JPEG promises next to nothing"
