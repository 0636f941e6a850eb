"""Footprints of one collection as GeoJSON (RFC 7946) and GeoParquet, in degrees. `statewide` joins them into the statewide files.

The GeoJSON has one feature per line between a header line and a footer line, so that files can be joined without parsing them.
The properties are the five of the legacy compilation and the other public columns of the tile index.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ls4_assets.domain.names import Collection
from ls4_assets.publishing.rows import IndexedFrame

SEPARATOR = b",\n"
GEOJSON_FOOTER = b"\n]}\n"


def feature_properties(collection: Collection, indexed: IndexedFrame, public_url: str) -> dict[str, Any]:
    """Properties of a feature. `collection` has the legacy wording, ADAMS USDA 1958; `name` is the collection's name."""
    return {
        "tablename": collection.table,
        "collection": f"{collection.shard} {collection.survey}".replace("_", " ").upper(),
        "name": collection.name,
        **indexed.columns,
        "acquired": indexed.acquired.isoformat() if indexed.acquired else None,
        "thumbnail": f"{public_url}/{indexed.frame.thumbnail_key}",
    }


def geojson_header(name: str) -> bytes:
    """Content before the first feature."""
    return b'{"type": "FeatureCollection", "name": %s, "features": [\n' % json.dumps(name).encode()


def extract_features(geojson: bytes) -> bytes:
    """The lines of features of a file that `write_geojson` wrote."""
    return geojson[geojson.index(b"\n") + 1 : -len(GEOJSON_FOOTER)]


def write_geojson(collection: Collection, frames: Sequence[IndexedFrame], public_url: str, path: Path) -> None:
    """Write the footprints as GeoJSON."""
    with path.open("wb") as file:
        file.write(geojson_header(collection.name))
        for number, indexed in enumerate(frames):
            properties = json.dumps(feature_properties(collection, indexed, public_url))
            file.write(SEPARATOR if number else b"")
            file.write(f'{{"type": "Feature", "properties": {properties}, "geometry": {indexed.geojson}}}'.encode())
        file.write(GEOJSON_FOOTER)


def write_parquet(
    collection: Collection, frames: Sequence[IndexedFrame], public_url: str, path: Path, metadata: Mapping[str, str]
) -> None:
    """Write the footprints as GeoParquet 1.1, with a bounding-box column that readers can filter by.

    `metadata`: of the file, in addition to that of GeoParquet.
    """
    import geopandas
    from pyarrow import parquet

    rows: list[Mapping[str, Any]] = [feature_properties(collection, indexed, public_url) for indexed in frames]
    outlines = geopandas.GeoSeries.from_wkb([indexed.wkb for indexed in frames], crs="OGC:CRS84")
    table = geopandas.GeoDataFrame(rows, geometry=outlines)
    # With inferred types, a column that has only nulls would have a different type than in other collections.
    table = table.astype({name: "string" for name in table.columns if name != "geometry"})
    table.to_parquet(path, index=False, compression="zstd", write_covering_bbox=True, schema_version="1.1.0")
    if metadata:
        # GeoPandas has no parameter for metadata of the file.
        written = parquet.read_table(path)
        parquet.write_table(written.replace_schema_metadata({**written.schema.metadata, **metadata}), path, compression="zstd")
