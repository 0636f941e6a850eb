"""What is published and what is due, over all collections: the list that the map page reads, and what a sensor asks."""

import json
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Row, exists, func, or_, select

from ls4_assets.db.schema import SourceState, collection, export_state, frame, source
from ls4_assets.domain import export_keys
from ls4_assets.domain.links import index_url, map_url
from ls4_assets.domain.names import Collection, FilmType, Shards

COLLECTIONS_KEY = "derived/collections.json"


def published(connection: Connection) -> list[Collection]:
    """Collections that have a map, sorted."""
    return [_named(row) for row in _shown(connection)]


def collections_json(connection: Connection, front: str, public_url: str, shards: Shards) -> bytes:
    """The list of published collections, for the page that the map front serves. Extents are EPSG:3857 metres; `version`
    grows whenever something of the collection changes on the map; `county` is null for missions over several. `exports` are null
    until there are some."""
    listed = [
        {
            "name": row.name,
            "title": row.title,
            "table": row.table_name,
            "shard": row.shard,
            "county": row.shard if shards.get(row.shard) == "county" else None,
            "agency": row.agency,
            "year": row.year,
            "type": row.type,
            "bands": row.bands,
            "frames": row.frames,
            "extent": [round(value, 1) for value in (row.minx, row.miny, row.maxx, row.maxy)],
            "version": row.index_revision,
            "updated": row.indexed_at.isoformat(timespec="seconds"),
            "wms": map_url(_named(row), front),
            "index": index_url(_named(row), row.bands[0], public_url),
            "exports": _exports(_named(row), row.bands, public_url) if row.exported else None,
        }
        for row in _shown(connection)
        if row.frames
    ]
    return json.dumps({"collections": listed}, indent=1).encode()


def is_alive(connection: Connection, of: Collection) -> bool:
    """Does anything of the collection lie in georef/, or is anything made of it still there?"""
    sources = exists().where(source.c.collection == of.name, source.c.state.not_in([SourceState.DELETED, SourceState.REJECTED]))
    return bool(connection.scalar(select(or_(sources, exists().where(frame.c.collection == of.name)))))


def _shown(connection: Connection) -> Sequence[Row[Any]]:
    """From the collections' own rows: no frame is counted here, however many there are."""
    box = collection.c.outline
    sides = {"minx": func.ST_XMin, "miny": func.ST_YMin, "maxx": func.ST_XMax, "maxy": func.ST_YMax}
    columns = (side(box).label(name) for name, side in sides.items())
    joined = collection.outerjoin(export_state, export_state.c.collection == collection.c.name)
    exported = func.coalesce(export_state.c.frames > 0, False).label("exported")
    chosen = select(collection, exported, *columns).select_from(joined).where(collection.c.published_at.is_not(None))
    return connection.execute(chosen.order_by(collection.c.shard, collection.c.partition)).all()


def _exports(of: Collection, bands: Sequence[FilmType], public_url: str) -> dict[str, Any]:
    return {
        "geojson": f"{public_url}/{export_keys.footprints_key(of, '.geojson')}",
        "parquet": f"{public_url}/{export_keys.footprints_key(of, '.parquet')}",
        "stac": f"{public_url}/{export_keys.stac_collection_key(of)}",
        "mosaics": {film_type: f"{public_url}/{export_keys.mosaic_index_key(of, film_type)}" for film_type in bands},
    }


def _named(row: Row[Any]) -> Collection:
    return Collection.from_partition(row.shard, row.partition)
