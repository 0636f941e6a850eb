"""Which collections are due: something of theirs changed in the frame table and no run that changes more is under way."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Engine, delete, exists, func, or_, select, update

from ls4_assets.index.schema import SourceState, collection, frame, source
from ls4_assets.intake.sources import LIVE
from ls4_assets.names import Collection

_FIRST_WAIT = timedelta(seconds=30)
_LONGEST_WAIT = timedelta(hours=1)
# Under a steady stream of frames a collection is rebuilt this often.
LONGEST_DELAY = timedelta(minutes=10)


@dataclass(frozen=True)
class Due:
    """A collection to rebuild. `requested_at`, `attempts`: rebuilds asked for since the last that ended well."""

    collection: Collection
    requested_at: datetime | None
    attempts: int

    def may_start(self, now: datetime) -> bool:
        """A rebuild that keeps failing is asked for ever more seldom, not at each look."""
        if self.attempts == 0 or self.requested_at is None:
            return True
        doublings = min(self.attempts - 1, 10)
        return now - self.requested_at >= min(_FIRST_WAIT * int(2**doublings), _LONGEST_WAIT)


def due_collections(engine: Engine, public_url: str) -> list[Due]:
    """Collections whose table, files or map do not show the frames as they are, sorted; also those of which nothing is left.

    One whose frames are in a run, or wait for one, is left out, as it is rebuilt once, when its batch is done; unless
    its changes have waited for long, behind a drop of many thousands.
    """
    live = exists().where(source.c.collection == collection.c.name, source.c.state.in_(LIVE))
    made = exists().where(frame.c.collection == collection.c.name)
    waiting = (SourceState.QUEUED, SourceState.REQUESTED)
    busy = exists().where(source.c.collection == collection.c.name, source.c.state.in_(waiting))
    unindexed = exists().where(
        frame.c.collection == collection.c.name, or_(frame.c.revision != frame.c.indexed_revision, frame.c.deleted)
    )
    overdue = exists().where(
        frame.c.collection == collection.c.name,
        frame.c.revision != frame.c.indexed_revision,
        frame.c.updated_at < func.now() - LONGEST_DELAY,
    )
    moved = collection.c.published_at.is_not(None) & (collection.c.public_url != public_url)
    unfinished = or_(
        collection.c.files_revision != collection.c.index_revision, collection.c.map_revision != collection.c.index_revision
    )
    empty = ~live & ~made & collection.c.withdrawn_at.is_(None)
    chosen = select(collection).where(or_(unindexed, unfinished, moved, empty), or_(~busy, overdue))
    with engine.connect() as connection:
        rows = connection.execute(chosen).all()
    return sorted(
        (Due(Collection.from_partition(row.shard, row.partition), row.requested_at, row.attempts) for row in rows),
        key=lambda due: due.collection,
    )


def mark_requested(engine: Engine, of: Collection) -> None:
    with engine.begin() as connection:
        asked = update(collection).where(collection.c.name == of.name)
        connection.execute(asked.values(requested_at=func.now(), attempts=collection.c.attempts + 1))


def withdrawn_collections(engine: Engine) -> list[Collection]:
    """Collections of which nothing is left but a partition and a row."""
    with engine.connect() as connection:
        rows = connection.execute(select(collection).where(collection.c.withdrawn_at.is_not(None))).all()
    return [Collection.from_partition(row.shard, row.partition) for row in rows]


def forget_collection(engine: Engine, of: Collection) -> bool:
    """Delete the row, unless frames have come again meanwhile (then False)."""
    live = exists().where(source.c.collection == of.name, source.c.state.in_(LIVE))
    made = exists().where(frame.c.collection == of.name)
    with engine.begin() as connection:
        gone = delete(collection).where(collection.c.name == of.name, collection.c.withdrawn_at.is_not(None), ~live, ~made)
        return connection.execute(gone).rowcount == 1
