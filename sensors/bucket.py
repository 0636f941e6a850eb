"""The sensor that watches georef/: what is new, replaced or gone goes into the source table, what waits goes into batched runs.

Postgres is the truth; the cursor only says where the next look goes on. A look is bounded in time and in runs, and a folder
that cannot be listed is left as it was: a failed listing is not an empty bucket.
"""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta

import dagster as dg
from dagster import DagsterInstance, RunsFilter
from dagster._core.storage.dagster_run import FINISHED_STATUSES

from ls4_assets import logs
from ls4_assets.assets import frame_checks, keys
from ls4_assets.intake import sources
from ls4_assets.intake.batches import Batch, Limits, claim_batches, release_batch, requested_batches
from ls4_assets.intake.deletions import held_collections
from ls4_assets.intake.look import Look, look_at_bucket, only_one_look
from ls4_assets.intake.scans import find_late_scans
from ls4_assets.names import STEPS
from ls4_assets.run_size import RunSize, size_of_run
from ls4_assets.settings import Settings
from resources.archive import Archive

# A look that goes on from a cursor, and the cursor to go on from after it.
TakeLook = Callable[[Archive, str | None], tuple[Look, str]]
SensorEvent = dg.AssetMaterialization | dg.AssetObservation | dg.AssetCheckEvaluation

# Dagster deletes partitions one by one.
LEFTOVERS_PER_TICK = 200
# A batch whose run never appeared in Dagster was lost between the table and the run queue.
LOST_AFTER = timedelta(seconds=90)
# What a frame costs, roughly: by it a batch that is requested later, but has less before it, overtakes in the queue.
SECONDS_A_FRAME = 5


def bucket_sensor(seconds: int) -> dg.SensorDefinition:
    """The sensor, looking every `seconds`."""
    return look_sensor(
        "bucket", "Watches georef/ and materialises what staff drop, replace or delete there.", seconds, _next_part
    )


def look_sensor(name: str, description: str, seconds: int, take: TakeLook) -> dg.SensorDefinition:
    """A sensor that takes a look every `seconds`, one at a time, and requests what follows from it."""

    @dg.sensor(
        name=name,
        asset_selection=dg.AssetSelection.all(),
        minimum_interval_seconds=seconds,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=description,
    )
    def looking(context: dg.SensorEvaluationContext, archive: Archive) -> dg.SensorResult | dg.SkipReason:
        with only_one_look(archive.database) as alone:
            if not alone:
                return dg.SkipReason("An earlier look is not finished yet.")
            look, cursor = take(archive, context.cursor)
            return request_runs(context, archive, look, cursor)

    return looking


def _next_part(archive: Archive, cursor: str | None) -> tuple[Look, str]:
    look = look_at_bucket(archive, start=cursor or "")
    return look, look.next_key


def request_runs(
    context: dg.SensorEvaluationContext, archive: Archive, look: Look, cursor: str
) -> dg.SensorResult | dg.SkipReason:
    """What follows from a look: take back what dead runs left, request the next batches."""
    released, open_batches = release_dead_batches(context.instance, archive)
    remove_leftover_partitions(context.instance, archive)
    late = find_late_scans(archive.database, archive.storage)
    for error in [*look.errors, *late.errors, *newly_held(archive, look)]:
        context.log.error(error)
        logs.event("look", logging.ERROR, reason=error)
    if changes := {what: count for what, count in look.counts.items() if count}:
        logs.event("look", changes=changes)
    batches = claim_batches(archive.database, batch_limits(archive.settings, open_batches))
    for batch in batches:
        add_partitions(context.instance, batch)
        logs.event("batch_requested", batch=batch.id, shard=batch.shard, frames=len(batch.sources))
    events: list[SensorEvent] = [event for batch in batches for event in _georef_events(batch)]
    events += [frame_checks.of_scan(frame, arrived=True) for frame in late.found]
    if not (batches or events):
        context.update_cursor(cursor)
        return dg.SkipReason(_summary(look, released))
    return dg.SensorResult(
        run_requests=[request(batch, archive.settings) for batch in batches], asset_events=events, cursor=cursor
    )


def release_dead_batches(instance: DagsterInstance, archive: Archive) -> tuple[int, int]:
    """Give sources back whose run ended, or was lost, before it had finished them.

    Returns how many, and how many batches are still being worked on.
    """
    requested = requested_batches(archive.database)
    runs = runs_of_batches(instance, list(requested))
    released = still_open = 0
    for batch, since in requested.items():
        lost = batch not in runs and datetime.now(UTC) - since > LOST_AFTER
        if lost or runs.get(batch):
            released += release_batch(archive.database, batch, archive.settings.max_attempts)
        else:
            still_open += 1
    return released, still_open


def runs_of_batches(instance: DagsterInstance, batches: Sequence[str]) -> dict[str, bool]:
    """Whether all runs of a batch are over, by batch; a batch without any run is absent."""
    over: dict[str, bool] = {}
    if batches:
        for run in instance.get_runs(RunsFilter(tags={keys.BATCH_TAG: list(batches)})):
            batch = run.tags[keys.BATCH_TAG]
            over[batch] = over.get(batch, True) and run.status in FINISHED_STATUSES
    return over


def remove_leftover_partitions(instance: DagsterInstance, archive: Archive) -> None:
    """Take the partitions of frames that left out of Dagit.

    Only here, where they are added too: a run that removed one could take it from a frame that has just come back. And not
    while a run of the frame's batch is to come, which may bear this very partition.
    """
    leftovers = sources.leftover_partitions(archive.database, LEFTOVERS_PER_TICK)
    over = runs_of_batches(instance, sorted({leftover.batch for leftover in leftovers if leftover.batch}))
    for leftover in leftovers:
        if over.get(leftover.batch or "", True):
            instance.delete_dynamic_partition(str(keys.frame_partitions(leftover.shard).name), leftover.partition)
            sources.forget_partition(archive.database, leftover)


def add_partitions(instance: DagsterInstance, batch: Batch) -> None:
    """Make the partitions of a batch known, sorted, before anything refers to them."""
    frames = [claimed.frame for claimed in batch.sources]
    instance.add_dynamic_partitions(str(keys.frame_partitions(batch.shard).name), [frame.partition for frame in frames])
    collections = sorted({frame.collection.partition for frame in frames})
    instance.add_dynamic_partitions(str(keys.collection_partitions(batch.shard).name), collections)


def request(batch: Batch, settings: Settings) -> dg.RunRequest:
    """One run for all frames of a batch. It bears the first one's partition; the list in its configuration has them all."""
    partitions = [claimed.frame.partition for claimed in batch.sources]
    return dg.RunRequest(
        run_key=batch.id,
        asset_selection=[keys.product(batch.shard, step) for step in STEPS],
        partition_key=partitions[0],
        run_config={"ops": {keys.frames_op(batch.shard): {"config": {"frames": partitions}}}},
        tags={
            keys.KIND_TAG: "frames",
            keys.BATCH_TAG: batch.id,
            "dagster/priority": str(priority(batch)),
            **keys.NO_RETRIES,
            **(task_size(batch, settings).tags if settings.fargate else {}),
        },
    )


def task_size(batch: Batch, settings: Settings) -> RunSize:
    """Of the batch's task on Fargate. A frame under which runs died needs more, and its batch with it."""
    sizes, deaths = [of.size for of in batch.sources], max(of.deaths for of in batch.sources)
    return size_of_run(sizes, deaths, settings.worker_memory_mb)


def priority(batch: Batch) -> int:
    """Place in Dagster's queue: by the second at which it would be done if its collection had the machine for itself.

    Small and old batches come first, and a large one is overtaken only for as long as it would take itself. Always below zero,
    which is what runs of people have, and rebuilds are above that.
    """
    return -int(time.time() + SECONDS_A_FRAME * (batch.ahead + len(batch.sources)))


def batch_limits(settings: Settings, open_batches: int) -> Limits:
    """How much may be claimed now, while so many batches are open."""
    most = min(settings.batches_per_tick, settings.open_batches - open_batches)
    return Limits(settings.batch_size, most, settings.open_batches_per_shard, settings.open_batches_per_collection)


def newly_held(archive: Archive, look: Look) -> list[str]:
    """What the operator has to be asked since this look."""
    with archive.database.connect() as connection:
        return [str(held) for name in sorted(look.held) for held in held_collections(connection, name)]


def _georef_events(batch: Batch) -> Iterator[dg.AssetMaterialization | dg.AssetObservation]:
    """Of a tif that was replaced an observation too: by that alone Dagster sees that an asset it does not make has changed."""
    for claimed in batch.sources:
        if claimed.generation > 1:
            yield dg.AssetObservation(
                asset_key=keys.georef(batch.shard),
                partition=claimed.frame.partition,
                tags={"dagster/data_version": claimed.version},
            )
        yield dg.AssetMaterialization(
            asset_key=keys.georef(batch.shard),
            partition=claimed.frame.partition,
            metadata={
                "key": dg.MetadataValue.text(claimed.key),
                "size": dg.MetadataValue.int(claimed.size),
                "source_version": dg.MetadataValue.text(claimed.version),
            },
            tags={"dagster/data_version": claimed.version},
        )


def _summary(look: Look, released: int) -> str:
    said = [f"{count} {what}" for what, count in sorted(look.counts.items()) if count] or ["nothing new"]
    if released:
        said.append(f"{released} taken back from dead runs")
    if look.next_key:
        said.append(f"the look goes on behind {look.next_key}")
    return "; ".join([*said, *look.errors[:1]])
