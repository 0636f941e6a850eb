"""Telling people: the troubles of this moment, what was told, and the messages between the two.

A message counts as told only when it was accepted. So an outage, or a death in between, costs no message, and at worst one comes
twice; each is noted by itself, and one that is not taken holds up no other.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, Engine, or_, select
from sqlalchemy.dialects.postgresql import insert

from ls4_assets import logs
from ls4_assets.db.schema import notification
from ls4_assets.errors import NotificationError
from ls4_assets.notifications.incidents import current_incidents, forget_gone_collections
from ls4_assets.notifications.messages import compose
from ls4_assets.notifications.planner import Kind, Message, Throttle, Told, Transition, Where, plan
from ls4_assets.notifications.rejections import Rejection, at_place
from resources.archive import Archive

# With a server that does not answer a message takes seconds: what is left is for the next tick.
SECONDS = 25
# Of one trouble so many files are read.
_FILES = 2_000


@dataclass(frozen=True)
class Telling:
    """What a tick did. `unsent` messages stay due."""

    sent: int
    unsent: int
    troubles: int


def dispatch_notifications(archive: Archive, now: datetime) -> Telling:
    """Send what is due now."""
    settings = archive.settings
    pace = Throttle(
        timedelta(seconds=settings.notify_group_wait_seconds), timedelta(seconds=settings.notify_repeat_interval_seconds)
    )
    with archive.database.begin() as connection:
        forget_gone_collections(connection)
        troubles = current_incidents(connection, now, timedelta(seconds=settings.stall_alert_seconds), settings.max_attempts)
        told = load_sent(connection, now - pace.window)
    due = plan(troubles, told, now, pace)
    deadline, sent = time.monotonic() + SECONDS, 0
    for message in due:
        if time.monotonic() > deadline:
            break
        text = compose(message, _files(archive.database, message), settings)
        try:
            archive.notifier.send(text.subject, text.body)
        except NotificationError as error:
            logs.event("notice_unsent", logging.ERROR, reason=str(error))
            continue
        record_sent(archive.database, message, now)
        sent += 1
    return Telling(sent, len(due) - sent, len(troubles))


def load_sent(connection: Connection, since: datetime) -> dict[Where, Told]:
    """What still matters: open troubles, and those told of since a moment."""
    rows = connection.execute(
        select(notification).where(or_(notification.c.resolved_at.is_(None), notification.c.notified_at > since))
    )
    return {(Kind(row.kind), row.place): Told(row.files, row.latest, row.notified_at, row.resolved_at) for row in rows}


def record_sent(engine: Engine, message: Message, now: datetime) -> None:
    over = message.news == Transition.OVER
    rows = [
        {
            "kind": one.kind,
            "place": one.place,
            "files": one.count,
            "latest": one.latest,
            "notified_at": now,
            "resolved_at": now if over else None,
        }
        for one in message.troubles
    ]
    row = insert(notification)
    told = row.on_conflict_do_update(
        index_elements=[notification.c.kind, notification.c.place],
        set_={name: row.excluded[name] for name in ("files", "latest", "notified_at", "resolved_at")},
    )
    with engine.begin() as connection:
        connection.execute(told, rows)


def _files(engine: Engine, message: Message) -> dict[Where, Sequence[Rejection]]:
    if message.news == Transition.OVER or len(message.troubles) > 1:
        return {}
    (trouble,) = message.troubles
    after = trouble.since if message.news == Transition.MORE else None
    with engine.connect() as connection:
        return {trouble.where: at_place(connection, trouble.kind, trouble.place, after, _FILES)}
