"""The footprint of a frame: the outline of its valid pixels, as the tile index and the map want it.

It covers every valid pixel, has a few dozen vertices rather than the mask's thousands, and leaves out specks
and pinholes that nobody could click on.
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

_FINEST = 2048
"""The outline is drawn on a grid whose longer side has at most this many pixels, and about half of it at least."""
_SPECK = 0.0005
"""Parts and holes smaller than this share of the image are dropped."""
_STAIR = 0.75
"""Pixels by which the hull of a convex outline may lie outside the pixel stairs, on average along the outline."""
_MAX_VERTICES = 100


def footprint(tif: Path) -> MultiPolygon:
    """Outline of the valid pixels of a product (deflate tif or COG) in EPSG:3857, read from a decimated mask.

    Without a mask it is exactly the image's rectangle. Raises ValueError when no pixel is valid.
    """
    with gdal_env():
        with rasterio.open(tif) as dataset:
            bounds = array_bounds(dataset.height, dataset.width, dataset.transform)
            if not has_mask(dataset):
                return outline(None, bounds)
            level = _level(dataset)
        with rasterio.open(tif, **({} if level is None else {"overview_level": level})) as dataset:
            mask = _read_mask(dataset)
    if not mask.any():
        raise ValueError(f"{tif.name} has no valid pixel, so it has no footprint; do not index it.")
    return outline(mask, bounds)


def outline(mask: NDArray[np.uint8] | None, bounds: tuple[float, float, float, float]) -> MultiPolygon:
    """Outline of the pixels of `mask` that are not 0, at least one of them; the mask covers `bounds` in a grid of any fineness.

    Without a mask it is exactly the rectangle.
    """
    image = box(*bounds)
    if mask is None:
        return MultiPolygon([image])
    west, south, east, north = image.bounds
    pixel = max((east - west) / mask.shape[1], (north - south) / mask.shape[0])
    grid = rasterio.transform.from_bounds(*image.bounds, mask.shape[1], mask.shape[0])
    outlines = [shape(geometry) for geometry, _ in shapes(mask, mask=mask > 0, connectivity=8, transform=grid)]
    parts = _without_specks([polygon for found in outlines for polygon in _polygons(make_valid(found))], image.area)
    return _multi(union_all([_few_vertices(part, pixel) for part in parts]).intersection(image))


def _level(dataset: DatasetReader) -> int | None:
    """Index of the finest overview not larger than the grid that the outline is drawn on; None for the full image."""
    longer = max(dataset.shape)
    if longer <= _FINEST:
        return None
    levels = dataset.overviews(1)
    fitting = [index for index, factor in enumerate(levels) if longer / factor <= _FINEST]
    return fitting[0] if fitting else len(levels) - 1 if levels else None


def _read_mask(dataset: DatasetReader) -> NDArray[np.uint8]:
    """The mask, decimated further where the overviews do not go far enough; a pixel that is valid in part is valid."""
    reduction = max(1, -(-max(dataset.shape) // _FINEST))
    size = (-(-dataset.height // reduction), -(-dataset.width // reduction))
    mask = dataset.read_masks(1, out_shape=size, resampling=Resampling.average)
    valid: NDArray[np.uint8] = (mask > 0).astype(np.uint8)
    return valid


def _without_specks(parts: list[Polygon], image_area: float) -> list[Polygon]:
    smallest = _SPECK * image_area
    kept = [part for part in parts if part.area >= smallest] or [max(parts, key=lambda part: part.area)]
    return [Polygon(part.exterior, [hole for hole in part.interiors if Polygon(hole).area >= smallest]) for part in kept]


def _few_vertices(part: Polygon, pixel: float) -> BaseGeometry:
    """A polygon around `part` with few vertices.

    The rotated rectangle that nearly every frame is: its convex hull runs along the outer corners of the
    pixel stairs, which is tight and covering. Other outlines are simplified, then widened by as much as that
    may have cut off.
    """
    hull = part.convex_hull
    if not part.interiors and hull.area - part.area <= _STAIR * pixel * hull.length:
        return hull
    tolerance = pixel
    simple = part.simplify(tolerance)
    while _vertices(simple) > _MAX_VERTICES and tolerance < 8 * pixel:
        tolerance *= 1.5
        simple = part.simplify(tolerance)
    return simple.buffer(tolerance, join_style="mitre", mitre_limit=2)


def _vertices(polygon: Polygon) -> int:
    return len(polygon.exterior.coords) + sum(len(hole.coords) for hole in polygon.interiors)


def _polygons(geometry: BaseGeometry) -> list[Polygon]:
    parts = getattr(geometry, "geoms", [geometry])
    return [polygon for part in parts for polygon in ([part] if isinstance(part, Polygon) else _polygons_in(part))]


def _polygons_in(part: BaseGeometry) -> list[Polygon]:
    return [geometry for geometry in getattr(part, "geoms", []) if isinstance(geometry, Polygon)]


def _multi(geometry: BaseGeometry) -> MultiPolygon:
    return MultiPolygon(_polygons(geometry))
