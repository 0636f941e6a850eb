"""The tile grid of an overview mosaic: its resolution and its tiles. Arithmetic only; `overview_painting` reads the pixels.

Resolutions are those of web map zooms, and the tiles of every level are numbered from the corner of the world. A tile therefore
covers the same ground however the collection grows, and its compressed bytes can be copied from one mosaic to the next.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from affine import Affine

TILE_PX = 512
MAX_MOSAIC_PIXELS = 256_000_000

_HALF_WORLD = math.pi * 6_378_137
_REDUCTION = 8
# Zoom levels by which the exact zoom may drift before an existing mosaic changes its zoom; plain rounding would be half a zoom.
_HYSTERESIS = 0.75

Box = tuple[float, float, float, float]
"""minx, miny, maxx, maxy in EPSG:3857 meters."""


class Tile(NamedTuple):
    """A tile of a level (0 is the full image), by its column and row in the world grid of that level."""

    level: int
    column: int
    row: int

    @property
    def parent(self) -> "Tile":
        return Tile(self.level + 1, self.column // 2, self.row // 2)

    @property
    def children(self) -> tuple["Tile", "Tile", "Tile", "Tile"]:
        """Upper left, upper right, lower left, lower right."""
        level, column, row = self.level - 1, 2 * self.column, 2 * self.row
        upper = Tile(level, column, row), Tile(level, column + 1, row)
        return *upper, Tile(level, column, row + 1), Tile(level, column + 1, row + 1)


def zoom_resolution(zoom: int) -> float:
    """Return the EPSG:3857 meters per pixel of a web map zoom with tiles of 256 pixels."""
    return 2 * _HALF_WORLD / float(256 * 2**zoom)


def choose_zoom(native_resolution: float, extent: Box, previous: int | None = None) -> int:
    """Return the zoom that is about 8 times coarser than the frames, or coarser still when the mosaic would be too large.

    `native_resolution`: of the frames, in EPSG:3857 meters per pixel. `previous`: the zoom of the existing mosaic, which is
    kept while it is close enough.
    """
    exact = math.log2(zoom_resolution(0) / (_REDUCTION * native_resolution))
    zoom = previous if previous is not None and abs(previous - exact) <= _HYSTERESIS else round(exact)
    area = (extent[2] - extent[0]) * (extent[3] - extent[1])
    # A frame as large as the world is an error in the archive, but it must not stop the build.
    zoom = max(1, zoom)
    while zoom > 1 and area / zoom_resolution(zoom) ** 2 > MAX_MOSAIC_PIXELS:
        zoom -= 1
    return zoom


@dataclass(frozen=True)
class Grid:
    """The tiles of one mosaic: all descendants of the tiles `left` to `right` and `top` to `bottom` of its last level.

    `right` and `bottom` are exclusive. Most tiles are empty, and take no space in the file.
    """

    zoom: int
    last_level: int
    left: int
    top: int
    right: int
    bottom: int

    @classmethod
    def covering(cls, extent: Box, zoom: int) -> "Grid":
        """Return the smallest grid that covers an extent, with overviews down to at most 2 x 2 tiles."""
        left, top, right, bottom = _tile_range(extent, zoom)
        level = 0
        while (right - left, bottom - top) != (1, 1) and (level == 0 or max(right - left, bottom - top) > 2):
            left, top, right, bottom = left // 2, top // 2, -(-right // 2), -(-bottom // 2)
            level += 1
        return cls(zoom, level, left, top, right, bottom)

    @classmethod
    def from_transform(cls, transform: Affine, width: int, height: int, zoom: int, last_level: int) -> "Grid":
        """Return the grid of an existing mosaic; `width` and `height` in pixels."""
        span = TILE_PX * 2**last_level
        left = round((transform.c + _HALF_WORLD) / zoom_resolution(zoom) / span)
        top = round((_HALF_WORLD - transform.f) / zoom_resolution(zoom) / span)
        return cls(zoom, last_level, left, top, left + width // span, top + height // span)

    @property
    def resolution(self) -> float:
        return zoom_resolution(self.zoom)

    @property
    def levels(self) -> range:
        return range(self.last_level + 1)

    @property
    def transform(self) -> Affine:
        step, span = self.resolution, TILE_PX * 2**self.last_level * self.resolution
        return Affine(step, 0, self.left * span - _HALF_WORLD, 0, -step, _HALF_WORLD - self.top * span)

    def corner(self, level: int) -> tuple[int, int]:
        """Return column and row of a level's first tile."""
        factor = 2 ** (self.last_level - level)
        return self.left * factor, self.top * factor

    def shape(self, level: int) -> tuple[int, int]:
        """Return the number of tiles down and across."""
        factor = 2 ** (self.last_level - level)
        return (self.bottom - self.top) * factor, (self.right - self.left) * factor

    def iter_tiles(self, level: int) -> Iterator[Tile]:
        """Yield the tiles of a level row by row, in the order of the file."""
        (left, top), (down, across) = self.corner(level), self.shape(level)
        for row in range(top, top + down):
            for column in range(left, left + across):
                yield Tile(level, column, row)

    def find_touched(self, boxes: Iterable[Box]) -> set[Tile]:
        """Return the tiles of the full image that the boxes touch; parts outside the grid are ignored."""
        (first, upper), (down, across) = self.corner(0), self.shape(0)
        tiles: set[Tile] = set()
        for box in boxes:
            left, top, right, bottom = _tile_range(box, self.zoom)
            columns = range(max(left, first), min(right, first + across))
            tiles |= {Tile(0, column, row) for row in range(max(top, upper), min(bottom, upper + down)) for column in columns}
        return tiles

    def origin(self, tile: Tile) -> tuple[float, float]:
        """Return easting and northing of the upper left corner of a tile of the full image."""
        span = TILE_PX * self.resolution
        return tile.column * span - _HALF_WORLD, _HALF_WORLD - tile.row * span

    def bounds(self, tiles: Iterable[Tile]) -> Box:
        """Return the bounding box of tiles of the full image."""
        corners = [self.origin(tile) for tile in tiles]
        span = TILE_PX * self.resolution
        return (
            min(x for x, _ in corners),
            min(y for _, y in corners) - span,
            max(x for x, _ in corners) + span,
            max(y for _, y in corners),
        )


def _tile_range(box: Box, zoom: int) -> tuple[int, int, int, int]:
    """Return first column, first row, and one past the last column and row, of the full image's tiles that a box touches.

    The box is extended by one pixel on each side, because an outline may cut through the pixels at the edge.
    """
    step = zoom_resolution(zoom)
    span = TILE_PX * step
    return (
        math.floor((box[0] - step + _HALF_WORLD) / span),
        math.floor((_HALF_WORLD - box[3] - step) / span),
        math.ceil((box[2] + step + _HALF_WORLD) / span),
        math.ceil((_HALF_WORLD - box[1] + step) / span),
    )
