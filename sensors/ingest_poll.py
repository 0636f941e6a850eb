"""The sensor `ingest_poll`: scans georef/, records new, replaced and missing files, and requests batched runs for queued ones.

Postgres holds the state; the cursor only says where the next scan resumes. A tick is bounded in time and in runs. The scan
itself is in `ls4_assets.ingest.scan`; `ingest_events` shares everything here but the scan.
"""

import logging
from collections.abc import Callable, Container, Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import dagster as dg
from dagster import DagsterInstance, DagsterRunStatus, RunsFilter

from ls4_assets import logs
from ls4_assets.assets import event_store, frame_checks, keys
from ls4_assets.assets.active_runs import collections_in_progress
from ls4_assets.assets.details import MADE_BY_FRAMES_AND_COLLECTIONS
from ls4_assets.assets.frame_metadata import format_size
from ls4_assets.assets.rebuild_runs import request_rebuilds
from ls4_assets.domain.printable import printable
from ls4_assets.domain.products import STEPS
from ls4_assets.ingest import sources
from ls4_assets.ingest.batches import (
    Batch,
    BatchLimits,
    ClaimedSource,
    claim_batches,
    load_requested_batches,
    release_batch,
    requeue_unstarted,
)
from ls4_assets.ingest.deletions import list_held_deletions
from ls4_assets.ingest.late_raw_scans import find_late_raw_scans
from ls4_assets.ingest.scan import ScanReport, scan_bucket, scan_lock, settle_recent
from ls4_assets.processing.run_size import RunSize, choose_run_size
from ls4_assets.runtime.lost_runs import LOST_TAG
from ls4_assets.runtime.run_line import FRAMES_KIND
from ls4_assets.settings import FrameSettings, RunSettings, Settings
from resources.archive import Archive
from sensors import minimum_interval
from sensors.defined_shards import DefinedShards

# Scans from a cursor; returns the report and the cursor of the next tick.
ScanFunction = Callable[[Archive, str | None], tuple[ScanReport, str]]

# Rebuilds that a deletion may request at once; the sensor publish_collections requests the others.
REBUILDS_PER_TICK = 10
# Bounded, because Dagster deletes partitions one at a time.
ORPHANS_PER_TICK = 200
# A batch without a run after this time was lost between the source table and the run queue.
LOST_AFTER = timedelta(seconds=90)


def ingest_poll_sensor(seconds: int, shards: DefinedShards) -> dg.SensorDefinition:
    """The sensor, with a tick every `seconds`."""
    description = "Scans georef/ and materializes what staff drop, replace or delete there."
    return ingest_sensor("ingest_poll", description, seconds, shards, _scan_next_part)


def ingest_sensor(name: str, description: str, seconds: int, shards: DefinedShards, scan: ScanFunction) -> dg.SensorDefinition:
    """A sensor that scans every `seconds`, one tick at a time, and requests the runs that follow."""

    @dg.sensor(
        name=name,
        asset_selection=MADE_BY_FRAMES_AND_COLLECTIONS,
        minimum_interval_seconds=minimum_interval(seconds),
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=description,
    )
    def ingest(context: dg.SensorEvaluationContext, archive: Archive) -> dg.SensorResult | dg.SkipReason:
        with scan_lock(archive.database) as is_locked:
            if not is_locked:
                return dg.SkipReason("An earlier scan is still running.")
            report, cursor = scan(archive, context.cursor)
            shards.request_missing(archive)
            return request_runs(context, archive, report, cursor, shards.usable)

    return ingest


def _scan_next_part(archive: Archive, cursor: str | None) -> tuple[ScanReport, str]:
    since = datetime.now(UTC)
    report = scan_bucket(archive, start=cursor or "")
    # In the middle of a folder it is not known yet how many of its files are missing.
    if not report.next_key:
        report.add(settle_recent(archive, since))
    return report, report.next_key


def request_runs(
    context: dg.SensorEvaluationContext, archive: Archive, report: ScanReport, cursor: str, shards: Container[str]
) -> dg.SensorResult | dg.SkipReason:
    """What follows a scan: release the batches of crashed runs, log errors and changes, request the next batches."""
    released, open_batches = release_crashed_batches(context.instance, archive)
    remove_orphan_partitions(context.instance, archive)
    late = find_late_raw_scans(archive.database, archive.storage)
    for error in [*report.errors, *late.errors, *newly_held(archive, report)]:
        context.log.error(error)
        logs.emit("scan", logging.ERROR, reason=error)
    if changes := {kind: count for kind, count in report.counts.items() if count}:
        logs.emit("scan", changes=changes)
    batches = claim_batches(archive.database, batch_limits(archive.settings, open_batches), shards)
    for batch in batches:
        add_partitions(context.instance, batch)
        logs.emit("batch_requested", batch=batch.id, shard=batch.shard, frames=len(batch.sources))
    claimed_sources = [(batch.shard, claimed) for batch in batches for claimed in batch.sources]
    # Stored here instead of in the result: the daemon would record them one by one, which takes 30 s for a full tick.
    replaced = [_observation(shard, claimed) for shard, claimed in claimed_sources if claimed.version_count > 1]
    dropped = [_materialization(shard, claimed) for shard, claimed in claimed_sources]
    event_store.store_asset_events(context.instance, event_store.RUNLESS_ORIGIN, [*replaced, *dropped])
    arrived = [frame_checks.raw_scan_evaluation(frame, arrived=True) for frame in late.frames]
    requests = [run_request(batch, archive.settings) for batch in batches]
    if report.counts["gone"]:
        requests += request_rebuilds(
            context.instance, archive, collections_in_progress(context.instance), shards, REBUILDS_PER_TICK
        ).requests
    if not (requests or arrived):
        context.update_cursor(cursor)
        return dg.SkipReason(_summarize(report, released))
    return dg.SensorResult(run_requests=requests, asset_events=arrived, cursor=cursor)


def release_crashed_batches(instance: DagsterInstance, archive: Archive) -> tuple[int, int]:
    """Requeue sources whose run ended, or was lost, before it finished them.

    Returns how many sources were requeued and how many batches are still open.
    """
    requested = load_requested_batches(archive.database)
    states = batch_run_states(instance, list(requested))
    released = still_open = 0
    for batch, since in requested.items():
        lost = BatchRunState(is_finished=datetime.now(UTC) - since > LOST_AFTER, has_started=True)
        state = states.get(batch, lost)
        if not state.is_finished:
            still_open += 1
        elif state.has_started:
            released += release_batch(archive.database, batch, archive.settings.max_attempts)
        else:
            released += requeue_unstarted(archive.database, batch)
    return released, still_open


class BatchRunState(NamedTuple):
    """Whether all runs of a batch are finished, and whether any of them had a process or was canceled by a person."""

    is_finished: bool = True
    has_started: bool = False


def batch_run_states(instance: DagsterInstance, batches: Sequence[str]) -> dict[str, BatchRunState]:
    """Run states by batch; batches without a run are absent."""
    states: dict[str, BatchRunState] = {}
    if batches:
        for record in instance.get_run_records(RunsFilter(tags={keys.BATCH_TAG: list(batches)})):
            run = record.dagster_run
            batch = run.tags[keys.BATCH_TAG]
            state = states.get(batch, BatchRunState())
            was_ended = run.status == DagsterRunStatus.CANCELED or LOST_TAG in run.tags
            has_started = record.start_time is not None or was_ended
            states[batch] = BatchRunState(state.is_finished and run.is_finished, state.has_started or has_started)
    return states


def remove_orphan_partitions(instance: DagsterInstance, archive: Archive) -> None:
    """Remove the partitions of removed frames from Dagster.

    Only the sensor, which also adds them, removes partitions: a run could remove that of a frame that has just come back.
    A partition stays while a run of the frame's batch is pending, as it may be that run's partition key.
    """
    orphans = sources.find_orphan_partitions(archive.database, ORPHANS_PER_TICK)
    states = batch_run_states(instance, sorted({orphan.batch for orphan in orphans if orphan.batch}))
    for orphan in orphans:
        if states.get(orphan.batch or "", BatchRunState()).is_finished:
            instance.delete_dynamic_partition(str(keys.frame_partitions(orphan.shard).name), orphan.partition)
            sources.clear_partition(archive.database, orphan)


def add_partitions(instance: DagsterInstance, batch: Batch) -> None:
    """Add the partitions of a batch to Dagster, sorted, before anything refers to them."""
    frames = [claimed.frame for claimed in batch.sources]
    instance.add_dynamic_partitions(str(keys.frame_partitions(batch.shard).name), [frame.partition for frame in frames])
    collections = sorted({frame.collection.partition for frame in frames})
    instance.add_dynamic_partitions(str(keys.collection_partitions(batch.shard).name), collections)


def run_request(batch: Batch, settings: Settings) -> dg.RunRequest:
    """One run for all frames of a batch: its partition key is the first frame's, and its config lists all of them."""
    partitions = [claimed.frame.partition for claimed in batch.sources]
    return dg.RunRequest(
        run_key=batch.id,
        asset_selection=[keys.product(batch.shard, step) for step in STEPS],
        partition_key=partitions[0],
        run_config={"ops": {keys.frames_op_name(batch.shard): {"config": {"frames": partitions}}}},
        tags={
            **keys.size_tags(FRAMES_KIND, len(partitions)),
            keys.BATCH_TAG: batch.id,
            **keys.run_priority(batch.backlog + len(batch.sources)),
            **keys.NO_RETRIES,
            **(task_size(batch, settings).tags if settings.fargate else {}),
        },
    )


def task_size(batch: Batch, settings: FrameSettings) -> RunSize:
    """The size of the batch's Fargate task; larger after runs of one of its frames crashed."""
    sizes, crash_count = [claimed.size for claimed in batch.sources], max(claimed.crash_count for claimed in batch.sources)
    return choose_run_size(sizes, crash_count, settings.worker_memory_mb)


def batch_limits(settings: RunSettings, open_batches: int) -> BatchLimits:
    """How much may be claimed now, while `open_batches` batches are open."""
    new_batches = min(settings.batches_per_tick, settings.open_batches - open_batches)
    return BatchLimits(settings.batch_size, new_batches, settings.open_batches_per_shard, settings.open_batches_per_collection)


def newly_held(archive: Archive, report: ScanReport) -> list[str]:
    """A sentence for each collection whose deletions this scan held."""
    with archive.database.connect() as connection:
        return [str(held) for name in sorted(report.held) for held in list_held_deletions(connection, name)]


def _observation(shard: str, claimed: ClaimedSource) -> dg.AssetObservation:
    """For a replaced tif: only an observation makes Dagster see that an external asset changed."""
    tags = {"dagster/data_version": claimed.version}
    return dg.AssetObservation(asset_key=keys.georef(shard), partition=claimed.frame.partition, tags=tags)


def _materialization(shard: str, claimed: ClaimedSource) -> dg.AssetMaterialization:
    """For a dropped tif."""
    return dg.AssetMaterialization(
        asset_key=keys.georef(shard),
        partition=claimed.frame.partition,
        metadata={
            "key": dg.MetadataValue.text(claimed.key),
            "size": dg.MetadataValue.text(format_size(claimed.size)),
            "source_version": dg.MetadataValue.text(claimed.version),
        },
        tags={"dagster/data_version": claimed.version},
    )


def _summarize(report: ScanReport, released: int) -> str:
    parts = [f"{count} {kind}" for kind, count in sorted(report.counts.items()) if count] or ["nothing new"]
    if released:
        parts.append(f"{released} requeued after a crashed run")
    if report.next_key:
        parts.append(f"the next scan resumes after {printable(report.next_key)}")
    return "; ".join([*parts, *report.errors[:1]])
