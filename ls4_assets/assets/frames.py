"""The frame assets of a shard: georef (dropped by staff) -> deflate -> overviews -> cog.

One op materializes all three products of many frames in a process pool. Every finished frame gets its own events, which
`events` stores outside the run's event stream. If frames fail, the run fails at the end, after all others are done. The work on
a frame itself is in `ls4_assets.processing`.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import cast

import dagster as dg
from pebble import ProcessExpired
from pydantic import Field

from ls4_assets.assets import events, frame_checks, keys
from ls4_assets.assets.collection_frames import try_observe_frames
from ls4_assets.assets.details import AssetDetails
from ls4_assets.assets.provenance import Provenance, code_version
from ls4_assets.assets.rebuild_runs import submit_rebuilds
from ls4_assets.db.frames import load_source, set_source_state
from ls4_assets.db.schema import SourceState
from ls4_assets.domain.names import Frame
from ls4_assets.domain.partition_parser import parse_frame_partition
from ls4_assets.domain.products import STEPS, Step, product_of
from ls4_assets.domain.profiles import Profiles
from ls4_assets.errors import InvalidNameError
from ls4_assets.processing.admission import RUN_PREFIX
from ls4_assets.processing.lost_workers import explain_time_limit
from ls4_assets.processing.pool import run_tasks
from ls4_assets.processing.tasks import FrameOutcome, FrameTask
from ls4_assets.processing.worker import process_frame
from resources.archive import Archive
from resources.scratch import scratch_folder

# Partitions per run of a backfill that a person starts in the Dagster UI.
BACKFILL_BATCH = 100

FrameEvent = dg.AssetObservation | dg.AssetCheckEvaluation


class FramesConfig(dg.Config):
    """Run config of the frames op.

    frames: partition keys of the run. The sensor sets it, because its batches are not a range; the run's own partition is the
        first of them. If empty, the run processes its partition or range.
    rebuild: whether to rebuild products that are up to date. If None, runs that people launch do; runs of the sensor, and runs
        tagged for stale partitions only, do not.
    """

    frames: list[str] = Field(default_factory=list)
    rebuild: bool | None = None


def frame_assets(shard: str, profiles: Profiles, details: AssetDetails) -> list[dg.AssetsDefinition | dg.AssetSpec]:
    """The georef asset of a shard, and the op that materializes the other three."""
    partitions = keys.frame_partitions(shard)
    georef = dg.AssetSpec(
        keys.georef(shard),
        partitions_def=partitions,
        group_name=shard,
        kinds={"geotiff"},
        description="Georeferenced tif that staff dropped under georef/.",
        **details.of(frame_assets, "frame"),
    )
    specs = [
        dg.AssetSpec(
            keys.product(shard, step),
            deps=[keys.upstream(shard, step)],
            skippable=True,
            group_name=shard,
            code_version=code_version(profiles, step),
            kinds={*product_of(step).kinds},
            description=product_of(step).description,
            **details.of(materialize_frames, "frame"),
        )
        for step in STEPS
    ]

    @dg.multi_asset(
        name=keys.frames_op_name(shard),
        specs=specs,
        check_specs=frame_checks.check_specs(shard),
        partitions_def=partitions,
        can_subset=True,
        backfill_policy=dg.BackfillPolicy.multi_run(BACKFILL_BATCH),
        pool="frames",
    )
    def products(context: dg.AssetExecutionContext, config: FramesConfig, archive: Archive) -> Iterator[FrameEvent]:
        yield from materialize_frames(context, config, archive, shard)

    return [georef, products]


def materialize_frames(
    context: dg.AssetExecutionContext, config: FramesConfig, archive: Archive, shard: str
) -> Iterator[FrameEvent]:
    """Build the selected products of every frame of the run. Raises Failure at the end if any frame failed."""
    steps = tuple(step for step in STEPS if keys.product(shard, step) in context.selected_asset_keys)
    frames: list[Frame] = []
    failed: dict[str, str] = {}
    for key in config.frames or context.partition_keys:
        try:
            frames.append(parse_frame_partition(shard, key))
        except InvalidNameError as error:  # a person added it in the Dagster UI
            failed[key] = str(error)
    if config.frames:
        events.plan_partitions(context, shard, config.frames, steps)
    rebuild = config.rebuild if config.rebuild is not None else not (config.frames or keys.is_stale_only(context.run.tags))
    provenance = Provenance.from_run(context, archive.settings.profiles, steps)
    run_id = context.run.root_run_id or context.run.run_id
    yield from _failure_events(shard, failed, steps)
    started = time.monotonic()
    batcher = events.EventBatcher(context, archive, steps, provenance)
    # One scratch folder per run: the run removes what a killed worker left, and the next run removes what a killed run left.
    with scratch_folder(RUN_PREFIX, archive.settings.work_dir) as scratch, batcher:
        tasks = [FrameTask(archive.settings, frame, steps, rebuild, run_id, scratch) for frame in frames]
        for task, outcome in run_tasks(process_frame, tasks, archive.settings):
            frame = task.frame
            reason = outcome.reason if isinstance(outcome, FrameOutcome) else _record_lost_worker(archive, task, outcome)
            events.log_frame(context, frame, outcome, reason)
            if reason:
                context.log.error(f"{frame.id}: {reason}", exc_info=outcome if isinstance(outcome, BaseException) else None)
                failed[frame.partition] = reason
                if isinstance(outcome, FrameOutcome):
                    yield from events.failure_observations(shard, {frame.partition: reason}, steps)
                    yield from events.source_observation(outcome, reason)
                    yield from frame_checks.frame_evaluations(outcome, steps)
                else:
                    yield from _failure_events(shard, {frame.partition: reason}, steps)
            elif isinstance(outcome, FrameOutcome) and outcome.status == "superseded":
                context.log.info(f"{frame.id}: its tif was replaced or removed during this run; another run processes it.")
            else:
                batcher.add(cast(FrameOutcome, outcome))
    try_observe_frames(context.instance, archive, {frame.collection for frame in frames})
    if keys.BATCH_TAG in context.run.tags:
        submit_rebuilds(context, archive, frames)
    total = len(config.frames or context.partition_keys)
    events.log_batch(context, shard, total, len(failed), time.monotonic() - started)
    if failed:
        raise dg.Failure(
            description=f"{len(failed)} of {total} frames failed; the others are done. " + " | ".join(failed.values()),
            metadata={"failed": dg.MetadataValue.json(failed)},
            allow_retries=False,
        )


def _failure_events(shard: str, reasons: Mapping[str, str], steps: Sequence[Step]) -> Iterator[FrameEvent]:
    """Events of frames that have no outcome, because their key is invalid or their worker was lost."""
    yield from events.failure_observations(shard, reasons, steps)
    if "cog" in steps:
        yield from (frame_checks.failed_evaluation(shard, *item) for item in reasons.items())


def _record_lost_worker(archive: Archive, task: FrameTask, error: BaseException) -> str:
    """Reason why a worker returned no outcome, which it also records for `ls4 status`."""
    name, state = task.frame.stem, None
    if reason := explain_time_limit(name, error, task.settings.frame_timeout_seconds):
        state = SourceState.FAILED
    elif isinstance(error, ProcessExpired):
        killed = f"the worker of {name} was killed (exit code {error.exitcode}), most likely because memory ran out"
        reason = f"{killed}; give the run more memory and materialize the frame again, unless ls4 retries it automatically."
    else:
        description = " ".join(f"{type(error).__name__}: {error}".split())
        reason = f"{name} failed with an unexpected {description}; materialize it again, and report the error if it recurs."
    with archive.database.begin() as connection:
        if source := load_source(connection, task.frame):
            set_source_state(connection, source, state, reason)
    return reason
