"""How far a photograph lies from where its shard's photographs may lie."""

import math

import numpy as np
import shapely
from numpy.typing import NDArray

from ls4_assets.domain.regions import RegionBounds

_EARTH = 6_378_137.0


def kilometres_off(ground: RegionBounds, shard: str, footprint: bytes) -> float | None:
    """From a footprint (WKB in EPSG:3857) to the shard's ground, 0 inside; None where nothing is known of the shard."""
    rings = ground.rings_of(shard)
    if rings is None:
        return None
    place = shapely.from_wkb(footprint)
    here = shapely.MultiPolygon([shapely.Polygon(ring) for ring in rings])
    # EPSG:3857 draws a kilometre longer the further it is from the equator.
    return float(place.distance(shapely.transform(here, _on_map))) / 1000 * math.cos(math.radians(middle(footprint)[1]))


def middle(footprint: bytes) -> tuple[float, float]:
    """Longitude and latitude of the middle of a footprint."""
    centre = shapely.from_wkb(footprint).centroid
    return math.degrees(centre.x / _EARTH), math.degrees(math.atan(math.sinh(centre.y / _EARTH)))


def _on_map(degrees: NDArray[np.float64]) -> NDArray[np.float64]:
    radians = np.radians(degrees)
    return _EARTH * np.column_stack([radians[:, 0], np.arcsinh(np.tan(radians[:, 1]))])
