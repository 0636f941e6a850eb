"""A collection's tile index: brought up to date with the frames that changed, in one transaction.

The table is never dropped while it is served: readers see the state before or the state after, and its GRANTs stay.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    ARRAY,
    BigInteger,
    ColumnElement,
    Connection,
    Engine,
    Row,
    Table,
    Text,
    and_,
    cast,
    delete,
    func,
    literal,
    not_,
    select,
    text,
    update,
)
from sqlalchemy.dialects.postgresql import insert

from ls4_assets.db.chunks import chunks
from ls4_assets.db.schema import PUBLIC, WEB_MERCATOR, collection, frame, tile_index
from ls4_assets.domain.links import links
from ls4_assets.domain.names import Collection, Frame
from ls4_assets.errors import ConfigurationError, NotFoundError
from resources.locks import exclusive_lock
from resources.storage import Storage

Extent = tuple[float, float, float, float]

LEGACY = "legacy"
"""Stands where a row's profile stands otherwise: it was taken over from lambda-s4, and ls4 has no frame of it yet."""

# Who made a table is told by its owner, its columns and the key on `location` that every rebuild goes by.
_MAKING = text(
    """
    SELECT pg_get_userbyid(relowner) = current_user AS mine,
           ARRAY(SELECT attname::text FROM pg_attribute
                  WHERE attrelid = relation.oid AND attnum > 0 AND NOT attisdropped) AS columns,
           EXISTS (SELECT FROM pg_index JOIN pg_attribute ON attrelid = indrelid AND attnum = indkey[0]
                    WHERE indrelid = relation.oid AND indisunique AND indnatts = 1 AND attname = 'location') AS keyed
      FROM pg_class AS relation WHERE relation.oid = to_regclass(:name)
    """
)


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
    # Locked before any frame: the summary below must follow one index after the other.
    before = connection.execute(select(collection).where(collection.c.name == of.name).with_for_update()).first()
    if before is None:
        raise NotFoundError(f"{of.name} has no frames in the archive; drop one under its georef/ first.")
    if is_ours(connection, of) is False:
        raise ConfigurationError(
            f"The table {PUBLIC}.{of.table} is not of ls4's making, and stays as it is; "
            f"take it over by `ls4 adopt {of.folder('bw')} --apply`."
        )
    table.create(connection, checkfirst=True)
    # From the index alone. It may have been lost, or emptied by hand, since its rows were counted.
    first, last = connection.execute(select(func.min(table.c.location), func.max(table.c.location))).one()
    holds_rows = first is not None
    root, bucket = served_root(storage), location_of(storage.bucket, "")
    renamed = holds_rows and not (first.startswith(bucket) and last.startswith(bucket))
    if renamed:
        _rename_locations(connection, table, bucket)
    _spread_new_addresses(connection, of, public_url, root, renamed)
    unindexed = (frame.c.collection == of.name, frame.c.revision != frame.c.indexed_revision)
    changed = connection.execute(select(frame).where(*unindexed).order_by(frame.c.id).with_for_update()).all()
    shown = [row for row in changed if not row.deleted and row.footprint is not None]
    known = 0
    for some in chunks(shown, 500):
        known += _upsert(connection, table, [_index_row(of, row, storage, root, public_url) for row in some])
    going = connection.scalars(select(frame.c.partition).where(frame.c.collection == of.name, frame.c.deleted))
    leaving = tuple(Frame.from_partition(of.shard, partition) for partition in going)
    left = 0
    for locations in chunks((location_of(storage.bucket, gone.cog_key) for gone in leaving), 1000):
        left += connection.execute(delete(table).where(table.c.location.in_(locations))).rowcount
    grown_only = before.frames > 0 and holds_rows and not (renamed or known or left)
    summary = _grown(of, before, shown) if grown_only else _counted(table)
    values = summary | _description(of) | {"index_revision": _next_revision(), "indexed_at": func.now()}
    of_it = update(collection).where(collection.c.name == of.name)
    row = connection.execute(of_it.values(values).returning(collection.c.index_revision, collection.c.frames)).one()
    for ids in chunks((row.id for row in changed), 1000):
        connection.execute(update(frame).where(frame.c.id.in_(ids)).values(indexed_revision=frame.c.revision))
    return Refresh(len(shown), leaving, row.frames, row.index_revision)


def served_root(storage: Storage) -> str:
    """What stands before a key in `served_location`: /srv/archive/ or /vsis3/<bucket>/."""
    return storage.gdal_path("x")[:-1]


def location_of(bucket: str, key: str) -> str:
    """What the index knows a COG by, whatever the storage. The key "" gives what stands before all keys."""
    return f"/vsis3/{bucket}/{key}"


def cog_key_of(id_: ColumnElement[str]) -> ColumnElement[str]:
    """In SQL the `cog_key` of the frame of an id."""
    return func.regexp_replace(id_, "/([^/]*)$", r"/cog/\1.tif")


def key_in(location: ColumnElement[str]) -> ColumnElement[str]:
    """In SQL the key that a `location` names, whatever the bucket."""
    return func.regexp_replace(location, "^/vsi[a-z0-9_]+/[^/]+/", "")


def revision(connection: Connection, of: Collection) -> int:
    return connection.scalar(select(collection.c.index_revision).where(collection.c.name == of.name)) or 0


def extent(connection: Connection, of: Collection) -> Extent | None:
    """minx, miny, maxx, maxy of all footprints in EPSG:3857 metres; None when the index is empty or there is none."""
    box = collection.c.outline
    sides = (func.ST_XMin(box), func.ST_YMin(box), func.ST_XMax(box), func.ST_YMax(box))
    row = connection.execute(select(*sides).where(collection.c.name == of.name)).first()
    return None if row is None or row[0] is None else (row[0], row[1], row[2], row[3])


def point_on_frame(connection: Connection, of: Collection) -> tuple[float, float] | None:
    """A place, in EPSG:3857, that some frame of the index shows."""
    if not exists(connection, of):
        return None
    point = func.ST_PointOnSurface(tile_index(of).c.geom)
    row = connection.execute(select(func.ST_X(point), func.ST_Y(point)).limit(1)).first()
    return (row[0], row[1]) if row else None


def bands(connection: Connection, of: Collection) -> list[str]:
    """Bands that have frames in the index: its files are published under each of them."""
    return connection.scalar(select(collection.c.bands).where(collection.c.name == of.name)) or []


def legacy_keys(connection: Connection, of: Collection) -> list[str]:
    """COGs whose rows were taken over and are kept until ls4 has frames of them."""
    table = tile_index(of)
    kept = select(key_in(table.c.location)).where(table.c.profile_hash == LEGACY)
    return list(connection.scalars(kept)) if is_ours(connection, of) else []


def exists(connection: Connection, of: Collection) -> bool:
    return connection.scalar(select(func.to_regclass(f"{PUBLIC}.{of.table}"))) is not None


def is_ours(connection: Connection, of: Collection) -> bool | None:
    """Was the collection's table made by this pipeline, and not by lambda-s4 or another hand? None: there is no table."""
    row = connection.execute(_MAKING, {"name": f"{PUBLIC}.{of.table}"}).first()
    if row is None:
        return None
    return bool(row.mine and row.keyed and {column.name for column in tile_index(of).columns} <= set(row.columns))


def drop(connection: Connection, of: Collection) -> None:
    """Remove the index of a collection that has no frame any more; its map must be withdrawn before."""
    tile_index(of).drop(connection, checkfirst=True)
    gone: dict[str, Any] = {"withdrawn_at": func.now(), "public_url": None, "frames": 0, "bands": [], "outline": None}
    connection.execute(update(collection).where(collection.c.name == of.name).values(gone))


def collection_lock(engine: Engine, of: Collection) -> AbstractContextManager[None]:
    """Nobody else rebuilds this collection meanwhile: index, files and mapfile are one piece of work."""
    return exclusive_lock(engine, f"collection {of.name}")


def _rename_locations(connection: Connection, table: Table, bucket: str) -> None:
    """Put another bucket's name into every row. Rows are known by `location`: beside one of the old name a frame would get a
    second, and never lose the first. Where it has two already the lower stays, so that the stacking does not jump."""
    other = table.alias()
    lower = select(other.c.oid).where(key_in(other.c.location) == key_in(table.c.location), other.c.oid < table.c.oid)
    connection.execute(delete(table).where(lower.exists()))
    connection.execute(update(table).values(location=literal(bucket) + key_in(table.c.location)))


def _spread_new_addresses(connection: Connection, of: Collection, public_url: str, root: str, renamed: bool) -> None:
    """When the public address, or the place of the archive, changed since the last time, every row of the collection is due."""
    same = (collection.c.public_url.is_not_distinct_from(public_url), collection.c.served_root.is_not_distinct_from(root))
    stale = update(collection).where(collection.c.name == of.name, not_(and_(*same)))
    if connection.execute(stale.values(public_url=public_url, served_root=root)).rowcount or renamed:
        all_rows = update(frame).where(frame.c.collection == of.name)
        connection.execute(all_rows.values(revision=frame.c.revision + 1))


def _next_revision() -> ColumnElement[int]:
    """Greater than any before, also of a collection that was withdrawn and comes again, or when the database was lost: caches
    keep the tiles of a version for a year."""
    seconds = cast(func.extract("epoch", func.now()), BigInteger)
    return func.greatest(collection.c.index_revision + 1, seconds)


def _description(of: Collection) -> dict[str, Any]:
    """What the name says, for the statewide views: SQL knows no grammar."""
    return {"title": of.title, "agency": of.agency, "year": of.year, "type": of.type}


def _counted(table: Table) -> dict[str, Any]:
    """The collection's frames, bands and outline, read from the whole table."""
    hull = func.ST_ConvexHull(func.ST_Collect(table.c.geom))
    bands = select(func.coalesce(func.array_agg(table.c.band.distinct()), literal([], ARRAY(Text))))
    return {
        "frames": select(func.count()).select_from(table).scalar_subquery(),
        "bands": bands.scalar_subquery(),
        "outline": select(hull).scalar_subquery(),
    }


def _grown(of: Collection, before: Row[Any], added: Sequence[Row[Any]]) -> dict[str, Any]:
    """The same when frames were only added: one more costs the same in a collection of ten and of ten thousand."""
    due = (frame.c.collection == of.name, frame.c.revision != frame.c.indexed_revision)
    new = (*due, ~frame.c.deleted, frame.c.footprint.is_not(None))
    footprints = select(func.ST_Collect(frame.c.footprint)).where(*new).scalar_subquery()
    return {
        "frames": before.frames + len(added),
        "bands": sorted({*before.bands, *(row.id.partition("/")[0] for row in added)}),
        "outline": func.ST_ConvexHull(func.ST_Collect(collection.c.outline, footprints)) if added else collection.c.outline,
    }


def _index_row(of: Collection, row: Row[Any], storage: Storage, root: str, public_url: str) -> dict[str, Any]:
    shown = Frame.from_partition(of.shard, row.partition)
    attributes = shown.attributes
    found = links(shown, public_url, row.scan_file)
    return {
        "location": location_of(storage.bucket, shown.cog_key),
        "src_srs": f"EPSG:{WEB_MERCATOR}",
        "date": attributes.date,
        "roll": attributes.roll,
        "frame_num": attributes.frame_num,
        "dl_orig": found.dl_orig,
        "dl_georef": found.dl_georef,
        "dl_index": found.dl_index,
        "band": shown.film_type,
        "acquired": attributes.acquired,
        "served_location": f"{root}{row.served_key}",
        "source_version": row.source_version,
        "profile_hash": row.products["cog"]["profile"],
        "geom": row.footprint,
    }


def _upsert(connection: Connection, table: Table, rows: Sequence[dict[str, Any]]) -> int:
    """Returns how many of the rows were there already."""
    there = select(func.count()).where(table.c.location.in_([row["location"] for row in rows]))
    known = connection.scalar(there) or 0
    statement = insert(table).values(list(rows))
    # The oid of a row that is there already stays: the stacking of overlapping frames does not jump.
    new = {column.name: statement.excluded[column.name] for column in table.columns if column.name not in ("oid", "location")}
    connection.execute(statement.on_conflict_do_update(index_elements=["location"], set_=new))
    return known
