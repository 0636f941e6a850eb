"""The source table: every transition of a dropped tif, each in one transaction."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby
from uuid import uuid4

from sqlalchemy import ColumnElement, Connection, Engine, and_, exists, func, not_, select, update
from sqlalchemy.dialects.postgresql import insert

from ls4_assets.chunks import chunks
from ls4_assets.index.schema import SourceState, collection, frame, source
from ls4_assets.intake.listing import LOOSE
from ls4_assets.intake.planner import Change, Changes, Known
from ls4_assets.names import Frame

WAITING = (SourceState.SETTLING, SourceState.QUEUED, SourceState.REQUESTED)


@dataclass(frozen=True)
class Claimed:
    """A source that a run shall process."""

    key: str
    version: str
    size: int
    frame: Frame


@dataclass(frozen=True)
class Batch:
    """Frames of one shard for one run."""

    id: str
    shard: str
    sources: tuple[Claimed, ...]


def known_in(connection: Connection, unit: str) -> dict[str, Known]:
    """Rows of one unit by key."""
    inside = not_(source.c.key.like("%/%/%")) if unit == LOOSE else source.c.key.startswith(unit, autoescape=True)
    rows = connection.execute(
        select(source.c.key, source.c.version, source.c.state, source.c.changed_at, source.c.reason).where(inside)
    )
    return {row.key: Known(row.version, SourceState(row.state), row.changed_at, row.reason) for row in rows}


def known_units(connection: Connection) -> set[str]:
    """Units in which a source is known to be: one whose folder is gone must be looked at too."""
    two = func.split_part(source.c.key, "/", 1) + "/" + func.split_part(source.c.key, "/", 2) + "/"
    live = source.c.state != SourceState.DELETED
    return set(connection.scalars(select(two).where(live, source.c.key.like("%/%/%")).distinct()))


def tables_in_use(connection: Connection) -> dict[str, str]:
    return {row.table_name: row.name for row in connection.execute(select(collection.c.table_name, collection.c.name))}


def apply_changes(connection: Connection, changes: Changes) -> None:
    """Write what the planner decided."""
    for change in changes.rows:
        _write(connection, change)
    _remove(connection, changes.gone)


@dataclass(frozen=True)
class Leftover:
    """A partition of a frame of which nothing is left."""

    key: str
    shard: str
    partition: str


def leftover_partitions(engine: Engine, most: int) -> list[Leftover]:
    """Partitions whose tif is gone and whose products are removed, or were never made."""
    other = source.alias()
    live = exists().where(other.c.frame == source.c.frame, other.c.state.not_in([SourceState.DELETED, SourceState.REFUSED]))
    made = exists().where(frame.c.id == source.c.frame)
    gone = (source.c.state == SourceState.DELETED, source.c.partition.is_not(None), ~live, ~made)
    with engine.connect() as connection:
        rows = connection.execute(select(source.c.key, source.c.shard, source.c.partition).where(*gone).limit(most))
        return [Leftover(row.key, row.shard, row.partition) for row in rows]


def forget_partition(engine: Engine, leftover: Leftover) -> None:
    with engine.begin() as connection:
        of = update(source).where(source.c.key == leftover.key, source.c.state == SourceState.DELETED)
        connection.execute(of.values(partition=None))


def claim_batches(engine: Engine, batch_size: int, most: int) -> list[Batch]:
    """Take up to `most` batches of queued sources, longest waiting first, each of one shard and sorted by partition."""
    with engine.begin() as connection:
        rows = connection.execute(
            select(source.c.key, source.c.version, source.c.size, source.c.shard, source.c.partition)
            .where(source.c.state == SourceState.QUEUED)
            .order_by(source.c.changed_at, source.c.key)
            .limit(batch_size * most)
            .with_for_update(skip_locked=True)
        ).all()
        ordered = sorted(rows, key=lambda row: (row.shard, row.partition))
        batches = []
        for shard, of_shard in groupby(ordered, key=lambda row: row.shard):
            for some in chunks(of_shard, batch_size):
                claimed = (Claimed(r.key, r.version, r.size, Frame.from_partition(r.shard, r.partition)) for r in some)
                batches.append(Batch(uuid4().hex, shard, tuple(claimed)))
        for batch in batches[:most]:
            keys = [claimed.key for claimed in batch.sources]
            values = {
                "state": SourceState.REQUESTED,
                "batch": batch.id,
                "attempts": source.c.attempts + 1,
                "changed_at": func.now(),
            }
            connection.execute(update(source).where(source.c.key.in_(keys)).values(values))
    return batches[:most]


def requested_batches(engine: Engine) -> dict[str, datetime]:
    """Batches that some source still waits for, with the time of the request."""
    with engine.connect() as connection:
        query = (
            select(source.c.batch, func.min(source.c.changed_at))
            .where(source.c.state == SourceState.REQUESTED)
            .group_by(source.c.batch)
        )
        return {row[0]: row[1] for row in connection.execute(query)}


def release_batch(engine: Engine, batch_id: str, max_attempts: int) -> int:
    """Give the unfinished sources of a batch whose run is over to another run; after `max_attempts` they count as failed."""
    mine = and_(source.c.batch == batch_id, source.c.state == SourceState.REQUESTED)
    reason = (
        f"The run that had this frame died {max_attempts} times before it was finished; "
        "ask the operator to look at the run's log in Dagit, then retry it."
    )
    with engine.begin() as connection:
        worn_out = update(source).where(mine, source.c.attempts >= max_attempts)
        connection.execute(worn_out.values(state=SourceState.FAILED, reason=reason, changed_at=func.now()))
        again = update(source).where(mine).values(state=SourceState.QUEUED, changed_at=func.now())
        return connection.execute(again).rowcount


def requeue(engine: Engine, states: Sequence[SourceState], collection_name: str | None) -> int:
    """Queue sources anew, as an operator asks after mending what made them fail."""
    chosen: list[ColumnElement[bool]] = [source.c.state.in_(states), source.c.frame.is_not(None)]
    if collection_name:
        chosen.append(source.c.collection == collection_name)
    with engine.begin() as connection:
        values = {"state": SourceState.QUEUED, "attempts": 0, "changed_at": func.now()}
        return connection.execute(update(source).where(*chosen).values(values)).rowcount


def refused(engine: Engine) -> list[tuple[str, str, datetime]]:
    """Key, reason and first sight of every source that was refused by name."""
    with engine.connect() as connection:
        query = select(source.c.key, source.c.reason, source.c.first_seen).where(source.c.state == SourceState.REFUSED)
        return [(row.key, row.reason, row.first_seen) for row in connection.execute(query.order_by(source.c.key))]


def _write(connection: Connection, change: Change) -> None:
    of = change.frame
    values = {
        "state": change.state,
        "reason": change.reason,
        "version": change.dropped.version,
        "size": change.dropped.size,
        "sidecars": list(change.dropped.sidecars),
        "frame": of and of.id,
        "shard": of and of.collection.shard,
        "collection": of and of.collection.name,
        "partition": of and of.partition,
        "attempts": 0,
        "changed_at": datetime.now(UTC),
        "gone_at": None,
    }
    row = insert(source).values(key=change.dropped.key, **values)
    connection.execute(row.on_conflict_do_update(index_elements=[source.c.key], set_=values))
    if of:
        known = {"name": of.collection.name, "shard": of.collection.shard, "partition": of.collection.partition}
        row = insert(collection).values(**known, table_name=of.collection.table)
        connection.execute(row.on_conflict_do_update(index_elements=[collection.c.name], set_={"withdrawn_at": None}))


def _remove(connection: Connection, keys: Iterable[str]) -> None:
    for some in chunks(keys, 1000):
        gone = update(source).where(source.c.key.in_(some)).returning(source.c.frame)
        values = {"state": SourceState.DELETED, "reason": None, "changed_at": func.now(), "gone_at": func.now()}
        ids = {id_ for id_ in connection.scalars(gone.values(values)) if id_}
        # A frame whose tif was only renamed from .TIF to .tif has another live source, and stays.
        live = source.c.state.not_in([SourceState.DELETED, SourceState.REFUSED])
        ids -= set(connection.scalars(select(source.c.frame).where(source.c.frame.in_(ids), live)))
        leaves = {"deleted": True, "revision": frame.c.revision + 1, "updated_at": func.now()}
        connection.execute(update(frame).where(frame.c.id.in_(ids)).values(leaves))
