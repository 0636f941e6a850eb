"""The source table: every transition of a dropped tif, each in one transaction. Which sources a run takes is in `batches`."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Engine, exists, func, not_, select, update
from sqlalchemy.dialects.postgresql import insert

from ls4_assets.chunks import chunks
from ls4_assets.index.schema import SourceState, collection, frame, source
from ls4_assets.intake.listing import LOOSE
from ls4_assets.intake.planner import Change, Changes, Known

WAITING = (SourceState.SETTLING, SourceState.QUEUED, SourceState.REQUESTED)
# States of a tif that lies in georef/ under a name that can be taken.
LIVE = tuple(state for state in SourceState if state not in (SourceState.DELETED, SourceState.REFUSED))
_ROWS = 500


def known_in(connection: Connection, unit: str) -> dict[str, Known]:
    """Rows of one unit by key."""
    inside = not_(source.c.key.like("%/%/%")) if unit == LOOSE else source.c.key.startswith(unit, autoescape=True)
    columns = (source.c.key, source.c.version, source.c.state, source.c.changed_at, source.c.reason, source.c.gone_at)
    rows = connection.execute(select(*columns).where(inside))
    return {row.key: Known(row.version, SourceState(row.state), row.changed_at, row.reason, row.gone_at) for row in rows}


def known_units(connection: Connection) -> set[str]:
    """Units in which a source is known to be: one whose folder is gone must be looked at too."""
    two = func.split_part(source.c.key, "/", 1) + "/" + func.split_part(source.c.key, "/", 2) + "/"
    live = source.c.state != SourceState.DELETED
    return set(connection.scalars(select(two).where(live, source.c.key.like("%/%/%")).distinct()))


def tables_in_use(connection: Connection) -> dict[str, str]:
    return {row.table_name: row.name for row in connection.execute(select(collection.c.table_name, collection.c.name))}


def apply_changes(connection: Connection, changes: Changes) -> None:
    """Write what the planner decided."""
    for some in chunks([change for change in changes.rows if change.frame], _ROWS):
        _write_collections(connection, some)
        _write(connection, some)
    for some in chunks([change for change in changes.rows if not change.frame], _ROWS):
        _write(connection, some)
    for keys, gone_at in ((changes.missing, func.now()), (changes.found, None)):
        for part in chunks(keys, _ROWS):
            connection.execute(update(source).where(source.c.key.in_(part)).values(gone_at=gone_at))
    _remove(connection, changes.gone)


def requeue(engine: Engine, states: Sequence[SourceState], collection_name: str | None) -> int:
    """Queue sources anew, as an operator asks after mending what made them fail."""
    chosen: list[ColumnElement[bool]] = [source.c.state.in_(states), source.c.frame.is_not(None)]
    if collection_name:
        chosen.append(source.c.collection == collection_name)
    with engine.begin() as connection:
        values = {"state": SourceState.QUEUED, "attempts": 0, "not_before": None, "changed_at": func.now()}
        return connection.execute(update(source).where(*chosen).values(values)).rowcount


def refused(engine: Engine) -> list[tuple[str, str, datetime]]:
    """Key, reason and first sight of every source that was refused by name."""
    with engine.connect() as connection:
        query = select(source.c.key, source.c.reason, source.c.first_seen).where(source.c.state == SourceState.REFUSED)
        return [(row.key, row.reason, row.first_seen) for row in connection.execute(query.order_by(source.c.key))]


@dataclass(frozen=True)
class Leftover:
    """A partition of a frame of which nothing is left; `batch` is the last that had it."""

    key: str
    shard: str
    partition: str
    batch: str | None


def leftover_partitions(engine: Engine, most: int) -> list[Leftover]:
    """Partitions whose tif is gone and whose products are removed, or were never made."""
    other = source.alias()
    live = exists().where(other.c.frame == source.c.frame, other.c.state.in_(LIVE))
    made = exists().where(frame.c.id == source.c.frame)
    gone = (source.c.state == SourceState.DELETED, source.c.partition.is_not(None), ~live, ~made)
    columns = (source.c.key, source.c.shard, source.c.partition, source.c.batch)
    with engine.connect() as connection:
        rows = connection.execute(select(*columns).where(*gone).limit(most))
        return [Leftover(row.key, row.shard, row.partition, row.batch) for row in rows]


def forget_partition(engine: Engine, leftover: Leftover) -> None:
    with engine.begin() as connection:
        of = update(source).where(source.c.key == leftover.key, source.c.state == SourceState.DELETED)
        connection.execute(of.values(partition=None))


def _write_collections(connection: Connection, changes: Sequence[Change]) -> None:
    collections = {change.frame.collection for change in changes if change.frame}
    rows = [{"name": of.name, "shard": of.shard, "partition": of.partition, "table_name": of.table} for of in sorted(collections)]
    row = insert(collection).values(rows)
    connection.execute(row.on_conflict_do_update(index_elements=[collection.c.name], set_={"withdrawn_at": None}))


def _write(connection: Connection, changes: Sequence[Change]) -> None:
    """Upsert rows that are all named well, or all refused. A refused source keeps the frame it had: its deletion must be seen."""
    rows = [_row(change) for change in changes]
    statement = insert(source).values(rows)
    new = {name: statement.excluded[name] for name in rows[0] if name != "key"}
    connection.execute(statement.on_conflict_do_update(index_elements=[source.c.key], set_=new))


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
        "gone_at": None,
        "not_before": None,
    }
    if of := change.frame:
        row |= {"frame": of.id, "shard": of.collection.shard, "collection": of.collection.name, "partition": of.partition}
    return row


def _remove(connection: Connection, keys: Iterable[str]) -> None:
    for some in chunks(keys, _ROWS):
        gone = update(source).where(source.c.key.in_(some)).returning(source.c.frame)
        values = {"state": SourceState.DELETED, "reason": None, "changed_at": func.now()}
        ids = {id_ for id_ in connection.scalars(gone.values(values)) if id_}
        # A frame whose tif was only renamed from .TIF to .tif has another live source, and stays.
        ids -= set(connection.scalars(select(source.c.frame).where(source.c.frame.in_(ids), source.c.state.in_(LIVE))))
        leaves = {"deleted": True, "revision": frame.c.revision + 1, "updated_at": func.now()}
        connection.execute(update(frame).where(frame.c.id.in_(ids)).values(leaves))
