"""Trace the footprint of a frame: the outline of its valid pixels, for the tile index and the map.

A footprint covers every valid pixel and has a few dozen vertices instead of the mask's thousands. It omits specks and pinholes,
which are too small to click.
"""

from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.enums import Resampling
from rasterio.features import shapes
from rasterio.io import DatasetReader
from rasterio.transform import array_bounds
from shapely import MultiPolygon, Polygon, box, make_valid, union_all
from shapely.geometry import shape
from shapely.geometry.base import BaseGeometry

from ls4_assets.raster.gdal_env import gdal_env
from ls4_assets.raster.overviews import has_mask

_MAX_SIDE_PX = 2048
"""The outline is traced on a grid whose longer side has at most this many pixels, and usually at least half as many."""
_SPECK_SHARE = 0.0005
"""Parts and holes smaller than this share of the image are dropped."""
_STAIR_PX = 0.75
"""Mean distance, along the outline, by which the hull of a convex outline may lie outside the pixel stairs."""
_MAX_VERTICES = 100


def trace_footprint(tif: Path) -> MultiPolygon:
    """Return the outline of the valid pixels of a product (deflate tif or COG) in EPSG:3857, read from a decimated mask.

    Without a mask it is exactly the image's rectangle. Raises ValueError when no pixel is valid.
    """
    with gdal_env():
        with rasterio.open(tif) as dataset:
            bounds = array_bounds(dataset.height, dataset.width, dataset.transform)
            if not has_mask(dataset):
                return trace_outline(None, bounds)
            level = _choose_level(dataset)
        with rasterio.open(tif, **({} if level is None else {"overview_level": level})) as dataset:
            mask = _read_mask(dataset)
    if not mask.any():
        raise ValueError(f"{tif.name} has no valid pixel and therefore no footprint; do not index it.")
    return trace_outline(mask, bounds)


def trace_outline(mask: NDArray[np.uint8] | None, bounds: tuple[float, float, float, float]) -> MultiPolygon:
    """Return the outline of the nonzero pixels of `mask`, of which there must be at least one.

    The mask covers `bounds` (west, south, east, north) in a grid of any fineness. Without a mask the outline is the rectangle.
    """
    image = box(*bounds)
    if mask is None:
        return MultiPolygon([image])
    west, south, east, north = image.bounds
    pixel = max((east - west) / mask.shape[1], (north - south) / mask.shape[0])
    grid = rasterio.transform.from_bounds(*image.bounds, mask.shape[1], mask.shape[0])
    outlines = [shape(geometry) for geometry, _ in shapes(mask, mask=mask > 0, connectivity=8, transform=grid)]
    parts = _drop_specks([polygon for outline in outlines for polygon in _polygons(make_valid(outline))], image.area)
    return _to_multipolygon(union_all([_simplify(part, pixel) for part in parts]).intersection(image))


def _choose_level(dataset: DatasetReader) -> int | None:
    """Index of the finest overview that is not larger than the tracing grid; None for the full image."""
    longer_side = max(dataset.shape)
    if longer_side <= _MAX_SIDE_PX:
        return None
    levels = dataset.overviews(1)
    fitting = [index for index, factor in enumerate(levels) if longer_side / factor <= _MAX_SIDE_PX]
    return fitting[0] if fitting else len(levels) - 1 if levels else None


def _read_mask(dataset: DatasetReader) -> NDArray[np.uint8]:
    """The mask, decimated further where the overviews are too fine; a pixel that is partly valid is valid."""
    reduction = max(1, -(-max(dataset.shape) // _MAX_SIDE_PX))
    size = (-(-dataset.height // reduction), -(-dataset.width // reduction))
    mask = dataset.read_masks(1, out_shape=size, resampling=Resampling.average)
    valid: NDArray[np.uint8] = (mask > 0).astype(np.uint8)
    return valid


def _drop_specks(parts: list[Polygon], image_area: float) -> list[Polygon]:
    min_area = _SPECK_SHARE * image_area
    kept = [part for part in parts if part.area >= min_area] or [max(parts, key=lambda part: part.area)]
    return [Polygon(part.exterior, [hole for hole in part.interiors if Polygon(hole).area >= min_area]) for part in kept]


def _simplify(part: Polygon, pixel: float) -> BaseGeometry:
    """Return a polygon with few vertices that covers `part`; `pixel` is the size of a mask pixel.

    Nearly every frame is a rotated rectangle. Its convex hull runs along the outer corners of the pixel stairs, so the hull is
    tight and covers every pixel. Other outlines are simplified, then buffered by the simplification's tolerance.
    """
    hull = part.convex_hull
    if not part.interiors and hull.area - part.area <= _STAIR_PX * pixel * hull.length:
        return hull
    tolerance = pixel
    simple = part.simplify(tolerance)
    while _count_vertices(simple) > _MAX_VERTICES and tolerance < 8 * pixel:
        tolerance *= 1.5
        simple = part.simplify(tolerance)
    return simple.buffer(tolerance, join_style="mitre", mitre_limit=2)


def _count_vertices(polygon: Polygon) -> int:
    return len(polygon.exterior.coords) + sum(len(hole.coords) for hole in polygon.interiors)


def _polygons(geometry: BaseGeometry) -> list[Polygon]:
    parts = getattr(geometry, "geoms", [geometry])
    return [polygon for part in parts for polygon in ([part] if isinstance(part, Polygon) else _nested_polygons(part))]


def _nested_polygons(part: BaseGeometry) -> list[Polygon]:
    return [geometry for geometry in getattr(part, "geoms", []) if isinstance(geometry, Polygon)]


def _to_multipolygon(geometry: BaseGeometry) -> MultiPolygon:
    return MultiPolygon(_polygons(geometry))
