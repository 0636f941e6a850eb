"""An archive with its source table and without Dagster, for the tests of ingest."""

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy import text

from ls4_assets.domain.storages import S3
from ls4_assets.ingest.batches import BatchLimits, claim_batches
from ls4_assets.ingest.scan import ScanReport, scan_bucket
from ls4_assets.local.postgres import Cluster
from ls4_assets_tests.platform import empty_archive
from resources.archive import Archive
from resources.storage import Storage, StoredObject, folder_end

FOLDER = "bw/Travis/USDA_1958/frames/georef"
NAME = "Travis_USDA_1958_frames"


def tif(number: int, folder: str = FOLDER) -> str:
    return f"{folder}/02-08-60_6-{number:06}.tif"


@dataclass
class Ingest:
    """An archive to drop files into and to scan; `cursor` is where the next scan resumes."""

    archive: Archive
    cursor: str = ""

    @property
    def storage(self) -> Storage:
        return self.archive.storage

    def drop(self, *keys: str, data: bytes = b"x") -> None:
        for key in keys:
            self.storage.put(key, data)

    def delete(self, *keys: str) -> None:
        for key in keys:
            self.storage.delete(key)

    def scan(self, times: int = 1, keys: int | None = None, seconds: float | None = None) -> ScanReport:
        """Scan `times` times in a row; returns the last report."""
        for _ in range(times):
            report = scan_bucket(self.archive, self.cursor, seconds, keys)
            self.cursor = report.next_key
        return report

    def claim(
        self, batch_size: int = 100, new_batches: int = 10, per_shard: int = 10, per_collection: int = 6
    ) -> list[list[str]]:
        """Claim batches; returns the keys of each."""
        limits = BatchLimits(batch_size, new_batches, per_shard, per_collection)
        batches = claim_batches(self.archive.database, limits)
        return [[claimed.key for claimed in batch.sources] for batch in batches]

    def finish(self, *keys: str) -> None:
        """Mark the sources of these keys as done, as a run does; without keys, all sources."""
        self.write("UPDATE ls4.source SET state = 'done' WHERE key = ANY(:keys) OR :keys = '{}'", keys=list(keys))

    def write(self, statement: str, **values: object) -> None:
        with self.archive.database.begin() as connection:
            connection.execute(text(statement), values)

    def states(self) -> dict[str, str]:
        with self.archive.database.connect() as connection:
            return {row.key: row.state for row in connection.execute(text("SELECT key, state FROM ls4.source ORDER BY key"))}

    def count(self, where: str = "true") -> Counter[str]:
        with self.archive.database.connect() as connection:
            rows = connection.execute(text(f"SELECT state, count(*) FROM ls4.source WHERE {where} GROUP BY state"))
            return Counter({row[0]: row[1] for row in rows})


@contextmanager
def open_ingest(cluster: Cluster, folder: Path, storage: str | None = None, **overrides: str) -> Iterator[Ingest]:
    with empty_archive(cluster, folder, storage, **overrides) as archive:
        yield Ingest(archive)


@pytest.fixture(name="ingest")
def ingest_fixture(cluster: Cluster, tmp_path: Path) -> Iterator[Ingest]:
    """On a plain folder."""
    with open_ingest(cluster, tmp_path) as ingest:
        yield ingest


class FakeListing:
    """A storage that only lists keys, of any number."""

    capabilities = S3.capabilities

    def __init__(self, folders: dict[str, list[StoredObject]]) -> None:
        """`folders`: the objects of each georef folder, in key order."""
        self.folders = folders

    def list_level(self, folder: str, after: str = "") -> Iterator[StoredObject | str]:
        inside = self.folders.get(folder, [])
        yield from inside[bisect_right(inside, after, key=lambda stored: stored.key) :]
        below = {key[len(folder) :].partition("/")[0] for key in self.folders if key.startswith(folder) and key != folder}
        yield from (f"{folder}{name}/" for name in sorted(below) if folder_end(f"{folder}{name}/") > after)
