"""Batches: which queued sources the next runs process, and what happens to sources whose run ended before finishing them.

`sources` holds the state transitions that follow from the bucket, and `sensors.ingest_poll` requests the runs.
"""

import sys
from collections import Counter
from collections.abc import Container, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from heapq import heapify, heappop, heappush
from typing import Any
from uuid import uuid4

from sqlalchemy import Connection, Engine, Select, and_, func, or_, select, true, update

from ls4_assets.db.backoff import backoff_interval
from ls4_assets.db.frames import requeue_values
from ls4_assets.db.schema import SourceState, collection, source
from ls4_assets.domain.backoff import Backoff
from ls4_assets.domain.names import Frame

# Backoff after a crashed run: 30 s, 2 min, 8 min ... An outage of storage or database should end before the attempts do.
_BACKOFF = Backoff(first_seconds=30, growth=4)
# Wait after a run that could not start: no capacity, a missing permission, no code server.
_START_RETRY_WAIT = timedelta(minutes=2)
# `_start_budget` finds the sources that wait for this reason by this exact text.
_NOT_STARTED = "No run could be started for it. Check the run in the Dagster UI; it is retried automatically."


@dataclass(frozen=True)
class ClaimedSource:
    """A source that a run will process.

    `size` is in bytes. `version_count` is the number of versions ever seen under the key, `crash_count` that of this version's
    crashed runs.
    """

    key: str
    version: str
    size: int
    frame: Frame
    version_count: int = 1
    crash_count: int = 0


@dataclass(frozen=True)
class Batch:
    """Frames of one shard for one run, sorted by partition.

    `backlog`: estimated number of frames of its collection that are in runs already.
    """

    id: str
    shard: str
    sources: tuple[ClaimedSource, ...]
    backlog: int


@dataclass(frozen=True)
class BatchLimits:
    """`batch_size`: frames in a batch. The others count batches: newly claimed, open in a shard, and open in a collection."""

    batch_size: int
    new_batches: int
    open_per_shard: int
    open_per_collection: int

    @property
    def small_drop(self) -> int:
        """Drops of up to this many frames share a batch with others of their shard: starting a run costs more than a frame."""
        return max(1, self.batch_size // 4)


@dataclass(frozen=True, order=True)
class QueuePosition:
    """A waiting collection, ordered by priority: fewest open batches first, then the longest waiting."""

    open_batches: int
    waiting_since: datetime
    name: str
    shard: str


def claim_batches(engine: Engine, limits: BatchLimits, shards: Container[str] | None = None) -> list[Batch]:
    """Claim queued sources, one batch per collection in turn, so that a large drop delays only itself.

    No collection starves: of those without an open batch, the longest waiting comes first. Only frames of `shards`, the
    shards that have assets, are claimed (None: all); the others stay queued. While sources wait because no run could be
    started, one batch at a time tests whether a run starts now; claiming the whole drop would only have it rejected again.
    """
    batches: dict[str, Batch] = {}
    # By shard: the batch that its small drops share while it has room.
    shared: dict[str, str] = {}
    with engine.begin() as connection:
        open_by_shard, open_by_collection = _count_open(connection)
        limits = replace(limits, new_batches=min(limits.new_batches, _start_budget(connection)))
        rows = connection.execute(_waiting_collections()) if limits.new_batches > 0 else ()
        positions = [
            QueuePosition(open_by_collection[row.name], row.since, row.name, row.shard)
            for row in rows
            if shards is None or row.shard in shards
        ]
        heapify(positions)
        while positions:
            position = heappop(positions)
            batch_id = shared.get(position.shard)
            may_open = len(batches) < limits.new_batches and open_by_shard[position.shard] < limits.open_per_shard
            if position.open_batches >= limits.open_per_collection or not (may_open or batch_id):
                continue
            claimed = _next_sources(connection, position.name, limits.batch_size if may_open else limits.small_drop)
            if not claimed:
                continue
            is_small = len(claimed) <= limits.small_drop
            if batch_id is None or not is_small:
                batch_id = uuid4().hex
                batches[batch_id] = Batch(batch_id, position.shard, (), position.open_batches * limits.batch_size)
                open_by_shard[position.shard] += 1
            _mark_requested(connection, batch_id, claimed)
            batches[batch_id] = replace(batches[batch_id], sources=(*batches[batch_id].sources, *claimed))
            if is_small:
                shared[position.shard] = batch_id
                if len(batches[batch_id].sources) > limits.batch_size - limits.small_drop:
                    del shared[position.shard]
            heappush(positions, replace(position, open_batches=position.open_batches + 1))
    return [_sort_by_partition(batch) for batch in batches.values()]


def load_requested_batches(engine: Engine) -> dict[str, datetime]:
    """Open batches: those that still have requested sources, with the time of the request."""
    with engine.connect() as connection:
        query = select(source.c.batch, func.min(source.c.changed_at))
        rows = connection.execute(query.where(source.c.state == SourceState.REQUESTED).group_by(source.c.batch))
        return {row[0]: row[1] for row in rows}


def requeue_unstarted(engine: Engine, batch_id: str) -> int:
    """Requeue the sources of a batch whose run never started; returns how many.

    No frame is at fault and no run crashed, so this does not count as an attempt and is retried until it succeeds.
    """
    unfinished = (source.c.batch == batch_id, source.c.state == SourceState.REQUESTED)
    with engine.begin() as connection:
        values = requeue_values(_NOT_STARTED, _START_RETRY_WAIT)
        return connection.execute(update(source).where(*unfinished).values(values)).rowcount


def release_batch(engine: Engine, batch_id: str, max_attempts: int) -> int:
    """Requeue the unfinished sources of a batch whose run ended; returns how many. After `max_attempts` a source fails.

    `reason` already holds the last error if the worker could record one.
    """
    unfinished = and_(source.c.batch == batch_id, source.c.state == SourceState.REQUESTED)
    exhausted = func.concat(
        f"Its run crashed {max_attempts} times before the frame was finished; fix the cause shown in the run's log in the ",
        "Dagster UI, then run `ls4 retry`.",
        func.coalesce(" Last error: " + source.c.reason, ""),
    )
    with engine.begin() as connection:
        failed = update(source).where(unfinished, source.c.attempts >= max_attempts)
        connection.execute(failed.values(state=SourceState.FAILED, reason=exhausted, changed_at=func.now()))
        retry_after = func.now() + backoff_interval(_BACKOFF, source.c.attempts)
        values = {"state": SourceState.QUEUED, "retry_after": retry_after, "changed_at": func.now()}
        return connection.execute(update(source).where(unfinished).values(values)).rowcount


def _sort_by_partition(batch: Batch) -> Batch:
    return replace(batch, sources=tuple(sorted(batch.sources, key=lambda claimed: claimed.frame.partition)))


def _count_open(connection: Connection) -> tuple[Counter[str], Counter[str]]:
    """Count open batches by shard and by collection."""
    query = select(source.c.shard, source.c.collection, source.c.batch).where(source.c.state == SourceState.REQUESTED).distinct()
    rows = connection.execute(query).all()
    return Counter(shard for shard, _ in {(row.shard, row.batch) for row in rows}), Counter(row.collection for row in rows)


def _start_budget(connection: Connection) -> int:
    """How many batches may be claimed: after a run that could not start, 0 during the wait and then 1; otherwise any number."""
    query = select(func.bool_or(func.coalesce(source.c.retry_after > func.now(), False)))
    must_wait = connection.scalar(query.where(source.c.state == SourceState.QUEUED, source.c.reason == _NOT_STARTED))
    return sys.maxsize if must_wait is None else 0 if must_wait else 1


def _waiting_collections() -> Select[Any]:
    """Each collection with queued sources, and since when its oldest waits: one index lookup per collection."""
    queued = (source.c.collection == collection.c.name, source.c.state == SourceState.QUEUED)
    first = select(source.c.changed_at).where(*queued).order_by(source.c.changed_at).limit(1).lateral("first")
    return select(collection.c.name, collection.c.shard, first.c.changed_at.label("since")).join(first, true())


def _next_sources(connection: Connection, collection_name: str, limit: int) -> tuple[ClaimedSource, ...]:
    """Lock and return the longest waiting sources of a collection."""
    may_start = or_(source.c.retry_after.is_(None), source.c.retry_after <= func.now())
    rows = connection.execute(
        select(source)
        .where(source.c.collection == collection_name, source.c.state == SourceState.QUEUED, may_start)
        .order_by(source.c.changed_at, source.c.key)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    return tuple(
        ClaimedSource(
            row.key, row.version, row.size, Frame.from_partition(row.shard, row.partition), row.version_count, row.attempts
        )
        for row in rows
    )


def _mark_requested(connection: Connection, batch_id: str, sources: Sequence[ClaimedSource]) -> None:
    values = {
        "state": SourceState.REQUESTED,
        "batch": batch_id,
        "attempts": source.c.attempts + 1,
        "reason": None,
        "changed_at": func.now(),
    }
    connection.execute(update(source).where(source.c.key.in_([claimed.key for claimed in sources])).values(values))
