"""One collection adopted, from listing to Dagster: what a pool process does.

The order makes a crash harmless: partitions and events first, the rows last. What has its row is skipped the next time; an event
without one is told once more.
"""

import time
import warnings
from collections.abc import Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

import rasterio
from dagster import DagsterInstance
from dagster._core.instance.ref import InstanceRef
from rasterio.errors import NotGeoreferencedWarning
from rasterio.session import AWSSession
from sqlalchemy import Engine

from ls4_assets.db.chunks import chunks
from ls4_assets.db.tile_index import collection_lock
from ls4_assets.domain.names import Collection
from ls4_assets.errors import FrameError
from ls4_assets.operations.adopt import history, records
from ls4_assets.operations.adopt.cog_header import read_header
from ls4_assets.operations.adopt.inventory import Candidate, Survey, survey
from ls4_assets.operations.adopt.legacy_table import LegacyRow, legacy_rows, take_over
from ls4_assets.operations.adopt.records import Adoption
from ls4_assets.settings import Settings
from resources.open import open_database, open_storage, s3_server_options
from resources.storage import Storage

_FRAMES_AT_ONCE = 500
# Headers on S3 are waited for; those in a folder come at once, and more threads than a few only contend.
_READERS_S3, _READERS_FOLDER = 24, 2


@dataclass(frozen=True)
class Order:
    """`instance`: Dagster's, None to plan only. `ignore_times`: a COG older than its georef tif is of it all the same."""

    settings: Settings
    of: Collection
    ignore_times: bool
    instance: InstanceRef | None


@dataclass
class Report:
    """What became of one collection, or would.

    Of `adopted`: `without_source` have no georef tif, `outdated` a newer one, and are made anew; `outlined` had a box for a
    footprint, `unmasked` have one still, as nothing in them tells photograph from collar. `gone`: adopted before without a
    georef tif, and their COG is not there any more. `problems`: COGs that cannot be adopted, with the sentence. `legacy_rows`:
    of the table that was taken over, `lost` those whose COG is not there. `seconds`: by stage.
    """

    of: Collection
    adopted: int = 0
    known: int = 0
    without_source: int = 0
    outdated: int = 0
    outlined: int = 0
    unmasked: int = 0
    gone: int = 0
    legacy_rows: int | None = None
    lost: int = 0
    problems: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)


def adopt_collection(order: Order) -> Report:
    """Plan or adopt. Raises an Ls4Error when the collection as a whole cannot be; nothing of it was changed then."""
    return _Adopter(order, open_storage(order.settings), open_database(order.settings.database_url.get_secret_value())).work()


@dataclass
class _Adopter:
    order: Order
    storage: Storage
    engine: Engine

    @property
    def of(self) -> Collection:
        return self.order.of

    def work(self) -> Report:
        report, clock = Report(self.of), _Clock()
        found = survey(self.storage, self.of)
        with self.engine.connect() as connection:
            known = records.known(connection, self.of)
            legacy = legacy_rows(connection, self.of)
        new = [candidate for candidate in found.candidates if not known.has(candidate)]
        report.problems |= found.problems
        report.known = len(found.candidates) - len(new)
        clock.note(report, "listing")
        adoptions = self._inspect(new, report)
        clock.note(report, "headers")
        report.adopted = len(adoptions)
        report.without_source = sum(one.candidate.source is None for one in adoptions)
        report.outdated = sum(one.candidate.source is not None and not one.trusted for one in adoptions)
        report.unmasked = sum(not one.header.masked for one in adoptions)
        gone = known.alone - found.keys
        report.gone = len(gone)
        # A table whose collection ls4 has nothing of stays as it is.
        if legacy is not None and (adoptions or report.known or found.sources):
            self._take_over(legacy, found, adoptions, report)
        if self.order.instance and (gone or adoptions):
            with DagsterInstance.from_ref(self.order.instance) as instance:
                self._withdraw(instance, gone)
                self._write(instance, adoptions, report, clock)
        return report

    def _inspect(self, candidates: Sequence[Candidate], report: Report) -> list[Adoption]:
        options = _gdal_options(self.order.settings, self.storage)
        adoptions = []
        readers = _READERS_FOLDER if self.storage.is_folder else _READERS_S3
        with ThreadPoolExecutor(readers) as threads, warnings.catch_warnings():
            # Filters are the whole process's; a GDAL environment is each thread's own.
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            looks = threads.map(lambda candidate: self._look_at(candidate, options), candidates)
            for candidate, found in zip(candidates, looks, strict=True):
                if isinstance(found, Adoption):
                    adoptions.append(found)
                else:
                    report.problems[candidate.cog.key] = found
        return adoptions

    def _look_at(self, candidate: Candidate, options: dict[str, Any]) -> Adoption | str:
        cog = candidate.cog
        try:
            with rasterio.Env(**options):
                header = read_header(self.storage.gdal_path(cog.key), cog.size, candidate.frame.film_type)
        except FrameError as fault:
            if candidate.source:
                return f"{cog.key} {fault}; nothing to do: it is made anew from its georef tif."
            georef = f"{candidate.frame.folder}/georef/{PurePosixPath(cog.key).name}"
            return f"{cog.key} {fault}; drop its georeferenced tif as {georef}, and it is made anew."
        # What the sensor would say of an empty tif it shall say.
        full = candidate.source is None or not candidate.source.empty
        return Adoption(candidate, header, trusted=full and (self.order.ignore_times or not candidate.newer_source))

    def _take_over(self, legacy: list[LegacyRow], found: Survey, adoptions: Sequence[Adoption], report: Report) -> None:
        kept = [row for row in legacy if row.key in found.keys]
        boxed = {row.key for row in kept if row.boxed}
        report.outlined = len(boxed & {one.candidate.cog.key for one in adoptions if one.header.masked})
        report.legacy_rows, report.lost = len(legacy), len(legacy) - len(kept)
        if self.order.instance:
            with collection_lock(self.engine, self.of), self.engine.begin() as connection:
                take_over(connection, self.of, self.storage, kept)

    def _withdraw(self, instance: DagsterInstance, cogs: Set[str]) -> None:
        with self.engine.begin() as connection:
            partitions = records.withdraw(connection, cogs)
        history.remove_partitions(instance, self.of.shard, partitions)

    def _write(self, instance: DagsterInstance, adoptions: Sequence[Adoption], report: Report, clock: "_Clock") -> None:
        with records.partitions_lock(self.engine, self.of.shard):
            history.add_partitions(instance, self.of.shard, [one.candidate.frame.partition for one in adoptions])
        clock.note(report, "partitions")
        for some in chunks(adoptions, _FRAMES_AT_ONCE):
            history.record(instance, some, self.order.settings.public_url)
            clock.note(report, "events")
            with self.engine.begin() as connection:
                records.write(connection, self.of, some)
            clock.note(report, "rows")


class _Clock:
    """Where the time goes."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def note(self, report: Report, what: str) -> None:
        now = time.monotonic()
        report.seconds[what] = report.seconds.get(what, 0.0) + now - self._last
        self._last = now


def _gdal_options(settings: Settings, storage: Storage) -> dict[str, Any]:
    """How GDAL reads a header: nothing beside the file, and the first 32 kB at once, which hold all directories."""
    options: dict[str, Any] = {
        "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
        "GDAL_INGESTED_BYTES_AT_OPEN": "32768",
        "GDAL_PAM_ENABLED": "NO",
    }
    if storage.is_folder:
        return options
    options["session"] = AWSSession(region_name=settings.s3_region)
    return options | s3_server_options(settings)
