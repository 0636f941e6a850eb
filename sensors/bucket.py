"""The sensor that watches georef/: what is new, replaced or gone goes into the source table, what waits goes into batched runs.

Postgres is the truth; the cursor only says where the next look goes on. A look is bounded in time and in runs, and a folder
that cannot be listed is left as it was: a failed listing is not an empty bucket.
"""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import dagster as dg
from dagster import DagsterInstance, RunsFilter
from dagster._core.storage.dagster_run import FINISHED_STATUSES
from sqlalchemy import Engine, text

from ls4_assets.assets import keys
from ls4_assets.intake import listing, sources
from ls4_assets.intake.batches import Batch, claim_batches, release_batch, requested_batches
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
    refusals_changed: bool = False
    next_unit: str = listing.LOOSE


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
        with only_one_look(archive.database) as alone:
            if not alone:
                return dg.SkipReason("An earlier look is not finished yet.")
            return look_and_request(context, archive)

    return bucket


def look_and_request(context: dg.SensorEvaluationContext, archive: Archive) -> dg.SensorResult | dg.SkipReason:
    """One tick: look, take back what dead runs left, request the next batches."""
    released, open_batches = release_dead_batches(context.instance, archive)
    look = look_at_bucket(archive, start=context.cursor or listing.LOOSE)
    remove_leftover_partitions(context.instance, archive)
    for error in look.errors:
        context.log.error(error)
    settings = archive.settings
    most = min(settings.batches_per_tick, settings.open_batches - open_batches)
    batches = claim_batches(archive.database, settings.batch_size, most) if most > 0 else []
    for batch in batches:
        add_partitions(context.instance, batch)
    events = [event for batch in batches for event in _georef_events(batch)]
    if look.refusals_changed:
        events.append(refused_event(archive))
    if not (batches or events):
        context.update_cursor(look.next_unit)
        return dg.SkipReason(_summary(look, released))
    return dg.SensorResult(run_requests=[request(batch) for batch in batches], asset_events=events, cursor=look.next_unit)


@contextmanager
def only_one_look(database: Engine) -> Iterator[bool]:
    """False while another look is under way: Dagster gives a tick up after a minute, but its thread works on."""
    lock = "(hashtextextended('look at the bucket', 0))"
    with database.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        alone = bool(connection.scalar(text(f"SELECT pg_try_advisory_lock{lock}")))
        try:
            yield alone
        finally:
            if alone:
                connection.execute(text(f"SELECT pg_advisory_unlock{lock}"))


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
    deadline = time.monotonic() + seconds
    for unit in sorted(unit for unit in {*units, *known} if unit >= start):
        if time.monotonic() > deadline:
            look.next_unit = unit
            return look
        try:
            _look_at_unit(archive, unit, look)
        except Exception as error:  # noqa: BLE001  # as above; one folder must not keep the others from being seen
            where = unit or "The top folder"
            look.errors.append(f"{where} cannot be looked at ({error}); its frames stay as they are.")
    return look


def _look_at_unit(archive: Archive, unit: str, look: Look) -> None:
    listed = listing.dropped_in(archive.storage, unit)
    settle = archive.settings.settle_seconds if archive.storage.is_folder else 0.0
    with archive.database.begin() as connection:
        rules = Rules(archive.settings.shards, timedelta(seconds=settle), sources.tables_in_use(connection))
        changes = plan_changes(listed, sources.known_in(connection, unit), datetime.now(UTC), rules)
        sources.apply_changes(connection, changes)
    look.counts.update(str(change.state) for change in changes.rows)
    look.counts["gone"] += len(changes.gone)
    look.refusals_changed |= changes.refusals_changed


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


def request(batch: Batch) -> dg.RunRequest:
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
    files = "\n".join(lines) if refused else "none"
    metadata = {"refused": dg.MetadataValue.int(len(refused)), "files": dg.MetadataValue.md(files)}
    return dg.AssetMaterialization(keys.REFUSED, metadata=metadata, description=f"{len(refused)} files are refused by name")


def _georef_events(batch: Batch) -> Iterator[dg.AssetMaterialization]:
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
