"""Are the COG's pixels those of the scan? Some of its blocks are compared, in value and in mask.

The blocks are kept from what the deflate tif is written from, so that nothing is decoded twice; where that was made by an earlier
run, they are read from it. Not the whole image: that would decode it once more, a tenth of a frame's CPU. The blocks lie spread
over all of it, others in each frame, and what goes wrong with a codec or an offset goes wrong with more than one block.
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

BLOCKS = 8
_SIDE = 512

# What JPEG's quantisation can cost at most, by its own standard table of luminance (root of the mean square of its 64 steps at
# quality 50), and how much less like the scan than that a COG may be.
_STEP_AT_50 = 67.1
_ALLOWANCE_DB = 3.0
# ITU-R BT.601, as JPEG has it: colour is stored coarser on purpose, brightness is not.
_LUMA = np.array([0.299, 0.587, 0.114])


@dataclass(frozen=True)
class Sample:
    """A block of the image as the scan has it: pixels (bands, rows, columns), `valid` (rows, columns) or None when all are."""

    window: Window
    pixels: NDArray[np.uint8] = field(repr=False)
    valid: NDArray[np.bool_] | None = field(repr=False)


@dataclass(frozen=True)
class Fidelity:
    """Of so many `blocks`, how many were `unlike` the scan in a valid pixel, and how many in their mask; `psnr` in dB of all of
    them together (infinite when equal), and the `least` that the profile promises (infinite when lossless)."""

    blocks: int
    unlike: int
    masks_unlike: int
    psnr: float
    least: float

    @property
    def is_kept(self) -> bool:
        return self.psnr >= self.least


def sample_windows(width: int, height: int, blocksize: int, seed: str) -> list[Window]:
    """Up to BLOCKS windows, each inside one block, spread over an image: one of each stretch of its blocks, chosen by `seed`."""
    across, down = -(-width // blocksize), -(-height // blocksize)
    count = min(BLOCKS, across * down)
    choose = random.Random(seed)  # noqa: S311  # to be the same in each run, not to be unforeseeable
    windows = []
    for stretch in range(count):
        first, last = across * down * stretch // count, across * down * (stretch + 1) // count
        row, column = divmod(choose.randrange(first, last), across)
        left, top = column * blocksize, row * blocksize
        side = min(blocksize, _SIDE)
        windows.append(Window(left, top, min(side, width - left), min(side, height - top)))
    return windows


def cut(window: Window, pixels: NDArray[np.uint8], valid: NDArray[np.bool_] | None, wanted: Sequence[Window]) -> list[Sample]:
    """Those of the `wanted` windows that lie in `window`, whose pixels are given, as copies."""
    found = []
    for one in wanted:
        top, left = int(one.row_off - window.row_off), int(one.col_off - window.col_off)
        if 0 <= top < window.height and 0 <= left < window.width:
            part = np.s_[top : top + int(one.height), left : left + int(one.width)]
            found.append(Sample(one, pixels[:, *part].copy(), None if valid is None else valid[part].copy()))
    return found


def read_samples(tif: Path, blocksize: int, seed: str) -> list[Sample]:
    """The same of a deflate tif that was made earlier."""
    with gdal_env(), rasterio.open(tif) as dataset:
        masked = has_mask(dataset)
        return [
            Sample(window, dataset.read(window=window), dataset.read_masks(1, window=window) > 0 if masked else None)
            for window in sample_windows(dataset.width, dataset.height, blocksize, seed)
        ]


def compare(cog: Path, samples: Sequence[Sample], profile: FrameProfile) -> Fidelity:
    """Hold the COG against the samples."""
    lossless = profile.cog_compression != "JPEG"
    unlike = masks_unlike = count = 0
    squares = 0.0
    with gdal_env(), rasterio.open(cog) as dataset:
        for sample in samples:
            pixels, mask = dataset.read(window=sample.window), dataset.read_masks(1, window=sample.window) > 0
            valid = np.ones(mask.shape, bool) if sample.valid is None else sample.valid
            differ = _difference(pixels, sample.pixels, lossless)[:, valid]
            unlike += bool(differ.any())
            masks_unlike += not np.array_equal(mask, valid)
            squares += float(np.square(differ, dtype=np.float64).sum())
            count += differ.size
    psnr = 10 * math.log10(255**2 * count / squares) if squares else math.inf
    return Fidelity(len(samples), unlike, masks_unlike, psnr, math.inf if lossless else least_psnr(profile.jpeg_quality))


def least_psnr(quality: int) -> float:
    """What a JPEG of this quality keeps of brightness whatever it shows: no error is larger than half a step of its table."""
    scale = 50 / quality if quality < 50 else 2 - quality / 50
    step = max(1.0, _STEP_AT_50 * scale)
    return 10 * math.log10(255**2 / (step**2 / 12 + 1)) - _ALLOWANCE_DB


def valid_share(tif: Path) -> float:
    """Share of the pixels of a product that are valid, 0 to 1."""
    with gdal_env(), rasterio.open(tif) as dataset:
        if not has_mask(dataset):
            return 1.0
        strips = (Window(0, top, dataset.width, min(_SIDE, dataset.height - top)) for top in range(0, dataset.height, _SIDE))
        valid = sum(int(np.count_nonzero(dataset.read_masks(1, window=strip))) for strip in strips)
        return valid / int(dataset.width * dataset.height)


def _difference(ours: NDArray[np.uint8], theirs: NDArray[np.uint8], lossless: bool) -> NDArray[np.float64]:
    """Shape (1 or bands, rows, columns). Of a JPEG in colour only the brightness is compared: its colours are stored at half the
    resolution, so that nothing can be promised of them."""
    differ = ours.astype(np.float64) - theirs
    return differ if lossless or len(ours) == 1 else np.tensordot(_LUMA, differ, axes=1)[None]
