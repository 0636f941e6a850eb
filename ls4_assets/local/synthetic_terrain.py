"""The terrain of the sample data: a raster of a landscape with fields, woods, a river, roads and a town.

All photographs of a sample collection show one such raster, so that neighbors agree wherever they overlap. The terrain consists
of noise and polygons only, carries no copyright, and depends on nothing but its specification: the same seed gives the same
terrain. Coordinates are (column, row) and lengths are in pixels of the terrain raster.
"""

import math
from dataclasses import dataclass

import numpy as np
import scipy.fft
import shapely
from numpy.typing import NDArray
from rasterio.features import rasterize
from scipy import ndimage
from shapely import affinity
from shapely.geometry import LineString, Point, Polygon, box

Array = NDArray[np.float32]
Mask = NDArray[np.bool_]

# Land cover colors as red, green, blue. The fields of the first palette are on black prairie soil under a winter sun, those of
# the second on red sandy loam in spring.
WOOD = (62, 78, 50)
UNDERGROWTH = (104, 108, 78)
WATER = (58, 74, 72)
SAND = (214, 202, 172)
ROAD = (206, 200, 186)
STREET = (172, 168, 160)
GARDEN = (118, 124, 92)
CROPS = {
    "prairie": [
        (74, 70, 62), (98, 92, 80), (122, 116, 98), (150, 144, 118),
        (178, 168, 136), (116, 128, 84), (196, 186, 156),
    ],
    "loam": [
        (146, 104, 76), (172, 130, 96), (104, 134, 72), (84, 118, 64),
        (146, 152, 92), (188, 170, 118), (120, 142, 84),
    ],
}  # fmt: skip


@dataclass(frozen=True)
class TerrainSpec:
    """The parameters of one terrain.

    ``crops`` is a key of CROPS; ``tilt``: degrees from the grid to the land grants; ``river``: half its width in pixels;
    ``woods``: how far the noise threshold for woodland is lowered; ``town``: its center as shares of width and height.
    """

    height: int
    width: int
    seed: int
    crops: str
    tilt: float
    river: float
    woods: float
    town: tuple[float, float]


def render_terrain(spec: TerrainSpec) -> NDArray[np.uint8]:
    """The terrain as (3, height, width): red, green, blue."""
    rng = np.random.default_rng(spec.seed)
    shape = (spec.height, spec.width)
    relief, mottle = _noise(rng, shape, 2.6), _noise(rng, shape, 1.5)
    lots, boundaries = _land_grants(spec, rng)
    river = _meander(spec, rng)
    town = Point(spec.town[0] * spec.width, spec.town[1] * spec.height)

    picture = _fields(spec, rng, lots, relief, mottle)
    picture *= (1 + 0.05 * mottle + 9 * (relief - np.roll(relief, (2, 2), (0, 1))))[None]

    roads = [LineString(boundary).buffer(2.2) for boundary in boundaries] + [_highway(spec, town).buffer(4)]
    blocks, houses = _town(rng, town, spec.tilt)
    houses += _farmsteads(rng, boundaries)
    built_up = shapely.unary_union(blocks).buffer(4.2)

    near_river = _near(shape, river.buffer(20), 110)
    wooded = _noise(rng, shape, 2.1) + 2.2 * near_river > 1.55 - spec.woods
    hedges = _burn(shape, [lot.exterior.buffer(2.4) for lot in lots]) & (_noise(rng, shape, 1.2) > 0.35)
    open_ground = _burn(shape, [built_up, *roads])
    _cover(picture, wooded, UNDERGROWTH, 0.06 * mottle)
    _plant(picture, rng, (wooded | hedges) & ~open_ground)

    water = _burn(shape, [river.buffer(spec.river), *_ponds(rng, lots)])
    bank = ndimage.binary_dilation(water, iterations=3)
    bars = _burn(shape, [river.buffer(spec.river * 1.6)]) & (_noise(rng, shape, 1.9) > 0.8)
    _cover(picture, bars | (bank & (mottle > 0.4)), SAND, 0.05 * mottle)
    _cover(picture, water, WATER, 0.10 * relief)

    _cover(picture, _burn(shape, [built_up]), GARDEN, 0.10 * mottle)
    _cover(picture, _burn(shape, [built_up.difference(shapely.unary_union(blocks))]), STREET, 0.02 * mottle)
    _cover(picture, _burn(shape, roads), ROAD, 0.03 * mottle)
    _plant(picture, rng, _burn(shape, blocks) & (_noise(rng, shape, 0.7) > 1.1))
    _build(picture, rng, houses)
    return np.clip(picture, 6, 250).astype(np.uint8)


def _noise(rng: np.random.Generator, shape: tuple[int, int], roughness: float) -> Array:
    """Fractal noise with mean 0 and standard deviation 1; its spectrum is the wave number to the power ``-roughness``."""
    rows, columns = (scipy.fft.next_fast_len(side, real=True) for side in shape)
    spectrum = scipy.fft.rfft2(rng.standard_normal((rows, columns), dtype=np.float32), workers=-1)
    # at least two waves across; otherwise one slope would dominate the rest
    down, across = np.fft.fftfreq(rows) * 4000, np.fft.rfftfreq(columns) * 4000
    wave = np.hypot(down[:, None], across[None]).astype(np.float32)
    spectrum *= np.maximum(wave, 3) ** np.float32(-roughness)
    spectrum[0, 0] = 0
    noise = scipy.fft.irfft2(spectrum, s=(rows, columns), workers=-1)[: shape[0], : shape[1]]
    return np.asarray(noise / noise.std(), dtype=np.float32)


def _land_grants(spec: TerrainSpec, rng: np.random.Generator) -> tuple[list[Polygon], list[list[tuple[float, float]]]]:
    """Fields, and the older boundaries between them, which the county roads follow."""
    reach = math.hypot(spec.width, spec.height) / 2
    middle = (spec.width / 2, spec.height / 2)
    pending, lots, boundaries = [(-reach, -reach, reach, reach, 0)], [], []
    while pending:
        left, top, right, bottom, depth = pending.pop()
        wide, tall = right - left, bottom - top
        if (max(wide, tall) < 420 and rng.random() < 0.6) or max(wide, tall) < 200:
            lots.append(affinity.translate(affinity.rotate(box(left, top, right, bottom), spec.tilt, (0, 0)), *middle))
            continue
        share = rng.uniform(0.36, 0.64)
        if wide > tall:
            cut = left + share * wide
            line = [(cut, top), (cut, bottom)]
            pending += [(left, top, cut, bottom, depth + 1), (cut, top, right, bottom, depth + 1)]
        else:
            cut = top + share * tall
            line = [(left, cut), (right, cut)]
            pending += [(left, top, right, cut, depth + 1), (left, cut, right, bottom, depth + 1)]
        if 1 <= depth <= 4 and rng.random() < 0.85:
            turned = affinity.translate(affinity.rotate(LineString(line), spec.tilt, (0, 0)), *middle)
            boundaries.append([(x, y) for x, y in turned.coords])
    visible = box(0, 0, spec.width, spec.height)
    return [lot.buffer(-1.2, join_style="mitre") for lot in lots if lot.intersects(visible)], boundaries


def _fields(spec: TerrainSpec, rng: np.random.Generator, lots: list[Polygon], relief: Array, mottle: Array) -> Array:
    """Each lot in the color of its crop, with plow or planting rows."""
    lot = rasterize(zip(lots, range(1, len(lots) + 1), strict=True), out_shape=relief.shape, dtype="uint16")
    count = len(lots) + 1
    crops = np.array(CROPS[spec.crops], dtype=np.float32)
    color = crops[rng.integers(0, len(crops), count)] * rng.uniform(0.9, 1.1, (count, 1)).astype(np.float32)
    color[0] = (126, 124, 96)  # the grass of the verges
    turn = np.radians(spec.tilt + rng.choice([0, 90], count) + rng.normal(0, 1.5, count))
    wave = 2 * np.pi / rng.uniform(5, 11, count)
    depth = rng.choice([0.0, 0.03, 0.06, 0.09], count).astype(np.float32)
    depth[0] = 0
    # on slopes the rows follow the contour lines
    contour = (rng.random(count) < 0.35) * rng.uniform(60, 160, count)
    row, column = np.ogrid[: relief.shape[0], : relief.shape[1]]
    phase = column * (np.cos(turn) * wave).astype(np.float32)[lot] + row * (np.sin(turn) * wave).astype(np.float32)[lot]
    phase += contour.astype(np.float32)[lot] * relief
    light = 1 + depth[lot] * np.sin(phase, dtype=np.float32)
    light += rng.uniform(0.0, 0.12, count).astype(np.float32)[lot] * mottle  # damp hollows, pale rises
    return np.stack([band[lot] * light for band in color.T])


def _meander(spec: TerrainSpec, rng: np.random.Generator) -> LineString:
    """The center line of the river, from the left edge to the right."""
    along = np.linspace(-0.05, 1.05, 400)
    bends = sum(size * np.sin(2 * np.pi * (waves * along + rng.random())) for size, waves in ((0.10, 1.3), (0.045, 3.7)))
    sway = 0.011 * np.sin(2 * np.pi * (5.1 * along + rng.random()))
    return LineString(np.column_stack([(along + sway) * spec.width, (0.62 + bends) * spec.height]))


def _highway(spec: TerrainSpec, town: Point) -> LineString:
    """The main road: two straight parts with one bend at the edge of the town."""
    return LineString([(-50, spec.height * 0.12), (town.x, town.y - 60), (spec.width + 50, spec.height * 0.36)])


def _town(rng: np.random.Generator, center: Point, tilt: float) -> tuple[list[Polygon], list[Polygon]]:
    """Blocks on a grid, fewer toward the edge, and the houses in them."""
    blocks: list[Polygon] = []
    houses: list[Polygon] = []
    for column in range(-9, 10):
        for row in range(-8, 9):
            if math.hypot(column / 9, row / 8) > rng.uniform(0.45, 1.1):
                continue
            x, y = center.x + column * 62, center.y + row * 50
            blocks.append(affinity.rotate(box(x, y, x + 54, y + 42), tilt, center))
            for place in range(12):
                if rng.random() < 0.8:
                    left, top = x + 3 + (place % 6) * 8.4, y + 4 + (place // 6) * 25 + rng.uniform(0, 5)
                    size = (left, top, left + rng.uniform(4.5, 7), top + rng.uniform(5, 9))
                    houses.append(affinity.rotate(box(*size), tilt, center))
    return blocks, houses


def _farmsteads(rng: np.random.Generator, boundaries: list[list[tuple[float, float]]]) -> list[Polygon]:
    """Houses with barns at intervals along the roads."""
    houses = []
    for boundary in boundaries:
        road = LineString(boundary)
        for distance in np.arange(120, road.length, 330):
            place = road.interpolate(distance + rng.uniform(-90, 90))
            for _ in range(rng.integers(0, 5)):
                x, y = place.x + rng.uniform(8, 34), place.y + rng.uniform(8, 34)
                barn = box(x, y, x + rng.uniform(5, 13), y + rng.uniform(4, 8))
                houses.append(affinity.rotate(barn, rng.uniform(0, 90)))
    return houses


def _ponds(rng: np.random.Generator, lots: list[Polygon]) -> list[Polygon]:
    """Stock ponds, each with one straight side for its dam."""
    ponds = []
    for lot in lots:
        if rng.random() < 0.12:
            pond = affinity.scale(lot.centroid.buffer(rng.uniform(9, 20)), 1, rng.uniform(0.6, 1))
            turned = affinity.rotate(pond.intersection(affinity.translate(pond, 0, 6)), rng.uniform(0, 360))
            ponds.append(affinity.translate(turned, rng.uniform(-40, 40), rng.uniform(-40, 40)))
    return ponds


def _burn(shape: tuple[int, int], shapes: list[Polygon]) -> Mask:
    return np.asarray(rasterize(shapes, out_shape=shape, dtype="uint8") > 0)


def _near(shape: tuple[int, int], line: Polygon, reach: float) -> Array:
    """1 at ``line``, falling to 0 at ``reach`` pixels from it; computed for every eighth pixel."""
    coarse = rasterize([affinity.scale(line, 1 / 8, 1 / 8, origin=(0, 0))], out_shape=[side // 8 + 2 for side in shape])
    near = np.clip(1 - 8 * ndimage.distance_transform_edt(coarse == 0) / reach, 0, 1).astype(np.float32)
    return np.asarray(ndimage.zoom(near, 8, order=1)[: shape[0], : shape[1]], dtype=np.float32)


def _cover(picture: Array, mask: Mask, color: tuple[int, int, int], grain: Array) -> None:
    for band, value in zip(picture, color, strict=True):
        band[mask] = value * (1 + grain[mask])


def _plant(picture: Array, rng: np.random.Generator, mask: Mask) -> None:
    """Trees: irregular crowns lit from the southeast, and their shadows to the northwest."""
    lumps = ndimage.gaussian_filter(rng.standard_normal(mask.shape, dtype=np.float32), 1.7)
    lumps /= lumps.std()
    crowns = mask & (lumps > -0.55)
    shadow = np.roll(crowns, (-3, -2), (0, 1)) & ~crowns
    lit = 1 + 0.28 * np.clip(lumps - np.roll(lumps, (-2, -2), (0, 1)), -1.6, 1.8)
    picture[:, shadow] *= 0.52
    for band, value in zip(picture, WOOD, strict=True):
        band[crowns] = value * lit[crowns]


def _build(picture: Array, rng: np.random.Generator, houses: list[Polygon]) -> None:
    """Roofs in various tones, and the shadows of the walls."""
    roof = rasterize(zip(houses, range(1, len(houses) + 1), strict=True), out_shape=picture.shape[1:], dtype="uint16")
    built = roof > 0
    picture[:, np.roll(built, (-2, -2), (0, 1)) & ~built] *= 0.5
    tone = rng.choice([120, 165, 205, 235], len(houses) + 1).astype(np.float32)
    warm = rng.uniform(0.86, 1.0, len(houses) + 1).astype(np.float32)
    picture[0, built] = tone[roof[built]]
    picture[1, built] = (tone * (1 + warm) / 2)[roof[built]]
    picture[2, built] = (tone * warm)[roof[built]]
