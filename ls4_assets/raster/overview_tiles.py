"""Compressed tiles of overview mosaics: write new ones, read those of the previous mosaic, and assemble a COG from both.

GDAL encodes the new tiles into a file of their own, one below the other; the mosaic is then assembled from raw tiles. Each tile
is independent (JPEG without shared tables), so its bytes can be copied into the next mosaic. `overview_painting` computes the
pixels, `cog_assembly` writes the file.

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
from ls4_assets.raster.gdal_env import atomic_write
from ls4_assets.raster.overview_grid import TILE_PX, Grid, Tile
from ls4_assets.raster.overview_painting import Pixels, Valid, fill_hidden_edges
from ls4_assets.raster.position import WEB_MERCATOR

_WIDTH, _LENGTH, _LONG = 256, 257, 4
_MASK, _REDUCED = 4, 1

RawPair = tuple[RawTile, RawTile]
"""A tile's image and its mask."""


class TileSource(Protocol):
    """A source of tiles, compressed and decoded."""

    def locate(self, tile: Tile) -> RawPair: ...

    def decode(self, tile: Tile) -> tuple[Pixels, Valid]: ...


class TileWriter:
    """Encodes new tiles: `add` them, `finish`, then read them as from any TileSource."""

    def __init__(self, path: Path, bands: int, capacity: int, transform: Affine | None = None) -> None:
        self._path, self._is_lossy = path, bands == 3
        self._position: dict[Tile, int] = {}
        self._raw: list[RawPair] = []
        options: dict[str, object] = {
            "driver": "GTiff", "dtype": "uint8", "count": bands, "crs": WEB_MERCATOR,
            "width": TILE_PX, "height": TILE_PX * capacity,
            # Tiles that are only copied need no particular place, but GDAL warns without one.
            "transform": transform or Affine(2, 0, 0, 0, -2, 0),
            "tiled": True, "blockxsize": TILE_PX, "blockysize": TILE_PX, "interleave": "pixel",
            "sparse_ok": True, "bigtiff": "IF_SAFER",
        }  # fmt: skip
        if self._is_lossy:
            # Store the tables in each tile: shared tables would not match the tiles of another file.
            options |= {"compress": "JPEG", "photometric": "YCBCR", "jpeg_quality": 85, "jpegtablesmode": 0}
        else:
            options |= {"compress": "DEFLATE", "predictor": 2, "zlevel": 1, "photometric": "MINISBLACK"}
        self._target: DatasetWriter = rasterio.open(path, "w", **options)
        self._dataset: DatasetReader | None = None

    def add(self, tile: Tile, pixels: Pixels, valid: Valid) -> None:
        window = Window(0, TILE_PX * len(self._position), TILE_PX, TILE_PX)
        self._position[tile] = len(self._position)
        self._target.write_mask(valid.astype(np.uint8) * np.uint8(255), window=window)
        self._target.write(fill_hidden_edges(pixels, valid) if self._is_lossy else pixels * valid, window=window)

    def finish(self) -> None:
        """Close the file and open it for reading.

        `decode` then returns the lossy pixels that a reader sees. Overviews are computed from these, so that they are the same
        whether a tile is new or copied.
        """
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

    def locate(self, tile: Tile) -> RawPair:
        return self._raw[self._position[tile]]

    def decode(self, tile: Tile) -> tuple[Pixels, Valid]:
        assert self._dataset is not None
        return _read_window(self._dataset, Window(0, TILE_PX * self._position[tile], TILE_PX, TILE_PX))


class StoredMosaic:
    """The tiles of an existing mosaic. A context manager; raises GDAL's or tifffile's errors."""

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
        self._datasets = [full, *(self._stack.enter_context(rasterio.open(self._path, overview_level=index)) for index in levels)]
        self._grid = Grid.from_transform(full.transform, full.width, full.height, self._zoom, len(levels))
        self._raw: dict[Tile, RawPair] = {}
        for level, pairs in enumerate(zip(images, masks, strict=True)):
            for tile, image, mask in zip(self._grid.iter_tiles(level), *pairs, strict=True):
                if image.size:
                    self._raw[tile] = (image, mask)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stack.close()

    def __contains__(self, tile: Tile) -> bool:
        return tile in self._raw

    def locate(self, tile: Tile) -> RawPair:
        return self._raw[tile]

    def decode(self, tile: Tile) -> tuple[Pixels, Valid]:
        left, top = self._grid.corner(tile.level)
        window = Window((tile.column - left) * TILE_PX, (tile.row - top) * TILE_PX, TILE_PX, TILE_PX)
        return _read_window(self._datasets[tile.level], window)


def assemble_mosaic(out: Path, grid: Grid, bands: int, tiles: Mapping[Tile, TileSource], scratch: Path) -> None:
    """Write the COG of `grid` with each tile copied from its source in `tiles`; tiles without a source are empty."""
    pattern = scratch / "pattern.tif"
    with closing(TileWriter(pattern, bands, 1, grid.transform)) as writer:
        writer.add(Tile(0, 0, 0), np.zeros((bands, TILE_PX, TILE_PX), np.uint8), np.ones((TILE_PX, TILE_PX), np.bool_))
    empty = RawTile(pattern, 0, 0)
    levels = []
    with TiffFile(pattern) as tif:
        for level in grid.levels:
            pairs = [tiles[tile].locate(tile) if tile in tiles else (empty, empty) for tile in grid.iter_tiles(level)]
            subfile = _REDUCED if level else 0
            image, mask = read_image(_page(tif, 0), pattern, subfile), read_image(_page(tif, 1), pattern, subfile | _MASK)
            shape, image_tiles, mask_tiles = grid.shape(level), [image for image, _ in pairs], [mask for _, mask in pairs]
            levels.append(Level(_fill(image, shape, image_tiles), _fill(mask, shape, mask_tiles)))
    with atomic_write(out) as part:
        write_levels(levels, part)


def _fill(pattern: Image, shape: tuple[int, int], tiles: list[RawTile]) -> Image:
    """Return the pattern's directory for an image with `shape` tiles down and across, and with these tiles."""
    sides = {_WIDTH: TILE_PX * shape[1], _LENGTH: TILE_PX * shape[0]}
    others = [entry for entry in pattern.entries if entry.code not in sides]
    return Image((*others, *(Entry(code, _LONG, 1, struct.pack("<I", side)) for code, side in sides.items())), tuple(tiles))


def _page(tif: TiffFile, number: int) -> TiffPage:
    page = tif.pages[number]
    assert isinstance(page, TiffPage)
    return page


def _read_window(dataset: DatasetReader, window: Window) -> tuple[Pixels, Valid]:
    pixels: Pixels = dataset.read(window=window)
    return pixels, dataset.read_masks(1, window=window) > 0
