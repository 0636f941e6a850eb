"""The published products of one frame: check that they are up to date, and publish new ones under the frame's lock.

`worker` decides which steps to run. `publishing` rebuilds what depends on the frame's collection.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import cast

from sqlalchemy import Engine

from ls4_assets.db import frames as records
from ls4_assets.db.frames import FrameFacts, FrameRecord, Product, SourceRecord
from ls4_assets.domain.names import Frame
from ls4_assets.domain.products import STEPS, FrameProduct, Step, made_with, product_of
from ls4_assets.domain.profiles import FrameProfile
from ls4_assets.processing.admission import explain_unwritable
from ls4_assets.processing.raw_scans import find_raw_scan, raw_scan_state
from ls4_assets.processing.tasks import FrameOutcome, FrameTask
from ls4_assets.raster.frame import FrameResult, product_path
from resources.storage import Storage, StoredObject


class SupersededError(Exception):
    """The source has been replaced by another version since the task started."""


class ProductsRemovedError(Exception):
    """Products that were up to date have been removed since: the tif was deleted and dropped again unchanged."""


@dataclass(frozen=True)
class FrameProducts:
    """The products of a task's frame. `source` and `record` are the rows as they were when the task started."""

    task: FrameTask
    source: SourceRecord
    record: FrameRecord | None
    storage: Storage
    engine: Engine

    @property
    def frame(self) -> Frame:
        return self.task.frame

    @property
    def profile(self) -> FrameProfile:
        return self.task.settings.profiles[self.frame.film_type]

    def is_up_to_date(self, step: Step, content_hash: str, *, rebuild: bool) -> bool:
        """True when the product was made from this content with this profile, and its object is unchanged in the bucket.

        With `rebuild`, only when this run made it.
        """
        product = self.record.products.get(step) if self.record else None
        if product is None or (product.content, product.profile) != (content_hash, self.profile.hash(step)):
            return False
        if rebuild and product.made_by != self.task.run_id:
            return False
        stored = self.storage.head(self._stored_key(step))
        return stored is not None and (stored.size, stored.version) == (product.size, product.version)

    def touch_unchanged(self, content_hash: str) -> FrameOutcome:
        """Record the source's version for products that are all up to date.

        Raises ProductsRemovedError when another process has changed the frame's row since.
        """
        with records.frame_lock(self.engine, self.frame) as connection:
            current = records.load_frame(connection, self.frame)
            complete = current is not None and self._is_complete(current.products, content_hash)
            if current is None or self.record is None or (current.products != self.record.products and not complete):
                raise ProductsRemovedError
            records.touch_unchanged(connection, self.frame, self.source, complete)
        return FrameOutcome(
            self.frame, "reused", None, self.source, content_hash, current.products, current.facts, complete=complete
        )

    def publish(self, result: FrameResult, steps: Sequence[Step], content_hash: str, scratch: Path) -> FrameOutcome:
        """Upload the products of `steps` from `scratch`, intermediates first and the COG last, and write the frame's row.

        Raises SupersededError when the source has a newer version, ProductsRemovedError when a requested product is missing.
        """
        with records.frame_lock(self.engine, self.frame) as connection:
            source = records.load_source(connection, self.frame)
            if source is None or source.version != self.source.version:
                raise SupersededError
            previous = records.load_frame(connection, self.frame)
            products = dict(previous.products) if previous else {}
            if not {*self.task.steps} <= {*products, *steps}:
                raise ProductsRemovedError
            served_key = previous.served_key if previous else None
            for step in steps:
                key = self.frame.product_key(step)
                if step == "cog":
                    key = served_key = self._choose_served_key(served_key, source.version_count, content_hash)
                stored = self._upload(product_of(step), key, scratch)
                for product in made_with(step):
                    self._upload(product, self.frame.product_key(product.name), scratch)
                sha256 = result.cog_sha256 if step == "cog" else None
                profile_hash = self.profile.hash(step)
                products[step] = Product(content_hash, profile_hash, stored.size, stored.version, self.task.run_id, sha256)
            facts, scan_file = _facts(result, self.task.settings.datum_accuracy_m), find_raw_scan(self.storage, self.frame)
            complete = self._is_complete(products, content_hash)
            records.publish(connection, self.frame, self.source, content_hash, products, facts, served_key, scan_file, complete)
            all_facts = cast(FrameFacts, (dict(previous.facts) if previous else {}) | facts)
        outcome = FrameOutcome(self.frame, "made", None, self.source, content_hash, products, all_facts, result, complete)
        was_missing = previous is not None and previous.scan_file is None
        had_missing_grids = previous is not None and bool(previous.facts.get("missing_grids"))
        raw_scan = raw_scan_state(self.frame, scan_file, was_missing=was_missing)
        return replace(outcome, raw_scan=raw_scan, had_missing_grids=had_missing_grids)

    def _upload(self, product: FrameProduct, key: str, scratch: Path) -> StoredObject:
        path = product_path(scratch, self.frame.stem, product.name)
        with explain_unwritable(PurePosixPath(self.source.key).name, self.storage):
            return self.storage.upload(path, key, intermediate=product.is_intermediate, may_link=True)

    def _stored_key(self, step: Step) -> str:
        served_key = self.record.served_key if self.record else None
        return served_key if step == "cog" and served_key else self.frame.product_key(step)

    def _is_complete(self, products: Mapping[Step, Product], content_hash: str) -> bool:
        """True when all products were made from these bytes with this profile, even those that have expired since."""
        expected = {step: (content_hash, self.profile.hash(step)) for step in STEPS}
        return {step: (product.content, product.profile) for step, product in products.items()} == expected

    def _choose_served_key(self, served_key: str | None, version_count: int, content_hash: str) -> str:
        """Return the key of a new COG: the public key for a frame that no map has shown yet, else a key of its own.

        A new key is also used when the archive had a COG before ls4. A running map server caches parts of the COG that it has
        open, and would mix them with other bytes that it reads under the same key.
        """
        if served_key is None and version_count == 1 and not self.storage.head(self.frame.cog_key):
            return self.frame.cog_key
        return f"{self.frame.served_folder}{content_hash[:12]}-{self.task.run_id[:8]}.tif"


def _facts(result: FrameResult, accuracy_m: float) -> FrameFacts:
    """The columns of the frame's row. `accuracy_m`: a worse transformation is recorded with the grids that would improve it."""
    facts: FrameFacts = {}
    if result.source_crs and result.valid_share is not None:
        facts |= {"source_crs": result.source_crs, "valid_share": result.valid_share}
    if result.georeference:
        facts |= {"georeference": result.georeference}
    if result.transformation:
        is_insufficient = result.transformation.is_insufficient(accuracy_m)
        facts |= {"transformation": str(result.transformation)}
        facts |= {"missing_grids": [*result.transformation.missing_grids] if is_insufficient else []}
    if result.footprint_wkb:
        facts |= {"width": result.width, "height": result.height, "transform": list(result.transform)}
        facts |= {"footprint": result.footprint_wkb, "interior": result.interior_wkb}
    return facts
