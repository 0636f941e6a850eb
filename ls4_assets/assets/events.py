"""What is told of each frame: to Dagster, materialisations with what an operator wants to read, or why it failed; to the log
(ls4_assets.logs), a line of each frame, run and rebuild.
"""

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import dagster as dg

from ls4_assets import logs
from ls4_assets.assets import event_store, frame_checks, keys
from ls4_assets.assets.provenance import Provenance
from ls4_assets.db.frames import told
from ls4_assets.domain.links import links
from ls4_assets.domain.names import STEPS, Collection, Frame, Step
from ls4_assets.processing.tasks import Outcome
from resources.archive import Archive

# A frame shows in the Dagster UI at most so much later than it is done; each telling costs what a frame of 2,000 px does.
_FRAMES_AT_ONCE = 20
_SECONDS_UNTOLD = 5.0


def plan_partitions(context: dg.AssetExecutionContext, frames: Sequence[Frame], steps: Sequence[Step]) -> None:
    """Announce the frames of a run that was given a list, so that those which fail are shown as failed partitions.

    Dagster does this itself for the run's own partition or range, but knows no run over a scattered set.
    """
    own = context.partition_key if context.has_partition_key else None
    if others := [frame.partition for frame in frames if frame.partition != own]:
        products = [keys.product(frames[0].collection.shard, step) for step in steps]
        event_store.store_planned(context.instance, event_store.Origin.of(context), products, others)


class Telling:
    """What a run has made, told to Dagster some frames at a time; a context manager, at whose end all of it is told.

    Only a frame that Dagster knows of is done: a run that dies before leaves it to another, which tells without making it again.
    """

    def __init__(
        self, context: dg.AssetExecutionContext, archive: Archive, steps: Sequence[Step], provenance: Provenance
    ) -> None:
        self._context, self._archive, self._steps, self._provenance = context, archive, steps, provenance
        self._untold: list[Outcome] = []
        self._since = 0.0

    def __enter__(self) -> "Telling":
        return self

    def __exit__(self, *_: object) -> None:
        self._tell()

    def add(self, outcome: Outcome) -> None:
        if not self._untold:
            self._since = time.monotonic()
        self._untold.append(outcome)
        if len(self._untold) >= _FRAMES_AT_ONCE or time.monotonic() - self._since > _SECONDS_UNTOLD:
            self._tell()

    def _tell(self) -> None:
        some, self._untold = self._untold, []
        public_url, origin = self._archive.settings.public_url, event_store.Origin.of(self._context)
        made = [event for outcome in some for event in materializations(outcome, self._steps, public_url, self._provenance)]
        event_store.store_asset_events(self._context.instance, origin, made)
        checked = [event for outcome in some for event in frame_checks.of_frame(outcome, self._steps)]
        event_store.store_checks(self._context.instance, origin, checked)
        with self._archive.database.begin() as connection:
            for outcome in some:
                if outcome.source and outcome.complete:
                    told(connection, outcome.source)


def materializations(
    outcome: Outcome, steps: Sequence[Step], public_url: str, provenance: Provenance
) -> Iterator[dg.AssetMaterialization]:
    """One event for each step that was asked for, whether its product was made now or was right already."""
    for step in steps:
        yield dg.AssetMaterialization(
            asset_key=keys.product(outcome.frame.collection.shard, step),
            partition=outcome.frame.partition,
            metadata=_metadata(outcome, step, public_url),
            tags=provenance.tags(outcome, step),
        )


def fault(outcome_frame: Frame, steps: Sequence[Step], reason: str) -> Iterator[dg.AssetObservation]:
    """The reason, on the page of the frame's own partition."""
    for step in steps:
        yield dg.AssetObservation(
            asset_key=keys.product(outcome_frame.collection.shard, step),
            partition=outcome_frame.partition,
            description=reason,
            metadata={"failed": dg.MetadataValue.text(reason)},
        )


def log_frame(context: dg.AssetExecutionContext, frame: Frame, outcome: Outcome | BaseException, reason: str | None) -> None:
    """The frame's line in the log: the run tells for its pool, whose processes write none."""
    of = frame.collection
    told: dict[str, object] = {"outcome": "died"}
    if isinstance(outcome, Outcome):
        steps = outcome.result.seconds if outcome.result else {}
        told = {
            "outcome": outcome.status,
            "seconds": outcome.seconds,
            "fetch_seconds": outcome.fetch_seconds,
            "publish_seconds": outcome.publish_seconds,
            "stages": {step: _stage(outcome, step) for step in steps} or None,
        }
    level = logging.ERROR if reason else logging.INFO
    logs.event("frame", level, **_of_run(context, of.shard), collection=of.name, frame=frame.id, **told, reason=reason)


def log_batch(context: dg.AssetExecutionContext, shard: str, frames: int, failed: int, seconds: float) -> None:
    """The run's line, at its end."""
    told = {"frames": frames, "failed": failed, "seconds": round(seconds, 3)}
    logs.event("batch", logging.ERROR if failed else logging.INFO, **_of_run(context, shard), **told)


@contextmanager
def logged(context: dg.AssetExecutionContext, of: Collection) -> Iterator[None]:
    """The line of one asset of a collection, named as the asset: how long it took, and why it failed when it did."""
    started, reason = time.monotonic(), None
    try:
        yield
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise
    finally:
        told = {"outcome": "failed" if reason else "made", "seconds": round(time.monotonic() - started, 3), "reason": reason}
        level = logging.ERROR if reason else logging.INFO
        logs.event(context.asset_key.path[-1], level, **_of_run(context, of.shard), collection=of.name, **told)


def _of_run(context: dg.AssetExecutionContext, shard: str) -> dict[str, object]:
    tags = context.run.tags
    return {
        "run": context.run.run_id,
        "batch": tags.get(keys.BATCH_TAG),
        "backfill": tags.get("dagster/backfill"),
        "shard": shard,
    }


def _stage(outcome: Outcome, step: Step) -> dict[str, float]:
    """What one step took: seconds, and bytes of what it read and wrote."""
    assert outcome.result is not None
    sizes = {step: product.size for step, product in (outcome.products or {}).items()} | outcome.result.sizes
    source = outcome.source.size if outcome.source else 0
    read = source if step == "deflate" else sum(sizes.get(before, 0) for before in STEPS[: STEPS.index(step)])
    return {"seconds": outcome.result.seconds[step], "bytes_in": read, "bytes_out": sizes[step]}


def _metadata(outcome: Outcome, step: Step, public_url: str) -> dict[str, dg.MetadataValue]:
    frame, product, facts, result = outcome.frame, (outcome.products or {})[step], outcome.facts or {}, outcome.result
    found: dict[str, dg.MetadataValue] = {
        "key": dg.MetadataValue.text(frame.product_key(step)),
        "size": dg.MetadataValue.int(product.size),
        "profile": dg.MetadataValue.text(product.profile),
        "source_key": dg.MetadataValue.text(outcome.source.key if outcome.source else ""),
        "source_version": dg.MetadataValue.text(outcome.source.version if outcome.source else ""),
        "source_sha256": dg.MetadataValue.text(outcome.content_hash),
        "work": dg.MetadataValue.text("made now" if outcome.status == "made" else "right already, nothing to do"),
        "frame_seconds": dg.MetadataValue.float(outcome.seconds),
        "fetch_seconds": dg.MetadataValue.float(outcome.fetch_seconds),
        "publish_seconds": dg.MetadataValue.float(outcome.publish_seconds),
    }
    if "width" in facts:
        found["dimensions"] = dg.MetadataValue.text(f"{facts['width']} x {facts['height']}")
    if "source_crs" in facts:
        found["crs"] = dg.MetadataValue.text(f"EPSG:3857 (dropped in {facts['source_crs']})")
        found["valid_share"] = dg.MetadataValue.float(facts["valid_share"])
    if result and step in result.seconds:
        stage = _stage(outcome, step)
        found["seconds"] = dg.MetadataValue.float(stage["seconds"])
        found["bytes_in"] = dg.MetadataValue.int(int(stage["bytes_in"]))
        found["bytes_out"] = dg.MetadataValue.int(int(stage["bytes_out"]))
        found["peak_memory_mb"] = dg.MetadataValue.float(result.peak_mb[step])
    if result and step != "deflate":
        found["overview_levels"] = dg.MetadataValue.text(" ".join(map(str, result.overview_levels)))
    if step == "cog":
        found["link"] = dg.MetadataValue.url(links(frame, public_url, None).dl_georef)
        found["thumbnail"] = dg.MetadataValue.url(f"{public_url}/{frame.thumbnail_key}")
    return found
