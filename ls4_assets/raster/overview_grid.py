"""The grid of an overview mosaic: which resolution, which tiles. Arithmetic only, no pixel is read here.

Resolutions are those of web map zooms, and tiles of every level are counted from the corner of the world: however a collection
grows, a tile stays the same piece of ground, and its compressed bytes can be taken over from one mosaic to the next.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from affine import Affine

TILE = 512
MOST_PIXELS = 256_000_000

_HALF_WORLD = math.pi * 6_378_137
_COARSER = 8
# Zooms by which the median of the frames may move before a mosaic that is there changes over; half a zoom would be the rounding.
_STAY = 0.75

Box = tuple[float, float, float, float]
"""minx, miny, maxx, maxy in EPSG:3857 metres."""


class Tile(NamedTuple):
    """A tile of a level (0 is the full image), by its column and row in the whole world."""

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


def resolution(zoom: int) -> float:
    """Metres a pixel."""
    return 2 * _HALF_WORLD / float(256 * 2**zoom)


def choose_zoom(native: float, extent: Box, previous: int | None = None) -> int:
    """The zoom about eight times coarser than frames of `native` metres a pixel; coarser where the whole would be too large."""
    exact = math.log2(resolution(0) / (_COARSER * native))
    zoom = previous if previous is not None and abs(previous - exact) <= _STAY else round(exact)
    area = (extent[2] - extent[0]) * (extent[3] - extent[1])
    # Frames of which one is as large as the world have no place in an archive, but must not stop it either.
    zoom = max(1, zoom)
    while zoom > 1 and area / resolution(zoom) ** 2 > MOST_PIXELS:
        zoom -= 1
    return zoom


@dataclass(frozen=True)
class Grid:
    """The tiles of one mosaic: all that lie below a few tiles, `left` to `right` and `top` to `bottom`, of its last level.

    Most are empty, and take no room in the file.
    """

    zoom: int
    last_level: int
    left: int
    top: int
    right: int
    bottom: int

    @classmethod
    def around(cls, extent: Box, zoom: int) -> "Grid":
        """The smallest grid that holds an extent, with overviews until at most two tiles by two are left."""
        left, top, right, bottom = _tiles_of(extent, zoom)
        level = 0
        while (right - left, bottom - top) != (1, 1) and (level == 0 or max(right - left, bottom - top) > 2):
            left, top, right, bottom = left // 2, top // 2, -(-right // 2), -(-bottom // 2)
            level += 1
        return cls(zoom, level, left, top, right, bottom)

    @classmethod
    def of(cls, transform: Affine, width: int, height: int, zoom: int, last_level: int) -> "Grid":
        """The grid of a mosaic that is there."""
        span = TILE * 2**last_level
        left = round((transform.c + _HALF_WORLD) / resolution(zoom) / span)
        top = round((_HALF_WORLD - transform.f) / resolution(zoom) / span)
        return cls(zoom, last_level, left, top, left + width // span, top + height // span)

    @property
    def resolution(self) -> float:
        return resolution(self.zoom)

    @property
    def levels(self) -> range:
        return range(self.last_level + 1)

    @property
    def transform(self) -> Affine:
        step, span = self.resolution, TILE * 2**self.last_level * self.resolution
        return Affine(step, 0, self.left * span - _HALF_WORLD, 0, -step, _HALF_WORLD - self.top * span)

    def corner(self, level: int) -> tuple[int, int]:
        """Column and row of a level's first tile."""
        factor = 2 ** (self.last_level - level)
        return self.left * factor, self.top * factor

    def shape(self, level: int) -> tuple[int, int]:
        """Tiles down and across."""
        factor = 2 ** (self.last_level - level)
        return (self.bottom - self.top) * factor, (self.right - self.left) * factor

    def tiles(self, level: int) -> Iterator[Tile]:
        """Row by row, as they stand in a file."""
        (left, top), (down, across) = self.corner(level), self.shape(level)
        for row in range(top, top + down):
            for column in range(left, left + across):
                yield Tile(level, column, row)

    def touched(self, boxes: Iterable[Box]) -> set[Tile]:
        """Tiles of the full image that the boxes touch; what lies outside the grid touches none."""
        (first, upper), (down, across) = self.corner(0), self.shape(0)
        found: set[Tile] = set()
        for box in boxes:
            left, top, right, bottom = _tiles_of(box, self.zoom)
            columns = range(max(left, first), min(right, first + across))
            found |= {Tile(0, column, row) for row in range(max(top, upper), min(bottom, upper + down)) for column in columns}
        return found

    def edges(self, tile: Tile) -> tuple[float, float]:
        """Easting and northing of the upper left corner of a tile of the full image."""
        span = TILE * self.resolution
        return tile.column * span - _HALF_WORLD, _HALF_WORLD - tile.row * span

    def box(self, tiles: Iterable[Tile]) -> Box:
        """The box around tiles of the full image."""
        corners = [self.edges(tile) for tile in tiles]
        span = TILE * self.resolution
        return (
            min(x for x, _ in corners),
            min(y for _, y in corners) - span,
            max(x for x, _ in corners) + span,
            max(y for _, y in corners),
        )


def _tiles_of(box: Box, zoom: int) -> tuple[int, int, int, int]:
    """First column and row, and one past the last, of the full image's tiles that a box touches: with a pixel more on each
    side, because an outline may cut through the pixels at the edge."""
    step = resolution(zoom)
    span = TILE * step
    return (
        math.floor((box[0] - step + _HALF_WORLD) / span),
        math.floor((_HALF_WORLD - box[3] - step) / span),
        math.ceil((box[2] + step + _HALF_WORLD) / span),
        math.ceil((_HALF_WORLD - box[1] + step) / span),
    )
