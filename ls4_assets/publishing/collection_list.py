"""The list of published collections that the map page reads. Which collections need a rebuild is in `rebuilds`."""

import json
import math
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Row, exists, func, or_, select

from ls4_assets.db import schema
from ls4_assets.db.schema import SourceState, export_state, source
from ls4_assets.domain import export_keys
from ls4_assets.domain.exports import EXPORTS
from ls4_assets.domain.film_types import FILM_TYPES, FilmType
from ls4_assets.domain.links import index_url
from ls4_assets.domain.names import Collection
from ls4_assets.publishing.maps import map_links
from ls4_assets.settings import Settings

_SUMMARY_METERS = 10_000


def collections_json(connection: Connection, settings: Settings) -> bytes:
    """JSON list of published collections, the titles of the film types that their `bands` name, and a summary of all collections.

    The summary comes first, because the web front end reads it without the rest (mapserver/all_collections.js).
    Extents are in EPSG:3857 meters. `version` increases with every change on the collection's map. `county` is null for
    missions over several counties, and `exports` is null until the first export.
    """
    public_url = settings.public_url
    entries = [
        {
            "name": row.name,
            "title": _collection(row).label,
            "table": row.table_name,
            "shard": row.shard,
            "county": row.shard if settings.shards.get(row.shard) == "county" else None,
            "agency": row.agency,
            "year": row.year,
            "type": row.type,
            "bands": row.film_types,
            "frames": row.frames,
            "extent": [round(value, 1) for value in (row.minx, row.miny, row.maxx, row.maxy)],
            "version": row.index_revision,
            "updated": row.indexed_at.isoformat(timespec="seconds"),
            **map_links(_collection(row), settings).listed,
            "index": index_url(_collection(row), row.film_types[0], public_url),
            "exports": _export_urls(_collection(row), row.film_types, public_url) if row.exported else None,
        }
        for row in _published_rows(connection)
        if row.frames
    ]
    titles = {film_type: spec.title for film_type, spec in FILM_TYPES.items()}
    return json.dumps({"archive": _summarize(entries), "film_types": titles, "collections": entries}, indent=1).encode()


def _summarize(entries: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Extent and years of all collections. The extent is rounded outward: documents with it must not change with every drop."""
    if not entries:
        return {}
    minx, miny, maxx, maxy = zip(*(entry["extent"] for entry in entries), strict=True)
    lower = [math.floor(min(sides) / _SUMMARY_METERS) * _SUMMARY_METERS for sides in (minx, miny)]
    upper = [math.ceil(max(sides) / _SUMMARY_METERS) * _SUMMARY_METERS for sides in (maxx, maxy)]
    years = sorted(entry["year"] for entry in entries if entry["year"])
    return {"extent": [*lower, *upper]} | ({"years": [years[0], years[-1]]} if years else {})


def has_sources_or_frames(connection: Connection, collection: Collection) -> bool:
    """Whether the collection has tifs in georef/ or frames in the database."""
    has_sources = exists().where(
        source.c.collection == collection.name, source.c.state.not_in([SourceState.DELETED, SourceState.REJECTED])
    )
    has_frames = exists().where(schema.frame.c.collection == collection.name)
    return bool(connection.scalar(select(or_(has_sources, has_frames))))


def _published_rows(connection: Connection) -> Sequence[Row[Any]]:
    """Rows of collections with a map, in the order of their partitions. The query does not read the frame table."""
    table = schema.collection
    sides = {"minx": func.ST_XMin, "miny": func.ST_YMin, "maxx": func.ST_XMax, "maxy": func.ST_YMax}
    columns = (side(table.c.outline).label(name) for name, side in sides.items())
    joined = table.outerjoin(export_state, export_state.c.collection == table.c.name)
    exported = func.coalesce(export_state.c.frames > 0, False).label("exported")
    rows = select(table, exported, *columns).select_from(joined).where(table.c.published_at.is_not(None))
    return connection.execute(rows.order_by(table.c.shard, table.c.partition)).all()


def _export_urls(collection: Collection, film_types: Sequence[FilmType], public_url: str) -> dict[str, Any]:
    """Addresses by the field of each listed export; those of film types by film type."""
    listed: dict[str, Any] = {"stac": f"{public_url}/{export_keys.stac_collection_key(collection)}"}
    for export in EXPORTS:
        if not export.listed_as:
            continue
        if export.is_per_film_type:
            urls = {film_type: f"{public_url}/{export.key_of(collection, film_type)}" for film_type in film_types}
            listed[export.listed_as] = urls
        else:
            listed[export.listed_as] = f"{public_url}/{export.key_of(collection)}"
    return listed


def _collection(row: Row[Any]) -> Collection:
    return Collection.from_partition(row.shard, row.partition)
