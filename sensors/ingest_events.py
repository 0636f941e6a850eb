"""The sensor that hears of drops from the bucket's events, and takes the place of `bucket` where there are any.

A bucket of millions is dear to list every few seconds. So the queue says where to look (`ls4_assets.ingest.events`), and once a
day a sweep, the look that `bucket` takes all the time, finds what no event told of.
"""

import json
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta

import dagster as dg
from botocore.exceptions import BotoCoreError, ClientError

from ls4_assets.ingest.events import drain_inbox, receive
from ls4_assets.ingest.scan import ScanReport, recheck_pending, scan_bucket
from resources.archive import Archive
from sensors.ingest_poll import ingest_sensor

# Together with a look at the bucket they stay below the minute after which Dagster gives a tick up.
RECEIVE_SECONDS, INBOX_SECONDS = 5.0, 10.0


def ingest_events_sensor(seconds: int) -> dg.SensorDefinition:
    """The sensor, asking the queue every `seconds`."""
    description = "Hears of what staff drop, replace or delete in georef/, and materialises it."
    return ingest_sensor("ingest_events", description, seconds, scan_by_events)


def scan_by_events(archive: Archive, cursor: str | None) -> tuple[ScanReport, str]:
    """Look where events tell of something, then, at its hour, at the next part of the whole. Returns the new cursor too."""
    settings = archive.settings
    heard = receive_events(archive)
    look = drain_inbox(archive, INBOX_SECONDS)
    look.errors += heard
    sweep, now = FullScan.of(cursor), datetime.now(UTC)
    if not sweep.is_due(now, settings.full_scan_hour):
        look.add(recheck_pending(archive))
        return look, str(sweep)
    part = scan_bucket(archive, start=sweep.next_key)
    look.add(part)
    return look, str(sweep.after(part, now))


def receive_events(archive: Archive) -> list[str]:
    """Take what the queue holds into the inbox. Returns what went wrong; frames that are known already go on meanwhile."""
    most = archive.settings.events_per_tick
    try:
        return receive(archive.queue, archive.database, archive.storage.bucket, messages=most, seconds=RECEIVE_SECONDS).unreadable
    except (BotoCoreError, ClientError) as error:
        return [f"The event queue cannot be read ({error}); nothing is lost, the next look tries again."]


@dataclass(frozen=True)
class FullScan:
    """Where the sweep is, as the cursor keeps it. `began`: the last one, in ISO format; empty: there was none. `next_key`: the
    one under way goes on behind it."""

    began: str = ""
    next_key: str = ""

    @classmethod
    def of(cls, cursor: str | None) -> "FullScan":
        """A cursor of another sensor's says nothing: the next sweep begins at once."""
        try:
            return cls(**json.loads(cursor or "{}"))
        except (ValueError, TypeError):
            return cls()

    def __str__(self) -> str:
        return json.dumps(asdict(self))

    def is_due(self, now: datetime, hour: int) -> bool:
        """Is one under way, or did the last one begin before the hour last struck?"""
        struck = now.replace(hour=hour, minute=0, second=0, microsecond=0)
        struck -= timedelta(days=struck > now)
        return bool(self.next_key) or not self.began or datetime.fromisoformat(self.began) < struck

    def after(self, part: ScanReport, now: datetime) -> "FullScan":
        """A bucket that could not be listed at all was not swept."""
        if "" in part.unlisted:
            return self
        return replace(self, began=self.began if self.next_key else now.isoformat(), next_key=part.next_key)
