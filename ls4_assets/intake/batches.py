"""Batches: which queued sources the next runs take, and what becomes of those whose run is over before they were finished."""

from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from uuid import uuid4

from sqlalchemy import Engine, Interval, and_, cast, func, literal, or_, select, update

from ls4_assets.chunks import chunks
from ls4_assets.index.schema import SourceState, source
from ls4_assets.names import Frame

# After a run died under a source: half a minute, two, eight ... An outage of storage or database ends before the attempts do.
_FIRST_WAIT_SECONDS = 30
_WAIT_GROWTH = 4


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


def claim_batches(engine: Engine, batch_size: int, most: int) -> list[Batch]:
    """Take up to `most` batches of queued sources, longest waiting first, each of one shard and sorted by partition."""
    with engine.begin() as connection:
        rows = connection.execute(
            select(source.c.key, source.c.version, source.c.size, source.c.shard, source.c.partition)
            .where(source.c.state == SourceState.QUEUED, or_(source.c.not_before.is_(None), source.c.not_before <= func.now()))
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
        query = select(source.c.batch, func.min(source.c.changed_at))
        rows = connection.execute(query.where(source.c.state == SourceState.REQUESTED).group_by(source.c.batch))
        return {row[0]: row[1] for row in rows}


def release_batch(engine: Engine, batch_id: str, max_attempts: int) -> int:
    """Give the unfinished sources of a batch whose run is over to another run; after `max_attempts` they count as failed.

    What went wrong last stands in `reason` already, where a worker could tell it.
    """
    mine = and_(source.c.batch == batch_id, source.c.state == SourceState.REQUESTED)
    worn_out = func.concat(
        f"Its run died {max_attempts} times before the frame was finished; look at the run's log in Dagit, mend that and ",
        "run `ls4 retry`.",
        func.coalesce(" The last time: " + source.c.reason, ""),
    )
    wait = cast(literal(_FIRST_WAIT_SECONDS) * func.power(_WAIT_GROWTH, source.c.attempts - 1), source.c.attempts.type)
    with engine.begin() as connection:
        failed = update(source).where(mine, source.c.attempts >= max_attempts)
        connection.execute(failed.values(state=SourceState.FAILED, reason=worn_out, changed_at=func.now()))
        not_before = func.now() + wait * cast(literal("1 second"), Interval)
        again = update(source).where(mine).values(state=SourceState.QUEUED, not_before=not_before, changed_at=func.now())
        return connection.execute(again).rowcount
