"""The quarantine list: rejected and failed files with reason, fix, times and resolution.

It is read from the table `rejection`, which database triggers maintain. The Dagster UI (`rejected_files`), `ls4 status` and the
quarantine page show it; the page reads the JSON that is rendered here. Notifications about these files are planned in planner.py.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote

from sqlalchemy import Connection, Row, Select, and_, func, select

from ls4_assets.db.schema import frame, rejection, source
from ls4_assets.domain.names import Frame
from ls4_assets.domain.printable import printable

# Maximum files on the page: open ones first, then the latest resolved ones.
MAX_LISTED = 5_000
_DEFAULT_ADVICE = "Correct the file and drop it again."
# With the frame of the last valid version: a file that fails now may have been on the map before.
_WITH_FRAME = rejection.outerjoin(source, source.c.key == rejection.c.key).outerjoin(
    frame, and_(frame.c.id == source.c.frame, ~frame.c.deleted)
)
_QUERY = select(rejection, frame.c.id.label("frame")).select_from(_WITH_FRAME)


@dataclass(frozen=True)
class Rejection:
    """A rejected or failed file, as it may be shown. `scope` is its collection, or its folder if the name gives no collection.

    `resolved_at` is None while it is open. After that, `is_accepted` says whether a corrected file was accepted, or the file was
    renamed or removed. `thumbnail_key`: the picture of the last valid version; None if there was none.
    """

    key: str
    kind: str
    scope: str
    reason: str
    advice: str
    first_seen: datetime
    last_seen: datetime
    occurrences: int
    resolved_at: datetime | None
    is_accepted: bool
    thumbnail_key: str | None = None

    @property
    def state(self) -> str:
        if self.resolved_at is None:
            return "open"
        return "taken" if self.is_accepted else "renamed or removed"


@dataclass(frozen=True)
class RejectionCounts:
    """Numbers of files. `stamp` differs whenever anything in the list has changed."""

    open: int
    resolved: int
    stamp: str


def count_rejections(connection: Connection) -> RejectionCounts:
    """Count open and resolved files."""
    resolved = func.count(rejection.c.resolved_at)
    row = connection.execute(select(func.count(), resolved, func.coalesce(func.sum(rejection.c.occurrences), 0))).one()
    return RejectionCounts(row[0] - row[1], row[1], f"{row[0]}/{row[1]}/{row[2]}")


def list_rejections(connection: Connection, limit: int = MAX_LISTED) -> list[Rejection]:
    """Up to `limit` files: open ones first, each group with the latest first."""
    is_open = rejection.c.resolved_at.is_(None)
    open_query = _QUERY.where(is_open).order_by(rejection.c.last_seen.desc(), rejection.c.key)
    resolved_query = _QUERY.where(~is_open).order_by(rejection.c.resolved_at.desc(), rejection.c.key)
    rejections = _load(connection, open_query.limit(limit))
    return rejections + _load(connection, resolved_query.limit(limit - len(rejections)))


def list_open_rejections(connection: Connection, kind: str, scope: str, after: datetime | None, limit: int) -> list[Rejection]:
    """Open files of a kind in a scope, sorted by key; with `after`, only those seen after that time."""
    conditions = [rejection.c.resolved_at.is_(None), rejection.c.kind == kind, rejection.c.scope == scope]
    if after:
        conditions.append(rejection.c.last_seen > after)
    return _load(connection, _QUERY.where(*conditions).order_by(rejection.c.key).limit(limit))


def split_advice(key: str, reason: str) -> tuple[str, str]:
    """Split a message for staff into what is wrong and what to do: the advice follows the last semicolon."""
    error, separator, advice = " ".join(reason.split()).removeprefix(f"{printable(key)}: ").rpartition("; ")
    if not separator:
        return _to_sentence(advice), _DEFAULT_ADVICE
    return _to_sentence(error), _to_sentence(advice)


def render_staff_json(counts: RejectionCounts, rejections: Sequence[Rejection], now: datetime, public_url: str) -> bytes:
    """The list for the quarantine page. Times are in ISO 8601, UTC; thumbnails are below `public_url`."""
    entries = [
        {
            "file": PurePosixPath(entry.key).name,
            "folder": str(PurePosixPath(entry.key).parent),
            "place": entry.scope,
            "kind": entry.kind,
            "reason": entry.reason,
            "advice": entry.advice,
            "first": _format_time(entry.first_seen),
            "last": _format_time(entry.last_seen),
            "times": entry.occurrences,
            "state": entry.state,
            "resolved": _format_time(entry.resolved_at) if entry.resolved_at else None,
            "thumbnail": f"{public_url}/{quote(entry.thumbnail_key)}" if entry.thumbnail_key else None,
        }
        for entry in rejections
    ]
    summary = {"written": _format_time(now), "open": counts.open, "resolved": counts.resolved}
    return json.dumps(summary | {"rejections": entries}, ensure_ascii=False, separators=(",", ":")).encode()


def _load(connection: Connection, query: Select[Any]) -> list[Rejection]:
    return [_from_row(row) for row in connection.execute(query)]


def _from_row(row: Row[Any]) -> Rejection:
    reason, advice = split_advice(row.key, row.reason)
    return Rejection(
        printable(row.key), row.kind, printable(row.scope), printable(reason), printable(advice),
        row.first_seen, row.last_seen, row.occurrences, row.resolved_at, row.resolved_by is not None,
        Frame.from_id(row.frame).thumbnail_key if row.frame else None,
    )  # fmt: skip


def _to_sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:].rstrip('.')}." if text and not text.endswith("?") else text


def _format_time(time: datetime) -> str:
    return time.astimezone(UTC).isoformat(timespec="seconds")
