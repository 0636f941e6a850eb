"""`ls4 scan-inventory`: finds in an S3 Inventory report what events missed. At ten million objects a listing costs more.

The report is a day old, so it only selects the keys to check: those that differ from the source table go into the event inbox.
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

from ls4_assets.db.schema import SourceState, source
from ls4_assets.domain.chunks import chunks
from ls4_assets.errors import ConfigurationError
from ls4_assets.ingest import events, sources
from ls4_assets.ingest.listing import is_drop_key, pair_sidecars
from resources.archive import Archive
from resources.buckets import open_bucket
from resources.open import bucket_options
from resources.storage import Storage, StoredObject

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
class InventoryDifferences:
    """Numbers of dropped files: in the report, new or changed in it, and recorded but missing from it."""

    listed: int
    changed: int
    missing: int

    def __str__(self) -> str:
        return (
            f"{self.listed} dropped files in the inventory: {self.changed} are new or changed, "
            f"{self.missing} recorded ones are missing from it; the sensor checks them."
        )


def enqueue_differences(archive: Archive, address: str) -> InventoryDifferences:
    """Compare the report at `address`, s3://bucket/.../manifest.json, with the source table and enqueue the keys that differ.

    Raises ConfigurationError for a report of another bucket, and where the bucket is polled instead of sending events.
    """
    settings = archive.settings
    if not settings.events_queue_url:
        raise ConfigurationError(
            "Without LS4_EVENTS_QUEUE_URL the sensor scans the whole bucket itself, so there is nothing to compare. "
            "Set it where the bucket sends events."
        )
    bucket, _, key = address.removeprefix("s3://").partition("/")
    reports = open_bucket(f"s3://{bucket}", bucket_options(settings))
    manifest = json.loads(reports.read(key))
    if (manifest.get("sourceBucket"), manifest.get("fileFormat")) != (archive.storage.bucket, "CSV"):
        raise ConfigurationError(
            f"{address} is not a CSV inventory of {archive.storage.bucket}; pass the address of its manifest.json."
        )
    created = datetime.fromtimestamp(int(manifest["creationTimestamp"]) / 1000, UTC)
    with archive.database.begin() as connection:
        _listed.create(connection)
        listed = 0
        for chunk in chunks(_read_drops(reports, manifest), _ROWS):
            rows = [{"key": item.key, "size": item.size, "version": item.version, "modified": item.modified} for item in chunk]
            connection.execute(insert(_listed).returning(_listed.c.key), rows)
            listed += len(rows)
        changed = _enqueue(connection, _find_changed(connection))
        missing = _enqueue(connection, _find_missing(connection, created))
    return InventoryDifferences(listed, changed, missing)


def _read_drops(reports: Storage, manifest: Mapping[str, Any]) -> Iterator[StoredObject]:
    """The tifs and sidecars in the report; in a versioned bucket, their current versions."""
    columns = [name.strip() for name in manifest["fileSchema"].split(",")]
    for part in manifest["files"]:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "part.csv.gz"
            reports.download(part["key"], path)
            with gzip.open(path, "rt", encoding="utf-8", newline="") as lines:
                for row in csv.DictReader(lines, columns):
                    key = unquote_plus(row["Key"])
                    is_current = row.get("IsLatest", "true") == "true" and row.get("IsDeleteMarker", "false") != "true"
                    if is_current and is_drop_key(key):
                        modified = datetime.fromisoformat(row["LastModifiedDate"])
                        yield StoredObject(key, int(row["Size"]), row["ETag"], modified)


def _find_changed(connection: Connection) -> Iterator[str]:
    rows = connection.execute(select(_listed).order_by(_listed.c.key), execution_options={"yield_per": _ROWS})
    listed = (StoredObject(row.key, row.size, row.version, row.modified) for row in rows)
    for _, objects in groupby(listed, key=lambda item: item.key.rpartition("/")[0]):
        dropped = pair_sidecars(objects)
        recorded = sources.load_sources(connection, [file.key for file in dropped])
        for file in dropped:
            before = recorded.get(file.key)
            if before is None or before.state == SourceState.DELETED or before.version != file.version:
                yield file.key


def _find_missing(connection: Connection, created: datetime) -> Iterable[str]:
    """Recorded keys that the report lacks, without those that changed after it was created."""
    is_absent = ~exists().where(_listed.c.key == source.c.key)
    is_older = (source.c.state != SourceState.DELETED, source.c.missing_since.is_(None), source.c.changed_at < created)
    return connection.scalars(select(source.c.key).where(*is_older, is_absent))


def _enqueue(connection: Connection, keys: Iterable[str]) -> int:
    count = 0
    for chunk in chunks(list(keys), _ROWS):
        events.enqueue_keys(connection, chunk)
        count += len(chunk)
    return count
