"""The bucket's events: from the queue into the inbox, from the inbox to a look at the objects themselves.

An event only says where to look. It may come twice, late, in any order, or never (for that there is the sweep); what became of
the object is decided by asking the bucket. A message is deleted when its key stands in the inbox, and a key leaves the inbox
when it was looked at, so that whatever dies in between costs no more than a second look.
"""

import json
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Protocol
from urllib.parse import unquote_plus

from sqlalchemy import Connection, Engine, delete, func, select, tuple_, update
from sqlalchemy.dialects.postgresql import insert

from ls4_assets.db.schema import inbox
from ls4_assets.ingest.listing import is_looked_at
from ls4_assets.ingest.scan import ScanReport, check_keys
from resources.archive import Archive
from resources.queue import Message

# Keys that are looked at together: in folders of their own each, they are as many listings.
_TOGETHER = 200
# A folder that cannot be read is asked again after half a minute, two, eight, and then every half an hour.
_FIRST_WAIT_SECONDS, _WAIT_GROWTH, _LONGEST_WAIT_SECONDS = 30, 4, 1800


class Queue(Protocol):
    """What is asked of `resources.queue.EventQueue`."""

    def receive(self) -> list[Message]: ...

    def delete(self, messages: Sequence[Message]) -> None: ...


@dataclass
class Received:
    """`unreadable`: why a message was left to the dead letters."""

    messages: int = 0
    unreadable: list[str] = field(default_factory=list)


def keys_from_event(body: str, bucket: str) -> list[str]:
    """The keys that a message of EventBridge or of S3 itself tells of. Raises ValueError for any other, and another bucket's."""
    said = json.loads(body)
    if not isinstance(said, dict):
        raise ValueError("it is no JSON object")
    if said.get("Event") == "s3:TestEvent":
        return []
    if said.get("source") == "aws.s3":
        found = [_place(said.get("detail"), str)]
    elif isinstance(said.get("Records"), list):
        # Here alone are keys encoded as in an address, with "+" for a blank.
        found = [_place(record.get("s3") if isinstance(record, dict) else None, unquote_plus) for record in said["Records"]]
    else:
        raise ValueError("it is no event of S3")
    for of, key in found:
        if of != bucket:
            raise ValueError(f"it tells of the bucket {of}, not of {bucket}")
        if "\0" in key:
            raise ValueError("its key is no text")
        key.encode()  # half of a surrogate pair is JSON, and no text either
    return [key for _, key in found]


def receive(queue: Queue, engine: Engine, bucket: str, *, messages: int, seconds: float) -> Received:
    """Take up to so many messages into the inbox; those that nobody can read stay in the queue, and hold up no other."""
    received, deadline = Received(), time.monotonic() + seconds
    while received.messages < messages and time.monotonic() < deadline:
        got = queue.receive()
        if not got:
            break
        received.messages += len(got)
        kept: list[Message] = []
        keys: set[str] = set()
        for message in got:
            try:
                keys.update(filter(is_looked_at, keys_from_event(message.body, bucket)))
                kept.append(message)
            except ValueError as error:
                received.unreadable.append(
                    f"A message of the event queue cannot be read ({error}) and goes to the dead letters; see who sends there "
                    f"{message.body[:200]!r}."
                )
        with engine.begin() as connection:
            put(connection, keys)
        queue.delete(kept)
    return received


def put(connection: Connection, keys: Iterable[str]) -> None:
    """Note keys to be looked at; one that is noted already is counted, so that a look under way does not take it away."""
    rows = [{"key": key} for key in sorted(keys)]
    if rows:
        again = {"events": inbox.c.events + 1, "retry_after": func.now(), "attempts": 0}
        noted = insert(inbox).on_conflict_do_update(index_elements=[inbox.c.key], set_=again)
        connection.execute(noted.returning(inbox.c.key), rows)


def drain_inbox(archive: Archive, seconds: float) -> ScanReport:
    """Look at the keys that wait, longest first, for about so long. Those whose folder could not be read come again later."""
    look, deadline = ScanReport(), time.monotonic() + seconds
    while time.monotonic() < deadline:
        with archive.database.connect() as connection:
            due = select(inbox.c.key, inbox.c.events).where(inbox.c.retry_after <= func.now())
            rows = connection.execute(due.order_by(inbox.c.retry_after, inbox.c.since).limit(_TOGETHER)).all()
        if not rows:
            break
        part = check_keys(archive, [row.key for row in rows])
        look.add(part)
        unlisted = {row.key for row in rows if row.key[: row.key.rfind("/") + 1] in part.unlisted}
        with archive.database.begin() as connection:
            _take_out(connection, {row.key: row.events for row in rows if row.key not in unlisted})
            _put_off(connection, unlisted)
    return look


def _take_out(connection: Connection, seen: Mapping[str, int]) -> None:
    """Not one of which another event came during the look: it may tell of what came after it."""
    connection.execute(delete(inbox).where(tuple_(inbox.c.key, inbox.c.events).in_(list(seen.items()))))


def _put_off(connection: Connection, unlisted: Collection[str]) -> None:
    wait = func.least(_FIRST_WAIT_SECONDS * func.power(_WAIT_GROWTH, inbox.c.attempts), _LONGEST_WAIT_SECONDS)
    later = {"attempts": inbox.c.attempts + 1, "retry_after": func.now() + wait * timedelta(seconds=1)}
    connection.execute(update(inbox).where(inbox.c.key.in_(unlisted)).values(later))


def _place(said: object, decoded: Callable[[str], str]) -> tuple[str, str]:
    """Bucket and key of one event."""
    match said:
        case {"bucket": {"name": str(bucket)}, "object": {"key": str(key)}}:
            return bucket, decoded(key)
    raise ValueError("it names no object")
