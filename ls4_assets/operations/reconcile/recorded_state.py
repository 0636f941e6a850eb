"""What Postgres and Dagster hold of one collection, read by its own rows alone."""

from collections.abc import Set
from typing import Any

from sqlalchemy import Connection, Row, func, or_, select, text

from ls4_assets.db import schema
from ls4_assets.db.frames import ADOPTED
from ls4_assets.db.schema import SourceState, frame, source
from ls4_assets.db.tile_index import LEGACY, cog_key_of, is_ours, key_in
from ls4_assets.domain.names import FILM_TYPES, Collection, is_tif
from ls4_assets.ingest.sources import anything_known
from ls4_assets.operations.reconcile.model import Known, KnownCollection, KnownFrame, KnownSource, KnownTable
from ls4_assets.operations.reconcile.observed_state import cog_print
from ls4_assets.publishing.rebuilds import UNINDEXED
from resources.storage import Storage


def known_of(connection: Connection, storage: Storage, of: Collection, partitions: Set[str], collections: Set[str]) -> Known:
    """Read it. `partitions`, `collections`: what Dagster has in the two partition sets of the shard."""
    table = is_ours(connection, of)
    known = Known(
        row=_row(connection, of),
        frames=_frames(connection, storage, of),
        sources=_sources(connection, of),
        table=None if table is None else _compared(connection, of) if table else KnownTable(ours=False),
        served=_served(connection, of) if table else set(),
        partitions={partition for partition in partitions if partition.startswith(f"{of.partition}/")},
        collection_partition=of.partition in collections,
    )
    _add_mosaic(connection, storage, of, known)
    return known


def in_runs(connection: Connection, of: Collection) -> bool:
    """Do runs make frames of it at this moment?"""
    mine = (source.c.collection == of.name, source.c.state == SourceState.REQUESTED)
    return connection.execute(select(source.c.key).where(*mine).limit(1)).first() is not None


def all_collections(connection: Connection) -> list[Collection]:
    rows = connection.execute(select(schema.collection.c.shard, schema.collection.c.partition))
    return [Collection.from_partition(row.shard, row.partition) for row in rows]


def knows_anything(connection: Connection) -> bool:
    return anything_known(connection) or connection.execute(select(frame.c.id).limit(1)).first() is not None


def remembers_anything(connection: Connection) -> bool:
    """Also of what was deleted since: a database that was lost does not even do that."""
    return knows_anything(connection) or connection.execute(select(source.c.key).limit(1)).first() is not None


def index_tables(connection: Connection) -> set[str]:
    """Tables of this role that are tile indexes, by their columns: of whichever collection."""
    found = """
        SELECT relname FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid
         WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' AND pg_get_userbyid(relowner) = current_user
           AND attname IN ('location', 'served_location', 'profile_hash') GROUP BY relname HAVING count(*) = 3
    """
    return set(connection.scalars(text(found)))


def _row(connection: Connection, of: Collection) -> KnownCollection | None:
    row = connection.execute(select(schema.collection).where(schema.collection.c.name == of.name)).first()
    if row is None:
        return None
    due = connection.execute(select(frame.c.id).where(frame.c.collection == of.name, UNINDEXED).limit(1)).first()
    shown = row.files_revision == row.index_revision == row.map_revision
    settled = shown and due is None
    return KnownCollection(row.frames, tuple(row.bands), row.published_at is not None, settled, row.withdrawn_at is not None)


def _frames(connection: Connection, storage: Storage, of: Collection) -> dict[str, KnownFrame]:
    cog, c = frame.c.products["cog"], frame.c
    columns = (c.id, c.partition, c.served_key, c.public_version, c.source_key, c.scan_file, c.deleted)
    told = (cog["size"].astext.label("size"), cog["version"].astext.label("version"), cog["made_by"].astext.label("made_by"))
    return {row.id: _frame(storage, row) for row in connection.execute(select(*columns, *told).where(c.collection == of.name))}


def _frame(storage: Storage, row: Row[Any]) -> KnownFrame:
    return KnownFrame(
        served_key=row.served_key,
        print=cog_print(storage, int(row.size or 0), row.version or ""),
        partition=row.partition,
        scan_file=row.scan_file,
        deleted=row.deleted,
        follows=row.public_version != row.version,
        adopted=row.made_by == ADOPTED,
        alone=row.source_key == row.served_key,
    )


def _sources(connection: Connection, of: Collection) -> dict[str, KnownSource]:
    """By key, not by collection: what was rejected by name is of none, and lies in its folders all the same."""
    c = source.c
    inside = or_(*(c.key.startswith(f"{of.folder(film_type)}/georef/", autoescape=True) for film_type in FILM_TYPES))
    rows = connection.execute(select(c.key, c.state, c.frame, c.partition, c.missing_since, c.deletion_held_at).where(inside))
    return {
        row.key: KnownSource(SourceState(row.state), row.frame, row.partition, bool(row.missing_since or row.deletion_held_at))
        for row in rows
        if is_tif(row.key)
    }


def _compared(connection: Connection, of: Collection) -> KnownTable:
    """The table against the frames, inside the database. Rows taken over from lambda-s4 stay until there are better ones."""
    shown = schema.tile_index(of)
    settled = (frame.c.revision == frame.c.indexed_revision) & ~frame.c.deleted
    due = settled & frame.c.footprint.is_not(None)
    columns = (frame.c.id, frame.c.served_key, cog_key_of(frame.c.id).label("key"), settled.label("settled"), due.label("due"))
    mine = select(*columns).where(frame.c.collection == of.name).subquery()
    elsewhere = func.right(shown.c.served_location, func.length(mine.c.served_key)) != mine.c.served_key
    counted = select(
        func.count(shown.c.location).label("rows"),
        func.count().filter(shown.c.location.is_(None), mine.c.due).label("missing"),
        func.count().filter(mine.c.id.is_(None), shown.c.profile_hash != LEGACY).label("extra"),
        func.count().filter(mine.c.settled, elsewhere).label("odd"),
    )
    row = connection.execute(counted.select_from(mine.join(shown, key_in(shown.c.location) == mine.c.key, full=True))).one()
    return KnownTable(True, row.rows, row.missing, row.extra, row.odd)


def _served(connection: Connection, of: Collection) -> set[str]:
    """Keys of the COGs that the map reads now, which are other than the frames' own until the next rebuild. Public keys and those
    under derived/ have six parts each, whatever stands before them: the archive may have moved since."""
    locations = connection.scalars(select(schema.tile_index(of).c.served_location))
    return {"/".join(location.split("/")[-6:]) for location in locations}


def _add_mosaic(connection: Connection, storage: Storage, of: Collection, known: Known) -> None:
    on_map, noted = schema.overview_mosaics.c, schema.overview_mosaic.c
    location = connection.scalar(select(on_map.served_location).where(on_map.collection == of.name))
    root = storage.gdal_path("x")[:-1]
    known.mosaic = location.removeprefix(root) if location else None
    key = connection.scalar(select(noted.key).where(noted.collection == of.name))
    known.mosaics = {key} if key else set()


def all_tables(connection: Connection) -> set[str]:
    """Every table and view in `public`, whosever it is."""
    return set(connection.scalars(text("SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace")))
