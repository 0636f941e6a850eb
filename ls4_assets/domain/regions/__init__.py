"""Regions in which the photographs of each shard may be located: outlines or extents from the archive file.

The shipped archive file, its outlines and its base map are in this folder; README.md gives their sources and licenses. The
distance of a footprint from its region is computed in `distance`, which needs shapely; this module, which settings and the map
server import, does not.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

Extent = tuple[float, float, float, float]
Rings = list[list[tuple[float, float]]]


@dataclass(frozen=True)
class RegionBounds:
    """Bounds by shard, all in degrees.

    outlines: a file for `load_outlines`.
    extents: (west, south, east, north) by shard; they override outlines.
    extent: bounds of every shard that has neither an extent nor an outline.
    """

    outlines: Path | None = None
    extent: Extent | None = None
    extents: Mapping[str, Extent] = field(default_factory=dict)

    def rings(self, shard: str) -> Rings | None:
        """Region of a shard as closed rings in degrees; None if the shard has no bounds."""
        if extent := self.extents.get(shard):
            return [_box(extent)]
        if self.outlines and (rings := load_outlines(self.outlines).get(shard)):
            return rings
        return [_box(self.extent)] if self.extent else None


@lru_cache
def load_outlines(path: Path) -> Mapping[str, Rings]:
    """The outer rings of each shard.

    The file is GeoJSON, whose polygons have the shard's name as property `shard`, or a JSON object of rings by shard. Raises
    OSError, or ValueError for any other content.
    """
    document = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(document, dict):
        raise ValueError("it is not a JSON object")
    if document.get("type") != "FeatureCollection":
        return cast(dict[str, Rings], document)
    outlines: dict[str, Rings] = {}
    for feature in document["features"]:
        shard = (feature.get("properties") or {}).get("shard")
        if not isinstance(shard, str):
            raise ValueError("a feature has no property `shard`")
        outlines.setdefault(shard, []).extend(_outer_rings(feature.get("geometry") or {}))
    return outlines


def _outer_rings(geometry: Mapping[str, Any]) -> Rings:
    if geometry.get("type") not in ("Polygon", "MultiPolygon"):
        raise ValueError("a feature is neither a Polygon nor a MultiPolygon")
    polygons = [geometry["coordinates"]] if geometry["type"] == "Polygon" else geometry["coordinates"]
    return [[(longitude, latitude) for longitude, latitude, *_ in polygon[0]] for polygon in polygons]


def _box(extent: Extent) -> list[tuple[float, float]]:
    west, south, east, north = extent
    return [(west, south), (east, south), (east, north), (west, north), (west, south)]
