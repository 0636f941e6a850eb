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
from ls4_assets.db.schema import notice
from ls4_assets.errors import NotSent
from ls4_assets.notifications.incidents import current_troubles, forget_gone_collections
from ls4_assets.notifications.messages import compose
from ls4_assets.notifications.planner import Kind, Message, News, Pace, Told, Where, plan
from ls4_assets.notifications.rejections import Refusal, at_place
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


def tell_people(archive: Archive, now: datetime) -> Telling:
    """Send what is due now."""
    settings = archive.settings
    pace = Pace(timedelta(seconds=settings.notify_settle_seconds), timedelta(seconds=settings.notify_window_seconds))
    with archive.database.begin() as connection:
        forget_gone_collections(connection)
        troubles = current_troubles(connection, now, timedelta(seconds=settings.stuck_seconds), settings.max_attempts)
        told = read_told(connection, now - pace.window)
    due = plan(troubles, told, now, pace)
    deadline, sent = time.monotonic() + SECONDS, 0
    for message in due:
        if time.monotonic() > deadline:
            break
        text = compose(message, _files(archive.database, message), settings)
        try:
            archive.notifier.send(text.subject, text.body)
        except NotSent as error:
            logs.event("notice_unsent", logging.ERROR, reason=str(error))
            continue
        note_told(archive.database, message, now)
        sent += 1
    return Telling(sent, len(due) - sent, len(troubles))


def read_told(connection: Connection, since: datetime) -> dict[Where, Told]:
    """What still matters: open troubles, and those told of since a moment."""
    rows = connection.execute(select(notice).where(or_(notice.c.resolved_at.is_(None), notice.c.told_at > since)))
    return {(Kind(row.kind), row.place): Told(row.files, row.latest, row.told_at, row.resolved_at) for row in rows}


def note_told(engine: Engine, message: Message, now: datetime) -> None:
    over = message.news == News.OVER
    rows = [
        {
            "kind": one.kind,
            "place": one.place,
            "files": one.count,
            "latest": one.latest,
            "told_at": now,
            "resolved_at": now if over else None,
        }
        for one in message.troubles
    ]
    row = insert(notice)
    told = row.on_conflict_do_update(
        index_elements=[notice.c.kind, notice.c.place],
        set_={name: row.excluded[name] for name in ("files", "latest", "told_at", "resolved_at")},
    )
    with engine.begin() as connection:
        connection.execute(told, rows)


def _files(engine: Engine, message: Message) -> dict[Where, Sequence[Refusal]]:
    if message.news == News.OVER or len(message.troubles) > 1:
        return {}
    (trouble,) = message.troubles
    after = trouble.since if message.news == News.MORE else None
    with engine.connect() as connection:
        return {trouble.where: at_place(connection, trouble.kind, trouble.place, after, _FILES)}
