"""The current incidents, read from Postgres. Each query uses a partial index of the rows it selects.

When to report them is decided in planner.py.
"""

from collections.abc import Iterator
from datetime import datetime, timedelta

from sqlalchemy import Connection, delete, exists, func, or_, select

from ls4_assets.db import schema
from ls4_assets.db.schema import SourceState, failed_run, rejection
from ls4_assets.ingest.deletions import list_held_deletions
from ls4_assets.ingest.unlisted import WHOLE_ARCHIVE, list_unlisted
from ls4_assets.notifications.planner import Incident, IncidentKind

# A scan that fails once or twice is no incident: the network or a disk that was just mounted.
_UNLISTED_AFTER = timedelta(minutes=1)


def load_incidents(connection: Connection, now: datetime, stall_timeout: timedelta, max_attempts: int) -> list[Incident]:
    """All current incidents, at most one for each kind and scope.

    A collection is stalled when frames have waited for `stall_timeout` and none was finished in that time. A rebuild that was
    requested `max_attempts` times without success is an incident even if no run of it failed.
    """
    incidents = [*_rejections(connection), *_failed_runs(connection), *_exhausted_rebuilds(connection, max_attempts, now)]
    incidents += [*_stalled_collections(connection, now, stall_timeout), *_held_deletions(connection, now)]
    incidents += _unlisted_folders(connection, now)
    # A failed run overrides an exhausted rebuild of the same collection, as it has the reason.
    return list({incident.key: incident for incident in reversed(incidents)}.values())


def delete_failures_of_removed_collections(connection: Connection) -> None:
    """Delete failed rebuilds of collections that no longer exist, as no later rebuild can resolve them."""
    collection_exists = exists().where(schema.collection.c.name == failed_run.c.scope)
    connection.execute(delete(failed_run).where(failed_run.c.kind == IncidentKind.REBUILD, ~collection_exists))


def _rejections(connection: Connection) -> Iterator[Incident]:
    times = (func.min(rejection.c.first_seen).label("since"), func.max(rejection.c.last_seen).label("latest"))
    query = (
        select(rejection.c.kind, rejection.c.scope, func.count().label("n"), *times)
        .where(rejection.c.resolved_at.is_(None))
        .group_by(rejection.c.kind, rejection.c.scope)
    )
    for row in connection.execute(query):
        yield Incident(IncidentKind(row.kind), row.scope, row.n, row.since, row.latest)


def _failed_runs(connection: Connection) -> Iterator[Incident]:
    for row in connection.execute(select(failed_run)):
        yield Incident(IncidentKind(row.kind), row.scope, 1, row.failed_at, row.failed_at, row.reason, row.run)


def _exhausted_rebuilds(connection: Connection, max_attempts: int, now: datetime) -> Iterator[Incident]:
    """Collections whose rebuild was requested again and again without success, whether or not a run was seen to fail."""
    collection, frame = schema.collection, schema.frame
    is_behind = or_(
        collection.c.files_revision != collection.c.index_revision,
        collection.c.map_revision != collection.c.index_revision,
        exists().where(frame.c.collection == collection.c.name, frame.c.revision != frame.c.indexed_revision),
    )
    is_exhausted = (collection.c.attempts >= max_attempts, collection.c.withdrawn_at.is_(None), is_behind)
    query = select(collection.c.name, collection.c.attempts, collection.c.requested_at).where(*is_exhausted)
    for row in connection.execute(query):
        requested_at = row.requested_at or now
        reason = f"The rebuild was requested {row.attempts} times and never finished."
        yield Incident(IncidentKind.REBUILD, row.name, 1, requested_at, requested_at, reason)


def _stalled_collections(connection: Connection, now: datetime, stall_timeout: timedelta) -> Iterator[Incident]:
    """Collections with waiting frames and no finished one. A long drop that makes progress is not stalled."""
    source, frame = schema.source, schema.frame
    since = func.min(source.c.pending_since).label("since")
    reason = func.max(source.c.reason).label("reason")
    query = (
        select(source.c.collection, func.count().label("n"), since, reason)
        .where(source.c.pending_since < now - stall_timeout)
        .group_by(source.c.collection)
    )
    for row in connection.execute(query).all():
        has_progress = exists().where(frame.c.collection == row.collection, frame.c.updated_at > now - stall_timeout)
        if not connection.scalar(select(has_progress)):
            yield Incident(IncidentKind.WAITING, row.collection, row.n, row.since, row.since, row.reason or "")


def _held_deletions(connection: Connection, now: datetime) -> Iterator[Incident]:
    source = schema.source
    for held in list_held_deletions(connection):
        in_collection = (source.c.collection == held.collection, source.c.state != SourceState.DELETED)
        since = connection.scalar(select(func.min(source.c.deletion_held_at)).where(*in_collection)) or now
        yield Incident(IncidentKind.HELD, held.collection, held.held, since, since, str(held))


def _unlisted_folders(connection: Connection, now: datetime) -> Iterator[Incident]:
    for record in list_unlisted(connection):
        if now - record.since >= _UNLISTED_AFTER:
            yield Incident(IncidentKind.UNLISTED, record.folder or WHOLE_ARCHIVE, 1, record.since, record.since, record.reason)
