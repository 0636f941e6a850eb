"""Build the overview mosaic of a collection: one COG, much coarser than its frames, stacked in the order of the map.

A map of a whole county reads this one file instead of the overviews of a thousand frames. The mosaic consists of tiles of 512 x
512 pixels. A build repaints the tiles that a changed frame touches, from all frames that touch them, and copies the compressed
bytes of the other tiles from the previous mosaic. At any size, memory holds a few tiles and a few frames' overviews.

`overview_grid` numbers the tiles, `overview_painting` resamples the frames, `overview_tiles` reads and writes compressed tiles,
and the asset in `ls4_assets/assets/overview_mosaic.py` decides when to build.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import rasterio

from ls4_assets.domain.chunks import chunks
from ls4_assets.errors import FrameError
from ls4_assets.raster.gdal_env import GDAL_ERRORS, gdal_env
from ls4_assets.raster.overview_grid import TILE_PX, Box, Grid, Tile
from ls4_assets.raster.overview_painting import Pixels, PlacedFrame, TilePatch, Valid, halve, read_patches
from ls4_assets.raster.overview_tiles import StoredMosaic, TileSource, TileWriter, assemble_mosaic

# Increment it when the code paints other pixels from the same frames; tiles of older mosaics are then not reused.
PAINTING_VERSION = 1

# Side, in tiles, of the blocks that are painted together: most frames then lie in one block, and are opened once.
_BLOCK_TILES = 8
# Number of frames read concurrently: over a network a reader mostly waits.
_READERS = 8
_REMOTE = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    "GDAL_INGESTED_BYTES_AT_OPEN": "32768",
    "GDAL_HTTP_MAX_RETRY": "3",
    "GDAL_HTTP_CONNECTTIMEOUT": "5",
    "GDAL_HTTP_TIMEOUT": "30",
}


@dataclass(frozen=True)
class MosaicTask:
    """Input of a build: the mosaic of `grid` with 1 or 3 `bands`.

    frames_in: returns the frames whose boxes intersect a box, in any order.
    changed: old and new boxes of the frames that were added, changed or removed since `previous` was built.
    previous: an existing mosaic of the same zoom, bands and PAINTING_VERSION. Without it, `changed` must list all frames.
    gdal_options: access to the bucket.
    """

    grid: Grid
    bands: int
    frames_in: Callable[[Box], Sequence[PlacedFrame]]
    changed: Sequence[Box]
    previous: Path | None = None
    gdal_options: dict[str, Any] = field(default_factory=dict)


@dataclass
class MosaicResult:
    """Result of a build. `left_out`: frames whose COG could not be read, with the reason. Tiles are counted over all levels."""

    frames: set[PlacedFrame] = field(default_factory=set)
    tiles_painted: int = 0
    tiles_kept: int = 0
    left_out: dict[PlacedFrame, str] = field(default_factory=dict)


def build_overview_mosaic(task: MosaicTask, out: Path, scratch: Path) -> MosaicResult:
    """Write the mosaic to `out`; `scratch` is an existing folder for temporary files.

    Raises GDAL's or tifffile's errors when `previous` cannot be read. An unreadable frame is left out.
    """
    result = MosaicResult()
    with gdal_env(), ExitStack() as stack:
        previous = stack.enter_context(StoredMosaic(task.previous, task.grid.zoom)) if task.previous else None
        sources: dict[Tile, TileSource] = {}
        changed = task.grid.find_touched(task.changed)
        for level in task.grid.levels:
            if level:
                # A level that the previous mosaic did not have is all new.
                below = [tile for tile in sources if tile.level == level - 1]
                added = {tile.parent for tile in below if previous and tile.parent not in previous}
                changed = {tile.parent for tile in changed} | added
            capacity = max(1, len(changed))
            writer = stack.enter_context(closing(TileWriter(scratch / f"level{level}.tif", task.bands, capacity)))
            for tile, pixels, valid in _downsample(changed, sources, task.bands) if level else _paint(changed, task, result):
                writer.add(tile, pixels, valid)
                sources[tile] = writer
            writer.finish()
            result.tiles_painted += len(changed)
            if previous:
                kept = {tile: previous for tile in task.grid.iter_tiles(level) if tile in previous and tile not in changed}
                result.tiles_kept += len(kept)
                sources |= kept
        assemble_mosaic(out, task.grid, task.bands, sources, scratch)
    return result


def _paint(tiles: set[Tile], task: MosaicTask, result: MosaicResult) -> Iterator[tuple[Tile, Pixels, Valid]]:
    """Yield the nonempty tiles of the full image, block by block."""
    by_block = sorted(tiles, key=lambda tile: (_block(tile), tile))
    with ThreadPoolExecutor(_READERS) as readers:
        for _, block in groupby(by_block, key=_block):
            yield from _paint_block(list(block), task, result, readers)


def _block(tile: Tile) -> tuple[int, int]:
    return tile.row // _BLOCK_TILES, tile.column // _BLOCK_TILES


def _paint_block(
    tiles: list[Tile], task: MosaicTask, result: MosaicResult, readers: ThreadPoolExecutor
) -> Iterator[tuple[Tile, Pixels, Valid]]:
    canvas: dict[Tile, tuple[Pixels, Valid]] = {}

    def read(frame: PlacedFrame) -> list[TilePatch] | str:
        touching = sorted(task.grid.find_touched([frame.box]).intersection(tiles))
        # Options of this thread, on top of the surrounding `gdal_env`.
        with rasterio.Env(**{**_REMOTE, **task.gdal_options}):
            try:
                return read_patches(frame, touching, task.grid, task.bands)
            except (*GDAL_ERRORS, FrameError) as error:
                return str(error)

    frames = sorted(task.frames_in(task.grid.bounds(tiles)), key=lambda frame: frame.order)
    # A few frames at a time: patches that wait to be painted are in memory.
    for chunk in chunks(frames, 2 * _READERS):
        for frame, patches in zip(chunk, readers.map(read, chunk), strict=True):
            if isinstance(patches, str):
                result.left_out[frame] = patches
                continue
            result.frames.add(frame)
            for patch in patches:
                _overlay(patch, canvas.setdefault(patch.tile, _blank(task.bands)))
    for tile, (pixels, valid) in canvas.items():
        yield tile, pixels, valid


def _overlay(patch: TilePatch, tile: tuple[Pixels, Valid]) -> None:
    pixels, valid = tile
    rows, columns = patch.window
    np.copyto(pixels[:, rows, columns], patch.pixels, where=patch.valid)
    valid[rows, columns] |= patch.valid


def _downsample(tiles: set[Tile], below: dict[Tile, TileSource], bands: int) -> Iterator[tuple[Tile, Pixels, Valid]]:
    """Yield the nonempty tiles of an overview, each from the four tiles below it."""
    for tile in sorted(tiles):
        children = [child for child in tile.children if child in below]
        if not children:
            continue
        pixels, valid = np.zeros((bands, 2 * TILE_PX, 2 * TILE_PX), np.uint8), np.zeros((2 * TILE_PX, 2 * TILE_PX), np.bool_)
        for child in children:
            top, left = TILE_PX * (child.row % 2), TILE_PX * (child.column % 2)
            quadrant = slice(top, top + TILE_PX), slice(left, left + TILE_PX)
            pixels[(slice(None), *quadrant)], valid[quadrant] = below[child].decode(child)
        yield tile, *halve(pixels, valid)


def _blank(bands: int) -> tuple[Pixels, Valid]:
    return np.zeros((bands, TILE_PX, TILE_PX), np.uint8), np.zeros((TILE_PX, TILE_PX), np.bool_)
