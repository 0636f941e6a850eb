"""Footprints of one collection as GeoJSON and as GeoParquet, in degrees; the statewide files are put together from these.

The GeoJSON has one feature a line between a first and a last line of its own, so that files are joined without being parsed
(RFC 7946; properties: the legacy compilation's five, and what the tile index tells the public besides).
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ls4_assets.domain.names import Collection
from ls4_assets.publishing.rows import Shown

SEPARATOR = b",\n"
_END = b"\n]}\n"


def properties(of: Collection, shown: Shown, public_url: str) -> dict[str, Any]:
    """`collection` is the legacy wording, TRAVIS USDA 1958; `name` ours."""
    return {
        "tablename": of.table,
        "collection": f"{of.shard} {of.survey}".replace("_", " ").upper(),
        "name": of.name,
        **shown.columns,
        "acquired": shown.acquired.isoformat() if shown.acquired else None,
        "thumbnail": f"{public_url}/{shown.frame.thumbnail_key}",
    }


def head(name: str) -> bytes:
    """What stands before the first feature."""
    return b'{"type": "FeatureCollection", "name": %s, "features": [\n' % json.dumps(name).encode()


def tail() -> bytes:
    return _END


def features_of(geojson: bytes) -> bytes:
    """The lines of features in a file that `write_geojson` wrote."""
    return geojson[geojson.index(b"\n") + 1 : -len(_END)]


def write_geojson(of: Collection, frames: Sequence[Shown], public_url: str, path: Path) -> None:
    """Write it whole."""
    with path.open("wb") as file:
        file.write(head(of.name))
        for number, shown in enumerate(frames):
            told = json.dumps(properties(of, shown, public_url))
            file.write(SEPARATOR if number else b"")
            file.write(f'{{"type": "Feature", "properties": {told}, "geometry": {shown.geojson}}}'.encode())
        file.write(tail())


def write_parquet(of: Collection, frames: Sequence[Shown], public_url: str, path: Path) -> None:
    """The same as GeoParquet 1.1, with the box of each footprint as a column that readers filter by."""
    import geopandas

    rows: list[Mapping[str, Any]] = [properties(of, shown, public_url) for shown in frames]
    outlines = geopandas.GeoSeries.from_wkb([shown.wkb for shown in frames], crs="OGC:CRS84")
    table = geopandas.GeoDataFrame(rows, geometry=outlines)
    # Said outright: a column of nothing but nulls would have a type of its own in each collection.
    table = table.astype({name: "string" for name in table.columns if name != "geometry"})
    table.to_parquet(path, index=False, compression="zstd", write_covering_bbox=True, schema_version="1.1.0")
