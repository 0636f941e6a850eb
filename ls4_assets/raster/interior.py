"""Trace the interior of a frame: a region in which every pixel is valid at every zoom, so that nothing below it can be seen.

The map opens no frame below one whose interior covers the requested box (`ls4_assets/db/views.py`, `collection.map.j2`). The
footprint (`footprint`) cannot serve: it lies outside the valid pixels and omits pinholes. An interior lies inside them, at a
distance that the pixels of the coarsest overview need, and has few vertices.
"""

from pathlib import Path

import numpy as np
import rasterio
import scipy.ndimage
from numpy.typing import NDArray
from rasterio.features import shapes
from rasterio.io import DatasetReader
from rasterio.transform import from_bounds
from rasterio.windows import Window
from shapely import MultiPolygon, Polygon, box, union_all
from shapely.geometry import shape
from shapely.geometry.base import BaseGeometry

from ls4_assets.raster.gdal_env import gdal_env
from ls4_assets.raster.overviews import has_mask

_MAX_SIDE_CELLS = 1024
"""The interior is traced on a grid whose longer side has at most this many cells."""
_OVERVIEW_PIXELS = 2
"""Distance to the next invalid pixel, in pixels of the coarsest overview. A map pixel shows one overview pixel, whose own
center may be one such pixel away."""
_MIN_PART_SHARE = 0.01
"""Smaller parts cover few tiles."""
_MAX_VERTICES = 60
_MAX_HOLES = 40
"""A mask with more holes and outer regions has no interior of few vertices."""
_STRIP_CELLS = 64


def trace_interior(tif: Path) -> MultiPolygon | None:
    """Return the interior of a COG in its CRS; None when every valid pixel is too near to an invalid one."""
    with gdal_env(), rasterio.open(tif) as dataset:
        return trace_dataset_interior(dataset)


def trace_dataset_interior(dataset: DatasetReader) -> MultiPolygon | None:
    """The same of an open dataset. Reads its whole mask, if it has one, but no pixels."""
    coarsest = max(dataset.overviews(1), default=1)
    distance = _OVERVIEW_PIXELS * coarsest * max(abs(dataset.transform.a), abs(dataset.transform.e))
    if not has_mask(dataset):
        return _to_multipolygon(box(*dataset.bounds).buffer(-distance, join_style="mitre"))
    reduction = -(-max(dataset.shape) // _MAX_SIDE_CELLS)
    cells = _find_complete_cells(dataset, reduction)
    rows, columns = cells.shape
    west, south, east, north = dataset.bounds
    # The last row and column may be cut: the grid is larger than the image by less than a cell.
    east, south = west + columns * reduction * dataset.transform.a, north + rows * reduction * dataset.transform.e
    grid, cell = from_bounds(west, south, east, north, columns, rows), reduction * dataset.transform.a
    # One cell more than the distance, because it is measured between the centers of cells.
    inner = scipy.ndimage.distance_transform_edt(np.pad(cells, 1))[1:-1, 1:-1] * cell > distance + cell
    if scipy.ndimage.label(~inner)[1] > _MAX_HOLES:
        return None
    parts = [shape(outline) for outline, _ in shapes(inner.astype(np.uint8), mask=inner, connectivity=4, transform=grid)]
    large = [part for part in parts if part.area >= _MIN_PART_SHARE * abs(east - west) * abs(north - south)]
    return _to_multipolygon(union_all([_simplify(part, cell) for part in large]))


def _find_complete_cells(dataset: DatasetReader, reduction: int) -> NDArray[np.bool_]:
    """For each cell of `reduction` x `reduction` pixels, whether all its pixels are valid. A cell that is cut by the image's edge
    counts by its pixels."""
    strips = []
    rows = reduction * _STRIP_CELLS
    for top in range(0, dataset.height, rows):
        mask = dataset.read_masks(1, window=Window(0, top, dataset.width, min(rows, dataset.height - top)))
        for axis in (0, 1):
            missing = -mask.shape[axis] % reduction
            if missing:
                mask = np.pad(mask, [(0, missing if each == axis else 0) for each in (0, 1)], constant_values=255)
            cells = mask.shape[axis] // reduction
            shape_of_cells = (cells, reduction, mask.shape[1]) if axis == 0 else (mask.shape[0], cells, reduction)
            mask = mask.reshape(shape_of_cells).min(axis=axis + 1)
        strips.append(mask > 0)
    return np.concatenate(strips)


def _simplify(part: Polygon, cell: float) -> BaseGeometry:
    """Return a region inside `part` with few vertices; empty when that needs a tolerance of more than 32 cells.

    A simplified outline differs from the original by at most the tolerance, and is then moved inward by as much.
    """
    tolerance = cell
    while tolerance <= 32 * cell:
        simple = part.simplify(tolerance).buffer(-tolerance, join_style="mitre")
        if _count_vertices(simple) <= _MAX_VERTICES:
            return simple
        tolerance *= 2
    return Polygon()


def _count_vertices(geometry: BaseGeometry) -> int:
    polygons = _polygons(geometry)
    return sum(len(ring.coords) for polygon in polygons for ring in (polygon.exterior, *polygon.interiors))


def _polygons(geometry: BaseGeometry) -> list[Polygon]:
    parts = getattr(geometry, "geoms", [geometry])
    return [part for part in parts if isinstance(part, Polygon) and not part.is_empty]


def _to_multipolygon(geometry: BaseGeometry) -> MultiPolygon | None:
    polygons = _polygons(geometry)
    return MultiPolygon(polygons) if polygons else None
