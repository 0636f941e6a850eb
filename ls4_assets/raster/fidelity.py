"""Compare the pixels and the mask of a COG with those of the scan, in a few sample blocks.

The samples come from the pixels that the deflate tif is written from, so that nothing is decoded twice; when an earlier run made
the deflate tif, they are read from it. Comparing the whole image would decode it again, a tenth of a frame's CPU. The blocks are
spread over the image, and differ from frame to frame: a fault of a codec or of an offset affects more than one block.
`validate` checks the structure of the COG.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.windows import Window

from ls4_assets.domain.profiles import FrameProfile
from ls4_assets.raster.gdal_env import gdal_env
from ls4_assets.raster.overviews import has_mask

MAX_SAMPLES = 8
_MAX_SIDE_PX = 512

# The largest error of JPEG's quantization by its standard luminance table (root mean square of its 64 steps at quality 50), and
# how far below the resulting bound the PSNR of a COG may be.
_STEP_AT_QUALITY_50 = 67.1
_ALLOWANCE_DB = 3.0
# ITU-R BT.601, as in JPEG, which stores color more coarsely than brightness by design.
_LUMA = np.array([0.299, 0.587, 0.114])


@dataclass(frozen=True)
class Sample:
    """A block of the scan: pixels (bands, rows, columns), and `valid` (rows, columns) or None when all pixels are valid."""

    window: Window
    pixels: NDArray[np.uint8] = field(repr=False)
    valid: NDArray[np.bool_] | None = field(repr=False)


@dataclass(frozen=True)
class Fidelity:
    """Result of comparing a COG with the samples of its scan.

    blocks: number of compared blocks.
    differing_blocks: blocks in which a valid pixel differs.
    differing_masks: blocks in which the mask differs.
    psnr_db: of all blocks together; infinite when they are equal.
    min_psnr_db: what the profile guarantees; infinite when it is lossless.
    """

    blocks: int
    differing_blocks: int
    differing_masks: int
    psnr_db: float
    min_psnr_db: float

    @property
    def is_sufficient(self) -> bool:
        return self.psnr_db >= self.min_psnr_db


def choose_sample_windows(width: int, height: int, blocksize: int, seed: str) -> list[Window]:
    """Return up to MAX_SAMPLES windows, each inside one block of an image.

    The blocks are divided into consecutive stretches; `seed` selects one block of each.
    """
    across, down = -(-width // blocksize), -(-height // blocksize)
    count = min(MAX_SAMPLES, across * down)
    rng = random.Random(seed)  # noqa: S311  # must be reproducible, not unpredictable
    windows = []
    for stretch in range(count):
        first, last = across * down * stretch // count, across * down * (stretch + 1) // count
        row, column = divmod(rng.randrange(first, last), across)
        left, top = column * blocksize, row * blocksize
        side = min(blocksize, _MAX_SIDE_PX)
        windows.append(Window(left, top, min(side, width - left), min(side, height - top)))
    return windows


def cut_samples(
    window: Window, pixels: NDArray[np.uint8], valid: NDArray[np.bool_] | None, selected: Sequence[Window]
) -> list[Sample]:
    """Return copies of the `selected` windows that start inside `window`, which holds the given pixels."""
    samples = []
    for block in selected:
        top, left = int(block.row_off - window.row_off), int(block.col_off - window.col_off)
        if 0 <= top < window.height and 0 <= left < window.width:
            part = np.s_[top : top + int(block.height), left : left + int(block.width)]
            samples.append(Sample(block, pixels[:, *part].copy(), None if valid is None else valid[part].copy()))
    return samples


def read_samples(tif: Path, blocksize: int, seed: str) -> list[Sample]:
    """Read the samples from a deflate tif that an earlier run made."""
    with gdal_env(), rasterio.open(tif) as dataset:
        masked = has_mask(dataset)
        return [
            Sample(window, dataset.read(window=window), dataset.read_masks(1, window=window) > 0 if masked else None)
            for window in choose_sample_windows(dataset.width, dataset.height, blocksize, seed)
        ]


def compare_cog(cog: Path, samples: Sequence[Sample], profile: FrameProfile) -> Fidelity:
    """Compare the COG with the samples of its scan."""
    lossless = profile.cog_compression != "JPEG"
    differing_blocks = differing_masks = count = 0
    squares = 0.0
    with gdal_env(), rasterio.open(cog) as dataset:
        for sample in samples:
            pixels, mask = dataset.read(window=sample.window), dataset.read_masks(1, window=sample.window) > 0
            valid = np.ones(mask.shape, bool) if sample.valid is None else sample.valid
            difference = _difference(pixels, sample.pixels, lossless)[:, valid]
            differing_blocks += bool(difference.any())
            differing_masks += not np.array_equal(mask, valid)
            squares += float(np.square(difference, dtype=np.float64).sum())
            count += difference.size
    psnr_db = 10 * math.log10(255**2 * count / squares) if squares else math.inf
    min_psnr_db = math.inf if lossless else guaranteed_psnr_db(profile.jpeg_quality)
    return Fidelity(len(samples), differing_blocks, differing_masks, psnr_db, min_psnr_db)


def guaranteed_psnr_db(quality: int) -> float:
    """Return the luma PSNR that a JPEG of this quality reaches for any content: no error exceeds half a quantization step."""
    scale = 50 / quality if quality < 50 else 2 - quality / 50
    step = max(1.0, _STEP_AT_QUALITY_50 * scale)
    return 10 * math.log10(255**2 / (step**2 / 12 + 1)) - _ALLOWANCE_DB


def measure_valid_share(tif: Path) -> float:
    """Return the share of a product's pixels that are valid, 0 to 1."""
    with gdal_env(), rasterio.open(tif) as dataset:
        if not has_mask(dataset):
            return 1.0
        tops = range(0, dataset.height, _MAX_SIDE_PX)
        strips = (Window(0, top, dataset.width, min(_MAX_SIDE_PX, dataset.height - top)) for top in tops)
        valid = sum(int(np.count_nonzero(dataset.read_masks(1, window=strip))) for strip in strips)
        return valid / int(dataset.width * dataset.height)


def _difference(cog: NDArray[np.uint8], scan: NDArray[np.uint8], lossless: bool) -> NDArray[np.float64]:
    """Difference of the pixels, shape (1 or bands, rows, columns).

    A color JPEG is compared in brightness only: it stores color at half the resolution, so nothing is guaranteed for color.
    """
    difference = cog.astype(np.float64) - scan
    return difference if lossless or len(cog) == 1 else np.tensordot(_LUMA, difference, axes=1)[None]
