"""Folders that scans cannot list, recorded until scans have listed what failed of them.

People are notified of one that stays unlisted (`notifications.incidents`).
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, Connection, between, delete, func, select, update
from sqlalchemy.dialects.postgresql import insert

from ls4_assets.db.schema import unlisted_folder

WHOLE_ARCHIVE = "the archive"


@dataclass(frozen=True)
class UnlistedRecord:
    """`folder` is a key prefix, or empty for the bucket itself; `reason` is a sentence with advice; `since` is aware UTC."""

    folder: str
    reason: str
    since: datetime


def record_unlisted(connection: Connection, folder: str, start: str, end: str, reason: str) -> None:
    """Record that a scan of the keys `start` < key <= `end` failed in this folder; the time of its first failure stays."""
    row = insert(unlisted_folder).values(folder=folder, reason=reason, since=func.now(), range_start=start, range_end=end)
    known, new = unlisted_folder.c, row.excluded
    changed = {
        "reason": new.reason,
        "range_start": func.least(known.range_start, new.range_start),
        "range_end": func.greatest(known.range_end, new.range_end),
    }
    connection.execute(row.on_conflict_do_update(index_elements=["folder"], set_=changed))
    if folder:
        # A failure of the whole archive is over when every key was compared, or is in a folder with a record of its own.
        _shorten(connection, start, end, known.folder == "")


def clear_listed(connection: Connection, start: str, end: str, failed: Collection[str]) -> None:
    """Note that the keys `start` < key <= `end` were compared, and delete the records of which all keys were.

    `failed`: folders that failed in this scan, whose records stay as they are.
    """
    _shorten(connection, start, end, unlisted_folder.c.folder.not_in(failed))


def _shorten(connection: Connection, start: str, end: str, affected: ColumnElement[bool]) -> None:
    """Take the keys from the affected records. A large folder is compared in several ranges, and each takes its part."""
    record, change = unlisted_folder.c, update(unlisted_folder).where(affected)
    connection.execute(change.where(between(record.range_start, start, end)).values(range_start=end))
    connection.execute(change.where(between(record.range_end, start, end)).values(range_end=start))
    connection.execute(delete(unlisted_folder).where(record.range_start >= record.range_end))


def list_unlisted(connection: Connection) -> Iterator[UnlistedRecord]:
    """All of them, in key order."""
    for row in connection.execute(select(unlisted_folder).order_by(unlisted_folder.c.folder)):
        yield UnlistedRecord(row.folder, row.reason, row.since)
