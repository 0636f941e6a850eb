"""What is published and what is due, over all collections: the list that the map page reads, and what a sensor asks."""

import json
from typing import Any

from sqlalchemy import Connection, Select, exists, func, or_, select

from ls4_assets.index.schema import SourceState, collection, frame, source
from ls4_assets.links import index_url, map_url
from ls4_assets.names import Collection

COLLECTIONS_KEY = "derived/collections.json"


def published(connection: Connection) -> list[Collection]:
    """Collections that have a map, sorted."""
    rows = connection.execute(select(collection.c.shard, collection.c.partition).where(collection.c.published_at.is_not(None)))
    return sorted(Collection.from_partition(row.shard, row.partition) for row in rows)


def collections_json(connection: Connection, front: str, public_url: str) -> bytes:
    """The list of published collections, for the page that the map front serves. Extents are EPSG:3857 metres."""
    frames = {row.collection: row for row in connection.execute(_frames_by_collection())}
    listed = [
        {
            "name": of.name,
            "title": of.title,
            "table": of.table,
            "shard": of.shard,
            "year": of.year,
            "type": of.type,
            "frames": frames[of.name].count,
            "extent": [round(value, 1) for value in frames[of.name][2:6]],
            "wms": map_url(of, front),
            "index": index_url(of, frames[of.name].band, public_url),
        }
        for of in published(connection)
        if of.name in frames
    ]
    return json.dumps({"collections": listed}, indent=1).encode()


def is_alive(connection: Connection, of: Collection) -> bool:
    """Does anything of the collection lie in georef/, or is anything made of it still there?"""
    sources = exists().where(source.c.collection == of.name, source.c.state.not_in([SourceState.DELETED, SourceState.REFUSED]))
    return bool(connection.scalar(select(or_(sources, exists().where(frame.c.collection == of.name)))))


def _frames_by_collection() -> Select[Any]:
    box = func.ST_Extent(frame.c.footprint)
    sides = (func.ST_XMin(box), func.ST_YMin(box), func.ST_XMax(box), func.ST_YMax(box))
    band = func.min(func.split_part(frame.c.id, "/", 1)).label("band")
    shown = (frame.c.footprint.is_not(None), ~frame.c.deleted)
    return select(frame.c.collection, func.count().label("count"), *sides, band).where(*shown).group_by(frame.c.collection)
