"""The compressed tiles of overview mosaics: those just made, those of the mosaic before, and one COG out of both.

Tiles that are made go one below the other into a file of their own, which GDAL encodes; a mosaic is then put together from raw
tiles. A tile is on its own (JPEG without shared tables), so it can be taken over into the next mosaic as it is.

Everything here runs in the caller's `gdal_env`.
"""

import struct
from collections.abc import Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

import numpy as np
import rasterio
from affine import Affine
from rasterio.io import DatasetReader, DatasetWriter
from rasterio.windows import Window
from tifffile import TiffFile, TiffPage

from ls4_assets.raster.cog_assembly import Entry, Image, Level, RawTile, read_image, write_levels
from ls4_assets.raster.gdal_env import written_whole
from ls4_assets.raster.georeference import WEB_MERCATOR
from ls4_assets.raster.overview_grid import TILE, Grid, Tile
from ls4_assets.raster.overview_painting import Pixels, Valid, without_edges

_WIDTH, _LENGTH, _LONG = 256, 257, 4
_MASK, _REDUCED = 4, 1

RawPair = tuple[RawTile, RawTile]
"""A tile's image and its mask."""


class Tiles(Protocol):
    """Where tiles can be had."""

    def raw(self, tile: Tile) -> RawPair: ...

    def decoded(self, tile: Tile) -> tuple[Pixels, Valid]: ...


class FreshTiles:
    """Tiles that are being made: `add` them, `finish`, then ask for them."""

    def __init__(self, path: Path, bands: int, room: int, transform: Affine | None = None) -> None:
        self._path, self._lossy = path, bands == 3
        self._position: dict[Tile, int] = {}
        self._raw: list[RawPair] = []
        options: dict[str, object] = {
            "driver": "GTiff", "dtype": "uint8", "count": bands, "width": TILE, "height": TILE * room, "crs": WEB_MERCATOR,
            # Any place will do for tiles that are only passed on, but without one GDAL warns.
            "transform": transform or Affine(2, 0, 0, 0, -2, 0),
            "tiled": True, "blockxsize": TILE, "blockysize": TILE, "interleave": "pixel",
            "sparse_ok": True, "bigtiff": "IF_SAFER",
        }  # fmt: skip
        if self._lossy:
            # Tables in each tile: those of one file would not fit the tiles of another.
            options |= {"compress": "JPEG", "photometric": "YCBCR", "jpeg_quality": 85, "jpegtablesmode": 0}
        else:
            options |= {"compress": "DEFLATE", "predictor": 2, "zlevel": 1, "photometric": "MINISBLACK"}
        self._target: DatasetWriter = rasterio.open(path, "w", **options)
        self._dataset: DatasetReader | None = None

    def add(self, tile: Tile, pixels: Pixels, valid: Valid) -> None:
        window = Window(0, TILE * len(self._position), TILE, TILE)
        self._position[tile] = len(self._position)
        self._target.write_mask(valid.astype(np.uint8) * np.uint8(255), window=window)
        self._target.write(without_edges(pixels, valid) if self._lossy else pixels * valid, window=window)

    def finish(self) -> None:
        """From now on a lossy tile's pixels are those that a reader sees: overviews are made of these, whoever made the tile."""
        self._target.close()
        if not self._position:
            return
        with TiffFile(self._path) as tif:
            image, mask = (read_image(_page(tif, number), self._path, 0) for number in (0, 1))
        self._raw = list(zip(image.tiles, mask.tiles, strict=True))
        self._dataset = rasterio.open(self._path)

    def close(self) -> None:
        self._target.close()
        if self._dataset:
            self._dataset.close()

    def __contains__(self, tile: Tile) -> bool:
        return tile in self._position

    def raw(self, tile: Tile) -> RawPair:
        return self._raw[self._position[tile]]

    def decoded(self, tile: Tile) -> tuple[Pixels, Valid]:
        assert self._dataset is not None
        return _decoded(self._dataset, Window(0, TILE * self._position[tile], TILE, TILE))


class StoredMosaic:
    """A mosaic that was made before, as a source of tiles. A context manager; raises GDAL's or tifffile's errors."""

    def __init__(self, path: Path, zoom: int) -> None:
        self._path, self._zoom = path, zoom
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with TiffFile(self._path) as tif:
            pages = [_page(tif, number) for number in range(len(tif.pages))]
            images = [read_image(page, self._path, 0).tiles for page in pages if not page.subfiletype & _MASK]
            masks = [read_image(page, self._path, 0).tiles for page in pages if page.subfiletype & _MASK]
        full = self._stack.enter_context(rasterio.open(self._path))
        levels = range(len(images) - 1)
        self._datasets = [full, *(self._stack.enter_context(rasterio.open(self._path, overview_level=i)) for i in levels)]
        self._grid = Grid.of(full.transform, full.width, full.height, self._zoom, len(levels))
        self._raw: dict[Tile, RawPair] = {}
        for level, pairs in enumerate(zip(images, masks, strict=True)):
            for tile, image, mask in zip(self._grid.tiles(level), *pairs, strict=True):
                if image.size:
                    self._raw[tile] = (image, mask)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stack.close()

    def __contains__(self, tile: Tile) -> bool:
        return tile in self._raw

    def raw(self, tile: Tile) -> RawPair:
        return self._raw[tile]

    def decoded(self, tile: Tile) -> tuple[Pixels, Valid]:
        left, top = self._grid.corner(tile.level)
        window = Window((tile.column - left) * TILE, (tile.row - top) * TILE, TILE, TILE)
        return _decoded(self._datasets[tile.level], window)


def put_together(out: Path, grid: Grid, bands: int, tiles: Mapping[Tile, Tiles], scratch: Path) -> None:
    """Write the COG of `grid`, with each tile from where `tiles` has it; the others are empty."""
    pattern = scratch / "pattern.tif"
    with closing(FreshTiles(pattern, bands, 1, grid.transform)) as one:
        one.add(Tile(0, 0, 0), np.zeros((bands, TILE, TILE), np.uint8), np.ones((TILE, TILE), np.bool_))
    nowhere = RawTile(pattern, 0, 0)
    levels = []
    with TiffFile(pattern) as tif:
        for level in grid.levels:
            pairs = [tiles[tile].raw(tile) if tile in tiles else (nowhere, nowhere) for tile in grid.tiles(level)]
            kind = _REDUCED if level else 0
            image, mask = read_image(_page(tif, 0), pattern, kind), read_image(_page(tif, 1), pattern, kind | _MASK)
            size = grid.shape(level)
            levels.append(Level(_filled(image, size, [one for one, _ in pairs]), _filled(mask, size, [one for _, one in pairs])))
    with written_whole(out) as part:
        write_levels(levels, part)


def _filled(pattern: Image, size: tuple[int, int], tiles: list[RawTile]) -> Image:
    """The pattern's directory for an image of so many tiles down and across, and these tiles."""
    sides = {_WIDTH: TILE * size[1], _LENGTH: TILE * size[0]}
    others = [entry for entry in pattern.entries if entry.code not in sides]
    return Image((*others, *(Entry(code, _LONG, 1, struct.pack("<I", side)) for code, side in sides.items())), tuple(tiles))


def _page(tif: TiffFile, number: int) -> TiffPage:
    page = tif.pages[number]
    assert isinstance(page, TiffPage)
    return page


def _decoded(dataset: DatasetReader, window: Window) -> tuple[Pixels, Valid]:
    pixels: Pixels = dataset.read(window=window)
    return pixels, dataset.read_masks(1, window=window) > 0
