"""The frame assets of a shard: georef (dropped by staff) -> deflate -> overviews -> cog.

One operation makes all three products of many frames, in a pool of processes. Each finished frame is its own event, written
beside the run's own stream (assets/events.py); a bad one is told of at the end, when its siblings are done.
"""

import time
from collections.abc import Iterator
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import cast

import dagster as dg
from pebble import ProcessExpired
from pydantic import Field

from ls4_assets.assets import events, frame_checks, keys
from ls4_assets.assets.provenance import Provenance, code_version
from ls4_assets.db.frames import mark_source, source_of
from ls4_assets.db.schema import SourceState
from ls4_assets.domain.names import STEPS, Frame
from ls4_assets.processing.admission import RUN_PREFIX
from ls4_assets.processing.pool import run_tasks
from ls4_assets.processing.tasks import Order, Outcome
from ls4_assets.processing.worker import process_frame
from ls4_assets.settings import Profiles
from resources.archive import Archive
from resources.scratch import scratch_folder

# Partitions of one run of a backfill that is started in the Dagster UI.
BACKFILL_BATCH = 100

FrameEvent = dg.AssetObservation | dg.AssetCheckEvaluation

_DESCRIPTIONS = {
    "deflate": "Tiled deflate tif in EPSG:3857, collars masked. Private; it may expire.",
    "overviews": "External overviews of the deflate tif. Private; they may expire.",
    "cog": "Cloud Optimized GeoTIFF: what the map shows and people download.",
}


class FramesConfig(dg.Config):
    """`frames`: partition keys, for a run over a scattered set (the sensor's), whose own partition is the first of them.
    Empty: the run's partition or range.

    `rebuild`: make products anew although they are right. None: as the run was started, by a person (yes), or by the sensor or
    with the tag for what is stale (no).
    """

    frames: list[str] = Field(default_factory=list)
    rebuild: bool | None = None


def frame_assets(shard: str, profiles: Profiles) -> list[dg.AssetsDefinition | dg.AssetSpec]:
    """The four frame assets of a shard."""
    partitions = keys.frame_partitions(shard)
    dropped = dg.AssetSpec(
        keys.georef(shard),
        partitions_def=partitions,
        group_name=shard,
        description="Georeferenced tif, dropped by staff under georef/.",
    )
    upstream = (dropped.key, *(keys.product(shard, step) for step in STEPS))
    specs = [
        dg.AssetSpec(
            keys.product(shard, step),
            deps=[before],
            skippable=True,
            group_name=shard,
            code_version=code_version(profiles, step),
            kinds={"geotiff"},
            description=_DESCRIPTIONS[step],
        )
        for step, before in zip(STEPS, upstream, strict=False)
    ]

    @dg.multi_asset(
        name=keys.frames_op(shard),
        specs=specs,
        check_specs=frame_checks.specs(shard),
        partitions_def=partitions,
        can_subset=True,
        backfill_policy=dg.BackfillPolicy.multi_run(BACKFILL_BATCH),
        pool="frames",
    )
    def make(context: dg.AssetExecutionContext, config: FramesConfig, archive: Archive) -> Iterator[FrameEvent]:
        yield from make_frames(context, config, archive, shard)

    return [dropped, make]


def make_frames(context: dg.AssetExecutionContext, config: FramesConfig, archive: Archive, shard: str) -> Iterator[FrameEvent]:
    """Make the products asked for of every frame of the run. Raises Failure at the end when some frames are at fault."""
    steps = tuple(step for step in STEPS if keys.product(shard, step) in context.selected_asset_keys)
    frames = [Frame.from_partition(shard, key) for key in config.frames or context.partition_keys]
    if config.frames:
        events.plan_partitions(context, frames, steps)
    rebuild = config.rebuild if config.rebuild is not None else not (config.frames or keys.is_for_stale(context.run.tags))
    origin = Provenance.of_run(context, archive.settings.profiles, steps)
    run = context.run.root_run_id or context.run.run_id
    failed: dict[str, str] = {}
    started = time.monotonic()
    telling = events.Telling(context, archive, steps, origin)
    # One scratch folder a run: what a killed worker leaves in it goes with the run, what a killed run leaves with the next.
    with scratch_folder(RUN_PREFIX, archive.settings.work_dir) as scratch, telling:
        orders = [Order(archive.settings, frame, steps, rebuild, run, scratch) for frame in frames]
        for order, outcome in run_tasks(process_frame, orders, archive.settings):
            reason = outcome.reason if isinstance(outcome, Outcome) else _explain(archive, order, outcome)
            events.log_frame(context, order.frame, outcome, reason)
            if reason:
                context.log.error(f"{order.frame.id}: {reason}", exc_info=outcome if isinstance(outcome, BaseException) else None)
                failed[order.frame.partition] = reason
                yield from events.fault(order.frame, steps, reason)
                yield from frame_checks.of_frame(outcome, steps)
            elif isinstance(outcome, Outcome) and outcome.status == "superseded":
                context.log.info(f"{order.frame.id}: it was dropped anew, or removed, meanwhile; another run sees to it.")
            else:
                telling.add(cast(Outcome, outcome))
    events.log_batch(context, shard, len(frames), len(failed), time.monotonic() - started)
    if failed:
        raise dg.Failure(
            description=f"{len(failed)} of {len(frames)} frames failed; the others are done. " + " | ".join(failed.values()),
            metadata={"failed": dg.MetadataValue.json(failed)},
            allow_retries=False,
        )


def _explain(archive: Archive, order: Order, error: BaseException) -> str:
    """What to say of a frame whose worker did not come back with an outcome; written down for `ls4 status` too."""
    name, state = order.frame.stem, None
    if isinstance(error, FutureTimeoutError):
        limit = f"{order.settings.frame_timeout_seconds:.0f} s"
        reason = f"{name} took longer than {limit} and was stopped; ask the operator to raise LS4_FRAME_TIMEOUT_SECONDS."
        state = SourceState.FAILED
    elif isinstance(error, ProcessExpired):
        killed = f"the worker of {name} was killed (exit code {error.exitcode}), most likely for want of memory"
        reason = f"{killed}; give the run more memory and materialise the frame again, if it is not tried again by itself."
    else:
        what = " ".join(f"{type(error).__name__}: {error}".split())
        reason = f"{name} met an unexpected {what}; materialise it again, and report it if it stays."
    with archive.database.begin() as connection:
        if source := source_of(connection, order.frame):
            mark_source(connection, source, state, reason)
    return reason
