"""Which collections are due: something of theirs changed in the frame table and no run that changes more is under way."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Engine, case, delete, exists, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert

from ls4_assets.db.schema import LIVE, SourceState, collection, export_state, frame, overview_mosaic, source
from ls4_assets.domain.names import Collection

_FIRST_WAIT = timedelta(seconds=30)
_LONGEST_WAIT = timedelta(hours=1)
# Under a steady stream of frames a collection is rebuilt this often.
LONGEST_DELAY = timedelta(minutes=10)
UNINDEXED = or_(frame.c.revision != frame.c.indexed_revision, frame.c.deleted)


@dataclass(frozen=True)
class Due:
    """A collection to rebuild, from the asset `first` on. `requested_at`, `attempts`: rebuilds asked for since the last that
    ended well."""

    collection: Collection
    first: str
    requested_at: datetime | None
    attempts: int

    def may_start(self, now: datetime) -> bool:
        """A rebuild that keeps failing is asked for ever more seldom, not at each look."""
        if self.attempts == 0 or self.requested_at is None:
            return True
        doublings = min(self.attempts - 1, 10)
        return now - self.requested_at >= min(_FIRST_WAIT * int(2**doublings), _LONGEST_WAIT)


def due_collections(engine: Engine, public_url: str, served_root: str, exports_format: str) -> list[Due]:
    """Collections whose table, files, mosaic, map or exports do not show the frames as they are, sorted; also those with nothing
    left. Where only exports are behind, nothing else is made: each rebuild of an index makes caches forget its tiles.

    One whose frames are in a run, or wait for one, is left out, as it is rebuilt once, when its batch is done; unless
    its changes have waited for long, behind a drop of many thousands, or its last rebuild was left unfinished as long ago.
    """
    live = exists().where(source.c.collection == collection.c.name, source.c.state.in_(LIVE))
    made = exists().where(frame.c.collection == collection.c.name)
    waiting = (SourceState.QUEUED, SourceState.REQUESTED)
    busy = exists().where(source.c.collection == collection.c.name, source.c.state.in_(waiting))
    # Worded as the predicate of the index frame_unindexed: a question a collection, whatever the number of frames.
    unindexed = exists().where(frame.c.collection == collection.c.name, UNINDEXED)
    oldest = select(frame.c.updated_at).where(frame.c.collection == collection.c.name, UNINDEXED)
    overdue = oldest.order_by(frame.c.updated_at).limit(1).scalar_subquery() < func.now() - LONGEST_DELAY
    # The table shows every frame, and what follows it was not made: no frame's age tells since when.
    long_ago = func.coalesce(collection.c.requested_at, func.to_timestamp(0)) < func.now() - LONGEST_DELAY
    left_undone = ~unindexed & long_ago
    elsewhere = or_(collection.c.public_url != public_url, collection.c.served_root != served_root)
    moved = collection.c.published_at.is_not(None) & elsewhere
    unfinished = or_(
        collection.c.files_revision != collection.c.index_revision, collection.c.map_revision != collection.c.index_revision
    )
    empty = ~live & ~made & collection.c.withdrawn_at.is_(None)
    map_due = or_(unindexed, unfinished, moved, empty)
    shown, tried = (func.coalesce(column, 0) for column in (overview_mosaic.c.revision, overview_mosaic.c.attempts))
    mosaic_due = collection.c.withdrawn_at.is_(None) & (shown != collection.c.index_revision)
    of_index = func.coalesce(export_state.c.revision, 0)
    behind = (of_index != collection.c.index_revision) | (
        func.coalesce(export_state.c.format_version, exports_format) != exports_format
    )
    # The row goes when nothing is left of the exports of a collection that was withdrawn.
    exports_due = case((collection.c.withdrawn_at.is_(None), behind), else_=export_state.c.collection.is_not(None))
    # A mosaic or an export that keeps failing is tried ever more seldom by itself, and holds up nothing new.
    own = case((mosaic_due, tried), else_=func.coalesce(export_state.c.attempts, 0))
    attempts = case((map_due, collection.c.attempts), else_=own).label("tries")
    first = case((or_(map_due, mosaic_due), "tile_index"), else_="exports").label("first")
    joined = collection.outerjoin(overview_mosaic, overview_mosaic.c.collection == collection.c.name)
    joined = joined.outerjoin(export_state, export_state.c.collection == collection.c.name)
    chosen = select(collection, attempts, first).select_from(joined).where(or_(map_due, mosaic_due, exports_due))
    chosen = chosen.where(or_(~busy, overdue, left_undone))
    with engine.connect() as connection:
        rows = connection.execute(chosen).all()
    return sorted(
        (Due(Collection.from_partition(row.shard, row.partition), row.first, row.requested_at, row.tries) for row in rows),
        key=lambda due: due.collection,
    )


def mark_requested(engine: Engine, of: Collection, first: str) -> None:
    """A rebuild from the asset `first` on. What only concerns exports does not count against the map."""
    of_map = 0 if first == "exports" else 1
    with engine.begin() as connection:
        asked = update(collection).where(collection.c.name == of.name)
        connection.execute(asked.values(requested_at=func.now(), attempts=collection.c.attempts + of_map))
        exports = insert(export_state).values(collection=of.name, attempts=1)
        again = {"attempts": export_state.c.attempts + 1}
        connection.execute(exports.on_conflict_do_update(index_elements=["collection"], set_=again))


def withdrawn_collections(engine: Engine) -> list[Collection]:
    """Collections of which nothing is left but a partition and a row."""
    with engine.connect() as connection:
        rows = connection.execute(select(collection).where(collection.c.withdrawn_at.is_not(None))).all()
    return [Collection.from_partition(row.shard, row.partition) for row in rows]


def forget_collection(engine: Engine, of: Collection) -> bool:
    """Delete the row, unless frames have come again meanwhile (then False)."""
    live = exists().where(source.c.collection == of.name, source.c.state.in_(LIVE))
    made = exists().where(frame.c.collection == of.name)
    exported = exists().where(export_state.c.collection == of.name)
    nothing_left = (collection.c.withdrawn_at.is_not(None), ~live, ~made, ~exported)
    with engine.begin() as connection:
        gone = delete(collection).where(collection.c.name == of.name, *nothing_left)
        return connection.execute(gone).rowcount == 1
