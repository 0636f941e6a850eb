"""Which datum transformation PROJ uses at a place, how accurate it is, and which missing grids would make it more accurate.

GDAL moves the pixels and names no operation, so pyproj lists the operations, and the one that gives GDAL's coordinates is the one
that was used. `proj_setup` gives both libraries the same grids; `datums` decides about scans without a known datum.
"""

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import pyproj
from pyproj import datadir, network
from pyproj.aoi import AreaOfInterest
from pyproj.crs.coordinate_operation import CoordinateOperation
from pyproj.exceptions import ProjError
from pyproj.transformer import Transformer, TransformerGroup
from rasterio.crs import CRS

Degrees = tuple[float, float, float, float]
"""West, south, east, north."""

# The operation that GDAL used gives its coordinates to within this. Operations differ by decimeters, PROJ versions by less.
_SAME_PLACE_M = 0.02
_EARTH_RADIUS_M = 6_378_137.0
NO_TRANSFORMATION = "none: WGS 84"
UNIDENTIFIED = "not identified"


@dataclass(frozen=True)
class Transformation:
    """The operation from the datum of a scan to WGS 84, on which EPSG:3857 is based.

    accuracy_m: as its publisher states it; None: it states none. is_ballpark: PROJ has no transformation and keeps latitude and
    longitude. better_name, better_accuracy_m, missing_grids: an operation that would be more accurate, and the grids it needs.
    """

    name: str
    accuracy_m: float | None
    is_ballpark: bool = False
    better_name: str = ""
    better_accuracy_m: float | None = None
    missing_grids: tuple[str, ...] = ()

    def is_insufficient(self, accuracy_m: float) -> bool:
        """True when a grid is missing and the stated accuracy is worse than `accuracy_m`, or there is none."""
        return bool(self.missing_grids) and (self.accuracy_m is None or self.accuracy_m > accuracy_m)

    def __str__(self) -> str:
        accuracy = "of unknown accuracy" if self.accuracy_m is None else f"accuracy {self.accuracy_m:g} m"
        return f"{self.name}, {accuracy}"


@dataclass(frozen=True)
class BetterOperation:
    """An operation that is not available: its stated accuracy in meters, and the addresses of its missing grids by name."""

    accuracy_m: float
    missing: Mapping[str, str]


NONE = Transformation(NO_TRANSFORMATION, 0.0)


def map_degrees(xs: Iterable[float], ys: Iterable[float]) -> Degrees:
    """Bounds in degrees of points in EPSG:3857."""
    longitudes = [math.degrees(x / _EARTH_RADIUS_M) for x in xs]
    latitudes = [math.degrees(2 * math.atan(math.exp(y / _EARTH_RADIUS_M)) - math.pi / 2) for y in ys]
    return min(longitudes), min(latitudes), max(longitudes), max(latitudes)


def find_transformation(
    crs: CRS, area: Degrees, point: tuple[float, float] | None = None, map_point: tuple[float, float] | None = None
) -> Transformation:
    """Return the transformation that PROJ uses in `area` from `crs` to EPSG:3857.

    `point` and `map_point`: coordinates before and after GDAL's transformation, which identify its operation. Without them it is
    the one that PROJ prefers.
    """
    group = _list_operations(crs, area)
    if group is None:
        return Transformation(UNIDENTIFIED, None)
    used = next((one for one in group.transformers if point is None or _maps(one, point, map_point)), None)
    if used is None:
        name, accuracy, is_ballpark = UNIDENTIFIED, None, False
    else:
        steps = used.operations or ()
        is_ballpark = any(step.has_ballpark_transformation for step in steps)
        name, accuracy = _name(steps), _accuracy(used.accuracy)
        accuracy = None if is_ballpark else accuracy
    better = _find_better(group.unavailable_operations, accuracy)
    if better is None:
        return Transformation(name, accuracy, is_ballpark)
    return Transformation(
        name, accuracy, is_ballpark, _name(better.operations or (better,)), _accuracy(better.accuracy), _missing(better)
    )


def stated_accuracy(crs: CRS, area: Degrees) -> float | None:
    """The accuracy of the transformation that PROJ prefers in `area`, in meters; None when there is none or it states none."""
    return find_transformation(crs, area).accuracy_m


def list_better(crs: CRS, area: Degrees) -> list[BetterOperation]:
    """The operations that are more accurate than the one that PROJ uses, and that lack a grid; the most accurate first."""
    group = _list_operations(crs, area)
    if group is None:
        return []
    accuracy = stated_accuracy(crs, area)
    better = [
        BetterOperation(one.accuracy, {grid.short_name: grid.url for grid in one.grids if not grid.available})
        for one in group.unavailable_operations
        if _is_better(one, accuracy)
    ]
    return sorted(better, key=lambda one: one.accuracy_m)


def _list_operations(crs: CRS, area: Degrees) -> TransformerGroup | None:
    """PROJ's operations to EPSG:3857, the preferred one first; None for a CRS that only GDAL understands."""
    return _query_operations(crs.to_wkt(), area, datadir.get_data_dir(), network.is_network_enabled())


@lru_cache(maxsize=4)
def _query_operations(wkt: str, area: Degrees, folders: str, is_network_on: bool) -> TransformerGroup | None:
    """A worker opens each scan twice, and the query takes up to 60 ms. It depends on all arguments."""
    with warnings.catch_warnings():
        # It warns about missing grids, which this module reports.
        warnings.simplefilter("ignore")
        try:
            return TransformerGroup(pyproj.CRS.from_wkt(wkt), "EPSG:3857", always_xy=True, area_of_interest=AreaOfInterest(*area))
        except ProjError:
            return None


def _maps(operation: Transformer, point: tuple[float, float], map_point: tuple[float, float] | None) -> bool:
    assert map_point is not None
    try:
        x, y = operation.transform(*point)
    except ProjError:
        return False
    return math.hypot(x - map_point[0], y - map_point[1]) <= _SAME_PLACE_M


def _find_better(unavailable: Sequence[CoordinateOperation], accuracy: float | None) -> CoordinateOperation | None:
    """The most accurate operation if it is better than `accuracy`; of equal ones, the one that needs the fewest grids."""
    better = [one for one in unavailable if _is_better(one, accuracy)]
    return min(better, key=lambda one: (one.accuracy, len(_missing(one))), default=None)


def _is_better(operation: CoordinateOperation, accuracy: float | None) -> bool:
    stated = _accuracy(operation.accuracy)
    return stated is not None and (accuracy is None or stated < accuracy) and bool(_missing(operation))


def _missing(operation: CoordinateOperation) -> tuple[str, ...]:
    return tuple(dict.fromkeys(grid.short_name for grid in operation.grids if not grid.available))


def _accuracy(meters: float) -> float | None:
    """PROJ states an unknown accuracy as -1."""
    return meters if meters >= 0 else None


def _name(steps: Sequence[CoordinateOperation]) -> str:
    """Names of the steps between two datums, without projections and changes of axes."""
    transformations = [
        step.name for step in steps if step.type_name == "Transformation" and not step.name.startswith("axis order")
    ]
    return " + ".join(transformations) or NO_TRANSFORMATION
