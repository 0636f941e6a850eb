"""The overview mosaic of a collection: one COG, much coarser than its frames, stacked as the map stacks them.

A map of a whole county reads this one file instead of the overviews of a thousand frames. It is made of tiles (512 pixels a
side): those that a changed frame touches are painted anew, from all frames that touch them; the others are taken over from
the mosaic before, compressed as they are. Memory holds a few tiles and a few frames' overviews at a time, whatever the size.
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

from ls4_assets.db.chunks import chunks
from ls4_assets.errors import FrameError
from ls4_assets.raster.gdal_env import GDAL_ERRORS, gdal_env
from ls4_assets.raster.overview_grid import TILE, Box, Grid, Tile
from ls4_assets.raster.overview_painting import Part, Pixels, PlacedFrame, Valid, halved, parts_of
from ls4_assets.raster.overview_tiles import FreshTiles, StoredMosaic, Tiles, put_together

# Raised by hand when the code gives other pixels from the same frames: no tile of an older mosaic is taken over then.
PAINTING_VERSION = 1

# Tiles a side that are painted together: most frames then lie in one block, and are opened once.
_BLOCK = 8
# Frames read at the same time: over a network each of them waits much longer than it works.
_READERS = 8
_REMOTE = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    "GDAL_INGESTED_BYTES_AT_OPEN": "32768",
    "GDAL_HTTP_MAX_RETRY": "3",
    "GDAL_HTTP_CONNECTTIMEOUT": "5",
    "GDAL_HTTP_TIMEOUT": "30",
}


@dataclass(frozen=True)
class Order:
    """What is to be made: the mosaic of `grid` with 1 or 3 `bands`.

    frames_in: the frames whose boxes meet a box, in any order.
    changed: boxes of frames that came, changed or left, as they were and as they are, since `previous` was made.
    previous: a mosaic of the same zoom, bands and PAINTING_VERSION; None paints all that `changed` names, which is then all.
    gdal_options: how a bucket is reached.
    """

    grid: Grid
    bands: int
    frames_in: Callable[[Box], Sequence[PlacedFrame]]
    changed: Sequence[Box]
    previous: Path | None = None
    gdal_options: dict[str, Any] = field(default_factory=dict)


@dataclass
class Made:
    """What became of it. `left_out`: frames whose COG could not be read, and why; tiles are counted over all levels."""

    frames: set[PlacedFrame] = field(default_factory=set)
    tiles_painted: int = 0
    tiles_kept: int = 0
    left_out: dict[PlacedFrame, str] = field(default_factory=dict)


def build_overview_mosaic(order: Order, out: Path, scratch: Path) -> Made:
    """Write the mosaic to `out`; `scratch` is an existing folder, for the tiles meanwhile.

    Raises GDAL's errors, or tifffile's, when `previous` cannot be read; a frame that cannot be is left out.
    """
    made = Made()
    with gdal_env(), ExitStack() as stack:
        previous = stack.enter_context(StoredMosaic(order.previous, order.grid.zoom)) if order.previous else None
        sources: dict[Tile, Tiles] = {}
        changed = order.grid.touched(order.changed)
        for level in order.grid.levels:
            if level:
                # Those of a level that the mosaic before did not have are all new.
                below = [tile for tile in sources if tile.level == level - 1]
                grown = {tile.parent for tile in below if previous and tile.parent not in previous}
                changed = {tile.parent for tile in changed} | grown
            room = max(1, len(changed))
            fresh = stack.enter_context(closing(FreshTiles(scratch / f"level{level}.tif", order.bands, room)))
            for tile, pixels, valid in _reduced(changed, sources, order.bands) if level else _painted(changed, order, made):
                fresh.add(tile, pixels, valid)
                sources[tile] = fresh
            fresh.finish()
            made.tiles_painted += len(changed)
            if previous:
                kept = {tile: previous for tile in order.grid.tiles(level) if tile in previous and tile not in changed}
                made.tiles_kept += len(kept)
                sources |= kept
        put_together(out, order.grid, order.bands, sources, scratch)
    return made


def _painted(tiles: set[Tile], order: Order, made: Made) -> Iterator[tuple[Tile, Pixels, Valid]]:
    """The tiles of the full image that are not empty, block by block."""
    by_block = sorted(tiles, key=lambda tile: (_block(tile), tile))
    with ThreadPoolExecutor(_READERS) as readers:
        for _, some in groupby(by_block, key=_block):
            yield from _painted_block(list(some), order, made, readers)


def _block(tile: Tile) -> tuple[int, int]:
    return tile.row // _BLOCK, tile.column // _BLOCK


def _painted_block(
    tiles: list[Tile], order: Order, made: Made, readers: ThreadPoolExecutor
) -> Iterator[tuple[Tile, Pixels, Valid]]:
    canvas: dict[Tile, tuple[Pixels, Valid]] = {}

    def read(frame: PlacedFrame) -> list[Part] | str:
        touching = sorted(order.grid.touched([frame.box]).intersection(tiles))
        # The thread's own options, on top of those of the `gdal_env` around all of this.
        with rasterio.Env(**{**_REMOTE, **order.gdal_options}):
            try:
                return parts_of(frame, touching, order.grid, order.bands)
            except (*GDAL_ERRORS, FrameError) as fault:
                return str(fault)

    frames = sorted(order.frames_in(order.grid.box(tiles)), key=lambda frame: frame.order)
    # A few at a time: what waits to be painted is in memory.
    for some in chunks(frames, 2 * _READERS):
        for frame, parts in zip(some, readers.map(read, some), strict=True):
            if isinstance(parts, str):
                made.left_out[frame] = parts
                continue
            made.frames.add(frame)
            for part in parts:
                _lay(part, canvas.setdefault(part.tile, _blank(order.bands)))
    for tile, (pixels, valid) in canvas.items():
        yield tile, pixels, valid


def _lay(part: Part, onto: tuple[Pixels, Valid]) -> None:
    pixels, valid = onto
    rows, columns = part.window
    np.copyto(pixels[:, rows, columns], part.pixels, where=part.valid)
    valid[rows, columns] |= part.valid


def _reduced(tiles: set[Tile], below: dict[Tile, Tiles], bands: int) -> Iterator[tuple[Tile, Pixels, Valid]]:
    """The tiles of an overview that are not empty, each from the four below it."""
    for tile in sorted(tiles):
        children = [child for child in tile.children if child in below]
        if not children:
            continue
        pixels, valid = np.zeros((bands, 2 * TILE, 2 * TILE), np.uint8), np.zeros((2 * TILE, 2 * TILE), np.bool_)
        for child in children:
            top, left = TILE * (child.row % 2), TILE * (child.column % 2)
            where = slice(top, top + TILE), slice(left, left + TILE)
            pixels[(slice(None), *where)], valid[where] = below[child].decoded(child)
        yield tile, *halved(pixels, valid)


def _blank(bands: int) -> tuple[Pixels, Valid]:
    return np.zeros((bands, TILE, TILE), np.uint8), np.zeros((TILE, TILE), np.bool_)
