"""The sensor `ingest_events`: ingests what the bucket's events report, in place of `ingest_poll` where there are events.

Listing millions of keys continuously is expensive. So the events say which keys to check (`ls4_assets.ingest.events`), and
once a day a full scan, the one that `ingest_poll` runs all the time, finds what no event reported.
"""

import json
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta

import dagster as dg
from botocore.exceptions import BotoCoreError, ClientError

from ls4_assets.ingest.events import drain_inbox, fill_inbox
from ls4_assets.ingest.scan import ScanReport, recheck_pending, scan_bucket
from resources.archive import Archive
from sensors.defined_shards import DefinedShards
from sensors.ingest_poll import ingest_sensor

# Together with a scan they stay below the 60 s after which Dagster cancels a tick.
RECEIVE_SECONDS, INBOX_SECONDS = 5.0, 10.0


def ingest_events_sensor(seconds: int, shards: DefinedShards) -> dg.SensorDefinition:
    """The sensor, with a tick every `seconds`."""
    description = "Receives the bucket's events and materializes what staff drop, replace or delete in georef/."
    return ingest_sensor("ingest_events", description, seconds, shards, scan_by_events)


def scan_by_events(archive: Archive, cursor: str | None) -> tuple[ScanReport, str]:
    """Check the keys that events report and, when a full scan is due, its next part. Returns the new cursor too."""
    settings = archive.settings
    warnings = receive_events(archive)
    report = drain_inbox(archive, INBOX_SECONDS)
    report.errors += warnings
    full_scan, now = FullScan.from_cursor(cursor), datetime.now(UTC)
    if not full_scan.is_due(now, settings.full_scan_hour):
        report.add(recheck_pending(archive))
        return report, str(full_scan)
    part = scan_bucket(archive, start=full_scan.next_key)
    report.add(part)
    return report, str(full_scan.advance(part, now))


def receive_events(archive: Archive) -> list[str]:
    """Move the queue's events into the inbox. Returns warnings; after one, queued frames and the inbox are still processed."""
    limit = archive.settings.events_per_tick
    try:
        report = fill_inbox(archive.queue, archive.database, archive.storage.bucket, messages=limit, seconds=RECEIVE_SECONDS)
    except (BotoCoreError, ClientError) as error:
        return [f"The event queue cannot be read ({error}); nothing is lost, and the next tick retries."]
    return report.unreadable


@dataclass(frozen=True)
class FullScan:
    """The progress of the daily full scan, as the cursor stores it.

    `started_at`: start of the latest one in ISO format, empty when there was none. `next_key`: the key after which the
    running one resumes, empty when none is running.
    """

    started_at: str = ""
    next_key: str = ""

    @classmethod
    def from_cursor(cls, cursor: str | None) -> "FullScan":
        """Parse a cursor. With one of another sensor, the next full scan starts at once."""
        try:
            return cls(**json.loads(cursor or "{}"))
        except (ValueError, TypeError):
            return cls()

    def __str__(self) -> str:
        return json.dumps(asdict(self))

    def is_due(self, now: datetime, hour: int) -> bool:
        """Whether one is running, or none has started since the last time it was `hour` o'clock (UTC)."""
        scheduled = now.replace(hour=hour, minute=0, second=0, microsecond=0)
        scheduled -= timedelta(days=scheduled > now)
        return bool(self.next_key) or not self.started_at or datetime.fromisoformat(self.started_at) < scheduled

    def advance(self, part: ScanReport, now: datetime) -> "FullScan":
        """The progress after `part`. A bucket that could not be listed at all does not count as scanned."""
        if "" in part.unlisted:
            return self
        return replace(self, started_at=self.started_at if self.next_key else now.isoformat(), next_key=part.next_key)
