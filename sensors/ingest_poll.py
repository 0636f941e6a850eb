"""The sensor that watches georef/: what is new, replaced or gone goes into the source table, what waits goes into batched runs.

Postgres is the truth; the cursor only says where the next look goes on. A look is bounded in time and in runs, and a folder
that cannot be listed is left as it was: a failed listing is not an empty bucket.
"""

import logging
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import dagster as dg
from dagster import DagsterInstance, DagsterRunStatus, RunsFilter

from ls4_assets import logs
from ls4_assets.assets import event_store, frame_checks, keys
from ls4_assets.domain.names import STEPS
from ls4_assets.ingest import sources
from ls4_assets.ingest.batches import (
    Batch,
    ClaimedSource,
    Limits,
    claim_batches,
    release_batch,
    requested_batches,
    requeue_unstarted,
)
from ls4_assets.ingest.deletions import held_collections
from ls4_assets.ingest.late_raw_scans import find_late_scans
from ls4_assets.ingest.scan import ScanReport, scan_bucket, scan_lock
from ls4_assets.processing.run_size import RunSize, size_of_run
from ls4_assets.settings import Settings
from resources.archive import Archive

# A look that goes on from a cursor, and the cursor to go on from after it.
ScanFunction = Callable[[Archive, str | None], tuple[ScanReport, str]]

# Dagster deletes partitions one by one.
LEFTOVERS_PER_TICK = 200
# A batch whose run never appeared in Dagster was lost between the table and the run queue.
LOST_AFTER = timedelta(seconds=90)


def ingest_poll_sensor(seconds: int) -> dg.SensorDefinition:
    """The sensor, looking every `seconds`."""
    return ingest_sensor(
        "ingest_poll", "Watches georef/ and materialises what staff drop, replace or delete there.", seconds, _next_part
    )


def ingest_sensor(name: str, description: str, seconds: int, take: ScanFunction) -> dg.SensorDefinition:
    """A sensor that takes a look every `seconds`, one at a time, and requests what follows from it."""

    @dg.sensor(
        name=name,
        asset_selection=dg.AssetSelection.all(),
        minimum_interval_seconds=seconds,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=description,
    )
    def looking(context: dg.SensorEvaluationContext, archive: Archive) -> dg.SensorResult | dg.SkipReason:
        with scan_lock(archive.database) as alone:
            if not alone:
                return dg.SkipReason("An earlier look is not finished yet.")
            look, cursor = take(archive, context.cursor)
            return request_runs(context, archive, look, cursor)

    return looking


def _next_part(archive: Archive, cursor: str | None) -> tuple[ScanReport, str]:
    look = scan_bucket(archive, start=cursor or "")
    return look, look.next_key


def request_runs(
    context: dg.SensorEvaluationContext, archive: Archive, look: ScanReport, cursor: str
) -> dg.SensorResult | dg.SkipReason:
    """What follows from a look: take back what dead runs left, request the next batches."""
    released, open_batches = release_crashed_batches(context.instance, archive)
    remove_orphan_partitions(context.instance, archive)
    late = find_late_scans(archive.database, archive.storage)
    for error in [*look.errors, *late.errors, *newly_held(archive, look)]:
        context.log.error(error)
        logs.event("look", logging.ERROR, reason=error)
    if changes := {what: count for what, count in look.counts.items() if count}:
        logs.event("look", changes=changes)
    batches = claim_batches(archive.database, batch_limits(archive.settings, open_batches), archive.settings.shards)
    for batch in batches:
        add_partitions(context.instance, batch)
        logs.event("batch_requested", batch=batch.id, shard=batch.shard, frames=len(batch.sources))
    claimed = [(batch.shard, one) for batch in batches for one in batch.sources]
    # Here and not in the result: the daemon records that one by one, half a minute for a full tick.
    replaced = [_observation(shard, one) for shard, one in claimed if one.generation > 1]
    dropped = [_materialization(shard, one) for shard, one in claimed]
    event_store.store_asset_events(context.instance, event_store.RUNLESS, [*replaced, *dropped])
    scanned = [frame_checks.of_scan(frame, arrived=True) for frame in late.found]
    if not (batches or scanned):
        context.update_cursor(cursor)
        return dg.SkipReason(_summary(look, released))
    return dg.SensorResult(
        run_requests=[request(batch, archive.settings) for batch in batches], asset_events=scanned, cursor=cursor
    )


def release_crashed_batches(instance: DagsterInstance, archive: Archive) -> tuple[int, int]:
    """Give sources back whose run ended, or was lost, before it had finished them.

    Returns how many, and how many batches are still being worked on.
    """
    requested = requested_batches(archive.database)
    runs = batch_run_states(instance, list(requested))
    released = still_open = 0
    for batch, since in requested.items():
        lost = BatchRunState(over=datetime.now(UTC) - since > LOST_AFTER, begun=True)
        fate = runs.get(batch, lost)
        if not fate.over:
            still_open += 1
        elif fate.begun:
            released += release_batch(archive.database, batch, archive.settings.max_attempts)
        else:
            released += requeue_unstarted(archive.database, batch)
    return released, still_open


class BatchRunState(NamedTuple):
    """Of the runs of a batch: whether all of them are over, and whether any began, or was cancelled by a person before."""

    over: bool = True
    begun: bool = False


def batch_run_states(instance: DagsterInstance, batches: Sequence[str]) -> dict[str, BatchRunState]:
    """By batch; one without any run is absent."""
    fates: dict[str, BatchRunState] = {}
    if batches:
        for record in instance.get_run_records(RunsFilter(tags={keys.BATCH_TAG: list(batches)})):
            run = record.dagster_run
            other = fates.get(run.tags[keys.BATCH_TAG], BatchRunState())
            begun = record.start_time is not None or run.status == DagsterRunStatus.CANCELED
            fates[run.tags[keys.BATCH_TAG]] = BatchRunState(other.over and run.is_finished, other.begun or begun)
    return fates


def remove_orphan_partitions(instance: DagsterInstance, archive: Archive) -> None:
    """Take the partitions of frames that left out of the Dagster UI.

    Only here, where they are added too: a run that removed one could take it from a frame that has just come back. And not
    while a run of the frame's batch is to come, which may bear this very partition.
    """
    leftovers = sources.orphan_partitions(archive.database, LEFTOVERS_PER_TICK)
    fates = batch_run_states(instance, sorted({leftover.batch for leftover in leftovers if leftover.batch}))
    for leftover in leftovers:
        if fates.get(leftover.batch or "", BatchRunState()).over:
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
            **keys.run_priority(batch.ahead + len(batch.sources)),
            **keys.NO_RETRIES,
            **(task_size(batch, settings).tags if settings.fargate else {}),
        },
    )


def task_size(batch: Batch, settings: Settings) -> RunSize:
    """Of the batch's task on Fargate. A frame under which runs died needs more, and its batch with it."""
    sizes, crash_count = [of.size for of in batch.sources], max(of.crash_count for of in batch.sources)
    return size_of_run(sizes, crash_count, settings.worker_memory_mb)


def batch_limits(settings: Settings, open_batches: int) -> Limits:
    """How much may be claimed now, while so many batches are open."""
    most = min(settings.batches_per_tick, settings.open_batches - open_batches)
    return Limits(settings.batch_size, most, settings.open_batches_per_shard, settings.open_batches_per_collection)


def newly_held(archive: Archive, look: ScanReport) -> list[str]:
    """What the operator has to be asked since this look."""
    with archive.database.connect() as connection:
        return [str(held) for name in sorted(look.held) for held in held_collections(connection, name)]


def _observation(shard: str, claimed: ClaimedSource) -> dg.AssetObservation:
    """Of a tif that was replaced: by that alone Dagster sees that an asset it does not make has changed."""
    tags = {"dagster/data_version": claimed.version}
    return dg.AssetObservation(asset_key=keys.georef(shard), partition=claimed.frame.partition, tags=tags)


def _materialization(shard: str, claimed: ClaimedSource) -> dg.AssetMaterialization:
    """Of a tif that was dropped."""
    return dg.AssetMaterialization(
        asset_key=keys.georef(shard),
        partition=claimed.frame.partition,
        metadata={
            "key": dg.MetadataValue.text(claimed.key),
            "size": dg.MetadataValue.int(claimed.size),
            "source_version": dg.MetadataValue.text(claimed.version),
        },
        tags={"dagster/data_version": claimed.version},
    )


def _summary(look: ScanReport, released: int) -> str:
    said = [f"{count} {what}" for what, count in sorted(look.counts.items()) if count] or ["nothing new"]
    if released:
        said.append(f"{released} taken back from dead runs")
    if look.next_key:
        said.append(f"the look goes on behind {look.next_key}")
    return "; ".join([*said, *look.errors[:1]])
