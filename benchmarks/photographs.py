"""Synthetic scans for the benchmarks that compress as aerial photographs do.

Texture of all sizes (an octave of noise each, coarser ones stronger), the same in all bands but for a tint, and grain of
its own in each band. DEFLATE with predictor gains 1.3 to 1.6 times, JPEG of quality 85 about ten times.
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
_COARSENING = 1.45
_GRAIN = {1: 5.0, 3: 2.2}


def write_photograph(path: Path, size: int, bands: int, *, collar: bool, seed: int = 58) -> None:
    """Write a `size` x `size` scan, uint8, EPSG:3857, uncompressed; with `collar`, turned in a masked black one."""
    options = {
        "driver": "GTiff", "width": size, "height": size, "count": bands, "dtype": "uint8", "interleave": "pixel",
        "crs": "EPSG:3857", "transform": Affine(0.8, 0, -10_880_000, 0, -0.8, 3_540_000),
        "photometric": "RGB" if bands == 3 else "MINISBLACK",
    }  # fmt: skip
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "w", **options) as target:
        for top, pixels in _strips(size, bands, seed):
            window = Window(0, top, size, pixels.shape[1])
            if collar:
                inside = _inside(size, top, pixels.shape[1])
                pixels *= inside
                target.write_mask(inside, window=window)
            target.write(pixels, window=window)


def _strips(size: int, bands: int, seed: int) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    rng = np.random.default_rng(seed)
    tint = np.linspace(1.0, 0.8, bands, dtype=np.float32)[:, None, None]
    for top in range(0, size, _ROWS):
        rows = min(_ROWS, size - top)
        texture = sum(_octave(rng, number, size)[:rows] for number in range(_OCTAVES))
        yield top, np.clip(125 + tint * texture + _grain(rng, bands, rows, size), 1, 254).astype(np.uint8)


def _grain(rng: np.random.Generator, bands: int, rows: int, size: int) -> NDArray[np.float32]:
    """Film grain as a scanner sees it: its optics spread each grain over neighbouring pixels."""
    sharp = rng.standard_normal((bands, rows + 1, size + 1), dtype=np.float32)
    spread: NDArray[np.float32] = sharp[:, 1:, 1:] + sharp[:, :-1, 1:] + sharp[:, 1:, :-1] + sharp[:, :-1, :-1]
    return spread * np.float32(_GRAIN[bands] / 2)


def _octave(rng: np.random.Generator, number: int, size: int) -> NDArray[np.float32]:
    """Noise whose grains are 2^number pixels wide, linear between them, shape (_ROWS, size)."""
    step = 2**number
    coarse = rng.standard_normal((_ROWS // step + 1, size // step + 2), dtype=np.float32)
    y, x = np.arange(_ROWS) / step, np.arange(size, dtype=np.float32) / step
    rows, columns = y.astype(int), x.astype(int)
    down, across = (y - rows)[:, None].astype(np.float32), x - columns
    tall = coarse[rows] * (1 - down) + coarse[np.minimum(rows + 1, len(coarse) - 1)] * down
    smooth: NDArray[np.float32] = tall[:, columns] * (1 - across) + tall[:, columns + 1] * across
    return smooth * np.float32(_FINEST_AMPLITUDE * _COARSENING**number)


def _inside(size: int, top: int, rows: int) -> NDArray[np.bool_]:
    """True inside a square turned by six degrees about the centre of the scan."""
    y = (np.arange(top, top + rows, dtype=np.float32) - size / 2)[:, None]
    x = np.arange(size, dtype=np.float32) - size / 2
    across, down = 0.9945 * x + 0.1045 * y, 0.9945 * y - 0.1045 * x
    inside: NDArray[np.bool_] = np.maximum(np.abs(across), np.abs(down)) < 0.45 * size
    return inside
