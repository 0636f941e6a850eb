"""Distance of a photograph's footprint from the region of its shard. The regions are in `ls4_assets.domain.regions`."""

import math

import numpy as np
import shapely
from numpy.typing import NDArray

from ls4_assets.domain.regions import RegionBounds

_EARTH_RADIUS_METERS = 6_378_137.0


def distance_km(bounds: RegionBounds, shard: str, footprint: bytes) -> float | None:
    """Kilometers from a footprint (WKB in EPSG:3857) to the shard's region: 0 inside, None if the shard has no bounds."""
    rings = bounds.rings(shard)
    if rings is None:
        return None
    region = shapely.transform(shapely.MultiPolygon([shapely.Polygon(ring) for ring in rings]), _to_web_mercator)
    # EPSG:3857 stretches distances by 1 / cos(latitude).
    latitude = footprint_center(footprint)[1]
    return float(shapely.from_wkb(footprint).distance(region)) / 1000 * math.cos(math.radians(latitude))


def footprint_center(footprint: bytes) -> tuple[float, float]:
    """Longitude and latitude, in degrees, of the centroid of a footprint (WKB in EPSG:3857)."""
    center = shapely.from_wkb(footprint).centroid
    return (
        math.degrees(center.x / _EARTH_RADIUS_METERS),
        math.degrees(math.atan(math.sinh(center.y / _EARTH_RADIUS_METERS))),
    )


def _to_web_mercator(degrees: NDArray[np.float64]) -> NDArray[np.float64]:
    radians = np.radians(degrees)
    return _EARTH_RADIUS_METERS * np.column_stack([radians[:, 0], np.arcsinh(np.tan(radians[:, 1]))])
