"""Where the photographs of a shard may lie: the outline of its county, or an extent that the operator gives.

Outlines that ship with the package lie beside this module (README.md tells their source and licence). How far a photograph lies
from them is asked in `distance`, which loads what the settings need not.
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
    """`outlines` names the ones that ship (texas). `extents` are degrees (west, south, east, north) by shard, `extent` that of
    all shards which have neither an extent nor an outline of their own."""

    outlines: str | None = None
    extent: Extent | None = None
    extents: Mapping[str, Extent] = field(default_factory=dict)

    def rings_of(self, shard: str) -> Rings | None:
        """The ground of a shard in degrees, as closed rings; None where nothing is known of it and any place will do."""
        if extent := self.extents.get(shard):
            return [_box(extent)]
        if self.outlines and (rings := _shipped(self.outlines).get(shard)):
            return rings
        return [_box(self.extent)] if self.extent else None


def shipped() -> list[str]:
    """Names of the outlines that ship."""
    return sorted(path.name.removesuffix(".json") for path in files(__name__).iterdir() if path.name.endswith(".json"))


@lru_cache
def _shipped(name: str) -> dict[str, Rings]:
    return cast(dict[str, Rings], json.loads((files(__name__) / f"{name}.json").read_text(encoding="utf-8")))


def _box(extent: Extent) -> list[tuple[float, float]]:
    west, south, east, north = extent
    return [(west, south), (east, south), (east, north), (west, north), (west, south)]
