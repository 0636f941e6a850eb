"""Queries for the sensor `publish_collections`: which collections need a rebuild, and which are withdrawn.

A collection needs a rebuild when its published data is behind the frame table. The rebuild itself is in `assets.collections`.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Engine, case, delete, exists, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert

from ls4_assets.db import schema
from ls4_assets.db.schema import LIVE_STATES, SourceState, export_state, overview_mosaic, source
from ls4_assets.domain.backoff import Backoff
from ls4_assets.domain.names import Collection

# Backoff between attempts of a rebuild that keeps failing.
_BACKOFF = Backoff(first_seconds=30, longest_seconds=3600)
# A collection that is still receiving frames is rebuilt when one of them has waited this long.
BUSY_DELAY = timedelta(seconds=8)
# A rebuild that is still unfinished this long after its request is requested again.
_ABANDONED_AFTER = timedelta(minutes=10)
NOT_INDEXED = or_(schema.frame.c.revision != schema.frame.c.indexed_revision, schema.frame.c.deleted)


@dataclass(frozen=True)
class PendingRebuild:
    """A collection to rebuild, starting with `first_asset`.

    requested_at, attempts: time of the last request, and number of requests since the last success. is_busy: frames of it are
    queued or in a run.
    """

    collection: Collection
    first_asset: str
    requested_at: datetime | None
    attempts: int
    is_busy: bool = False

    @property
    def with_exports(self) -> bool:
        """Whether the rebuild includes the exports, which are written whole: at the end of a drop, or when only they are due."""
        return not self.is_busy or self.first_asset == "exports"

    def may_start(self, now: datetime) -> bool:
        """Whether the backoff after failed attempts is over."""
        if self.attempts == 0 or self.requested_at is None:
            return True
        return (now - self.requested_at).total_seconds() >= _BACKOFF.seconds(self.attempts)


def pending_rebuilds(
    engine: Engine,
    public_url: str,
    served_root: str,
    exports_format: str,
    map_format: str,
    names: Iterable[str] | None = None,
) -> list[PendingRebuild]:
    """Collections whose table, files, mosaic, map or exports are behind the frame table, sorted; only those in `names`, if given.

    This includes collections without frames that are not withdrawn yet. If only exports are behind, or only the format of the map
    changed, the rebuild starts there, because every rebuild of an index invalidates cached tiles.

    A collection with frames that are queued or in a run is omitted, because it is rebuilt once after them. It is included anyway
    if its oldest change has waited for BUSY_DELAY, behind a large drop, or if its last rebuild is abandoned.
    """
    collection, frame = schema.collection, schema.frame
    has_sources = exists().where(source.c.collection == collection.c.name, source.c.state.in_(LIVE_STATES))
    has_frames = exists().where(frame.c.collection == collection.c.name)
    in_progress = (SourceState.QUEUED, SourceState.REQUESTED)
    is_busy = exists().where(source.c.collection == collection.c.name, source.c.state.in_(in_progress))
    # Matches the predicate of the partial index frame_unindexed: one index lookup per collection, for any number of frames.
    is_unindexed = exists().where(frame.c.collection == collection.c.name, NOT_INDEXED)
    oldest_change = select(frame.c.updated_at).where(frame.c.collection == collection.c.name, NOT_INDEXED)
    is_overdue = oldest_change.order_by(frame.c.updated_at).limit(1).scalar_subquery() < func.now() - BUSY_DELAY
    # The table is current but later steps are not, so the age of the frames cannot show how long this has lasted.
    requested_long_ago = func.coalesce(collection.c.requested_at, func.to_timestamp(0)) < func.now() - _ABANDONED_AFTER
    is_abandoned = ~is_unindexed & requested_long_ago
    has_other_urls = or_(collection.c.public_url != public_url, collection.c.served_root != served_root)
    is_moved = collection.c.published_at.is_not(None) & has_other_urls
    is_unfinished = or_(
        collection.c.files_revision != collection.c.index_revision, collection.c.map_revision != collection.c.index_revision
    )
    is_empty = ~has_sources & ~has_frames & collection.c.withdrawn_at.is_(None)
    index_due = or_(is_unindexed, is_unfinished, is_moved, is_empty)
    map_due = or_(index_due, collection.c.published_at.is_not(None) & (collection.c.map_format != map_format))
    mosaic_columns = (overview_mosaic.c.revision, overview_mosaic.c.attempts)
    mosaic_revision, mosaic_attempts = (func.coalesce(column, 0) for column in mosaic_columns)
    mosaic_due = collection.c.withdrawn_at.is_(None) & (mosaic_revision != collection.c.index_revision)
    exports_behind = (func.coalesce(export_state.c.revision, 0) != collection.c.index_revision) | (
        func.coalesce(export_state.c.format_version, exports_format) != exports_format
    )
    # A withdrawn collection keeps its row until its exports are deleted.
    exports_due = case((collection.c.withdrawn_at.is_(None), exports_behind), else_=export_state.c.collection.is_not(None))
    # Mosaic and exports have their own attempts, so the backoff of one that keeps failing does not delay the map.
    own_attempts = case((mosaic_due, mosaic_attempts), else_=func.coalesce(export_state.c.attempts, 0))
    attempts = case((map_due, collection.c.attempts), else_=own_attempts).label("tries")
    first_asset = case((or_(index_due, mosaic_due), "tile_index"), (map_due, "mapfile"), else_="exports").label("first_asset")
    joined = collection.outerjoin(overview_mosaic, overview_mosaic.c.collection == collection.c.name)
    joined = joined.outerjoin(export_state, export_state.c.collection == collection.c.name)
    due = select(collection, attempts, first_asset, is_busy.label("is_busy")).select_from(joined)
    due = due.where(or_(map_due, mosaic_due, exports_due))
    if names is not None:
        due = due.where(collection.c.name.in_(list(names)))
    with engine.connect() as connection:
        rows = connection.execute(due.where(or_(~is_busy, is_overdue, is_abandoned))).all()
    rebuilds = [
        PendingRebuild(
            Collection.from_partition(row.shard, row.partition), row.first_asset, row.requested_at, row.tries, row.is_busy
        )
        for row in rows
    ]
    return sorted(rebuilds, key=lambda rebuild: rebuild.collection)


def mark_requested(engine: Engine, rebuild: PendingRebuild) -> bool:
    """Record the request of a rebuild. Returns False if it was requested since `rebuild` was read.

    One that starts with exports does not count as an attempt to publish the map.
    """
    columns, map_attempts = schema.collection.c, 0 if rebuild.first_asset == "exports" else 1
    is_unchanged = columns.requested_at.is_not_distinct_from(rebuild.requested_at)
    with engine.begin() as connection:
        statement = update(schema.collection).where(columns.name == rebuild.collection.name, is_unchanged)
        values = {"requested_at": func.now(), "attempts": columns.attempts + map_attempts}
        if not connection.execute(statement.values(values)).rowcount:
            return False
        if rebuild.with_exports:
            exports = insert(export_state).values(collection=rebuild.collection.name, attempts=1)
            again = {"attempts": export_state.c.attempts + 1}
            connection.execute(exports.on_conflict_do_update(index_elements=["collection"], set_=again))
    return True


def count_frames(engine: Engine, collection: Collection) -> int:
    """How many frames a collection has, whether its index has them or not."""
    count = select(func.count()).where(schema.frame.c.collection == collection.name, ~schema.frame.c.deleted)
    with engine.connect() as connection:
        return connection.execute(count).scalar_one()


def withdrawn_collections(engine: Engine) -> list[Collection]:
    """Collections without map, table or files, which may still have a partition and a row."""
    with engine.connect() as connection:
        rows = connection.execute(select(schema.collection).where(schema.collection.c.withdrawn_at.is_not(None))).all()
    return [Collection.from_partition(row.shard, row.partition) for row in rows]


def delete_withdrawn_collection(engine: Engine, collection: Collection) -> bool:
    """Delete the row of a withdrawn collection. Returns False if it has sources, frames or exports (again)."""
    has_sources = exists().where(source.c.collection == collection.name, source.c.state.in_(LIVE_STATES))
    has_frames = exists().where(schema.frame.c.collection == collection.name)
    has_exports = exists().where(export_state.c.collection == collection.name)
    columns = schema.collection.c
    conditions = (columns.withdrawn_at.is_not(None), ~has_sources, ~has_frames, ~has_exports)
    with engine.begin() as connection:
        statement = delete(schema.collection).where(columns.name == collection.name, *conditions)
        return connection.execute(statement).rowcount == 1
