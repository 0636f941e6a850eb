"""The sensor that rebuilds a collection once its frames are done: one run a batch, not one a frame.

It asks the frame table what the index does not show yet, so it does not matter who made the frames: the bucket sensor, a
backfill from Dagit, or a re-execution.
"""

from datetime import UTC, datetime
from uuid import uuid4

import dagster as dg
from dagster import DagsterInstance, DagsterRun, RunsFilter
from dagster._core.storage.dagster_run import IN_PROGRESS_RUN_STATUSES, NOT_FINISHED_STATUSES
from dagster._core.storage.tags import ASSET_PARTITION_RANGE_END_TAG, ASSET_PARTITION_RANGE_START_TAG, PARTITION_NAME_TAG

from ls4_assets import logs
from ls4_assets.assets import keys
from ls4_assets.db.tile_index import served_root
from ls4_assets.domain.names import STEPS, Collection, Frame
from ls4_assets.publishing.exports import form
from ls4_assets.publishing.rebuilds import due_collections, forget_collection, mark_requested, withdrawn_collections
from resources.archive import Archive

RUNS_PER_TICK = 20
# With so many rebuilds unfinished nothing more is rebuilt: the queue is then long, and waiting is right.
_MOST_RUNS = 500


def collections_sensor(seconds: int) -> dg.SensorDefinition:
    """The sensor, looking every `seconds`."""

    @dg.sensor(
        name="collections",
        asset_selection=dg.AssetSelection.all(),
        minimum_interval_seconds=seconds,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Rebuilds tile index, overview mosaic, mapfile and catalogue of the collections whose frames changed.",
    )
    def collections(context: dg.SensorEvaluationContext, archive: Archive) -> dg.SensorResult | dg.SkipReason:
        busy = busy_collections(context.instance)
        forget_withdrawn(context.instance, archive, busy)
        settings = archive.settings
        due = due_collections(archive.database, settings.public_url, served_root(archive.storage), form(settings))
        if not due:
            return dg.SkipReason("Nothing to rebuild; a collection whose frames are being made follows when they are.")
        now = datetime.now(UTC)
        free = [entry for entry in due if entry.may_start(now) and not busy.blocks(entry.collection)]
        requests = [_request(context.instance, archive, entry.collection, entry.first) for entry in free[:RUNS_PER_TICK]]
        if not requests:
            return dg.SkipReason(f"{len(due)} collections are due and wait for runs of theirs to end.")
        return dg.SensorResult(run_requests=requests)

    return collections


class Busy:
    """What runs in flight are still changing: whole shards, or single collections, by name."""

    def __init__(self) -> None:
        self.everything = False
        self.shards: set[str] = set()
        self.collections: set[str] = set()

    def blocks(self, of: Collection) -> bool:
        return self.everything or of.shard in self.shards or of.name in self.collections


def busy_collections(instance: DagsterInstance) -> Busy:
    """Read from the runs that wait or work: those of a backfill carry none of our tags, so partitions and assets must tell.

    What the bucket sensor's own batches still work on, the source table says (`due_collections`).
    """
    busy = Busy()
    # The sensor's own and those of `ls4 rematerialize`.
    rebuilds = instance.get_runs(RunsFilter(statuses=NOT_FINISHED_STATUSES, tags=keys.AHEAD_OF_FRAMES), limit=_MOST_RUNS)
    # Of a backfill only those that work: the others wait for hours, and what it has made is shown meanwhile.
    working = instance.get_runs(RunsFilter(statuses=IN_PROGRESS_RUN_STATUSES), limit=_MOST_RUNS)
    busy.everything = _MOST_RUNS in (len(rebuilds), len(working))
    for run in [*rebuilds, *working]:
        if tagged := run.tags.get(keys.COLLECTION_TAG):
            busy.collections.add(tagged)
        elif keys.BATCH_TAG not in run.tags:
            _add_untagged(busy, run)
    return busy


def forget_withdrawn(instance: DagsterInstance, archive: Archive, busy: Busy) -> None:
    """Remove the partitions of collections of which nothing is left, when no run of theirs is under way."""
    for of in withdrawn_collections(archive.database):
        if not busy.blocks(of) and forget_collection(archive.database, of):
            instance.delete_dynamic_partition(str(keys.collection_partitions(of.shard).name), of.partition)


def _add_untagged(busy: Busy, run: DagsterRun) -> None:
    tags = (PARTITION_NAME_TAG, ASSET_PARTITION_RANGE_START_TAG, ASSET_PARTITION_RANGE_END_TAG)
    partitions = [run.tags[tag] for tag in tags if tag in run.tags]
    for key in run.asset_selection or ():
        if len(key.path) == 2:
            shard, asset = key.path
            names = {_collection_name(shard, asset, partition) for partition in partitions}
            if len(names) == 1 and None not in names:
                busy.collections |= {str(name) for name in names}
            else:
                # A range from one collection to another may hold any of the shard.
                busy.shards.add(shard)


def _collection_name(shard: str, asset: str, partition: str) -> str | None:
    """None for a partition that somebody added by hand and that names nothing."""
    try:
        if asset in (*STEPS, "georef"):
            return Frame.from_partition(shard, partition).collection.name
        return Collection.from_partition(shard, partition).name
    except ValueError:
        return None


def _request(instance: DagsterInstance, archive: Archive, of: Collection, first: str) -> dg.RunRequest:
    mark_requested(archive.database, of, first)
    logs.event("rebuild_requested", shard=of.shard, collection=of.name)
    instance.add_dynamic_partitions(str(keys.collection_partitions(of.shard).name), [of.partition])
    return dg.RunRequest(
        run_key=uuid4().hex,
        asset_selection=keys.from_step_on(of.shard, first),
        partition_key=of.partition,
        tags={keys.KIND_TAG: "collection", keys.COLLECTION_TAG: of.name, **keys.NO_RETRIES, **keys.AHEAD_OF_FRAMES},
    )
