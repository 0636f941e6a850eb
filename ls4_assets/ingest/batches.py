"""Batches: which queued sources the next runs take, and what becomes of those whose run is over before they were finished."""

import sys
from collections import Counter
from collections.abc import Container, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from heapq import heapify, heappop, heappush
from typing import Any
from uuid import uuid4

from sqlalchemy import Connection, Engine, Interval, Select, and_, cast, func, literal, or_, select, true, update

from ls4_assets.db.frames import requeue_after_values
from ls4_assets.db.schema import SourceState, collection, source
from ls4_assets.domain.names import Frame

# After a run died under a source: half a minute, two, eight ... An outage of storage or database ends before the attempts do.
_FIRST_WAIT_SECONDS = 30
_WAIT_GROWTH = 4
# After no run could even be started: for want of capacity, of a right, of the code server.
_START_AGAIN = timedelta(minutes=2)
# By these very words it is seen, too, that some wait for that (`_startable`).
_NOT_STARTED = "No run could be started for it; look at the run in the Dagster UI. It is tried again by itself."


@dataclass(frozen=True)
class ClaimedSource:
    """A source that a run shall process. `generation` counts the versions that were ever seen under its key, `deaths` the runs
    that died under this one."""

    key: str
    version: str
    size: int
    frame: Frame
    generation: int = 1
    crash_count: int = 0


@dataclass(frozen=True)
class Batch:
    """Frames of one shard for one run, sorted by partition. `ahead`: about so many of its collection are in runs already."""

    id: str
    shard: str
    sources: tuple[ClaimedSource, ...]
    ahead: int


@dataclass(frozen=True)
class Limits:
    """`size`: most frames in a batch. Most batches: newly claimed, and open at a time of one shard and of one collection."""

    size: int
    claimed: int
    per_shard: int
    per_collection: int

    @property
    def small(self) -> int:
        """Drops up to this size share a batch with others of their shard: a run alone costs more than a frame."""
        return max(1, self.size // 4)


@dataclass(frozen=True, order=True)
class QueuePosition:
    """A collection that waits. Next is who has the fewest batches open; among equals, who has waited longest."""

    open_batches: int
    since: datetime
    name: str
    shard: str


def claim_batches(engine: Engine, limits: Limits, shards: Container[str] | None = None) -> list[Batch]:
    """Take queued sources in turns, a batch a collection, again and again: a large drop makes nobody wait but itself.

    Nothing waits for ever: of those that have no batch open, the longest waiting comes first. `shards` are those that there are
    assets for, None: all; the frames of another wait. Where no run could be started for some, one batch at a time tries whether
    it can be now: a whole drop would only be rejected again and again.
    """
    batches: dict[str, Batch] = {}
    # By shard: the batch that its small drops share, while there is room in it.
    shared: dict[str, str] = {}
    with engine.begin() as connection:
        of_shard, of_collection = _count_open(connection)
        limits = replace(limits, claimed=min(limits.claimed, _startable(connection)))
        rows = connection.execute(_waiting_collections()) if limits.claimed > 0 else ()
        turns = [
            QueuePosition(of_collection[row.name], row.since, row.name, row.shard)
            for row in rows
            if shards is None or row.shard in shards
        ]
        heapify(turns)
        while turns:
            turn = heappop(turns)
            batch_id = shared.get(turn.shard)
            may_open = len(batches) < limits.claimed and of_shard[turn.shard] < limits.per_shard
            if turn.open_batches >= limits.per_collection or not (may_open or batch_id):
                continue
            taken = _next_sources(connection, turn.name, limits.size if may_open else limits.small)
            if not taken:
                continue
            is_small = len(taken) <= limits.small
            if batch_id is None or not is_small:
                batch_id = uuid4().hex
                batches[batch_id] = Batch(batch_id, turn.shard, (), turn.open_batches * limits.size)
                of_shard[turn.shard] += 1
            _mark_requested(connection, batch_id, taken)
            batches[batch_id] = replace(batches[batch_id], sources=(*batches[batch_id].sources, *taken))
            if is_small:
                shared[turn.shard] = batch_id
                if len(batches[batch_id].sources) > limits.size - limits.small:
                    del shared[turn.shard]
            heappush(turns, replace(turn, open_batches=turn.open_batches + 1))
    return [replace(one, sources=tuple(sorted(one.sources, key=lambda of: of.frame.partition))) for one in batches.values()]


def requested_batches(engine: Engine) -> dict[str, datetime]:
    """Batches that some source still waits for, with the time of the request."""
    with engine.connect() as connection:
        query = select(source.c.batch, func.min(source.c.changed_at))
        rows = connection.execute(query.where(source.c.state == SourceState.REQUESTED).group_by(source.c.batch))
        return {row[0]: row[1] for row in rows}


def requeue_unstarted(engine: Engine, batch_id: str) -> int:
    """Give the sources of a batch whose run never began to another run. That was no frame's fault, and no death of a run: it is
    tried until it succeeds."""
    mine = (source.c.batch == batch_id, source.c.state == SourceState.REQUESTED)
    with engine.begin() as connection:
        return connection.execute(update(source).where(*mine).values(requeue_after_values(_NOT_STARTED, _START_AGAIN))).rowcount


def release_batch(engine: Engine, batch_id: str, max_attempts: int) -> int:
    """Give the unfinished sources of a batch whose run is over to another run; after `max_attempts` they count as failed.

    What went wrong last stands in `reason` already, where a worker could tell it.
    """
    mine = and_(source.c.batch == batch_id, source.c.state == SourceState.REQUESTED)
    exhausted = func.concat(
        f"Its run died {max_attempts} times before the frame was finished; look at the run's log in the Dagster UI, mend that and ",
        "run `ls4 retry`.",
        func.coalesce(" The last time: " + source.c.reason, ""),
    )
    wait = cast(literal(_FIRST_WAIT_SECONDS) * func.power(_WAIT_GROWTH, source.c.attempts - 1), source.c.attempts.type)
    with engine.begin() as connection:
        failed = update(source).where(mine, source.c.attempts >= max_attempts)
        connection.execute(failed.values(state=SourceState.FAILED, reason=exhausted, changed_at=func.now()))
        retry_after = func.now() + wait * cast(literal("1 second"), Interval)
        again = update(source).where(mine).values(state=SourceState.QUEUED, retry_after=retry_after, changed_at=func.now())
        return connection.execute(again).rowcount


def _count_open(connection: Connection) -> tuple[Counter[str], Counter[str]]:
    """How many batches are open, by shard and by collection."""
    query = select(source.c.shard, source.c.collection, source.c.batch).where(source.c.state == SourceState.REQUESTED).distinct()
    rows = connection.execute(query).all()
    return Counter(shard for shard, _ in {(row.shard, row.batch) for row in rows}), Counter(row.collection for row in rows)


def _startable(connection: Connection) -> int:
    """How many batches may be tried after runs that could not be started: none for a while, then one; any number after none."""
    rejected = select(func.bool_or(func.coalesce(source.c.retry_after > func.now(), False)))
    waits = connection.scalar(rejected.where(source.c.state == SourceState.QUEUED, source.c.reason == _NOT_STARTED))
    return sys.maxsize if waits is None else 0 if waits else 1


def _waiting_collections() -> Select[Any]:
    """Each collection with queued sources, and since when the first of them waits: one look into an index a collection, however
    many are queued."""
    queued = (source.c.collection == collection.c.name, source.c.state == SourceState.QUEUED)
    first = select(source.c.changed_at).where(*queued).order_by(source.c.changed_at).limit(1).lateral("first")
    return select(collection.c.name, collection.c.shard, first.c.changed_at.label("since")).join(first, true())


def _next_sources(connection: Connection, of: str, most: int) -> tuple[ClaimedSource, ...]:
    """The sources of a collection that have waited longest, locked."""
    may_start = or_(source.c.retry_after.is_(None), source.c.retry_after <= func.now())
    rows = connection.execute(
        select(source)
        .where(source.c.collection == of, source.c.state == SourceState.QUEUED, may_start)
        .order_by(source.c.changed_at, source.c.key)
        .limit(most)
        .with_for_update(skip_locked=True)
    )
    return tuple(
        ClaimedSource(
            row.key, row.version, row.size, Frame.from_partition(row.shard, row.partition), row.generation, row.attempts
        )
        for row in rows
    )


def _mark_requested(connection: Connection, batch_id: str, taken: Sequence[ClaimedSource]) -> None:
    values = {
        "state": SourceState.REQUESTED,
        "batch": batch_id,
        "attempts": source.c.attempts + 1,
        "reason": None,
        "changed_at": func.now(),
    }
    connection.execute(update(source).where(source.c.key.in_([claimed.key for claimed in taken])).values(values))
