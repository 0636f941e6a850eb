"""Adopt one collection, from the listing to Dagster: the work of one pool process.

The order of the writes makes a crash harmless: partitions and events first, rows last. The next adoption skips frames that have
a row, and stores the event of a frame without one again.
"""

import time
import warnings
from collections.abc import Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import PurePosixPath

import rasterio
from dagster import DagsterInstance
from rasterio.errors import NotGeoreferencedWarning
from sqlalchemy import Engine

from ls4_assets.db.tile_index import collection_lock
from ls4_assets.domain.chunks import chunks
from ls4_assets.domain.names import Collection
from ls4_assets.errors import FrameError
from ls4_assets.operations.adopt import history, records
from ls4_assets.operations.adopt.cog_header import read_header
from ls4_assets.operations.adopt.inventory import Candidate, CollectionInventory, take_inventory
from ls4_assets.operations.adopt.legacy_table import LegacyRow, read_legacy_rows, replace_legacy_table
from ls4_assets.operations.adopt.records import Adoption
from ls4_assets.runtime.instance import InstanceReference
from ls4_assets.settings import Settings
from resources.open import open_database, open_storage
from resources.storage import Storage

_FRAME_CHUNK = 500
# Reading a header over the network is mostly waiting. A local one is immediate, and more than a few threads only contend.
_REMOTE_READERS, _LOCAL_READERS = 24, 2
# For reading headers: no sibling files, and the first 32 kB at once, which hold all directories.
_HEADER_OPTIONS = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    "GDAL_INGESTED_BYTES_AT_OPEN": "32768",
    "GDAL_PAM_ENABLED": "NO",
}


@dataclass(frozen=True)
class AdoptTask:
    """One collection to adopt.

    `ignore_times`: accept a COG as made from its georef tif even if it is older. `instance`: Dagster's; None to plan only.
    """

    settings: Settings
    collection: Collection
    ignore_times: bool
    instance: InstanceReference | None


@dataclass
class AdoptReport:
    """The result for one collection, or the plan.

    Counts of COGs: `adopted`; `existing`, which the database has already; and of the adopted ones `without_source`, which have
    no georef tif, `outdated`, which are older than theirs and will be made again, and `unmasked`, whose footprint is the image's
    rectangle because they have neither a mask nor a no-data value. `new_outlines`: legacy rows whose bounding box becomes an
    outline. `missing_cogs`: frames adopted earlier without a georef tif whose COG is gone.

    `legacy_rows`: rows of the legacy table; None when there is none. `legacy_rows_dropped`: those whose COG is missing.
    `problems`: a sentence by key for each COG that cannot be adopted. `stage_seconds`: durations by stage.
    """

    collection: Collection
    adopted: int = 0
    existing: int = 0
    without_source: int = 0
    outdated: int = 0
    new_outlines: int = 0
    unmasked: int = 0
    missing_cogs: int = 0
    legacy_rows: int | None = None
    legacy_rows_dropped: int = 0
    problems: dict[str, str] = field(default_factory=dict)
    stage_seconds: dict[str, float] = field(default_factory=dict)


def adopt_collection(task: AdoptTask) -> AdoptReport:
    """Plan or adopt. Raises an Ls4Error, without any change, when the collection as a whole cannot be adopted."""
    return _Adopter(task, open_storage(task.settings), open_database(task.settings.database_url.get_secret_value())).run()


@dataclass
class _Adopter:
    task: AdoptTask
    storage: Storage
    engine: Engine

    @property
    def collection(self) -> Collection:
        return self.task.collection

    def run(self) -> AdoptReport:
        report, timer = AdoptReport(self.collection), _StageTimer()
        inventory = take_inventory(self.storage, self.collection, self.task.settings.naming)
        with self.engine.connect() as connection:
            existing = records.load_existing_frames(connection, self.collection)
            legacy_rows = read_legacy_rows(connection, self.collection)
        new = [candidate for candidate in inventory.candidates if not existing.has(candidate)]
        report.problems |= inventory.problems
        report.existing = len(inventory.candidates) - len(new)
        timer.record(report, "listing")
        adoptions = self._read_headers(new, report)
        timer.record(report, "headers")
        report.adopted = len(adoptions)
        report.without_source = sum(adoption.candidate.source is None for adoption in adoptions)
        report.outdated = sum(adoption.candidate.source is not None and not adoption.is_current for adoption in adoptions)
        report.unmasked = sum(not adoption.header.has_mask for adoption in adoptions)
        missing_cogs = existing.sourceless_cogs - inventory.keys
        report.missing_cogs = len(missing_cogs)
        # The table of a collection in which ls4 has nothing stays as it is.
        if legacy_rows is not None and (adoptions or report.existing or inventory.source_count):
            self._replace_legacy_table(legacy_rows, inventory, adoptions, report)
        if self.task.instance and (missing_cogs or adoptions):
            with DagsterInstance.from_ref(self.task.instance) as instance:
                self._withdraw(instance, missing_cogs)
                self._write(instance, adoptions, report, timer)
        return report

    def _read_headers(self, candidates: Sequence[Candidate], report: AdoptReport) -> list[Adoption]:
        options = _HEADER_OPTIONS | self.storage.gdal_options()
        adoptions = []
        readers = _LOCAL_READERS if self.storage.capabilities.has_local_paths else _REMOTE_READERS
        with ThreadPoolExecutor(readers) as threads, warnings.catch_warnings():
            # Warning filters are per process; a GDAL environment is per thread.
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            results = threads.map(lambda candidate: self._read_header(candidate, options), candidates)
            for candidate, result in zip(candidates, results, strict=True):
                if isinstance(result, Adoption):
                    adoptions.append(result)
                else:
                    report.problems[candidate.cog.key] = result
        return adoptions

    def _read_header(self, candidate: Candidate, options: dict[str, str]) -> Adoption | str:
        """Return the adoption, or the sentence that explains why the COG cannot be adopted."""
        cog = candidate.cog
        try:
            with rasterio.Env(**options):
                header = read_header(self.storage.gdal_path(cog.key), cog.size, candidate.frame.film_type)
        except FrameError as error:
            if candidate.source:
                return f"{cog.key} {error}; nothing to do: ls4 makes it again from its georef tif."
            georef = f"{candidate.frame.folder}/georef/{PurePosixPath(cog.key).name}"
            return f"{cog.key} {error}; drop its georeferenced tif as {georef}, and ls4 makes it again."
        # An empty tif is left to the sensor, which rejects it.
        has_content = candidate.source is None or not candidate.source.empty
        return Adoption(candidate, header, is_current=has_content and (self.task.ignore_times or not candidate.newer_source))

    def _replace_legacy_table(
        self, rows: list[LegacyRow], inventory: CollectionInventory, adoptions: Sequence[Adoption], report: AdoptReport
    ) -> None:
        kept = [row for row in rows if row.key in inventory.keys]
        boxes = {row.key for row in kept if row.is_box}
        report.new_outlines = len(boxes & {adoption.candidate.cog.key for adoption in adoptions if adoption.header.has_mask})
        report.legacy_rows, report.legacy_rows_dropped = len(rows), len(rows) - len(kept)
        if self.task.instance:
            with collection_lock(self.engine, self.collection), self.engine.begin() as connection:
                replace_legacy_table(connection, self.collection, self.storage, kept)

    def _withdraw(self, instance: DagsterInstance, cogs: Set[str]) -> None:
        with self.engine.begin() as connection:
            partitions = records.withdraw_frames(connection, cogs)
        history.remove_partitions(instance, self.collection.shard, partitions)

    def _write(self, instance: DagsterInstance, adoptions: Sequence[Adoption], report: AdoptReport, timer: "_StageTimer") -> None:
        with records.partitions_lock(self.engine, self.collection.shard):
            partitions = [adoption.candidate.frame.partition for adoption in adoptions]
            history.add_partitions(instance, self.collection.shard, partitions)
        timer.record(report, "partitions")
        for chunk in chunks(adoptions, _FRAME_CHUNK):
            history.record_materializations(instance, chunk, self.task.settings)
            timer.record(report, "events")
            with self.engine.begin() as connection:
                records.write_frames(connection, self.collection, chunk)
            timer.record(report, "rows")


class _StageTimer:
    """Adds up the seconds of each stage."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def record(self, report: AdoptReport, stage: str) -> None:
        now = time.monotonic()
        report.stage_seconds[stage] = report.stage_seconds.get(stage, 0.0) + now - self._last
        self._last = now
