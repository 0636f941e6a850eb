"""Read what Postgres and Dagster record of one collection. What the bucket holds is in `observed_state`."""

from collections.abc import Set
from typing import Any

from sqlalchemy import Connection, Row, func, or_, select, text

from ls4_assets.db import schema
from ls4_assets.db.frames import ADOPTED
from ls4_assets.db.schema import SourceState, frame, source
from ls4_assets.db.tile_index import LEGACY, cog_key_expression, is_owned_by_ls4, location_key_expression
from ls4_assets.domain.film_types import FILM_TYPES
from ls4_assets.domain.names import Collection
from ls4_assets.domain.sidecars import is_tif
from ls4_assets.ingest.sources import has_sources
from ls4_assets.operations.reconcile.model import (
    RecordedCollection,
    RecordedFrame,
    RecordedSource,
    RecordedState,
    RecordedTable,
)
from ls4_assets.operations.reconcile.observed_state import fingerprint_cog
from ls4_assets.publishing.maps import publishers_of
from ls4_assets.publishing.rebuilds import NOT_INDEXED
from resources.storage import Storage


def load_recorded_state(
    connection: Connection,
    storage: Storage,
    collection: Collection,
    frame_partitions: Set[str],
    collection_partitions: Set[str],
) -> RecordedState:
    """Return the collection's state. The two partition sets are those of its shard in Dagster."""
    is_owned = is_owned_by_ls4(connection, collection)
    table = None if is_owned is None else _compare_table(connection, collection) if is_owned else RecordedTable(is_owned=False)
    state = RecordedState(
        collection=_load_collection(connection, collection),
        frames=_load_frames(connection, storage, collection),
        sources=_load_sources(connection, collection),
        table=table,
        served=_load_served(connection, collection) if is_owned else set(),
        partitions={partition for partition in frame_partitions if partition.startswith(f"{collection.partition}/")},
        has_collection_partition=collection.partition in collection_partitions,
    )
    _add_mosaics(connection, storage, collection, state)
    return state


def has_running_frames(connection: Connection, collection: Collection) -> bool:
    """Return whether runs are processing frames of the collection."""
    running = (source.c.collection == collection.name, source.c.state == SourceState.REQUESTED)
    return connection.execute(select(source.c.key).where(*running).limit(1)).first() is not None


def list_collections(connection: Connection) -> list[Collection]:
    """Return all collections that have a row."""
    rows = connection.execute(select(schema.collection.c.shard, schema.collection.c.partition))
    return [Collection.from_partition(row.shard, row.partition) for row in rows]


def has_live_rows(connection: Connection) -> bool:
    """Return whether the database has any source that is not deleted, or any frame."""
    return has_sources(connection) or connection.execute(select(frame.c.id).limit(1)).first() is not None


def has_rows(connection: Connection) -> bool:
    """Return whether the database has any rows, deleted sources included. A database that was lost has none."""
    return has_live_rows(connection) or connection.execute(select(source.c.key).limit(1)).first() is not None


def list_public_relations(connection: Connection) -> set[str]:
    """Return every table and view in `public`, regardless of its owner."""
    return set(connection.scalars(text("SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace")))


def _load_collection(connection: Connection, collection: Collection) -> RecordedCollection | None:
    row = connection.execute(select(schema.collection).where(schema.collection.c.name == collection.name)).first()
    if row is None:
        return None
    unindexed = select(frame.c.id).where(frame.c.collection == collection.name, NOT_INDEXED).limit(1)
    is_indexed = connection.execute(unindexed).first() is None
    return RecordedCollection(
        frame_count=row.frames,
        film_types=tuple(row.film_types),
        is_published=row.published_at is not None,
        is_up_to_date=row.files_revision == row.index_revision == row.map_revision and is_indexed,
        is_withdrawn=row.withdrawn_at is not None,
        document_keys=tuple(key for publisher in publishers_of(row.map_format) for key in publisher.document_keys(collection)),
    )


def _load_frames(connection: Connection, storage: Storage, collection: Collection) -> dict[str, RecordedFrame]:
    cog, c = frame.c.products["cog"], frame.c
    columns = (c.id, c.partition, c.served_key, c.public_version, c.source_key, c.scan_file, c.deleted)
    product = (cog["size"].astext.label("size"), cog["version"].astext.label("version"), cog["made_by"].astext.label("made_by"))
    rows = connection.execute(select(*columns, *product).where(c.collection == collection.name))
    return {row.id: _recorded_frame(storage, row) for row in rows}


def _recorded_frame(storage: Storage, row: Row[Any]) -> RecordedFrame:
    return RecordedFrame(
        served_key=row.served_key,
        fingerprint=fingerprint_cog(storage, int(row.size or 0), row.version or ""),
        partition=row.partition,
        scan_file=row.scan_file,
        deleted=row.deleted,
        is_copy_pending=row.public_version != row.version,
        is_adopted=row.made_by == ADOPTED,
        lacks_source=row.source_key == row.served_key,
    )


def _load_sources(connection: Connection, collection: Collection) -> dict[str, RecordedSource]:
    """Select by key: a source rejected by name has no collection, but its key is in the collection's folders."""
    c = source.c
    inside = or_(*(c.key.startswith(f"{collection.folder(film_type)}/georef/", autoescape=True) for film_type in FILM_TYPES))
    rows = connection.execute(select(c.key, c.state, c.frame, c.partition, c.missing_since, c.deletion_held_at).where(inside))
    return {
        row.key: RecordedSource(SourceState(row.state), row.frame, row.partition, bool(row.missing_since or row.deletion_held_at))
        for row in rows
        if is_tif(row.key)
    }


def _compare_table(connection: Connection, collection: Collection) -> RecordedTable:
    """Compare the table with the frames inside the database. Rows taken over from lambda-s4 stay until there are better ones."""
    index = schema.tile_index(collection)
    is_indexed = (frame.c.revision == frame.c.indexed_revision) & ~frame.c.deleted
    has_row = is_indexed & frame.c.footprint.is_not(None)
    key = cog_key_expression(frame.c.id).label("key")
    columns = (frame.c.id, frame.c.served_key, key, is_indexed.label("is_indexed"), has_row.label("has_row"))
    frames = select(*columns).where(frame.c.collection == collection.name).subquery()
    is_mislocated = func.right(index.c.served_location, func.length(frames.c.served_key)) != frames.c.served_key
    counts = select(
        func.count(index.c.location).label("rows"),
        func.count().filter(index.c.location.is_(None), frames.c.has_row).label("missing"),
        func.count().filter(frames.c.id.is_(None), index.c.profile_hash != LEGACY).label("extra"),
        func.count().filter(frames.c.is_indexed, is_mislocated).label("mislocated"),
    )
    row = connection.execute(
        counts.select_from(frames.join(index, location_key_expression(index.c.location) == frames.c.key, full=True))
    ).one()
    return RecordedTable(True, row.rows, row.missing, row.extra, row.mislocated)


def _load_served(connection: Connection, collection: Collection) -> set[str]:
    """Return the keys of the COGs that the map reads. They differ from those of the frames until the next rebuild.

    Public keys and those under derived/ have six parts each. What precedes them is ignored: the archive may have moved since.
    """
    locations = connection.scalars(select(schema.tile_index(collection).c.served_location))
    return {"/".join(location.split("/")[-6:]) for location in locations}


def _add_mosaics(connection: Connection, storage: Storage, collection: Collection, state: RecordedState) -> None:
    on_map, recorded = schema.overview_mosaics.c, schema.overview_mosaic.c
    location = connection.scalar(select(on_map.served_location).where(on_map.collection == collection.name))
    root = storage.gdal_path("x")[:-1]
    state.served_mosaic = location.removeprefix(root) if location else None
    key = connection.scalar(select(recorded.key).where(recorded.collection == collection.name))
    state.mosaics = {key} if key else set()
