"""The source table: the state transitions of dropped tifs that follow from the bucket or the operator.

`batches` assigns queued sources to runs, and `ls4_assets.db.frames` records what a run made of them.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Engine, Integer, Select, Text, cast, exists, func, or_, select, update
from sqlalchemy.dialects.postgresql import ARRAY, insert

from ls4_assets.db.schema import LIVE_STATES, SourceState, collection, frame, source
from ls4_assets.domain.chunks import chunks
from ls4_assets.domain.film_types import FILM_TYPES
from ls4_assets.ingest.arrivals import SourceSnapshot
from ls4_assets.ingest.planner import CLOCK_TOLERANCE, SourceChange, SourceChanges

_ROWS = 500
_SNAPSHOT_COLUMNS = (
    source.c.key, source.c.version, source.c.state, source.c.changed_at, source.c.reason, source.c.missing_since,
    source.c.sidecars, source.c.arrivals,
)  # fmt: skip


def load_sources(connection: Connection, keys: Sequence[str]) -> dict[str, SourceSnapshot]:
    """The rows of these keys, by key."""
    # Sent as one array, which Postgres joins with the table however many keys there are.
    wanted = func.unnest(cast(list(keys), ARRAY(Text))).column_valued("wanted")
    return _load_snapshots(connection, select(*_SNAPSHOT_COLUMNS).where(source.c.key.in_(select(wanted))))


def load_source_range(connection: Connection, start: str, end: str, limit: int) -> dict[str, SourceSnapshot]:
    """The first `limit` rows with `start` < key <= `end`, in key order, without deleted ones."""
    inside = (source.c.key > start, source.c.key <= end, source.c.state != SourceState.DELETED)
    return _load_snapshots(connection, select(*_SNAPSHOT_COLUMNS).where(*inside).order_by(source.c.key).limit(limit))


def find_due_rechecks(
    connection: Connection, changed_before: datetime, missing_before: datetime, except_folder: str, limit: int
) -> list[str]:
    """Keys to check again: settling files, then missing ones outside `except_folder`; of each up to `limit`, oldest first."""
    # Times in the future were recorded before the clock was set back.
    future = func.now() + CLOCK_TOLERANCE
    is_settled = or_(source.c.changed_at <= changed_before, source.c.changed_at > future)
    settling = select(source.c.key).where(source.c.state == SourceState.SETTLING, is_settled)
    missing = select(source.c.key).where(
        or_(source.c.missing_since <= missing_before, source.c.missing_since > future),
        source.c.deletion_held_at.is_(None),
        source.c.state != SourceState.DELETED,
        *([~source.c.key.startswith(except_folder, autoescape=True)] if except_folder else []),
    )
    queries = (settling.order_by(source.c.changed_at), missing.order_by(source.c.missing_since))
    return [key for query in queries for key in connection.scalars(query.limit(limit))]


def find_recent_changes(connection: Connection, since: datetime, limit: int) -> list[str]:
    """Keys of files that began to settle, or were first missing, after `since`; up to `limit`."""
    settling = (source.c.state == SourceState.SETTLING, source.c.changed_at >= since)
    is_open = (source.c.deletion_held_at.is_(None), source.c.state != SourceState.DELETED)
    missing = (source.c.missing_since >= since, *is_open)
    queries = (select(source.c.key).where(*conditions).limit(limit) for conditions in (settling, missing))
    return [key for query in queries for key in connection.scalars(query)][:limit]


def has_sources(connection: Connection) -> bool:
    return bool(connection.scalar(select(exists().where(source.c.state != SourceState.DELETED))))


def has_photographs(connection: Connection) -> bool:
    """Whether any file is recorded below the folder of a film type. Rejected files elsewhere do not make an archive."""
    below = or_(*(source.c.key.startswith(f"{film_type}/") for film_type in FILM_TYPES))
    return bool(connection.scalar(select(exists().where(source.c.state != SourceState.DELETED, below))))


def load_table_names(connection: Connection) -> dict[str, str]:
    """Collection names by the name of their table."""
    return {row.table_name: row.name for row in connection.execute(select(collection.c.table_name, collection.c.name))}


def apply_changes(connection: Connection, changes: SourceChanges) -> None:
    """Write the planner's changes, except `gone`, which goes through the deletion guard (`deletions`)."""
    for rows in chunks([change for change in changes.rows if change.frame], _ROWS):
        _write_collections(connection, rows)
        _write(connection, rows)
    for rows in chunks([change for change in changes.rows if not change.frame], _ROWS):
        _write(connection, rows)
    for keys in chunks(changes.missing, _ROWS):
        connection.execute(update(source).where(source.c.key.in_(keys)).values(missing_since=func.now()))
    for keys in chunks(changes.returned, _ROWS):
        connection.execute(update(source).where(source.c.key.in_(keys)).values(missing_since=None, deletion_held_at=None))


def mark_deleted(connection: Connection, keys: Iterable[str]) -> None:
    """Mark sources as deleted. Frames without another source leave the index with its next rebuild."""
    for chunk in chunks(keys, _ROWS):
        deleted = update(source).where(source.c.key.in_(chunk)).returning(source.c.frame)
        values = {"state": SourceState.DELETED, "reason": None, "changed_at": func.now()}
        ids = {id_ for id_ in connection.scalars(deleted.values(values)) if id_}
        # A frame whose tif was only renamed from .TIF to .tif has another live source, and stays.
        ids -= set(connection.scalars(select(source.c.frame).where(source.c.frame.in_(ids), source.c.state.in_(LIVE_STATES))))
        removal = {"deleted": True, "revision": frame.c.revision + 1, "updated_at": func.now()}
        connection.execute(update(frame).where(frame.c.id.in_(ids)).values(removal))


def requeue(engine: Engine, states: Sequence[SourceState], collection_name: str | None) -> int:
    """Queue sources in these states again, as `ls4 retry` does after the operator fixed the cause; returns how many."""
    selected: list[ColumnElement[bool]] = [source.c.state.in_(states), source.c.frame.is_not(None)]
    if collection_name:
        selected.append(source.c.collection == collection_name)
    with engine.begin() as connection:
        values = {"state": SourceState.QUEUED, "reason": None, "attempts": 0, "retry_after": None, "changed_at": func.now()}
        return connection.execute(update(source).where(*selected).values(values)).rowcount


@dataclass(frozen=True)
class OrphanPartition:
    """A partition whose frame is completely removed. `batch` is the last batch that had it."""

    key: str
    shard: str
    partition: str
    batch: str | None


def find_orphan_partitions(engine: Engine, limit: int) -> list[OrphanPartition]:
    """Partitions whose tif is gone and whose products were removed, or never made."""
    other = source.alias()
    has_source = exists().where(other.c.frame == source.c.frame, other.c.state.in_(LIVE_STATES))
    has_frame = exists().where(frame.c.id == source.c.frame)
    orphaned = (source.c.state == SourceState.DELETED, source.c.partition.is_not(None), ~has_source, ~has_frame)
    columns = (source.c.key, source.c.shard, source.c.partition, source.c.batch)
    with engine.connect() as connection:
        rows = connection.execute(select(*columns).where(*orphaned).limit(limit))
        return [OrphanPartition(row.key, row.shard, row.partition, row.batch) for row in rows]


def clear_partition(engine: Engine, orphan: OrphanPartition) -> None:
    """Record that Dagster no longer has the partition."""
    with engine.begin() as connection:
        statement = update(source).where(source.c.key == orphan.key, source.c.state == SourceState.DELETED)
        connection.execute(statement.values(partition=None))


def _write_collections(connection: Connection, changes: Sequence[SourceChange]) -> None:
    collections = {change.frame.collection for change in changes if change.frame}
    rows = [
        {"name": item.name, "shard": item.shard, "partition": item.partition, "table_name": item.table}
        for item in sorted(collections)
    ]
    statement = insert(collection).values(rows)
    connection.execute(statement.on_conflict_do_update(index_elements=[collection.c.name], set_={"withdrawn_at": None}))


def _write(connection: Connection, changes: Sequence[SourceChange]) -> None:
    """Upsert rows that all have valid names, or are all rejected. A rejected source keeps its frame, for its deletion."""
    rows = [_row(change) for change in changes]
    statement = insert(source)
    new: dict[str, Any] = {name: statement.excluded[name] for name in rows[0] if name != "key"}
    is_new_version = or_(source.c.version != statement.excluded.version, source.c.state == SourceState.DELETED)
    new["version_count"] = source.c.version_count + is_new_version.cast(Integer)
    upsert = statement.on_conflict_do_update(index_elements=[source.c.key], set_=new)
    # With RETURNING, SQLAlchemy sends all rows in one statement instead of one each.
    connection.execute(upsert.returning(source.c.key), rows)


def _row(change: SourceChange) -> dict[str, Any]:
    dropped = change.dropped
    row = {
        "key": dropped.key,
        "state": change.state,
        "reason": change.reason,
        "version": dropped.version,
        "size": dropped.size,
        "sidecars": list(dropped.sidecars),
        "arrivals": {key: list(arrival) for key, arrival in change.arrivals.items()},
        "attempts": 0,
        "changed_at": datetime.now(UTC),
        "missing_since": None,
        "deletion_held_at": None,
        "retry_after": None,
    }
    if changed := change.frame:
        row |= {
            "frame": changed.id,
            "shard": changed.collection.shard,
            "collection": changed.collection.name,
            "partition": changed.partition,
        }
    return row


def _load_snapshots(connection: Connection, query: Select[Any]) -> dict[str, SourceSnapshot]:
    return {
        row.key: SourceSnapshot(
            row.version, SourceState(row.state), row.changed_at, row.reason, row.missing_since, tuple(row.sidecars), row.arrivals
        )
        for row in connection.execute(query)
    }
