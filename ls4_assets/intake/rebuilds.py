"""Which collections are due: something of theirs changed in the frame table and no run that changes more is under way."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Engine, delete, func, or_, select, update

from ls4_assets.index.schema import SourceState, collection, frame, source
from ls4_assets.names import Collection

_FIRST_WAIT = timedelta(seconds=30)
_LONGEST_WAIT = timedelta(hours=1)


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
    """Collections with frames that the index does not show yet, or with links to another address, sorted.

    One whose frames are in a run, or wait for one, is left out: it is rebuilt once, when its batch is done.
    """
    busy = (
        select(source.c.collection)
        .where(source.c.state.in_([SourceState.QUEUED, SourceState.REQUESTED]), source.c.collection.is_not(None))
        .distinct()
    )
    unindexed = select(frame.c.collection).where(frame.c.revision != frame.c.indexed_revision).distinct()
    moved = collection.c.published_at.is_not(None) & (collection.c.public_url != public_url)
    chosen = select(collection).where(collection.c.name.not_in(busy), or_(collection.c.name.in_(unindexed), moved))
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
    with engine.begin() as connection:
        gone = delete(collection).where(collection.c.name == of.name, collection.c.withdrawn_at.is_not(None))
        return connection.execute(gone).rowcount == 1
