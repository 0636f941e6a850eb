"""Resample a frame into the tiles of an overview mosaic: average the matching overview of its COG onto the mosaic's grid.

The average includes valid pixels only, weighted by area: collars are excluded, edges are not darkened, true black is kept. A
pixel is valid when any part of it is valid, as in the frames' own overviews. The pixels that a frame contributes to a tile
depend on that frame and that tile alone, so an incremental build equals a full rebuild. `overview_mosaic` stacks the results.
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
from ls4_assets.raster.overview_grid import TILE_PX, Box, Grid, Tile

# A pixel that is covered by a smaller share than this stays invalid: the share is a rounding error, not photograph.
_MIN_COVERED_SHARE = 1e-3
# An overview may be coarser than the mosaic by this factor, because the sizes of overviews are rounded up to whole pixels.
_RESOLUTION_TOLERANCE = 1.01

Pixels = NDArray[np.uint8]
Valid = NDArray[np.bool_]


@dataclass(frozen=True)
class PlacedFrame:
    """A frame of the tile index. `order`: frames with a higher one are on top; `path`: for GDAL; `box`: of the footprint."""

    order: int
    path: str
    box: Box


@dataclass(frozen=True)
class TilePatch:
    """The pixels that a frame contributes to a tile, and their rows and columns in it."""

    tile: Tile
    window: tuple[slice, slice]
    pixels: Pixels
    valid: Valid


@dataclass(frozen=True)
class _Taps:
    """For each target pixel of a row (or column): the source pixels that it overlaps, and its share of each."""

    index: NDArray[np.intp]
    weight: NDArray[np.float32]


def read_patches(frame: PlacedFrame, tiles: Sequence[Tile], grid: Grid, bands: int) -> list[TilePatch]:
    """Return what `frame` contributes to `tiles`. Call it in a `gdal_env`.

    Raises FrameError or GDAL's errors when the COG cannot be read.
    """
    with _open_matching_level(frame, grid.resolution) as dataset:
        _reject_misplaced(dataset, frame)
        return [patch for tile in tiles if (patch := _read_patch(dataset, tile, grid, bands))]


@contextmanager
def _open_matching_level(frame: PlacedFrame, resolution: float) -> Iterator[DatasetReader]:
    """Open the coarsest level of a COG that is not coarser than `resolution`."""
    with rasterio.open(frame.path) as full:
        fitting = [
            index for index, factor in enumerate(full.overviews(1)) if full.res[0] * factor <= resolution * _RESOLUTION_TOLERANCE
        ]
        if not fitting:
            yield full
            return
        # Opened while the full image is open: GDAL then uses the same header bytes for both.
        with rasterio.open(frame.path, overview_level=fitting[-1]) as level:
            yield level


def _reject_misplaced(dataset: DatasetReader, frame: PlacedFrame) -> None:
    across, row_rotation, left, column_rotation, down, top = dataset.transform[:6]
    if row_rotation or column_rotation or across <= 0 or down >= 0 or dataset.dtypes[0] != "uint8":
        raise FrameError(f"{frame.path} is not a north-up COG of 8 bits; materialize its frame again.")
    right, bottom = left + across * dataset.width, top + down * dataset.height
    west, south, east, north = frame.box
    if right < west or left > east or top < south or bottom > north:
        raise FrameError(f"{frame.path} lies outside its footprint; materialize its frame again.")


def _read_patch(dataset: DatasetReader, tile: Tile, grid: Grid, bands: int) -> TilePatch | None:
    x, y = grid.origin(tile)
    transform = dataset.transform
    # Edges of the tile's pixels, in pixels of the source.
    steps = np.arange(TILE_PX + 1) * grid.resolution
    columns, across = _find_taps((x + steps - transform.c) / transform.a, dataset.width)
    rows, down = _find_taps((y - steps - transform.f) / transform.e, dataset.height)
    if across is None or down is None:
        return None
    left, top = int(across.index.min()), int(down.index.min())
    window = Window(left, top, int(across.index.max()) + 1 - left, int(down.index.max()) + 1 - top)
    across, down = _Taps(across.index - left, across.weight), _Taps(down.index - top, down.weight)
    valid = dataset.read_masks(1, window=window) > 0
    weight = _weighted_sum(valid.astype(np.float32), down, across)
    covered = weight > _MIN_COVERED_SHARE * down.weight.sum(axis=0).max() * across.weight.sum(axis=0).max()
    if not covered.any():
        return None
    pixels = np.zeros((bands, *covered.shape), np.uint8)
    source_bands = range(1, bands + 1) if dataset.count >= bands else [1] * bands
    for band, number in enumerate(source_bands):
        total = _weighted_sum(dataset.read(number, window=window) * valid.astype(np.float32), down, across)
        pixels[band] = np.rint(np.divide(total, weight, out=np.zeros_like(total), where=covered))
    return TilePatch(tile, (rows, columns), pixels, covered)


def _find_taps(edges: NDArray[np.float64], size: int) -> tuple[slice, _Taps | None]:
    """Return which pixels of a tile's row (or column) overlap an image of `size` pixels, and their taps.

    `edges`: of the tile's pixels, in pixels of the image.
    """
    low, high = np.clip(edges[:-1], 0, size), np.clip(edges[1:], 0, size)
    inside = np.flatnonzero(high > low)
    if not inside.size:
        return slice(0, 0), None
    covered = slice(int(inside[0]), int(inside[-1]) + 1)
    low, high = low[covered], high[covered]
    first = np.floor(low).astype(np.intp)
    tap_count = math.ceil(np.max(high - first))
    index = first + np.arange(tap_count)[:, None]
    weight = np.clip(np.minimum(high, index + 1) - np.maximum(low, index), 0, None)
    return covered, _Taps(np.minimum(index, size - 1), weight.astype(np.float32))


def _weighted_sum(image: NDArray[np.float32], down: _Taps, across: _Taps) -> NDArray[np.float32]:
    """Sum of the source pixels that each target pixel overlaps, weighted by its share of them."""
    rows = np.zeros((down.index.shape[1], image.shape[1]), np.float32)
    for index, weight in zip(down.index, down.weight, strict=True):
        rows += weight[:, None] * image[index]
    total = np.zeros((rows.shape[0], across.index.shape[1]), np.float32)
    for index, weight in zip(across.index, across.weight, strict=True):
        total += weight * rows[:, index]
    return total


def halve(pixels: Pixels, valid: Valid) -> tuple[Pixels, Valid]:
    """Return a tile of the next level from the 2 x 2 tiles below it: the same average, in integer arithmetic."""
    count = _sum_2x2(valid)
    total = _sum_2x2(pixels * valid)
    return ((total + count // 2) // np.maximum(count, 1)).astype(np.uint8), count > 0


def _sum_2x2(image: NDArray[Any]) -> NDArray[np.uint16]:
    rows = image[..., 0::2, :].astype(np.uint16) + image[..., 1::2, :]
    total: NDArray[np.uint16] = rows[..., 0::2] + rows[..., 1::2]
    return total


def fill_hidden_edges(pixels: Pixels, valid: Valid) -> Pixels:
    """Fill hidden pixels beside valid ones with their average, in each block of 16 x 16 pixels that JPEG encodes together.

    An edge to black would ring into the photograph and darken its rim.
    """
    if valid.all():
        return pixels
    average = (_sum_blocks(pixels * valid) // np.maximum(_sum_blocks(valid), 1)).astype(np.uint8)
    filled: Pixels = np.where(valid, pixels, average.repeat(16, axis=-2).repeat(16, axis=-1))
    return filled


def _sum_blocks(image: NDArray[Any]) -> NDArray[np.uint32]:
    *bands, height, width = image.shape
    rows = image.reshape(*bands, height // 16, 16, width).sum(axis=-2, dtype=np.uint32)
    total: NDArray[np.uint32] = rows.reshape(*bands, height // 16, width // 16, 16).sum(axis=-1, dtype=np.uint32)
    return total
