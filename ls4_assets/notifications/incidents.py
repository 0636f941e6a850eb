"""The troubles of this moment, read from Postgres: each question is answered by an index of just the rows that are its answer."""

from collections.abc import Iterator
from datetime import datetime, timedelta

from sqlalchemy import Connection, delete, exists, func, or_, select

from ls4_assets.db.schema import SourceState, collection, failed_run, frame, rejection, source
from ls4_assets.ingest.deletions import held_collections
from ls4_assets.notifications.planner import Incident, Kind


def current_incidents(connection: Connection, now: datetime, stuck: timedelta, attempts: int) -> list[Incident]:
    """All that is wrong now. `stuck`: a collection of which nothing was finished for so long while something waits; `attempts`:
    rebuilds after which a collection counts as one that cannot be made."""
    found = [*_rejections(connection), *_failed_runs(connection), *_rebuilds(connection, attempts, now)]
    found += [*_waiting(connection, now, stuck), *_held(connection, now)]
    return list({trouble.where: trouble for trouble in reversed(found)}.values())


def forget_gone_collections(connection: Connection) -> None:
    """A rebuild that failed of a collection that is no more will not end well any more."""
    there = exists().where(collection.c.name == failed_run.c.place)
    connection.execute(delete(failed_run).where(failed_run.c.kind == Kind.REBUILD, ~there))


def _rejections(connection: Connection) -> Iterator[Incident]:
    times = (func.min(rejection.c.first_seen).label("since"), func.max(rejection.c.last_seen).label("latest"))
    counted = select(rejection.c.kind, rejection.c.place, func.count().label("n"), *times)
    for row in connection.execute(counted.where(rejection.c.resolved_at.is_(None)).group_by(rejection.c.kind, rejection.c.place)):
        yield Incident(Kind(row.kind), row.place, row.n, row.since, row.latest)


def _failed_runs(connection: Connection) -> Iterator[Incident]:
    for row in connection.execute(select(failed_run)):
        yield Incident(Kind(row.kind), row.place, 1, row.failed_at, row.failed_at, row.reason, row.run)


def _rebuilds(connection: Connection, attempts: int, now: datetime) -> Iterator[Incident]:
    """Asked for again and again without success, whether or not a run was ever seen to fail."""
    behind = or_(
        collection.c.files_revision != collection.c.index_revision,
        collection.c.map_revision != collection.c.index_revision,
        exists().where(frame.c.collection == collection.c.name, frame.c.revision != frame.c.indexed_revision),
    )
    used_up = (collection.c.attempts >= attempts, collection.c.withdrawn_at.is_(None), behind)
    for row in connection.execute(select(collection.c.name, collection.c.attempts, collection.c.requested_at).where(*used_up)):
        when = row.requested_at or now
        yield Incident(
            Kind.REBUILD, row.name, 1, when, when, f"It was asked for {row.attempts} times and did not come to an end."
        )


def _waiting(connection: Connection, now: datetime, stuck: timedelta) -> Iterator[Incident]:
    """A long drop that goes on is not stuck: of it something was finished lately."""
    since = func.min(source.c.pending_since).label("since")
    reason = func.max(source.c.reason).label("reason")
    counted = select(source.c.collection, func.count().label("n"), since, reason).where(source.c.pending_since < now - stuck)
    for row in connection.execute(counted.group_by(source.c.collection)).all():
        lately = exists().where(frame.c.collection == row.collection, frame.c.updated_at > now - stuck)
        if not connection.scalar(select(lately)):
            yield Incident(Kind.WAITING, row.collection, row.n, row.since, row.since, row.reason or "")


def _held(connection: Connection, now: datetime) -> Iterator[Incident]:
    for one in held_collections(connection):
        mine = (source.c.collection == one.collection, source.c.state != SourceState.DELETED)
        since = connection.scalar(select(func.min(source.c.deletion_held_at)).where(*mine)) or now
        yield Incident(Kind.HELD, one.collection, one.held, since, since, str(one))
