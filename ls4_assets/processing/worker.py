"""One frame, from bucket to bucket: the work of a pool process.

Read the georef tif, make what is asked and not already right, publish it under the frame's lock, and tell in a plain outcome
what happened. Dagster is not known here; a run hands out orders and turns outcomes into events.
"""

import hashlib
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import wraps
from pathlib import Path, PurePosixPath
from typing import Concatenate, Literal, ParamSpec, TypeVar, cast

from sqlalchemy import Engine

from ls4_assets.db import frames as records
from ls4_assets.db.frames import Facts, FrameRecord, Product, SourceRecord
from ls4_assets.db.schema import SourceState
from ls4_assets.domain.names import STEPS, Frame, Step
from ls4_assets.domain.profiles import FrameProfile
from ls4_assets.errors import FrameError, InsufficientResourcesError, Ls4Error, NotFoundError
from ls4_assets.ingest.listing import combined_version
from ls4_assets.processing import admission
from ls4_assets.processing.quality import Finding, FrameQualityError, validate_frame
from ls4_assets.processing.raw_scans import find_scan, scan_state
from ls4_assets.processing.tasks import Order, Outcome
from ls4_assets.raster.frame import FrameResult, process, product_path
from ls4_assets.raster.gdal_env import is_out_of_memory
from ls4_assets.raster.source import Limits, open_source
from resources.open import open_database, open_storage
from resources.storage import Storage

_BLOCK = 1 << 20
_ROOM_AGAIN_SECONDS = 120

P = ParamSpec("P")
R = TypeVar("R")
_Work = Callable[Concatenate["_FrameJob", P], R]


def process_frame(order: Order) -> Outcome:
    """Carry out one order. A fault of the frame is an outcome; anything raised is a defect or an outage."""
    started = time.monotonic()
    engine = open_database(order.settings.database_url.get_secret_value(), stay=True)
    with engine.connect() as connection:
        source = records.source_of(connection, order.frame)
        record = records.record_of(connection, order.frame)
    if source is None:
        reason = f"{order.frame.stem} is no longer under georef/; drop its tif again if it should be on the map."
        return Outcome(order.frame, "failed", reason)
    bench = _FrameJob(order, source, record, open_storage(order.settings), engine)
    try:
        with tempfile.TemporaryDirectory(dir=order.scratch) as scratch:
            outcome = bench.work_within_bounds(Path(scratch))
    except _SupersededError:
        outcome = Outcome(order.frame, "superseded", source=source)
    except _RemovedError:
        outcome = Outcome(order.frame, "superseded", source=source)
        with engine.begin() as connection:
            records.mark_source(connection, source, SourceState.QUEUED)
    except InsufficientResourcesError as full:
        reason = f"{full}; free some, it is tried again by itself."
        with engine.begin() as connection:
            if not records.requeue_after(connection, source, reason, _ROOM_AGAIN_SECONDS):
                reason = f"{full}; free some, then materialise it again. What was made of it before stays."
        outcome = Outcome(order.frame, "waiting", reason, source)
    except (FrameError, NotFoundError) as fault:
        findings = fault.findings if isinstance(fault, FrameQualityError) else ()
        outcome = Outcome(order.frame, "failed", bench.explain(fault), source, findings=findings)
        with engine.begin() as connection:
            records.mark_source(connection, source, SourceState.FAILED, outcome.reason)
    spent = {what: round(seconds, 3) for what, seconds in bench.spent.items()}
    total = round(time.monotonic() - started, 3)
    return replace(outcome, seconds=total, fetch_seconds=spent.get("fetch", 0.0), publish_seconds=spent.get("publish", 0.0))


class _SupersededError(Exception):
    """Another version of the source has come meanwhile."""


class _RemovedError(Exception):
    """Products that were right a moment ago have been removed meanwhile: the tif had gone, and has come back."""


def _timed(what: Literal["fetch", "publish"]) -> Callable[[_Work[P, R]], _Work[P, R]]:
    """Count the time of a method of the bench as spent on `what`."""

    def decorate(method: _Work[P, R]) -> _Work[P, R]:
        @wraps(method)
        def timed(bench: "_FrameJob", /, *args: P.args, **kwargs: P.kwargs) -> R:
            started = time.monotonic()
            try:
                return method(bench, *args, **kwargs)
            finally:
                bench.spent[what] = bench.spent.get(what, 0.0) + time.monotonic() - started

        return timed

    return decorate


@dataclass
class _FrameJob:
    """The state of one order while it is worked on."""

    order: Order
    source: SourceRecord
    record: FrameRecord | None
    storage: Storage
    engine: Engine
    spent: dict[str, float] = field(default_factory=dict)

    @property
    def frame(self) -> Frame:
        return self.order.frame

    @property
    def _name(self) -> str:
        return PurePosixPath(self.source.key).name

    @property
    def profile(self) -> FrameProfile:
        return self.order.settings.profiles[self.frame.film_type]

    def work_within_bounds(self, scratch: Path) -> Outcome:
        """As `work`; where memory or a disk ran out in the middle, that is what is said."""
        try:
            return self.work(scratch)
        except (Ls4Error, _SupersededError, _RemovedError):
            raise
        except Exception as error:
            if is_out_of_memory(error):
                raise admission.no_memory(self._name, self.order.settings.worker_memory_mb) from error
            if full := admission.exhausted([scratch, *self._archive_folder()]):
                raise admission.no_disk(self._name, full) from error
            raise

    def work(self, scratch: Path) -> Outcome:
        if self._version_now() != self.source.version:
            raise _SupersededError
        local: Path | None = None
        if self.record and self.record.source_version == self.source.version:
            content = self.record.content_hash
        else:
            local, content = self._fetch_source(scratch)
        todo = [step for step in self.order.steps if not self._is_right(step, content)]
        if not todo:
            return self._confirm(content)
        remade = self._fetch_upstream(todo[0], content, scratch)
        steps = tuple(step for step in STEPS if step in {*remade, *todo})
        if "deflate" in steps and local is None:
            local, content = self._fetch_source(scratch)
        limits = Limits(self.order.settings.max_pixels, self.order.settings.max_source_bytes)
        self._claim_room(local, limits, scratch)
        result = process(
            source_path=local,
            workdir=scratch,
            stem=self.frame.stem,
            film_type=self.frame.film_type,
            profile=self.profile,
            limits=limits,
            steps=steps,
            source_sha256=content,
        )
        findings = self._examine(result) if "cog" in steps else ()
        return replace(self._publish(result, todo, content, scratch), findings=findings)

    def _examine(self, result: FrameResult) -> tuple[Finding, ...]:
        """Raises Unsound for a frame that the map must not show: before it is published, so that the last good version stays."""
        known = self.record.facts.get("valid_share") if self.record and result.valid_share is None else result.valid_share
        return validate_frame(self.frame, result, self.order.settings.ground, known)

    def explain(self, fault: Exception) -> str:
        """The sentence for staff; each begins with the file's name."""
        served = self.record is not None and "cog" in self.record.products and not self.record.deleted
        kept = "The last good version of this frame stays on the map; the new one was not taken: " if served else ""
        return f"{kept}{fault}"

    def _version_now(self) -> str | None:
        """Version of tif and sidecars as they lie in the bucket at this moment. Raises NotFound when the tif is gone."""
        tif = self.storage.head(self.source.key)
        if tif is None:
            raise NotFoundError(f"{self._name} was deleted before it was processed; drop it again if it should be on the map.")
        sidecars = [found for key in self.source.sidecars if (found := self.storage.head(key))]
        return combined_version(tif, sidecars)

    def _claim_room(self, local: Path | None, limits: Limits, scratch: Path) -> None:
        """Raise NoRoom when the disks have too little left for what follows, FrameFault when no worker's memory can hold it."""
        if local is None:
            facts: Facts = self.record.facts if self.record else {}
            need = admission.need_of_pixels(0, facts.get("width", 0) * facts.get("height", 0) * self.profile.bands)
        else:
            source = open_source(local, self.frame.film_type, limits)
            admission.reject_memory(source, self.order.settings.worker_memory_mb)
            need = admission.need_of_source(source, self.source.size, self.profile)
        admission.reserve_disk(self._name, need, scratch, self._archive_folder())

    def _archive_folder(self) -> list[Path]:
        """The folder that the archive is; none on S3, which is never full."""
        return [Path(self.storage.gdal_path(""))] if self.storage.is_folder else []

    @_timed("fetch")
    def _fetch_source(self, scratch: Path) -> tuple[Path, str]:
        """Copy tif and sidecars here, with suffixes in lower case so that GDAL pairs them. Returns path and hash."""
        if self.source.size > self.order.settings.max_source_bytes:
            raise FrameError(
                f"{self._name} has {self.source.size:,} bytes and the limit is {self.order.settings.max_source_bytes:,}; "
                "compress or split it, or ask the operator to raise LS4_MAX_SOURCE_BYTES."
            )
        admission.reserve_disk(self._name, admission.need_of_download(self.source.size), scratch, self._archive_folder())
        folder = scratch / "source"
        folder.mkdir(exist_ok=True)
        digest = hashlib.sha256()
        stem = str(PurePosixPath(self.source.key).with_suffix(""))
        for key in (self.source.key, *self.source.sidecars):
            suffix = key[len(stem) :].lower().replace(".tiff", ".tif")
            path = folder / f"{PurePosixPath(stem).name}{suffix}"
            self.storage.download(key, path)
            digest.update(suffix.encode())
            with path.open("rb") as file:
                while block := file.read(_BLOCK):
                    digest.update(block)
        if self._version_now() != self.source.version:
            raise _SupersededError
        return folder / f"{PurePosixPath(stem).name}.tif", digest.hexdigest()

    def _is_right(self, step: Step, content: str) -> bool:
        """Is this product of these bytes and this profile, and still lying in the bucket as it was put?"""
        product = self.record.products.get(step) if self.record else None
        if product is None or (product.content, product.profile) != (content, self.profile.hash(step)):
            return False
        if self.order.rebuild and product.made_by != self.order.run:
            return False
        stored = self.storage.head(self._product_key(step))
        return stored is not None and (stored.size, stored.version) == (product.size, product.version)

    def _product_key(self, step: Step) -> str:
        served = self.record.served_key if self.record else None
        return served if step == "cog" and served else self.frame.product_key(step)

    def _is_complete(self, products: Mapping[Step, Product], content: str) -> bool:
        """Are all products of these bytes and this profile? (One that has expired since counts: it was made.)"""
        wanted = {step: (content, self.profile.hash(step)) for step in STEPS}
        return {step: (product.content, product.profile) for step, product in products.items()} == wanted

    @_timed("fetch")
    def _fetch_upstream(self, first: Step, content: str, scratch: Path) -> list[Step]:
        """Copy what the first step needs of the steps before it; returns those that have to be made anew (expired, stale)."""
        before = STEPS[: STEPS.index(first)]
        patient = replace(self, order=replace(self.order, rebuild=False))
        for count, step in enumerate(before):
            if not patient._is_right(step, content):
                return list(before[count:])
            path = product_path(scratch, self.frame.stem, step)
            path.parent.mkdir(parents=True, exist_ok=True)
            self.storage.download(self.frame.product_key(step), path)
        return []

    def _confirm(self, content: str) -> Outcome:
        with records.frame_lock(self.engine, self.frame) as connection:
            now = records.record_of(connection, self.frame)
            complete = now is not None and self._is_complete(now.products, content)
            if now is None or self.record is None or (now.products != self.record.products and not complete):
                raise _RemovedError
            records.confirm(connection, self.frame, self.source, complete)
        return Outcome(self.frame, "reused", None, self.source, content, now.products, now.facts, complete=complete)

    @_timed("publish")
    def _publish(self, result: FrameResult, todo: list[Step], content: str, scratch: Path) -> Outcome:
        """Put the products and write the frame's row, unless a newer version has come. Intermediates first, the COG last."""
        with records.frame_lock(self.engine, self.frame) as connection:
            now = records.source_of(connection, self.frame)
            if now is None or now.version != self.source.version:
                raise _SupersededError
            before = records.record_of(connection, self.frame)
            products = dict(before.products) if before else {}
            if not {*self.order.steps} <= {*products, *todo}:
                raise _RemovedError
            served = before.served_key if before else None
            for step in todo:
                key = self.frame.product_key(step)
                if step == "cog":
                    key = served = self._new_served_key(served, now.generation, content)
                path = product_path(scratch, self.frame.stem, step)
                stored = self.storage.upload(path, key, intermediate=step != "cog", may_link=True)
                sha256 = result.cog_sha256 if step == "cog" else None
                products[step] = Product(content, self.profile.hash(step), stored.size, stored.version, self.order.run, sha256)
            if result.thumbnail:
                self.storage.put(self.frame.thumbnail_key, result.thumbnail)
            facts, scan = _facts(result), find_scan(self.storage, self.frame)
            complete = self._is_complete(products, content)
            records.publish(connection, self.frame, self.source, content, products, facts, served, scan, complete)
            known = dict(before.facts) if before else {}
        made = Outcome(self.frame, "made", None, self.source, content, products, cast(Facts, known | facts), result, complete)
        was_missing = before is not None and before.scan_file is None
        return replace(made, scan=scan_state(self.frame, scan, was_missing=was_missing))

    def _new_served_key(self, served: str | None, generation: int, content: str) -> str:
        """The public key for a frame that no map has shown yet; a key of its own for each COG after that, also where the archive
        had one before ls4. A warm map server has parts of the COG it knows in memory, and would mix them with what it reads
        under the same key later."""
        if served is None and generation == 1 and not self.storage.head(self.frame.cog_key):
            return self.frame.cog_key
        return f"{self.frame.served_folder}{content[:12]}-{self.order.run[:8]}.tif"


def _facts(result: FrameResult) -> Facts:
    facts: Facts = {}
    if result.source_crs and result.valid_share is not None:
        facts |= {"source_crs": result.source_crs, "valid_share": result.valid_share}
    if result.footprint_wkb:
        facts |= {"width": result.width, "height": result.height, "transform": list(result.transform)}
        facts |= {"footprint": result.footprint_wkb}
    return facts
