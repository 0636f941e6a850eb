"""What the database knows of exports: which index each collection's show, and which collections the statewide files do."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, delete, exists, func, literal, or_, select, tuple_, update
from sqlalchemy.dialects.postgresql import aggregate_order_by, insert

from ls4_assets.db.chunks import chunks
from ls4_assets.db.schema import SourceState, collection, export_state, frame, source, statewide_build
from ls4_assets.domain.names import Collection, Frame

STATEWIDE = "compiled_historical_indexes"
# Nothing is compiled oftener than this, nor while frames are being made oftener than that; and compiling takes up at most one
# tenth of the time.
_SHORTEST_GAP = timedelta(seconds=60)
_BUSY_GAP = timedelta(minutes=15)
_SHARE = 10


@dataclass(frozen=True)
class State:
    """`revision`: of the index as it is; `format_version`: of the items that are there; `published`: some exports are."""

    revision: int
    format_version: str | None
    published: bool
    withdrawn: bool


def state(connection: Connection, of: Collection) -> State | None:
    """Where a collection's exports stand; makes their row. None when there is no such collection."""
    row = connection.execute(select(collection).where(collection.c.name == of.name)).first()
    if row is None:
        return None
    connection.execute(insert(export_state).values(collection=of.name).on_conflict_do_nothing())
    now = connection.execute(select(export_state).where(export_state.c.collection == of.name)).one()
    return State(row.index_revision, now.format_version, now.frames > 0, row.withdrawn_at is not None)


def note(connection: Connection, of: Collection, **values: object) -> None:
    connection.execute(update(export_state).where(export_state.c.collection == of.name).values(values))


def forget(connection: Connection, of: Collection) -> None:
    """Nothing is left of the exports of a collection that was withdrawn."""
    connection.execute(delete(export_state).where(export_state.c.collection == of.name))


def note_items(connection: Connection, written: Iterable[tuple[Frame, int]]) -> None:
    """Frames whose items show these revisions; one that was changed meanwhile is written again."""
    for some in chunks(((of.id, revision) for of, revision in written), 1000):
        same = tuple_(frame.c.id, frame.c.revision).in_(some)
        connection.execute(update(frame).where(same).values(exported_revision=frame.c.revision))


def exported(connection: Connection) -> list[Collection]:
    """Collections that have exports, sorted by name."""
    joined = collection.join(export_state, export_state.c.collection == collection.c.name)
    chosen = select(collection.c.shard, collection.c.partition).select_from(joined).where(export_state.c.frames > 0)
    return [Collection.from_partition(row.shard, row.partition) for row in connection.execute(chosen.order_by(collection.c.name))]


def digest(connection: Connection) -> str:
    """Of what statewide files would show now: it differs whenever the exports of any collection do."""
    each = func.concat_ws(" ", export_state.c.collection, export_state.c.revision, export_state.c.format_version)
    joined = func.md5(func.string_agg(each, aggregate_order_by(literal(","), export_state.c.collection)))
    return connection.scalar(select(joined).where(export_state.c.frames > 0)) or ""


@dataclass(frozen=True)
class StatewideBuild:
    """Where the statewide files stand. `changed`: they do not show what they would show now; `busy`: frames are being made."""

    changed: bool
    busy: bool
    seconds: float
    started_at: datetime | None
    compiled_at: datetime | None
    attempts: int

    def waits_until(self) -> datetime | None:
        """When they may be compiled; None: at once."""
        if self.attempts and self.started_at:
            # It failed, or its run died: ever more seldom, up to the gap of a busy archive.
            return self.started_at + min(_SHORTEST_GAP * int(2 ** min(self.attempts, 10)), _BUSY_GAP)
        if self.compiled_at is None:
            return None
        gap = max(_SHORTEST_GAP, _SHARE * timedelta(seconds=self.seconds))
        return self.compiled_at + max(gap, _BUSY_GAP if self.busy else gap)


def compilation_status(connection: Connection) -> StatewideBuild:
    """Asked at every tick of a sensor: two thousand rows, and what partial indexes answer."""
    row = connection.execute(select(statewide_build).where(statewide_build.c.name == STATEWIDE)).first()
    waiting = (exists().where(source.c.state == state) for state in (SourceState.QUEUED, SourceState.REQUESTED))
    behind = exists().where(
        collection.c.name == export_state.c.collection, collection.c.index_revision != export_state.c.revision
    )
    busy = bool(connection.scalar(select(or_(*waiting, behind))))
    now = digest(connection)
    if row is None:
        return StatewideBuild(changed=now != "", busy=busy, seconds=0, started_at=None, compiled_at=None, attempts=0)
    return StatewideBuild(row.inputs_digest != now, busy, row.seconds, row.started_at, row.compiled_at, row.attempts)


def begin_statewide_build(connection: Connection) -> None:
    begun = insert(statewide_build).values(name=STATEWIDE, attempts=1, started_at=func.now())
    again = {"attempts": statewide_build.c.attempts + 1, "started_at": func.now()}
    connection.execute(begun.on_conflict_do_update(index_elements=["name"], set_=again))


def end_statewide_build(connection: Connection, inputs_digest: str, seconds: float) -> None:
    """The files show what the collections' exports were when it began."""
    values = {"inputs_digest": inputs_digest, "seconds": seconds, "compiled_at": func.now(), "attempts": 0}
    connection.execute(update(statewide_build).where(statewide_build.c.name == STATEWIDE).values(values))
