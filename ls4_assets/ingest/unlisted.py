"""Folders that scans cannot list: recorded until a scan lists them, so that people are notified of one that stays unlisted."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, and_, delete, func, select
from sqlalchemy.dialects.postgresql import insert

from ls4_assets.db.schema import unlisted_folder

WHOLE_ARCHIVE = "the archive"


@dataclass(frozen=True)
class UnlistedRecord:
    """`folder` is a key prefix, or empty for the bucket itself; `reason` is a sentence with advice; `since` is aware UTC."""

    folder: str
    reason: str
    since: datetime


def record_unlisted(connection: Connection, folder: str, reason: str) -> None:
    """Record that a scan failed in this folder; the time of its first failure stays."""
    row = insert(unlisted_folder).values(folder=folder, reason=reason, since=func.now())
    connection.execute(row.on_conflict_do_update(index_elements=["folder"], set_={"reason": row.excluded.reason}))


def clear_listed(connection: Connection, start: str, end: str, failed: Collection[str]) -> None:
    """Delete the records of the folders that end in a range of keys that was compared, `start` < end of the folder <= `end`.

    A range that ends inside a folder says nothing about the rest of it. `failed`: folders that failed in this scan.
    """
    folder = unlisted_folder.c.folder
    folder_end = func.left(folder, -1) + "0"
    ends_here = and_(folder != "", folder_end > start, folder_end <= end)
    connection.execute(delete(unlisted_folder).where(ends_here, folder.not_in(failed)))


def clear_archive(connection: Connection) -> None:
    """Delete the record of the bucket itself."""
    connection.execute(delete(unlisted_folder).where(unlisted_folder.c.folder == ""))


def list_unlisted(connection: Connection) -> Iterator[UnlistedRecord]:
    """All of them, in key order."""
    for row in connection.execute(select(unlisted_folder).order_by(unlisted_folder.c.folder)):
        yield UnlistedRecord(row.folder, row.reason, row.since)
