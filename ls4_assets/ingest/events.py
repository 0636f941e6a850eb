"""S3 events: from the queue into the inbox table, and from the inbox to a check of the keys in the bucket.

An event only says which key to check: it may arrive twice, late, out of order or never (the full scan finds what was lost),
so what happened to an object is decided by the bucket. A message is deleted once its key is committed to the inbox, and a key
leaves the inbox once it was checked, so a crash in between costs only a repeated check. The comparison itself is in `scan`.
"""

import json
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol
from urllib.parse import unquote_plus

from sqlalchemy import Connection, Engine, delete, func, select, tuple_, update
from sqlalchemy.dialects.postgresql import insert

from ls4_assets.db.backoff import backoff_interval
from ls4_assets.db.schema import inbox
from ls4_assets.domain.backoff import Backoff
from ls4_assets.ingest.listing import is_drop_key
from ls4_assets.ingest.scan import ScanReport, check_keys
from resources.archive import Archive
from resources.queue import QueueMessage

# Keys checked together; in the worst case, each in a folder of its own, this many listings.
_KEYS_PER_CHECK = 200
# Backoff for a folder that cannot be listed: 30 s, 2 min, 8 min, then every 30 min.
_BACKOFF = Backoff(first_seconds=30, growth=4, longest_seconds=1800)


class Queue(Protocol):
    """The part of `resources.queue.EventQueue` that ingest uses."""

    def receive(self) -> list[QueueMessage]: ...

    def delete(self, messages: Sequence[QueueMessage]) -> None: ...


@dataclass
class ReceiveReport:
    """`messages` received; `unreadable`: for each message left to the dead-letter queue, a sentence with the reason."""

    messages: int = 0
    unreadable: list[str] = field(default_factory=list)


def keys_from_event(body: str, bucket: str) -> list[str]:
    """The object keys in a message of EventBridge or of S3 itself; none in S3's test event.

    Raises ValueError for any other message and for an event of another bucket.
    """
    message = json.loads(body)
    if not isinstance(message, dict):
        raise ValueError("not a JSON object")
    if message.get("Event") == "s3:TestEvent":
        return []
    if message.get("source") == "aws.s3":
        objects = [_bucket_and_key(message.get("detail"), str)]
    elif isinstance(message.get("Records"), list):
        # Only in this format are keys URL-encoded, with "+" for a space.
        records = [record.get("s3") if isinstance(record, dict) else None for record in message["Records"]]
        objects = [_bucket_and_key(record, unquote_plus) for record in records]
    else:
        raise ValueError("not an S3 event")
    for event_bucket, key in objects:
        if event_bucket != bucket:
            raise ValueError(f"an event of bucket {event_bucket}, not of {bucket}")
        if "\0" in key:
            raise ValueError("the key is not valid text")
        key.encode()  # raises UnicodeEncodeError, a ValueError: JSON may hold half of a surrogate pair
    return [key for _, key in objects]


def fill_inbox(queue: Queue, engine: Engine, bucket: str, *, messages: int, seconds: float) -> ReceiveReport:
    """Move up to `messages` messages into the inbox. Unreadable ones stay in the queue and do not block the others."""
    report, deadline = ReceiveReport(), time.monotonic() + seconds
    while report.messages < messages and time.monotonic() < deadline:
        received = queue.receive()
        if not received:
            break
        report.messages += len(received)
        readable: list[QueueMessage] = []
        keys: set[str] = set()
        for message in received:
            try:
                keys.update(filter(is_drop_key, keys_from_event(message.body, bucket)))
                readable.append(message)
            except ValueError as error:
                report.unreadable.append(
                    f"A message in the event queue cannot be read ({error}) and goes to the dead-letter queue. "
                    f"Find out who sends {message.body[:200]!r}."
                )
        with engine.begin() as connection:
            enqueue_keys(connection, keys)
        queue.delete(readable)
    return report


def enqueue_keys(connection: Connection, keys: Iterable[str]) -> None:
    """Add keys to the inbox. The event count of a key already there is raised, so that a running check does not remove it."""
    rows = [{"key": key} for key in sorted(keys)]
    if rows:
        repeated = {"events": inbox.c.events + 1, "retry_after": func.now(), "attempts": 0}
        upsert = insert(inbox).on_conflict_do_update(index_elements=[inbox.c.key], set_=repeated)
        connection.execute(upsert.returning(inbox.c.key), rows)


def drain_inbox(archive: Archive, seconds: float) -> ScanReport:
    """Check the waiting keys, oldest first, for about `seconds`. Keys whose folder cannot be listed are retried later."""
    report, deadline = ScanReport(), time.monotonic() + seconds
    while time.monotonic() < deadline:
        with archive.database.connect() as connection:
            due = select(inbox.c.key, inbox.c.events).where(inbox.c.retry_after <= func.now())
            rows = connection.execute(due.order_by(inbox.c.retry_after, inbox.c.since).limit(_KEYS_PER_CHECK)).all()
        if not rows:
            break
        checked = check_keys(archive, [row.key for row in rows])
        report.add(checked)
        unlisted = {row.key for row in rows if row.key[: row.key.rfind("/") + 1] in checked.unlisted}
        with archive.database.begin() as connection:
            _remove(connection, {row.key: row.events for row in rows if row.key not in unlisted})
            _defer(connection, unlisted)
    return report


def _remove(connection: Connection, checked: Mapping[str, int]) -> None:
    """Remove checked keys, unless another event came during the check: it may be about a later change."""
    connection.execute(delete(inbox).where(tuple_(inbox.c.key, inbox.c.events).in_(list(checked.items()))))


def _defer(connection: Connection, unlisted: Collection[str]) -> None:
    failures = inbox.c.attempts + 1
    deferred = {"attempts": failures, "retry_after": func.now() + backoff_interval(_BACKOFF, failures)}
    connection.execute(update(inbox).where(inbox.c.key.in_(unlisted)).values(deferred))


def _bucket_and_key(event: object, decode: Callable[[str], str]) -> tuple[str, str]:
    match event:
        case {"bucket": {"name": str(bucket)}, "object": {"key": str(key)}}:
            return bucket, decode(key)
    raise ValueError("no bucket and key in the event")
