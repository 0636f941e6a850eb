"""What of a frame goes into the tiles of an overview mosaic: its COG's matching overview, averaged onto the mosaic's grid.

Average of the valid pixels only, weighted by the share of each that lies in the pixel to be: collars stay out, edges are not
darkened, true black is kept. A pixel of which some part is valid is valid, as in the frames' own overviews. What a tile gets
from a frame depends on these two alone, never on what else is painted: an incremental mosaic is that of a full rebuild.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.io import DatasetReader
from rasterio.windows import Window

from ls4_assets.errors import FrameError
from ls4_assets.raster.overview_grid import TILE, Box, Grid, Tile

# Shares of a pixel smaller than this are left out: rounding, not photograph.
_SLIVER = 1e-3
# An overview may be coarser than the mosaic by this much: sizes of overviews are rounded up to whole pixels.
_SAME = 1.01

Pixels = NDArray[np.uint8]
Valid = NDArray[np.bool_]


@dataclass(frozen=True)
class PlacedFrame:
    """A frame as the tile index has it. `order`: later ones lie on top; `box`: around its footprint; `path`: GDAL's."""

    order: int
    path: str
    box: Box


@dataclass(frozen=True)
class Part:
    """What a frame gives to a tile, and where in it."""

    tile: Tile
    window: tuple[slice, slice]
    pixels: Pixels
    valid: Valid


@dataclass(frozen=True)
class _Taps:
    """For each pixel of a row (or column) to be, the source pixels it lies on and the share of each in it."""

    index: NDArray[np.intp]
    weight: NDArray[np.float32]


def parts_of(frame: PlacedFrame, tiles: Sequence[Tile], grid: Grid, bands: int) -> list[Part]:
    """What `frame` gives to `tiles`; runs in a `gdal_env`. Raises FrameFault, or GDAL's errors, for a COG that cannot be read."""
    with _matching_level(frame, grid.resolution) as dataset:
        _reject_misplaced(dataset, frame)
        return [part for tile in tiles if (part := _part(dataset, tile, grid, bands))]


@contextmanager
def _matching_level(frame: PlacedFrame, resolution: float) -> Iterator[DatasetReader]:
    """The coarsest level of a COG that is not coarser than `resolution`."""
    with rasterio.open(frame.path) as full:
        fitting = [i for i, factor in enumerate(full.overviews(1)) if full.res[0] * factor <= resolution * _SAME]
        if not fitting:
            yield full
            return
        # While the full image is open: what GDAL has read of the header serves both.
        with rasterio.open(frame.path, overview_level=fitting[-1]) as level:
            yield level


def _reject_misplaced(dataset: DatasetReader, frame: PlacedFrame) -> None:
    across, turned, left, turned_too, down, top = dataset.transform[:6]
    if turned or turned_too or across <= 0 or down >= 0 or dataset.dtypes[0] != "uint8":
        raise FrameError(f"{frame.path} is no north-up COG of 8 bits; make its frame anew.")
    right, bottom = left + across * dataset.width, top + down * dataset.height
    west, south, east, north = frame.box
    if right < west or left > east or top < south or bottom > north:
        raise FrameError(f"{frame.path} lies elsewhere than its footprint; make its frame anew.")


def _part(dataset: DatasetReader, tile: Tile, grid: Grid, bands: int) -> Part | None:
    x, y = grid.edges(tile)
    transform = dataset.transform
    # Edges of the tile's pixels, counted in pixels of the source.
    steps = np.arange(TILE + 1) * grid.resolution
    columns, across = _covered((x + steps - transform.c) / transform.a, dataset.width)
    rows, down = _covered((y - steps - transform.f) / transform.e, dataset.height)
    if across is None or down is None:
        return None
    left, top = int(across.index.min()), int(down.index.min())
    window = Window(left, top, int(across.index.max()) + 1 - left, int(down.index.max()) + 1 - top)
    across, down = _Taps(across.index - left, across.weight), _Taps(down.index - top, down.weight)
    valid = dataset.read_masks(1, window=window) > 0
    weight = _weighted(valid.astype(np.float32), down, across)
    covered = weight > _SLIVER * down.weight.sum(axis=0).max() * across.weight.sum(axis=0).max()
    if not covered.any():
        return None
    pixels = np.zeros((bands, *covered.shape), np.uint8)
    shown = range(1, bands + 1) if dataset.count >= bands else [1] * bands
    for band, number in enumerate(shown):
        total = _weighted(dataset.read(number, window=window) * valid.astype(np.float32), down, across)
        pixels[band] = np.rint(np.divide(total, weight, out=np.zeros_like(total), where=covered))
    return Part(tile, (rows, columns), pixels, covered)


def _covered(edges: NDArray[np.float64], size: int) -> tuple[slice, _Taps | None]:
    """Which pixels of a tile's row (or column) lie on an image of `size` pixels, and on which of those."""
    low, high = np.clip(edges[:-1], 0, size), np.clip(edges[1:], 0, size)
    inside = np.flatnonzero(high > low)
    if not inside.size:
        return slice(0, 0), None
    where = slice(int(inside[0]), int(inside[-1]) + 1)
    low, high = low[where], high[where]
    first = np.floor(low).astype(np.intp)
    taps = math.ceil(np.max(high - first))
    index = first + np.arange(taps)[:, None]
    weight = np.clip(np.minimum(high, index + 1) - np.maximum(low, index), 0, None)
    return where, _Taps(np.minimum(index, size - 1), weight.astype(np.float32))


def _weighted(image: NDArray[np.float32], down: _Taps, across: _Taps) -> NDArray[np.float32]:
    """Sum of the source pixels under each pixel to be, each by its share."""
    rows = np.zeros((down.index.shape[1], image.shape[1]), np.float32)
    for index, weight in zip(down.index, down.weight, strict=True):
        rows += weight[:, None] * image[index]
    total = np.zeros((rows.shape[0], across.index.shape[1]), np.float32)
    for index, weight in zip(across.index, across.weight, strict=True):
        total += weight * rows[:, index]
    return total


def halved(pixels: Pixels, valid: Valid) -> tuple[Pixels, Valid]:
    """A tile of the next level from the two by two below it: the same average, in whole numbers."""
    count = _sum_of_four(valid)
    total = _sum_of_four(pixels * valid)
    return ((total + count // 2) // np.maximum(count, 1)).astype(np.uint8), count > 0


def _sum_of_four(image: NDArray[Any]) -> NDArray[np.uint16]:
    rows = image[..., 0::2, :].astype(np.uint16) + image[..., 1::2, :]
    total: NDArray[np.uint16] = rows[..., 0::2] + rows[..., 1::2]
    return total


def without_edges(pixels: Pixels, valid: Valid) -> Pixels:
    """For JPEG: hidden pixels beside valid ones get their average, in each 16 x 16 pixels that are encoded together.

    An edge to black would ring into the photograph and darken its rim.
    """
    if valid.all():
        return pixels
    average = (_sum_of_cells(pixels * valid) // np.maximum(_sum_of_cells(valid), 1)).astype(np.uint8)
    filled: Pixels = np.where(valid, pixels, average.repeat(16, axis=-2).repeat(16, axis=-1))
    return filled


def _sum_of_cells(image: NDArray[Any]) -> NDArray[np.uint32]:
    *bands, height, width = image.shape
    rows = image.reshape(*bands, height // 16, 16, width).sum(axis=-2, dtype=np.uint32)
    total: NDArray[np.uint32] = rows.reshape(*bands, height // 16, width // 16, 16).sum(axis=-1, dtype=np.uint32)
    return total
