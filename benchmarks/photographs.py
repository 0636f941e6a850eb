"""Synthetic scans for the benchmarks, which compress like aerial photographs.

Octaves of noise give textures of all sizes, the coarser ones stronger. The bands share them except for a tint, and each band has
its own grain. DEFLATE with predictor compresses a scan by a factor of 1.3 to 1.6, JPEG of quality 85 by about ten.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from rasterio.windows import Window

_ROWS = 512
_OCTAVES = 8
_FINEST_AMPLITUDE = 3.0
_GROWTH_PER_OCTAVE = 1.45
_GRAIN = {1: 5.0, 3: 2.2}


def write_photograph(path: Path, size: int, bands: int, *, collar: bool, seed: int = 58) -> None:
    """Write a `size` x `size` scan, uint8, EPSG:3857, uncompressed; with `collar`, rotated inside a masked black collar."""
    options = {
        "driver": "GTiff", "width": size, "height": size, "count": bands, "dtype": "uint8", "interleave": "pixel",
        "crs": "EPSG:3857", "transform": Affine(0.8, 0, -10_880_000, 0, -0.8, 3_540_000),
        "photometric": "RGB" if bands == 3 else "MINISBLACK",
    }  # fmt: skip
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "w", **options) as target:
        for top, pixels in _iter_strips(size, bands, seed):
            window = Window(0, top, size, pixels.shape[1])
            if collar:
                inside = _inside_square(size, top, pixels.shape[1])
                pixels *= inside
                target.write_mask(inside, window=window)
            target.write(pixels, window=window)


def _iter_strips(size: int, bands: int, seed: int) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    rng = np.random.default_rng(seed)
    tint = np.linspace(1.0, 0.8, bands, dtype=np.float32)[:, None, None]
    for top in range(0, size, _ROWS):
        rows = min(_ROWS, size - top)
        texture = sum(_octave(rng, number, size)[:rows] for number in range(_OCTAVES))
        yield top, np.clip(125 + tint * texture + _grain(rng, bands, rows, size), 1, 254).astype(np.uint8)


def _grain(rng: np.random.Generator, bands: int, rows: int, size: int) -> NDArray[np.float32]:
    """Film grain as scanned: the scanner's optics spread each grain over neighboring pixels."""
    sharp = rng.standard_normal((bands, rows + 1, size + 1), dtype=np.float32)
    spread: NDArray[np.float32] = sharp[:, 1:, 1:] + sharp[:, :-1, 1:] + sharp[:, 1:, :-1] + sharp[:, :-1, :-1]
    return spread * np.float32(_GRAIN[bands] / 2)


def _octave(rng: np.random.Generator, number: int, size: int) -> NDArray[np.float32]:
    """Noise with grains 2^number pixels wide, interpolated linearly, shape (_ROWS, size)."""
    step = 2**number
    coarse = rng.standard_normal((_ROWS // step + 1, size // step + 2), dtype=np.float32)
    y, x = np.arange(_ROWS) / step, np.arange(size, dtype=np.float32) / step
    rows, columns = y.astype(int), x.astype(int)
    down, across = (y - rows)[:, None].astype(np.float32), x - columns
    tall = coarse[rows] * (1 - down) + coarse[np.minimum(rows + 1, len(coarse) - 1)] * down
    smooth: NDArray[np.float32] = tall[:, columns] * (1 - across) + tall[:, columns + 1] * across
    return smooth * np.float32(_FINEST_AMPLITUDE * _GROWTH_PER_OCTAVE**number)


def _inside_square(size: int, top: int, rows: int) -> NDArray[np.bool_]:
    """True inside a square rotated by six degrees about the center of the scan."""
    y = (np.arange(top, top + rows, dtype=np.float32) - size / 2)[:, None]
    x = np.arange(size, dtype=np.float32) - size / 2
    across, down = 0.9945 * x + 0.1045 * y, 0.9945 * y - 0.1045 * x
    inside: NDArray[np.bool_] = np.maximum(np.abs(across), np.abs(down)) < 0.45 * size
    return inside
