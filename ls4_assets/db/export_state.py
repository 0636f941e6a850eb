"""The state of each collection's exports and of the statewide files.

The exports themselves are written by `publishing/exports.py` and `publishing/statewide.py`.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, delete, exists, func, literal, or_, select, tuple_, update
from sqlalchemy.dialects.postgresql import aggregate_order_by, insert

from ls4_assets.db import schema
from ls4_assets.db.schema import SourceState, export_state, statewide_build
from ls4_assets.domain.backoff import Backoff
from ls4_assets.domain.chunks import chunks
from ls4_assets.domain.names import Collection, Frame

STATEWIDE = "compiled_historical_indexes"
# Time between two statewide builds: at least the minimum, at least the busy gap while frames are processed, and at least ten
# times the duration of the last build, so that building takes at most a tenth of the time.
_MIN_GAP = timedelta(seconds=60)
_BUSY_GAP = timedelta(minutes=15)
_GAP_PER_DURATION = 10
# The files are also built when nothing has changed, which replaces damaged files and shows that the platform still builds them.
_MAX_AGE = timedelta(days=1)
# After a build that failed or crashed, up to the gap of a busy archive.
_BACKOFF = Backoff(first_seconds=120, longest_seconds=_BUSY_GAP.total_seconds())


@dataclass(frozen=True)
class ExportState:
    """`revision`: of the current tile index; `format_version`: of the existing items; `published`: exports exist."""

    revision: int
    format_version: str | None
    published: bool
    withdrawn: bool


def load_state(connection: Connection, collection: Collection) -> ExportState | None:
    """Returns the state of a collection's exports, after creating their row. None when the collection does not exist."""
    row = connection.execute(select(schema.collection).where(schema.collection.c.name == collection.name)).first()
    if row is None:
        return None
    connection.execute(insert(export_state).values(collection=collection.name).on_conflict_do_nothing())
    exports = connection.execute(select(export_state).where(export_state.c.collection == collection.name)).one()
    return ExportState(row.index_revision, exports.format_version, exports.frames > 0, row.withdrawn_at is not None)


def update_state(connection: Connection, collection: Collection, **values: object) -> None:
    """Set columns of the collection's row."""
    connection.execute(update(export_state).where(export_state.c.collection == collection.name).values(values))


def delete_state(connection: Connection, collection: Collection) -> None:
    """Delete the row of a withdrawn collection, whose exports are deleted."""
    connection.execute(delete(export_state).where(export_state.c.collection == collection.name))


def record_exported_items(connection: Connection, items: Iterable[tuple[Frame, int]]) -> None:
    """Record frames and the revisions in their STAC items. A frame with a newer revision stays due."""
    columns = schema.frame.c
    for chunk in chunks(((frame.id, revision) for frame, revision in items), 1000):
        same = tuple_(columns.id, columns.revision).in_(chunk)
        connection.execute(update(schema.frame).where(same).values(exported_revision=columns.revision))


def list_exported(connection: Connection) -> list[Collection]:
    """Returns the collections with exports, sorted by name."""
    columns = schema.collection.c
    joined = schema.collection.join(export_state, export_state.c.collection == columns.name)
    query = select(columns.shard, columns.partition).select_from(joined).where(export_state.c.frames > 0).order_by(columns.name)
    return [Collection.from_partition(row.shard, row.partition) for row in connection.execute(query)]


def count_exported_frames(connection: Connection) -> int:
    """How many frames the statewide files have."""
    return int(connection.execute(select(func.coalesce(func.sum(export_state.c.frames), 0))).scalar_one())


def compute_inputs_digest(connection: Connection) -> str:
    """Returns a digest of all exports, the inputs of the statewide files. It changes with the exports of any collection."""
    each = func.concat_ws(" ", export_state.c.collection, export_state.c.revision, export_state.c.format_version)
    joined = func.md5(func.string_agg(each, aggregate_order_by(literal(","), export_state.c.collection)))
    return connection.scalar(select(joined).where(export_state.c.frames > 0)) or ""


@dataclass(frozen=True)
class StatewideBuild:
    """The last build of the statewide files. `changed`: the inputs have changed since; `busy`: frames are being processed."""

    changed: bool
    busy: bool
    seconds: float
    started_at: datetime | None
    compiled_at: datetime | None
    attempts: int

    def is_due(self, now: datetime) -> bool:
        """Whether the files must be built: their inputs have changed, or the last build is a day old."""
        return self.changed or (self.compiled_at is not None and now - self.compiled_at >= _MAX_AGE)

    def waits_until(self) -> datetime | None:
        """Returns the earliest time of the next build; None: at once."""
        if self.attempts and self.started_at:
            return self.started_at + timedelta(seconds=_BACKOFF.seconds(self.attempts))
        if self.compiled_at is None:
            return None
        gap = max(_MIN_GAP, _GAP_PER_DURATION * timedelta(seconds=self.seconds))
        return self.compiled_at + max(gap, _BUSY_GAP if self.busy else gap)


def load_statewide_build(connection: Connection) -> StatewideBuild:
    """Returns the last build. A sensor calls this every tick: it reads one row per collection and partial indexes."""
    row = connection.execute(select(statewide_build).where(statewide_build.c.name == STATEWIDE)).first()
    source, collection = schema.source.c, schema.collection.c
    has_pending = (exists().where(source.state == state) for state in (SourceState.QUEUED, SourceState.REQUESTED))
    has_due_exports = exists().where(
        collection.name == export_state.c.collection, collection.index_revision != export_state.c.revision
    )
    busy = bool(connection.scalar(select(or_(*has_pending, has_due_exports))))
    digest = compute_inputs_digest(connection)
    if row is None:
        return StatewideBuild(changed=digest != "", busy=busy, seconds=0, started_at=None, compiled_at=None, attempts=0)
    return StatewideBuild(row.inputs_digest != digest, busy, row.seconds, row.started_at, row.compiled_at, row.attempts)


def begin_statewide_build(connection: Connection) -> None:
    """Record the start of a build and count the attempt."""
    statement = insert(statewide_build).values(name=STATEWIDE, attempts=1, started_at=func.now())
    again = {"attempts": statewide_build.c.attempts + 1, "started_at": func.now()}
    connection.execute(statement.on_conflict_do_update(index_elements=["name"], set_=again))


def end_statewide_build(connection: Connection, inputs_digest: str, seconds: float) -> None:
    """Record a successful build. `inputs_digest` is from its start; `seconds` is its duration."""
    values = {"inputs_digest": inputs_digest, "seconds": seconds, "compiled_at": func.now(), "attempts": 0}
    connection.execute(update(statewide_build).where(statewide_build.c.name == STATEWIDE).values(values))
