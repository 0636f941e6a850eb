"""Send the notifications that are due and record those that were accepted.

A notification is recorded only after it was accepted. So an outage or a crash loses none; at worst, one is sent twice. Each is
recorded separately, and one that fails does not delay the others.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, Engine, or_, select
from sqlalchemy.dialects.postgresql import insert

from ls4_assets import logs
from ls4_assets.db import schema
from ls4_assets.errors import NotificationError
from ls4_assets.notifications.incidents import delete_failures_of_removed_collections, load_incidents
from ls4_assets.notifications.messages import compose_message
from ls4_assets.notifications.planner import (
    IncidentKey,
    IncidentKind,
    Notification,
    Notified,
    Throttle,
    Transition,
    plan_notifications,
)
from ls4_assets.notifications.rejections import Rejection, list_open_rejections
from resources.archive import Archive

# Each message takes seconds when the server does not answer. The next tick sends the rest.
TIME_LIMIT_SECONDS = 25
# Maximum files that are read for one incident.
_MAX_FILES = 2_000


@dataclass(frozen=True)
class DispatchReport:
    """Numbers of one tick. `unsent` notifications stay due."""

    sent: int
    unsent: int
    incidents: int


def dispatch_notifications(archive: Archive, now: datetime) -> DispatchReport:
    """Send the notifications that are due."""
    settings = archive.settings
    throttle = Throttle(
        timedelta(seconds=settings.notify_group_wait_seconds), timedelta(seconds=settings.notify_repeat_interval_seconds)
    )
    stall_timeout = timedelta(seconds=settings.stall_alert_seconds)
    with archive.database.begin() as connection:
        delete_failures_of_removed_collections(connection)
        incidents = load_incidents(connection, now, stall_timeout, settings.max_attempts)
        notified = load_sent(connection, now - throttle.repeat_interval)
    due = plan_notifications(incidents, notified, now, throttle)
    deadline, sent = time.monotonic() + TIME_LIMIT_SECONDS, 0
    for notification in due:
        if time.monotonic() > deadline:
            break
        message = compose_message(notification, _load_files(archive.database, notification), settings)
        try:
            archive.notifier.send(message.subject, message.body)
        except NotificationError as error:
            logs.emit("notification_failed", logging.ERROR, reason=str(error))
            continue
        record_sent(archive.database, notification, now)
        sent += 1
    return DispatchReport(sent, len(due) - sent, len(incidents))


def load_sent(connection: Connection, since: datetime) -> dict[IncidentKey, Notified]:
    """The last notification of each incident that is open or was reported after `since`."""
    table = schema.notification
    rows = connection.execute(select(table).where(or_(table.c.resolved_at.is_(None), table.c.notified_at > since)))
    return {
        (IncidentKind(row.kind), row.scope): Notified(row.item_count, row.latest_at, row.notified_at, row.resolved_at)
        for row in rows
    }


def record_sent(engine: Engine, notification: Notification, now: datetime) -> None:
    """Store that a notification was accepted."""
    is_resolved = notification.transition == Transition.RESOLVED
    rows = [
        {
            "kind": incident.kind,
            "scope": incident.scope,
            "item_count": incident.count,
            "latest_at": incident.latest,
            "notified_at": now,
            "resolved_at": now if is_resolved else None,
        }
        for incident in notification.incidents
    ]
    table = schema.notification
    statement = insert(table)
    upsert = statement.on_conflict_do_update(
        index_elements=[table.c.kind, table.c.scope],
        set_={name: statement.excluded[name] for name in ("item_count", "latest_at", "notified_at", "resolved_at")},
    )
    with engine.begin() as connection:
        connection.execute(upsert, rows)


def _load_files(engine: Engine, notification: Notification) -> dict[IncidentKey, Sequence[Rejection]]:
    """Files that the notification lists; none for a resolution or for several incidents."""
    if notification.transition == Transition.RESOLVED or len(notification.incidents) > 1:
        return {}
    (incident,) = notification.incidents
    after = incident.since if notification.transition == Transition.GREW else None
    with engine.connect() as connection:
        return {incident.key: list_open_rejections(connection, incident.kind, incident.scope, after, _MAX_FILES)}
