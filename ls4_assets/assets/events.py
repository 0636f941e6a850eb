"""Dagster events of frames, and log lines of frames, runs and rebuilds.

Metadata is built in `frame_metadata`, check evaluations in `frame_checks`; `event_store` writes events to Dagster's storage.
"""

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import cast

import dagster as dg

from ls4_assets import logs
from ls4_assets.assets import event_store, frame_checks, keys
from ls4_assets.assets.frame_metadata import frame_metadata
from ls4_assets.assets.provenance import Provenance
from ls4_assets.db.frames import mark_done
from ls4_assets.domain.names import Collection, Frame
from ls4_assets.domain.partition_parser import parse_collection_partition
from ls4_assets.domain.products import Step, upstream_steps
from ls4_assets.errors import InvalidNameError
from ls4_assets.processing.tasks import FrameOutcome
from ls4_assets.runtime.dagster_names import DATA_VERSION_TAG
from ls4_assets.settings import AddressSettings
from resources.archive import Archive

# A finished frame appears in the Dagster UI within these limits. Storing a batch costs as much as processing a 2,000 px frame.
_MAX_BATCH_FRAMES = 20
_MAX_DELAY_SECONDS = 5.0


def plan_partitions(context: dg.AssetExecutionContext, shard: str, partitions: Sequence[str], steps: Sequence[Step]) -> None:
    """Store the plan of a run that was given a list of frames, so that Dagster shows frames that fail as failed partitions.

    Dagster plans the run's own partition or range, but has no runs over arbitrary sets.
    """
    own = context.partition_key if context.has_partition_key else None
    if others := [partition for partition in partitions if partition != own]:
        products = [keys.product(shard, step) for step in steps]
        event_store.store_planned(context.instance, event_store.EventOrigin.from_context(context), products, others)


class EventBatcher:
    """Stores the events of finished frames in Dagster in batches; a context manager that stores the rest when it exits.

    A frame is done only after its events are stored. If a run crashes before that, another run stores them without processing
    the frame again.
    """

    def __init__(
        self, context: dg.AssetExecutionContext, archive: Archive, steps: Sequence[Step], provenance: Provenance
    ) -> None:
        self._context, self._archive, self._steps, self._provenance = context, archive, steps, provenance
        self._pending: list[FrameOutcome] = []
        self._pending_since = 0.0

    def __enter__(self) -> "EventBatcher":
        return self

    def __exit__(self, *_: object) -> None:
        self._flush()

    def add(self, outcome: FrameOutcome) -> None:
        """Add a finished frame, and store the batch if it is full or old enough."""
        if not self._pending:
            self._pending_since = time.monotonic()
        self._pending.append(outcome)
        if len(self._pending) >= _MAX_BATCH_FRAMES or time.monotonic() - self._pending_since > _MAX_DELAY_SECONDS:
            self._flush()

    def _flush(self) -> None:
        batch, self._pending = self._pending, []
        instance, origin = self._context.instance, event_store.EventOrigin.from_context(self._context)
        settings, steps, provenance = self._archive.settings, self._steps, self._provenance
        materializations = [event for outcome in batch for event in frame_materializations(outcome, steps, settings, provenance)]
        event_store.store_asset_events(instance, origin, materializations)
        evaluations = [event for outcome in batch for event in frame_checks.frame_evaluations(outcome, steps)]
        event_store.store_checks(instance, origin, evaluations)
        with self._archive.database.begin() as connection:
            for outcome in batch:
                if outcome.source and outcome.complete:
                    mark_done(connection, outcome.source)


def frame_materializations(
    outcome: FrameOutcome, steps: Sequence[Step], addresses: AddressSettings, provenance: Provenance
) -> Iterator[dg.AssetMaterialization]:
    """One materialization per selected step, whether its product was built by this run or was already up to date."""
    for step in steps:
        yield dg.AssetMaterialization(
            asset_key=keys.product(outcome.frame.collection.shard, step),
            partition=outcome.frame.partition,
            metadata=frame_metadata(outcome, step, addresses, is_last=step == steps[-1]),
            tags=provenance.tags(outcome, step),
        )


def failure_observations(shard: str, reasons: Mapping[str, str], steps: Sequence[Step]) -> Iterator[dg.AssetObservation]:
    """Observations that show on the page of each partition why it failed, one per selected step."""
    for partition, reason in reasons.items():
        for step in steps:
            yield dg.AssetObservation(
                asset_key=keys.product(shard, step),
                partition=partition,
                description=reason,
                metadata={"failed": dg.MetadataValue.text(reason)},
            )


def source_observation(outcome: FrameOutcome, reason: str) -> Iterator[dg.AssetObservation]:
    """An observation that the page of the dropped tif shows below its materialization: the tif is there, but was rejected."""
    if outcome.source:
        yield dg.AssetObservation(
            asset_key=keys.georef(outcome.frame.collection.shard),
            partition=outcome.frame.partition,
            description=reason,
            metadata={"rejected": dg.MetadataValue.text(reason)},
            # Without it, Dagster would consider the tif changed.
            tags={DATA_VERSION_TAG: outcome.source.version},
        )


def log_frame(context: dg.AssetExecutionContext, frame: Frame, outcome: FrameOutcome | BaseException, reason: str | None) -> None:
    """Log one frame. The run logs it because worker processes of the pool do not log."""
    fields: dict[str, object] = {"outcome": "crashed"}
    if isinstance(outcome, FrameOutcome):
        steps = outcome.result.seconds if outcome.result else {}
        fields = {
            "outcome": outcome.status,
            "seconds": outcome.seconds,
            "fetch_seconds": outcome.fetch_seconds,
            "publish_seconds": outcome.publish_seconds,
            "stages": {step: _stage_fields(outcome, step) for step in steps} or None,
        }
    run_fields, collection = _run_fields(context, frame.collection.shard), frame.collection.name
    level = logging.ERROR if reason else logging.INFO
    logs.emit("frame", level, **run_fields, collection=collection, frame=frame.id, **fields, reason=reason)


def log_batch(context: dg.AssetExecutionContext, shard: str, frames: int, failed: int, seconds: float) -> None:
    """Log the totals of a run of frames at its end."""
    fields = {"frames": frames, "failed": failed, "seconds": round(seconds, 3)}
    logs.emit("batch", logging.ERROR if failed else logging.INFO, **_run_fields(context, shard), **fields)


def collection_of(context: dg.AssetExecutionContext, shard: str) -> Collection:
    """The collection of the run's partition. Raises Failure for a key that a person added in the Dagster UI."""
    try:
        return parse_collection_partition(shard, context.partition_key)
    except InvalidNameError as error:
        raise dg.Failure(str(error), allow_retries=False) from error


@contextmanager
def log_collection_asset(context: dg.AssetExecutionContext, collection: Collection) -> Iterator[None]:
    """Log the duration of the body, and the reason if it raises. The log event has the name of the asset."""
    started, reason = time.monotonic(), None
    try:
        yield
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise
    finally:
        outcome, level = ("failed", logging.ERROR) if reason else ("made", logging.INFO)
        fields = {"outcome": outcome, "seconds": round(time.monotonic() - started, 3), "reason": reason}
        run_fields = _run_fields(context, collection.shard)
        logs.emit(cast(logs.EventName, context.asset_key.path[-1]), level, **run_fields, collection=collection.name, **fields)


def _run_fields(context: dg.AssetExecutionContext, shard: str) -> dict[str, object]:
    tags = context.run.tags
    return {
        "run": context.run.run_id,
        "batch": tags.get(keys.BATCH_TAG),
        "backfill": tags.get("dagster/backfill"),
        "shard": shard,
    }


def _stage_fields(outcome: FrameOutcome, step: Step) -> dict[str, float]:
    """Duration of one step in seconds, and the bytes that it read and wrote."""
    assert outcome.result is not None
    sizes = {step: product.size for step, product in (outcome.products or {}).items()} | outcome.result.sizes
    source_bytes = outcome.source.size if outcome.source else 0
    earlier_steps = upstream_steps(step)
    bytes_in = sum(sizes.get(earlier, 0) for earlier in earlier_steps) if earlier_steps else source_bytes
    return {"seconds": outcome.result.seconds[step], "bytes_in": bytes_in, "bytes_out": sizes[step]}
