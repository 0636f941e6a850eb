"""The quarantine list: files that could not be taken, why, what to do, since when, and what became of them.

Read from table `rejection`, which triggers keep; shown in the Dagster UI (`rejected_files`), by `ls4 status`, and to staff on a page of the
map front, which reads the JSON that is written here.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Any

from sqlalchemy import Connection, Row, Select, func, select

from ls4_assets.db.schema import rejection

# Not below any prefix that is served to the public: whether and to whom it is shown is the front's to say.
STAFF_KEY = "staff/rejections.json"
# What the page gets: open ones first, then the newest of the others.
LISTED = 5_000
_NO_ADVICE = "Correct the file and drop it again."


@dataclass(frozen=True)
class Rejection:
    """`place` is the collection or, where the name tells of none, the folder. `resolved_at` None: open; then `taken` says whether
    a corrected file was taken, or the file was renamed or removed."""

    key: str
    kind: str
    place: str
    reason: str
    advice: str
    first_seen: datetime
    last_seen: datetime
    times: int
    resolved_at: datetime | None
    taken: bool

    @property
    def state(self) -> str:
        if self.resolved_at is None:
            return "open"
        return "taken" if self.taken else "renamed or removed"


@dataclass(frozen=True)
class Counts:
    """`stamp` is another one whenever anything in the list is."""

    open: int
    resolved: int
    stamp: str


def counts(connection: Connection) -> Counts:
    resolved = func.count(rejection.c.resolved_at)
    row = connection.execute(select(func.count(), resolved, func.coalesce(func.sum(rejection.c.times), 0))).one()
    return Counts(row[0] - row[1], row[1], f"{row[0]}/{row[1]}/{row[2]}")


def listed(connection: Connection, most: int = LISTED) -> list[Rejection]:
    """Open ones first, the newest of each first."""
    opened = select(rejection).where(rejection.c.resolved_at.is_(None)).order_by(rejection.c.last_seen.desc(), rejection.c.key)
    found = _read(connection, opened.limit(most))
    resolved = (
        select(rejection).where(rejection.c.resolved_at.is_not(None)).order_by(rejection.c.resolved_at.desc(), rejection.c.key)
    )
    return found + _read(connection, resolved.limit(most - len(found)))


def at_place(connection: Connection, kind: str, place: str, after: datetime | None, most: int) -> list[Rejection]:
    """Open ones of a kind at a place, those alone that came after a moment, in the order of their keys."""
    mine = [rejection.c.resolved_at.is_(None), rejection.c.kind == kind, rejection.c.place == place]
    if after:
        mine.append(rejection.c.last_seen > after)
    return _read(connection, select(rejection).where(*mine).order_by(rejection.c.key).limit(most))


def split_advice(key: str, reason: str) -> tuple[str, str]:
    """What is wrong, and what to do: the messages for staff are one sentence, whose last part is the advice."""
    wrong, separator, advice = " ".join(reason.split()).removeprefix(f"{key}: ").rpartition("; ")
    if not separator:
        return _sentence(advice), _NO_ADVICE
    return _sentence(wrong), _sentence(advice)


def staff_json(counted: Counts, found: Sequence[Rejection], now: datetime) -> bytes:
    """The list for the page. Times are ISO in UTC."""
    entries = [
        {
            "file": PurePosixPath(one.key).name,
            "folder": str(PurePosixPath(one.key).parent),
            "place": one.place,
            "kind": one.kind,
            "reason": one.reason,
            "advice": one.advice,
            "first": _iso(one.first_seen),
            "last": _iso(one.last_seen),
            "times": one.times,
            "state": one.state,
            "resolved": _iso(one.resolved_at) if one.resolved_at else None,
        }
        for one in found
    ]
    about = {"written": _iso(now), "open": counted.open, "resolved": counted.resolved}
    return json.dumps(about | {"rejections": entries}, ensure_ascii=False, separators=(",", ":")).encode()


def _read(connection: Connection, query: Select[Any]) -> list[Rejection]:
    return [_rejection(row) for row in connection.execute(query)]


def _rejection(row: Row[Any]) -> Rejection:
    reason, advice = split_advice(row.key, row.reason)
    return Rejection(
        row.key, row.kind, row.place, reason, advice,
        row.first_seen, row.last_seen, row.times, row.resolved_at, row.resolved_by is not None,
    )  # fmt: skip


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:].rstrip('.')}." if text and not text.endswith("?") else text


def _iso(when: datetime) -> str:
    return when.astimezone(UTC).isoformat(timespec="seconds")
