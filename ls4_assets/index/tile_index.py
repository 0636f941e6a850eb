"""A collection's tile index: brought up to date with the frames that changed, in one transaction.

The table is never dropped while it is served: readers see the state before or the state after, and its GRANTs stay.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine, Row, Table, delete, func, or_, select, text, update
from sqlalchemy.dialects.postgresql import insert

from ls4_assets.chunks import chunks
from ls4_assets.index.schema import PUBLIC, WEB_MERCATOR, collection, frame, tile_index
from ls4_assets.links import links
from ls4_assets.names import Collection, Frame
from resources.storage import Storage

Extent = tuple[float, float, float, float]


@dataclass(frozen=True)
class Refresh:
    """What one update did. `leaving` are frames that are out of the index and whose products may go now; `revision` is the
    table's, by which files and map are known to be of it."""

    upserted: int
    leaving: tuple[Frame, ...]
    rows: int
    revision: int


def refresh(connection: Connection, of: Collection, storage: Storage, public_url: str) -> Refresh:
    """Bring the table up to date inside the caller's transaction; only frames that changed since the last time are read."""
    table = tile_index(of)
    table.create(connection, checkfirst=True)
    _spread_new_links(connection, of, public_url)
    unindexed = (frame.c.collection == of.name, frame.c.revision != frame.c.indexed_revision)
    changed = connection.execute(select(frame).where(*unindexed).order_by(frame.c.id).with_for_update()).all()
    shown = [row for row in changed if not row.deleted and row.footprint is not None]
    for some in chunks(shown, 500):
        _upsert(connection, table, [_index_row(of, row, storage, public_url) for row in some])
    going = connection.scalars(select(frame.c.partition).where(frame.c.collection == of.name, frame.c.deleted))
    leaving = tuple(Frame.from_partition(of.shard, partition) for partition in going)
    for locations in chunks((_location(storage, gone) for gone in leaving), 1000):
        connection.execute(delete(table).where(table.c.location.in_(locations)))
    for ids in chunks((row.id for row in changed), 1000):
        connection.execute(update(frame).where(frame.c.id.in_(ids)).values(indexed_revision=frame.c.revision))
    rows = connection.scalar(select(func.count()).select_from(table)) or 0
    grown = {"index_revision": collection.c.index_revision + 1}
    revision = connection.scalar(
        update(collection).where(collection.c.name == of.name).values(grown).returning(collection.c.index_revision)
    )
    return Refresh(len(shown), leaving, rows, revision or 0)


def revision(connection: Connection, of: Collection) -> int:
    return connection.scalar(select(collection.c.index_revision).where(collection.c.name == of.name)) or 0


def extent(connection: Connection, of: Collection) -> Extent | None:
    """minx, miny, maxx, maxy of all footprints in EPSG:3857; None when the index is empty or there is none."""
    table = tile_index(of)
    if not exists(connection, of):
        return None
    box = func.ST_Extent(table.c.geom)
    row = connection.execute(select(func.ST_XMin(box), func.ST_YMin(box), func.ST_XMax(box), func.ST_YMax(box))).one()
    return None if row[0] is None else (row[0], row[1], row[2], row[3])


def bands(connection: Connection, of: Collection) -> list[str]:
    """Bands that have frames in the index: its files are published under each of them."""
    table = tile_index(of)
    return list(connection.scalars(select(table.c.band).distinct().order_by(table.c.band)))


def exists(connection: Connection, of: Collection) -> bool:
    return connection.scalar(select(func.to_regclass(f"{PUBLIC}.{of.table}"))) is not None


def drop(connection: Connection, of: Collection) -> None:
    """Remove the index of a collection that has no frame any more; its map must be withdrawn before."""
    tile_index(of).drop(connection, checkfirst=True)
    gone = {"withdrawn_at": func.now(), "public_url": None}
    connection.execute(update(collection).where(collection.c.name == of.name).values(gone))


@contextmanager
def collection_lock(engine: Engine, of: Collection) -> Iterator[None]:
    """Nobody else rebuilds this collection meanwhile: index, files and mapfile are one piece of work."""
    with engine.connect() as connection:
        key = {"id": f"collection {of.name}"}
        connection.execute(text("SELECT pg_advisory_lock(hashtextextended(:id, 0))"), key)
        connection.commit()
        try:
            yield
        finally:
            connection.execute(text("SELECT pg_advisory_unlock(hashtextextended(:id, 0))"), key)
            connection.commit()


def _spread_new_links(connection: Connection, of: Collection, public_url: str) -> None:
    """When the public address changed since the last time, every row of the collection is due."""
    stale = update(collection).where(
        collection.c.name == of.name, or_(collection.c.public_url.is_(None), collection.c.public_url != public_url)
    )
    if connection.execute(stale.values(public_url=public_url)).rowcount:
        all_rows = update(frame).where(frame.c.collection == of.name)
        connection.execute(all_rows.values(revision=frame.c.revision + 1))


def _index_row(of: Collection, row: Row[Any], storage: Storage, public_url: str) -> dict[str, Any]:
    shown = Frame.from_partition(of.shard, row.partition)
    attributes = shown.attributes
    found = links(shown, public_url, row.scan_file)
    return {
        "location": _location(storage, shown),
        "src_srs": f"EPSG:{WEB_MERCATOR}",
        "date": attributes.date,
        "roll": attributes.roll,
        "frame_num": attributes.frame_num,
        "dl_orig": found.dl_orig,
        "dl_georef": found.dl_georef,
        "dl_index": found.dl_index,
        "band": shown.band,
        "acquired": attributes.acquired,
        "served_location": storage.gdal_path(shown.cog_key),
        "source_version": row.source_version,
        "profile_hash": row.products["cog"]["profile"],
        "geom": row.footprint,
    }


def _location(storage: Storage, of: Frame) -> str:
    return f"/vsis3/{storage.bucket}/{of.cog_key}"


def _upsert(connection: Connection, table: Table, rows: Sequence[dict[str, Any]]) -> None:
    statement = insert(table).values(list(rows))
    # The oid of a row that is there already stays: the stacking of overlapping frames does not jump.
    new = {column.name: statement.excluded[column.name] for column in table.columns if column.name not in ("oid", "location")}
    connection.execute(statement.on_conflict_do_update(index_elements=["location"], set_=new))
