"""The work of a pool process: process one frame, from the bucket to the bucket.

A worker fetches the georef tif, runs the requested steps that are not up to date, validates the result and publishes it
(`products`). It returns a plain outcome; the run (`ls4_assets.assets.frames`) turns outcomes into Dagster events.
"""

import hashlib
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Literal

from sqlalchemy import Engine

from ls4_assets.db import frames as records
from ls4_assets.db.frames import FrameFacts, FrameRecord, SourceRecord
from ls4_assets.db.schema import SourceState
from ls4_assets.domain.names import Frame
from ls4_assets.domain.products import STEPS, Step, upstream_steps
from ls4_assets.domain.profiles import FrameProfile
from ls4_assets.domain.sidecars import plain_suffix
from ls4_assets.errors import (
    FrameError,
    InsufficientResourcesError,
    IrregularEntryError,
    Ls4Error,
    NotFoundError,
    UnwritableArchiveError,
)
from ls4_assets.processing import admission
from ls4_assets.processing.header_limit import limit_header_time
from ls4_assets.processing.position_options import position_options
from ls4_assets.processing.products import FrameProducts, ProductsRemovedError, SupersededError
from ls4_assets.processing.quality import Finding, FrameQualityError, validate_frame
from ls4_assets.processing.tasks import FrameOutcome, FrameTask
from ls4_assets.raster.frame import FrameResult, process, product_path
from ls4_assets.raster.gdal_env import is_out_of_memory
from ls4_assets.raster.position import PositionOptions
from ls4_assets.raster.source import Limits, open_source
from resources.open import open_database, open_storage
from resources.storage import Storage, combined_version

_READ_BYTES = 1 << 20
_DISK_RETRY_SECONDS = 120


def process_frame(task: FrameTask) -> FrameOutcome:
    """Process one task. A fault of the frame's content is an outcome; any exception is a defect or an outage."""
    started = time.monotonic()
    engine = open_database(task.settings.database_url.get_secret_value())
    with engine.connect() as connection:
        source = records.load_source(connection, task.frame)
        record = records.load_frame(connection, task.frame)
    if source is None:
        reason = f"{task.frame.stem} is no longer under georef/; drop its tif again if it should be on the map."
        return FrameOutcome(task.frame, "failed", reason)
    storage = open_storage(task.settings)
    job = _FrameJob(task, source, record, storage, FrameProducts(task, source, record, storage, engine))
    try:
        with tempfile.TemporaryDirectory(dir=task.scratch) as scratch:
            outcome = job.run_and_explain(Path(scratch))
    except SupersededError:
        outcome = FrameOutcome(task.frame, "superseded", source=source)
    except ProductsRemovedError:
        outcome = FrameOutcome(task.frame, "superseded", source=source)
        with engine.begin() as connection:
            records.set_source_state(connection, source, SourceState.QUEUED)
    except (InsufficientResourcesError, UnwritableArchiveError) as error:
        outcome = _wait(task, source, error, engine)
    except (FrameError, NotFoundError, IrregularEntryError) as error:
        findings = error.findings if isinstance(error, FrameQualityError) else ()
        outcome = FrameOutcome(task.frame, "failed", job.describe_failure(error), source, findings=findings)
        with engine.begin() as connection:
            records.set_source_state(connection, source, SourceState.FAILED, outcome.reason)
    return replace(
        outcome,
        seconds=round(time.monotonic() - started, 3),
        fetch_seconds=round(job.seconds.get("fetch", 0.0), 3),
        publish_seconds=round(job.seconds.get("publish", 0.0), 3),
    )


def _wait(
    task: FrameTask, source: SourceRecord, error: InsufficientResourcesError | UnwritableArchiveError, engine: Engine
) -> FrameOutcome:
    """Queue the frame again for a time when its disks may have changed, unless only a person can request it."""
    reason = f"{error.problem}; {error.advice}, and the frame is retried automatically."
    with engine.begin() as connection:
        if not records.requeue_after(connection, source, reason, _DISK_RETRY_SECONDS):
            reason = f"{error.problem}; {error.advice}, then materialize it again. Its previous products are unchanged."
    return FrameOutcome(task.frame, "waiting", reason, source)


@dataclass
class _FrameJob:
    """The state of a task while a worker processes it. `seconds`: time spent per activity."""

    task: FrameTask
    source: SourceRecord
    record: FrameRecord | None
    storage: Storage
    products: FrameProducts
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def frame(self) -> Frame:
        return self.task.frame

    @property
    def _name(self) -> str:
        return PurePosixPath(self.source.key).name

    @property
    def profile(self) -> FrameProfile:
        return self.products.profile

    def run_and_explain(self, scratch: Path) -> FrameOutcome:
        """As `run`, but raises the frame's own error when memory or a disk ran out during the work."""
        try:
            return self.run(scratch)
        except (Ls4Error, SupersededError, ProductsRemovedError):
            raise
        except Exception as error:
            if is_out_of_memory(error):
                raise admission.out_of_memory_error(self._name, self.task.settings.worker_memory_mb) from error
            if folder := admission.full_disk([scratch, *self._archive_folders()]):
                raise admission.disk_full_error(self._name, folder) from error
            raise

    def run(self, scratch: Path) -> FrameOutcome:
        """Run the requested steps that are not up to date, and those before them whose products are missing, and publish."""
        if self._current_version() != self.source.version:
            raise SupersededError
        local: Path | None = None
        if self.record and self.record.source_version == self.source.version:
            content_hash = self._add_order(self.record.content_hash)
        else:
            local, content_hash = self._fetch_source(scratch)
        rebuild = self.task.rebuild
        outdated = [step for step in self.task.steps if not self.products.is_up_to_date(step, content_hash, rebuild=rebuild)]
        if not outdated:
            return self.products.touch_unchanged(content_hash)
        upstream = self._fetch_upstream(outdated[0], content_hash, scratch)
        steps = tuple(step for step in STEPS if step in {*upstream, *outdated})
        if "deflate" in steps and local is None:
            local, content_hash = self._fetch_source(scratch)
        limits = Limits(self.task.settings.max_pixels, self.task.settings.max_source_bytes)
        self._reserve_resources(local, limits, scratch)
        result = process(
            source_path=local,
            workdir=scratch,
            stem=self.frame.stem,
            film_type=self.frame.film_type,
            profile=self.profile,
            limits=limits,
            steps=steps,
            source_sha256=content_hash,
            position=self._position_options(),
            tags=self.task.settings.archive_description.rights.of(self.frame.collection).tiff_tags(),
        )
        # Validated before anything is published, so that the last good version stays.
        findings = self._validate(result) if "cog" in steps else ()
        with self._measure("publish"):
            outcome = self.products.publish(result, outdated, content_hash, scratch)
        return replace(outcome, findings=findings)

    def _position_options(self) -> PositionOptions:
        return position_options(self.task.settings, self.profile, self._generations())

    def _generations(self) -> dict[str, int]:
        """In which order the files arrived, by suffix; a tif that arrives again counts as dropped with its sidecars."""
        generations: dict[str, int] = {}
        tif = self.source.generations.get(self.source.key, 0)
        for key, generation in self.source.generations.items():
            suffix = plain_suffix(key)
            generations[suffix] = max(generation, tif, generations.get(suffix, 0))
        return generations

    def _add_order(self, content_hash: str) -> str:
        """The hash with the order in which the files arrived, if they did not together: of equal bytes, too, it is the position.

        A hash that has an order already gets the present one instead.
        """
        plain, _, _ = content_hash.partition("-")
        generations = self._generations()
        ranks = sorted({*generations.values()})
        order = ".".join(str(ranks.index(generations[suffix])) for suffix in sorted(generations))
        return f"{plain}-{order}" if len(ranks) > 1 else plain

    def describe_failure(self, error: Exception) -> str:
        """Return the message for staff; the error begins with the name of the file."""
        is_served = self.record is not None and "cog" in self.record.products and not self.record.deleted
        kept = "The last good version of this frame stays on the map; the new version was rejected: " if is_served else ""
        return f"{kept}{error}"

    def _validate(self, result: FrameResult) -> tuple[Finding, ...]:
        share = self.record.facts.get("valid_share") if self.record and result.valid_share is None else result.valid_share
        return validate_frame(self.frame, result, self.task.settings.region_bounds, share)

    def _current_version(self) -> str | None:
        """Return the version of tif and sidecars in the bucket now; raises NotFoundError when the tif has been deleted."""
        tif = self.storage.head(self.source.key)
        if tif is None:
            raise NotFoundError(f"{self._name} was deleted before it was processed; drop it again if it should be on the map.")
        sidecars = [sidecar for key in self.source.sidecars if (sidecar := self.storage.head(key))]
        return combined_version(tif, sidecars)

    def _reserve_resources(self, local: Path | None, limits: Limits, scratch: Path) -> None:
        """Reserve disk for the steps. `local`: the fetched source; None when no step reads it.

        Raises InsufficientResourcesError when a disk is too full, FrameError when the frame exceeds the memory of a worker.
        """
        if local is None:
            facts: FrameFacts = self.record.facts if self.record else {}
            estimate = admission.estimate_for_pixels(0, facts.get("width", 0) * facts.get("height", 0) * self.profile.bands)
        else:
            with limit_header_time():
                source = open_source(local, self.frame.film_type, limits, self._position_options())
                admission.reject_oversized_blocks(source, self.task.settings.worker_memory_mb)
            estimate = admission.estimate_for_source(source, self.source.size, self.profile)
        admission.reserve_disk(self._name, estimate, scratch, self._archive_folders())

    def _archive_folders(self) -> list[Path]:
        """The folder of the archive; empty for a storage in the cloud, which never fills up."""
        return [Path(self.storage.gdal_path(""))] if self.storage.capabilities.has_local_paths else []

    def _fetch_source(self, scratch: Path) -> tuple[Path, str]:
        """Download tif and sidecars, with plain suffixes so that GDAL pairs them; returns path and content hash."""
        max_bytes = self.task.settings.max_source_bytes
        if self.source.size > max_bytes:
            raise FrameError(
                f"{self._name} has {self.source.size:,} bytes and the limit is {max_bytes:,}; "
                "compress or split it, or ask the operator to raise LS4_MAX_SOURCE_BYTES."
            )
        sidecar_bytes = self._measure_sidecars()
        with self._measure("fetch"):
            estimate = admission.estimate_for_download(self.source.size + sidecar_bytes)
            admission.reserve_disk(self._name, estimate, scratch, self._archive_folders())
            folder = scratch / "source"
            folder.mkdir(exist_ok=True)
            digest = hashlib.sha256()
            stem = str(PurePosixPath(self.source.key).with_suffix(""))
            for key in (self.source.key, *self.source.sidecars):
                suffix = plain_suffix(key)
                path = folder / f"{PurePosixPath(stem).name}{suffix}"
                self.storage.download(key, path)
                digest.update(suffix.encode())
                with path.open("rb") as file:
                    while block := file.read(_READ_BYTES):
                        digest.update(block)
            if self._current_version() != self.source.version:
                raise SupersededError
        return folder / f"{PurePosixPath(stem).name}.tif", self._add_order(digest.hexdigest())

    def _measure_sidecars(self) -> int:
        """Return the bytes of all sidecars; raises FrameError for one that is too large to be what its name says."""
        sizes = {key: sidecar.size for key in self.source.sidecars if (sidecar := self.storage.head(key))}
        for key, size in sizes.items():
            admission.reject_oversized_sidecar(self._name, PurePosixPath(key).name, size, self.task.settings.max_source_bytes)
        return sum(sizes.values())

    def _fetch_upstream(self, first: Step, content_hash: str, scratch: Path) -> list[Step]:
        """Download the products that the step `first` reads; returns the steps that must run before it (expired, stale)."""
        upstream = upstream_steps(first)
        with self._measure("fetch"):
            for index, step in enumerate(upstream):
                if not self.products.is_up_to_date(step, content_hash, rebuild=False):
                    return list(upstream[index:])
                path = product_path(scratch, self.frame.stem, step)
                path.parent.mkdir(parents=True, exist_ok=True)
                self.storage.download(self.frame.product_key(step), path)
        return []

    @contextmanager
    def _measure(self, activity: Literal["fetch", "publish"]) -> Iterator[None]:
        """Add the time of the block to `seconds`."""
        started = time.monotonic()
        try:
            yield
        finally:
            self.seconds[activity] = self.seconds.get(activity, 0.0) + time.monotonic() - started
