"""What events missed, found in a report of S3 Inventory instead of a listing: at ten million objects that is cheaper.

The report is a day old and only says where to look: what it shows otherwise than the source table goes into the inbox of events.
"""

import csv
import gzip
import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Any
from urllib.parse import unquote_plus

from sqlalchemy import BigInteger, Column, Connection, DateTime, MetaData, Table, Text, exists, insert, select

from ls4_assets.db.chunks import chunks
from ls4_assets.db.schema import SourceState, source
from ls4_assets.errors import ConfigurationError
from ls4_assets.ingest import events, sources
from ls4_assets.ingest.listing import is_looked_at, pair_sidecars
from resources.archive import Archive
from resources.s3_storage import S3Storage
from resources.storage import StoredObject

_ROWS = 5_000

_listed = Table(
    "listed",
    MetaData(),
    Column("key", Text(collation="C"), primary_key=True),
    Column("size", BigInteger, nullable=False),
    Column("version", Text, nullable=False),
    Column("modified", DateTime(timezone=True), nullable=False),
    prefixes=["TEMPORARY"],
    postgresql_on_commit="DROP",
)


@dataclass(frozen=True)
class Differences:
    """Drops in the report; of these, how many are otherwise than known; and known ones that it lacks."""

    listed: int
    differ: int
    absent: int

    def __str__(self) -> str:
        return (
            f"{self.listed} drops in the inventory: {self.differ} are new or have changed, "
            f"{self.absent} known ones are missing from it; the sensor looks at them."
        )


def note_differences(archive: Archive, address: str) -> Differences:
    """Compare the report at `address`, s3://bucket/.../manifest.json. Raises ConfigurationError for one of another bucket."""
    settings = archive.settings
    if not settings.events_queue_url:
        raise ConfigurationError("Without LS4_EVENTS_QUEUE_URL the bucket is listed all the time: there is nothing to compare.")
    bucket, _, key = address.removeprefix("s3://").partition("/")
    reports = S3Storage(bucket, settings.s3_endpoint_url, settings.s3_region)
    manifest = json.loads(reports.read(key))
    if (manifest.get("sourceBucket"), manifest.get("fileFormat")) != (archive.storage.bucket, "CSV"):
        raise ConfigurationError(f"{address} is no inventory of {archive.storage.bucket} as CSV; name the manifest.json of one.")
    made = datetime.fromtimestamp(int(manifest["creationTimestamp"]) / 1000, UTC)
    with archive.database.begin() as connection:
        _listed.create(connection)
        listed = 0
        for some in chunks(_drops(reports, manifest), _ROWS):
            rows = [{"key": o.key, "size": o.size, "version": o.version, "modified": o.modified} for o in some]
            connection.execute(insert(_listed).returning(_listed.c.key), rows)
            listed += len(rows)
        differ = _noted(connection, _differing(connection))
        absent = _noted(connection, _absent(connection, made))
    return Differences(listed, differ, absent)


def _drops(reports: S3Storage, manifest: Mapping[str, Any]) -> Iterator[StoredObject]:
    """What the report says of tifs and their sidecars; of a versioned bucket, of the newest versions."""
    columns = [name.strip() for name in manifest["fileSchema"].split(",")]
    for part in manifest["files"]:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "part.csv.gz"
            reports.download(part["key"], path)
            with gzip.open(path, "rt", encoding="utf-8", newline="") as lines:
                for row in csv.DictReader(lines, columns):
                    key = unquote_plus(row["Key"])
                    is_here = row.get("IsLatest", "true") == "true" and row.get("IsDeleteMarker", "false") != "true"
                    if is_here and is_looked_at(key):
                        modified = datetime.fromisoformat(row["LastModifiedDate"])
                        yield StoredObject(key, int(row["Size"]), row["ETag"], modified)


def _differing(connection: Connection) -> Iterator[str]:
    rows = connection.execute(select(_listed).order_by(_listed.c.key), execution_options={"yield_per": _ROWS})
    found = (StoredObject(row.key, row.size, row.version, row.modified) for row in rows)
    for _, objects in groupby(found, key=lambda object_: object_.key.rpartition("/")[0]):
        dropped = pair_sidecars(objects)
        known = sources.known_of(connection, [each.key for each in dropped])
        for each in dropped:
            before = known.get(each.key)
            if before is None or before.state == SourceState.DELETED or before.version != each.version:
                yield each.key


def _absent(connection: Connection, made: datetime) -> Iterable[str]:
    """Not those that came after the report was made."""
    lacking = ~exists().where(_listed.c.key == source.c.key)
    known = (source.c.state != SourceState.DELETED, source.c.missing_since.is_(None), source.c.changed_at < made)
    return connection.scalars(select(source.c.key).where(*known, lacking))


def _noted(connection: Connection, keys: Iterable[str]) -> int:
    count = 0
    for some in chunks(list(keys), _ROWS):
        events.put(connection, some)
        count += len(some)
    return count
