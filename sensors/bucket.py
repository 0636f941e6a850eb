"""The sensor that watches georef/: what is new, replaced or gone goes into the source table, what waits goes into batched runs.

Postgres is the truth; the cursor only says where the next look goes on. A look is bounded in time and in runs, and a folder
that cannot be listed is left as it was: a failed listing is not an empty bucket.
"""

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import dagster as dg
from dagster import DagsterInstance, RunsFilter
from dagster._core.storage.dagster_run import FINISHED_STATUSES

from ls4_assets.assets import keys
from ls4_assets.index.schema import SourceState
from ls4_assets.intake import listing, sources
from ls4_assets.intake.planner import Rules, plan_changes
from ls4_assets.names import STEPS
from resources.archive import Archive

# Dagster stops a sensor after 60 s; what is left is looked at by the next tick.
LOOK_SECONDS = 20.0
# Dagster deletes partitions one by one.
LEFTOVERS_PER_TICK = 200
# A batch whose run never appeared in Dagster was lost between the table and the run queue.
LOST_AFTER = timedelta(seconds=90)


@dataclass
class Look:
    """What one look at the bucket found."""

    counts: Counter[str] = field(default_factory=Counter)
    errors: list[str] = field(default_factory=list)
    next_unit: str = listing.LOOSE

    @property
    def refusals_changed(self) -> bool:
        return bool(self.counts[SourceState.REFUSED] or self.counts["gone"])


def bucket_sensor(seconds: int) -> dg.SensorDefinition:
    """The sensor, looking every `seconds`."""

    @dg.sensor(
        name="bucket",
        asset_selection=dg.AssetSelection.all(),
        minimum_interval_seconds=seconds,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Watches georef/ and materialises what staff drop, replace or delete there.",
    )
    def bucket(context: dg.SensorEvaluationContext, archive: Archive) -> dg.SensorResult | dg.SkipReason:
        released = release_dead_batches(context.instance, archive)
        look = look_at_bucket(archive, start=context.cursor or listing.LOOSE)
        remove_leftover_partitions(context.instance, archive)
        for error in look.errors:
            context.log.error(error)
        batches = sources.claim_batches(archive.database, archive.settings.batch_size, archive.settings.batches_per_tick)
        for batch in batches:
            add_partitions(context.instance, batch)
        events = [event for batch in batches for event in _georef_events(batch)]
        if look.refusals_changed:
            events.append(refused_event(archive))
        if not (batches or events):
            context.update_cursor(look.next_unit)
            return dg.SkipReason(_summary(look, released))
        return dg.SensorResult(run_requests=[request(batch) for batch in batches], asset_events=events, cursor=look.next_unit)

    return bucket


def look_at_bucket(archive: Archive, start: str = listing.LOOSE, seconds: float = LOOK_SECONDS) -> Look:
    """Compare the bucket with the source table, unit by unit from `start`, until all are seen or the time is over."""
    look = Look()
    try:
        units = listing.units(archive.storage)
    except Exception as error:  # noqa: BLE001  # each storage has errors of its own; whichever it is, nothing is known now
        look.errors.append(f"The bucket cannot be listed ({error}); nothing is taken for deleted, the next look tries again.")
        look.next_unit = start
        return look
    with archive.database.connect() as connection:
        known = sources.known_units(connection)
    if archive.storage.is_folder and known and units == [listing.LOOSE]:
        look.errors.append("The archive's folder is empty, as when its disk is not mounted; nothing is taken for deleted.")
        return look
    everything = sorted({*units, *known})
    deadline = time.monotonic() + seconds
    ahead = [unit for unit in everything if unit >= start]
    for unit in ahead:
        if time.monotonic() > deadline:
            look.next_unit = unit
            return look
        _look_at_unit(archive, unit, look)
    return look


def _look_at_unit(archive: Archive, unit: str, look: Look) -> None:
    try:
        listed = listing.dropped_in(archive.storage, unit)
    except Exception as error:  # noqa: BLE001  # as above
        look.errors.append(f"{unit or 'The top folder'} cannot be listed ({error}); its frames stay as they are.")
        return
    settle = archive.settings.settle_seconds if archive.storage.is_folder else 0.0
    with archive.database.begin() as connection:
        rules = Rules(archive.settings.shards, timedelta(seconds=settle), sources.tables_in_use(connection))
        changes = plan_changes(listed, sources.known_in(connection, unit), datetime.now(UTC), rules)
        sources.apply_changes(connection, changes)
    look.counts.update(str(change.state) for change in changes.rows)
    look.counts["gone"] += len(changes.gone)


def release_dead_batches(instance: DagsterInstance, archive: Archive) -> int:
    """Give sources back whose run ended, or was lost, before it had finished them. Returns how many."""
    released = 0
    for batch, since in sources.requested_batches(archive.database).items():
        runs = instance.get_runs(RunsFilter(tags={keys.BATCH_TAG: batch}))
        lost = not runs and datetime.now(UTC) - since > LOST_AFTER
        if lost or (runs and all(run.status in FINISHED_STATUSES for run in runs)):
            released += sources.release_batch(archive.database, batch, archive.settings.max_attempts)
    return released


def remove_leftover_partitions(instance: DagsterInstance, archive: Archive) -> None:
    """Take the partitions of frames that left out of Dagit.

    Only here, where they are added too: a run that removed one could take it from a frame that has just come back.
    """
    for leftover in sources.leftover_partitions(archive.database, LEFTOVERS_PER_TICK):
        instance.delete_dynamic_partition(str(keys.frame_partitions(leftover.shard).name), leftover.partition)
        sources.forget_partition(archive.database, leftover)


def add_partitions(instance: DagsterInstance, batch: sources.Batch) -> None:
    """Make the partitions of a batch known, sorted, before anything refers to them."""
    frames = [claimed.frame for claimed in batch.sources]
    instance.add_dynamic_partitions(str(keys.frame_partitions(batch.shard).name), [frame.partition for frame in frames])
    collections = sorted({frame.collection.partition for frame in frames})
    instance.add_dynamic_partitions(str(keys.collection_partitions(batch.shard).name), collections)


def request(batch: sources.Batch) -> dg.RunRequest:
    """One run for all frames of a batch. It bears the first one's partition; the list in its configuration has them all."""
    partitions = [claimed.frame.partition for claimed in batch.sources]
    return dg.RunRequest(
        run_key=batch.id,
        asset_selection=[keys.product(batch.shard, step) for step in STEPS],
        partition_key=partitions[0],
        run_config={"ops": {keys.frames_op(batch.shard): {"config": {"frames": partitions}}}},
        tags={keys.KIND_TAG: "frames", keys.BATCH_TAG: batch.id, **keys.NO_RETRIES},
    )


def refused_event(archive: Archive) -> dg.AssetMaterialization:
    """The list of refused files, as the newest state of one asset."""
    refused = sources.refused(archive.database)
    lines = ["| file | refused because | since |", "| --- | --- | --- |"]
    lines += [f"| {key} | {reason} | {since:%Y-%m-%d %H:%M} |".replace("\n", " ") for key, reason, since in refused[:500]]
    metadata = {"refused": dg.MetadataValue.int(len(refused)), "files": dg.MetadataValue.md("\n".join(lines))}
    return dg.AssetMaterialization(keys.REFUSED, metadata=metadata, description=f"{len(refused)} files are refused by name")


def _georef_events(batch: sources.Batch) -> Iterator[dg.AssetMaterialization]:
    for claimed in batch.sources:
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
    if look.next_unit:
        said.append(f"the look goes on at {look.next_unit}")
    return "; ".join([*said, *look.errors[:1]])
