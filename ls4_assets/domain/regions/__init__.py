"""Regions in which the photographs of each shard may be located: county outlines, or extents from the operator's settings.

The outlines included in the package are JSON files in this folder; README.md gives their source and license. The distance of a
footprint from its region is computed in `distance`, which needs shapely; this module, which settings import, does not.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.resources import files
from typing import cast

Extent = tuple[float, float, float, float]
Rings = list[list[tuple[float, float]]]


@dataclass(frozen=True)
class RegionBounds:
    """Bounds by shard, all in degrees.

    outlines: name of an included set of outlines (texas).
    extents: (west, south, east, north) by shard; they override outlines.
    extent: bounds of every shard that has neither an extent nor an outline.
    """

    outlines: str | None = None
    extent: Extent | None = None
    extents: Mapping[str, Extent] = field(default_factory=dict)

    def rings(self, shard: str) -> Rings | None:
        """Region of a shard as closed rings in degrees; None if the shard has no bounds."""
        if extent := self.extents.get(shard):
            return [_box(extent)]
        if self.outlines and (rings := _load_outlines(self.outlines).get(shard)):
            return rings
        return [_box(self.extent)] if self.extent else None


def available_outlines() -> list[str]:
    """Names of the sets of outlines included in the package."""
    return sorted(path.name.removesuffix(".json") for path in files(__name__).iterdir() if path.name.endswith(".json"))


@lru_cache
def _load_outlines(name: str) -> dict[str, Rings]:
    return cast(dict[str, Rings], json.loads((files(__name__) / f"{name}.json").read_text(encoding="utf-8")))


def _box(extent: Extent) -> list[tuple[float, float]]:
    west, south, east, north = extent
    return [(west, south), (east, south), (east, north), (west, north), (west, south)]
