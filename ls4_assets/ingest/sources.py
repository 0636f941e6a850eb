"""The source table: every transition of a dropped tif, each in one transaction. Which sources a run takes is in `batches`."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Engine, Integer, Select, Text, cast, exists, func, or_, select, update
from sqlalchemy.dialects.postgresql import ARRAY, insert

from ls4_assets.db.chunks import chunks
from ls4_assets.db.schema import LIVE, SourceState, collection, frame, source
from ls4_assets.domain.names import FILM_TYPES
from ls4_assets.ingest.planner import Change, Changes, Known

_ROWS = 500
_KNOWN = (source.c.key, source.c.version, source.c.state, source.c.changed_at, source.c.reason, source.c.missing_since)


def known_of(connection: Connection, keys: Sequence[str]) -> dict[str, Known]:
    """What is known of these keys."""
    # As one array, which Postgres joins with the table however many they are.
    these = func.unnest(cast(list(keys), ARRAY(Text))).column_valued("these")
    return _known(connection, select(*_KNOWN).where(source.c.key.in_(select(these))))


def known_between(connection: Connection, after: str, upto: str, most: int) -> dict[str, Known]:
    """The first `most` rows with a key behind `after` and up to `upto`, in key order; not those that are deleted."""
    inside = (source.c.key > after, source.c.key <= upto, source.c.state != SourceState.DELETED)
    return _known(connection, select(*_KNOWN).where(*inside).order_by(source.c.key).limit(most))


def due_again(connection: Connection, changed_before: datetime, gone_before: datetime, not_in: str, most: int) -> list[str]:
    """Keys that wait for a second look, longest first: unsettled ones, and missing ones except in the folder `not_in`."""
    settling = select(source.c.key).where(source.c.state == SourceState.SETTLING, source.c.changed_at <= changed_before)
    missing = select(source.c.key).where(
        source.c.missing_since <= gone_before,
        source.c.deletion_held_at.is_(None),
        source.c.state != SourceState.DELETED,
        *([~source.c.key.startswith(not_in, autoescape=True)] if not_in else []),
    )
    queries = (settling.order_by(source.c.changed_at), missing.order_by(source.c.missing_since))
    return [key for query in queries for key in connection.scalars(query.limit(most))]


def anything_known(connection: Connection) -> bool:
    return bool(connection.scalar(select(exists().where(source.c.state != SourceState.DELETED))))


def anything_in_place(connection: Connection) -> bool:
    """Is any file known below bw/ or nc/? One that was dropped elsewhere is rejected, and makes no archive."""
    below = or_(*(source.c.key.startswith(f"{film_type}/") for film_type in FILM_TYPES))
    return bool(connection.scalar(select(exists().where(source.c.state != SourceState.DELETED, below))))


def tables_in_use(connection: Connection) -> dict[str, str]:
    return {row.table_name: row.name for row in connection.execute(select(collection.c.table_name, collection.c.name))}


def apply_changes(connection: Connection, changes: Changes) -> None:
    """Write what the planner decided. What is `gone` goes through the guard of `deletions`."""
    for some in chunks([change for change in changes.rows if change.frame], _ROWS):
        _write_collections(connection, some)
        _write(connection, some)
    for some in chunks([change for change in changes.rows if not change.frame], _ROWS):
        _write(connection, some)
    for some_keys in chunks(changes.missing, _ROWS):
        connection.execute(update(source).where(source.c.key.in_(some_keys)).values(missing_since=func.now()))
    for some_keys in chunks(changes.found, _ROWS):
        connection.execute(update(source).where(source.c.key.in_(some_keys)).values(missing_since=None, deletion_held_at=None))


def remove(connection: Connection, keys: Iterable[str]) -> None:
    """Their tifs are gone: frames that have no other leave the index with its next rebuild."""
    for some in chunks(keys, _ROWS):
        gone = update(source).where(source.c.key.in_(some)).returning(source.c.frame)
        values = {"state": SourceState.DELETED, "reason": None, "changed_at": func.now()}
        ids = {id_ for id_ in connection.scalars(gone.values(values)) if id_}
        # A frame whose tif was only renamed from .TIF to .tif has another live source, and stays.
        ids -= set(connection.scalars(select(source.c.frame).where(source.c.frame.in_(ids), source.c.state.in_(LIVE))))
        leaves = {"deleted": True, "revision": frame.c.revision + 1, "updated_at": func.now()}
        connection.execute(update(frame).where(frame.c.id.in_(ids)).values(leaves))


def requeue(engine: Engine, states: Sequence[SourceState], collection_name: str | None) -> int:
    """Queue sources anew, as an operator asks after mending what made them fail."""
    chosen: list[ColumnElement[bool]] = [source.c.state.in_(states), source.c.frame.is_not(None)]
    if collection_name:
        chosen.append(source.c.collection == collection_name)
    with engine.begin() as connection:
        values = {"state": SourceState.QUEUED, "reason": None, "attempts": 0, "retry_after": None, "changed_at": func.now()}
        return connection.execute(update(source).where(*chosen).values(values)).rowcount


@dataclass(frozen=True)
class OrphanPartition:
    """A partition of a frame of which nothing is left; `batch` is the last that had it."""

    key: str
    shard: str
    partition: str
    batch: str | None


def orphan_partitions(engine: Engine, most: int) -> list[OrphanPartition]:
    """Partitions whose tif is gone and whose products are removed, or were never made."""
    other = source.alias()
    live = exists().where(other.c.frame == source.c.frame, other.c.state.in_(LIVE))
    made = exists().where(frame.c.id == source.c.frame)
    gone = (source.c.state == SourceState.DELETED, source.c.partition.is_not(None), ~live, ~made)
    columns = (source.c.key, source.c.shard, source.c.partition, source.c.batch)
    with engine.connect() as connection:
        rows = connection.execute(select(*columns).where(*gone).limit(most))
        return [OrphanPartition(row.key, row.shard, row.partition, row.batch) for row in rows]


def forget_partition(engine: Engine, leftover: OrphanPartition) -> None:
    with engine.begin() as connection:
        of = update(source).where(source.c.key == leftover.key, source.c.state == SourceState.DELETED)
        connection.execute(of.values(partition=None))


def _write_collections(connection: Connection, changes: Sequence[Change]) -> None:
    collections = {change.frame.collection for change in changes if change.frame}
    rows = [{"name": of.name, "shard": of.shard, "partition": of.partition, "table_name": of.table} for of in sorted(collections)]
    row = insert(collection).values(rows)
    connection.execute(row.on_conflict_do_update(index_elements=[collection.c.name], set_={"withdrawn_at": None}))


def _write(connection: Connection, changes: Sequence[Change]) -> None:
    """Upsert rows that are all named well, or all rejected. A rejected source keeps the frame it had: its deletion must be seen."""
    rows = [_row(change) for change in changes]
    statement = insert(source)
    new: dict[str, Any] = {name: statement.excluded[name] for name in rows[0] if name != "key"}
    came_anew = or_(source.c.version != statement.excluded.version, source.c.state == SourceState.DELETED)
    new["generation"] = source.c.generation + came_anew.cast(Integer)
    upsert = statement.on_conflict_do_update(index_elements=[source.c.key], set_=new)
    # Only with something to return are the rows sent in one statement, not each in its own.
    connection.execute(upsert.returning(source.c.key), rows)


def _row(change: Change) -> dict[str, Any]:
    dropped = change.dropped
    row = {
        "key": dropped.key,
        "state": change.state,
        "reason": change.reason,
        "version": dropped.version,
        "size": dropped.size,
        "sidecars": list(dropped.sidecars),
        "attempts": 0,
        "changed_at": datetime.now(UTC),
        "missing_since": None,
        "deletion_held_at": None,
        "retry_after": None,
    }
    if of := change.frame:
        row |= {"frame": of.id, "shard": of.collection.shard, "collection": of.collection.name, "partition": of.partition}
    return row


def _known(connection: Connection, query: Select[Any]) -> dict[str, Known]:
    rows = connection.execute(query)
    return {row.key: Known(row.version, SourceState(row.state), row.changed_at, row.reason, row.missing_since) for row in rows}
