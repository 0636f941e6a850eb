"""The tile index of a collection: its refresh with the frames that changed, and queries on it.

A refresh is one transaction on the existing table, which is never replaced: readers see the state before or after, and GRANTs
stay valid. The table itself is defined in `schema.py`; the files made from it are in `shapefile.py`.
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

from ls4_assets.db import schema
from ls4_assets.db.schema import PUBLIC, WEB_MERCATOR
from ls4_assets.domain.chunks import chunks
from ls4_assets.domain.links import build_links
from ls4_assets.domain.names import Collection, Frame
from ls4_assets.domain.products import COG
from ls4_assets.errors import ConfigurationError, NotFoundError
from resources.locks import exclusive_lock
from resources.storage import Storage

Extent = tuple[float, float, float, float]

LEGACY = "legacy"
"""Replaces the profile hash in a row adopted from lambda-s4 for which ls4 has no frame yet."""

# A table belongs to ls4 if its owner, the columns that it has had since the first version, and its unique key on `location`, on
# which every refresh relies, are ours. Columns that came later do not count: `ls4 db upgrade` adds them to the tables found here.
_OWNED_TABLES = text(
    """
    SELECT relname, columns FROM pg_class AS relation, LATERAL
           (SELECT array_agg(attname::text) AS columns FROM pg_attribute
             WHERE attrelid = relation.oid AND attnum > 0 AND NOT attisdropped) AS attributes
     WHERE relnamespace = to_regnamespace(:schema) AND relname = coalesce(:table, relname) AND relkind = 'r'
       AND pg_get_userbyid(relowner) = current_user AND columns @> CAST(:mark AS text[])
       AND EXISTS (SELECT FROM pg_index JOIN pg_attribute ON attrelid = indrelid AND attnum = indkey[0]
                    WHERE indrelid = relation.oid AND indisunique AND indnatts = 1 AND attname = 'location')
    """
)


@dataclass(frozen=True)
class RefreshResult:
    """The outcome of a refresh. `removed` frames are out of the index, so their products can be deleted; `revision` is the new
    index revision, which files and map record; `upserted` and `rows` count rows."""

    upserted: int
    removed: tuple[Frame, ...]
    rows: int
    revision: int


def refresh(connection: Connection, collection: Collection, storage: Storage, public_url: str) -> RefreshResult:
    """Apply the changes since the last refresh to the table, in the caller's transaction. Reads changed frames only.

    Raises NotFoundError when the collection has no row, and ConfigurationError when its table does not belong to ls4.
    """
    columns, frame, table = schema.collection.c, schema.frame.c, schema.tile_index(collection)
    # Lock the collection before any frame: the summary below depends on the order of refreshes.
    query = select(schema.collection).where(columns.name == collection.name).with_for_update()
    before = connection.execute(query).first()
    if before is None:
        raise NotFoundError(f"{collection.name} has no frames in the archive; drop one in its georef/ folder first.")
    if is_owned_by_ls4(connection, collection) is False:
        raise ConfigurationError(
            f"The table {PUBLIC}.{collection.table} was not created by ls4, which leaves it unchanged; "
            f"adopt it with `ls4 adopt {collection.command_path} --apply`."
        )
    table.create(connection, checkfirst=True)
    present = list_owned_tables(connection, collection.table)[collection.table]
    if missing := [column.name for column in table.columns if column.name not in present]:
        raise ConfigurationError(
            f"The table {PUBLIC}.{collection.table} lacks the columns {', '.join(missing)} of this version; run `ls4 db upgrade`."
        )
    # Read from the unique index. The table may have been lost or emptied by hand since its rows were counted.
    first, last = connection.execute(select(func.min(table.c.location), func.max(table.c.location))).one()
    has_rows = first is not None
    root, bucket = served_root(storage), cog_location(storage.bucket, "")
    renamed = has_rows and not (first.startswith(bucket) and last.startswith(bucket))
    if renamed:
        _rename_bucket(connection, table, bucket)
    _mark_relocated(connection, collection, public_url, root, renamed)
    unindexed = (frame.collection == collection.name, frame.revision != frame.indexed_revision)
    changed = connection.execute(select(schema.frame).where(*unindexed).order_by(frame.id).with_for_update()).all()
    upserts = [row for row in changed if not row.deleted and row.footprint is not None]
    replaced = 0
    for chunk in chunks(upserts, 500):
        replaced += _upsert(connection, table, [_index_row(collection, row, storage, root, public_url) for row in chunk])
    partitions = connection.scalars(select(frame.partition).where(frame.collection == collection.name, frame.deleted))
    removed = tuple(Frame.from_partition(collection.shard, partition) for partition in partitions)
    deleted = 0
    for locations in chunks((cog_location(storage.bucket, gone.cog_key) for gone in removed), 1000):
        deleted += connection.execute(delete(table).where(table.c.location.in_(locations))).rowcount
    only_added = before.frames > 0 and has_rows and not (renamed or replaced or deleted)
    summary = _extend_summary(collection, before, upserts) if only_added else _count_summary(table)
    values = summary | _describe(collection) | {"index_revision": _next_revision(), "indexed_at": func.now()}
    statement = update(schema.collection).where(columns.name == collection.name).values(values)
    row = connection.execute(statement.returning(columns.index_revision, columns.frames)).one()
    for ids in chunks((row.id for row in changed), 1000):
        connection.execute(update(schema.frame).where(frame.id.in_(ids)).values(indexed_revision=frame.revision))
    return RefreshResult(len(upserts), removed, row.frames, row.index_revision)


def served_root(storage: Storage) -> str:
    """Returns the prefix of keys in `served_location`, such as /srv/archive/."""
    return storage.gdal_path("x")[:-1]


def cog_location(bucket: str, key: str) -> str:
    """Returns the `location` of a COG, which names S3 for every storage, as published tables do. The key "" gives the prefix."""
    return f"/vsis3/{bucket}/{key}"


def cog_key_expression(frame_id: ColumnElement[str]) -> ColumnElement[str]:
    """`Frame.cog_key` in SQL, from the frame's id."""
    return func.regexp_replace(frame_id, "/([^/]*)$", COG.key.format(folder="", stem=r"\1"))


def location_key_expression(location: ColumnElement[str]) -> ColumnElement[str]:
    """The object key of a `location` in SQL, for any bucket."""
    return func.regexp_replace(location, "^/vsi[a-z0-9_]+/[^/]+/", "")


def load_revision(connection: Connection, collection: Collection) -> int:
    """Returns the index revision; 0 when the collection has no row."""
    columns = schema.collection.c
    return connection.scalar(select(columns.index_revision).where(columns.name == collection.name)) or 0


def load_extent(connection: Connection, collection: Collection) -> Extent | None:
    """Returns minx, miny, maxx, maxy of all footprints in EPSG:3857 meters; None when there are none."""
    outline = schema.collection.c.outline
    sides = (func.ST_XMin(outline), func.ST_YMin(outline), func.ST_XMax(outline), func.ST_YMax(outline))
    row = connection.execute(select(*sides).where(schema.collection.c.name == collection.name)).first()
    return None if row is None or row[0] is None else (row[0], row[1], row[2], row[3])


def find_point_on_frame(connection: Connection, collection: Collection) -> tuple[float, float] | None:
    """Returns x and y (EPSG:3857) of a point on some frame of the index; None without frames."""
    if not has_table(connection, collection):
        return None
    point = func.ST_PointOnSurface(schema.tile_index(collection).c.geom)
    row = connection.execute(select(func.ST_X(point), func.ST_Y(point)).limit(1)).first()
    return (row[0], row[1]) if row else None


def load_film_types(connection: Connection, collection: Collection) -> list[str]:
    """Returns the film types with frames in the index. Its files are published under each of them."""
    columns = schema.collection.c
    return connection.scalar(select(columns.film_types).where(columns.name == collection.name)) or []


def list_legacy_keys(connection: Connection, collection: Collection) -> list[str]:
    """Returns the object keys of adopted rows for which ls4 has no frame yet."""
    table = schema.tile_index(collection)
    query = select(location_key_expression(table.c.location)).where(table.c.profile_hash == LEGACY)
    return list(connection.scalars(query)) if is_owned_by_ls4(connection, collection) else []


def has_table(connection: Connection, collection: Collection) -> bool:
    return connection.scalar(select(func.to_regclass(f"{PUBLIC}.{collection.table}"))) is not None


def is_owned_by_ls4(connection: Connection, collection: Collection) -> bool | None:
    """True when ls4 created the collection's table, False when lambda-s4 or someone else did, None without a table."""
    if not has_table(connection, collection):
        return None
    return bool(list_owned_tables(connection, collection.table))


def list_owned_tables(connection: Connection, table: str | None = None) -> dict[str, set[str]]:
    """Returns the columns of each tile index that ls4 created, of all or of one table. `ls4 adopt` takes over the others."""
    parameters = {"schema": PUBLIC, "table": table, "mark": list(schema.TILE_INDEX_MARK)}
    return {row.relname: set(row.columns) for row in connection.execute(_OWNED_TABLES, parameters)}


def mark_rebuild_pending(connection: Connection, name: str) -> None:
    """Have the next rebuild of the collection write every row, without waiting for a backoff."""
    frames = update(schema.frame).where(schema.frame.c.collection == name)
    connection.execute(frames.values(revision=schema.frame.c.revision + 1, updated_at=func.now()))
    connection.execute(update(schema.collection).where(schema.collection.c.name == name).values(attempts=0))


def drop_table(connection: Connection, collection: Collection) -> None:
    """Drop the index of a collection without frames. The caller withdraws its map first."""
    schema.tile_index(collection).drop(connection, checkfirst=True)
    values: dict[str, Any] = {"withdrawn_at": func.now(), "public_url": None, "frames": 0, "film_types": [], "outline": None}
    connection.execute(update(schema.collection).where(schema.collection.c.name == collection.name).values(values))


def collection_lock(engine: Engine, collection: Collection) -> AbstractContextManager[None]:
    """An exclusive lock on rebuilds of the collection: index, files and mapfile are one unit of work."""
    return exclusive_lock(engine, f"collection {collection.name}")


def _rename_bucket(connection: Connection, table: Table, bucket: str) -> None:
    """Set the bucket in the `location` of every row.

    `location` identifies rows, so under another bucket a frame would get a second row and keep the first forever. Of two rows of
    one key the lower oid stays, which keeps the stacking order.
    """
    other = table.alias()
    key, other_key = location_key_expression(table.c.location), location_key_expression(other.c.location)
    lower = select(other.c.oid).where(other_key == key, other.c.oid < table.c.oid)
    connection.execute(delete(table).where(lower.exists()))
    connection.execute(update(table).values(location=literal(bucket) + key))


def _mark_relocated(connection: Connection, collection: Collection, public_url: str, root: str, renamed: bool) -> None:
    """Make every frame of the collection due when the public URL or the root of the archive changed since the last refresh."""
    columns, frame = schema.collection.c, schema.frame.c
    same = (columns.public_url.is_not_distinct_from(public_url), columns.served_root.is_not_distinct_from(root))
    statement = update(schema.collection).where(columns.name == collection.name, not_(and_(*same)))
    if connection.execute(statement.values(public_url=public_url, served_root=root)).rowcount or renamed:
        frames = update(schema.frame).where(frame.collection == collection.name)
        connection.execute(frames.values(revision=frame.revision + 1))


def _next_revision() -> ColumnElement[int]:
    """A revision greater than any before, even after a withdrawal or the loss of the database: caches keep the tiles of a
    revision for a year."""
    seconds = cast(func.extract("epoch", func.now()), BigInteger)
    return func.greatest(schema.collection.c.index_revision + 1, seconds)


def _describe(collection: Collection) -> dict[str, Any]:
    """The parts of the collection's name, for the statewide views: SQL cannot parse it."""
    return {"title": collection.title, "agency": collection.agency, "year": collection.year, "type": collection.type}


def _count_summary(table: Table) -> dict[str, Any]:
    """The collection's frames, film types and outline, computed from the whole table."""
    hull = func.ST_ConvexHull(func.ST_Collect(table.c.geom))
    film_types = select(func.coalesce(func.array_agg(table.c.band.distinct()), literal([], ARRAY(Text))))
    return {
        "frames": select(func.count()).select_from(table).scalar_subquery(),
        "film_types": film_types.scalar_subquery(),
        "outline": select(hull).scalar_subquery(),
    }


def _extend_summary(collection: Collection, before: Row[Any], added: Sequence[Row[Any]]) -> dict[str, Any]:
    """The same when frames were only added: one more frame costs the same in a collection of ten and of ten thousand."""
    frame, outline = schema.frame.c, schema.collection.c.outline
    unindexed = (frame.collection == collection.name, frame.revision != frame.indexed_revision)
    new = (*unindexed, ~frame.deleted, frame.footprint.is_not(None))
    footprints = select(func.ST_Collect(frame.footprint)).where(*new).scalar_subquery()
    return {
        "frames": before.frames + len(added),
        "film_types": sorted({*before.film_types, *(row.id.partition("/")[0] for row in added)}),
        "outline": func.ST_ConvexHull(func.ST_Collect(outline, footprints)) if added else outline,
    }


def _index_row(collection: Collection, row: Row[Any], storage: Storage, root: str, public_url: str) -> dict[str, Any]:
    frame = Frame.from_partition(collection.shard, row.partition)
    attributes = frame.attributes
    links = build_links(frame, public_url, row.scan_file)
    return {
        "location": cog_location(storage.bucket, frame.cog_key),
        "src_srs": f"EPSG:{WEB_MERCATOR}",
        "date": attributes.date,
        "roll": attributes.roll,
        "frame_num": attributes.frame_num,
        "dl_orig": links.dl_orig,
        "dl_georef": links.dl_georef,
        "dl_index": links.dl_index,
        "band": frame.film_type,
        "acquired": attributes.acquired,
        "served_location": f"{root}{row.served_key}",
        "source_version": row.source_version,
        "profile_hash": row.products["cog"]["profile"],
        "geom": row.footprint,
        "interior": row.interior,
    }


def _upsert(connection: Connection, table: Table, rows: Sequence[dict[str, Any]]) -> int:
    """Returns how many of the rows existed before."""
    query = select(func.count()).where(table.c.location.in_([row["location"] for row in rows]))
    replaced = connection.scalar(query) or 0
    statement = insert(table).values(list(rows))
    # An existing row keeps its oid, which keeps the stacking order of overlapping frames.
    new = {column.name: statement.excluded[column.name] for column in table.columns if column.name not in ("oid", "location")}
    connection.execute(statement.on_conflict_do_update(index_elements=["location"], set_=new))
    return replaced
