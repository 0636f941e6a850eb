"""Which collections have runs in progress."""

from dagster import DagsterInstance, DagsterRun, RunsFilter
from dagster._core.storage.dagster_run import IN_PROGRESS_RUN_STATUSES, NOT_FINISHED_STATUSES
from dagster._core.storage.tags import ASSET_PARTITION_RANGE_END_TAG, ASSET_PARTITION_RANGE_START_TAG, PARTITION_NAME_TAG

from ls4_assets.assets import keys
from ls4_assets.domain.names import STEPS, Collection, Frame

# With so many rebuilds unfinished nothing more is rebuilt: the queue is then long, and waiting is right.
_MOST_RUNS = 500


class ActiveRuns:
    """What runs in flight are still changing: whole shards, or single collections, by name."""

    def __init__(self) -> None:
        self.everything = False
        self.shards: set[str] = set()
        self.collections: set[str] = set()

    def blocks(self, of: Collection) -> bool:
        return self.everything or of.shard in self.shards or of.name in self.collections


def collections_in_progress(instance: DagsterInstance) -> ActiveRuns:
    """Read from the runs that wait or work: those of a backfill carry none of our tags, so partitions and assets must tell.

    What the bucket sensor's own batches still work on, the source table says (`due_collections`).
    """
    busy = ActiveRuns()
    # The sensor's own and those of `ls4 rematerialize`.
    rebuilds = instance.get_runs(RunsFilter(statuses=NOT_FINISHED_STATUSES, tags=keys.REBUILD_PRIORITY), limit=_MOST_RUNS)
    # Of a backfill only those that work: the others wait for hours, and what it has made is shown meanwhile.
    working = instance.get_runs(RunsFilter(statuses=IN_PROGRESS_RUN_STATUSES), limit=_MOST_RUNS)
    busy.everything = _MOST_RUNS in (len(rebuilds), len(working))
    for run in [*rebuilds, *working]:
        if tagged := run.tags.get(keys.COLLECTION_TAG):
            busy.collections.add(tagged)
        elif keys.BATCH_TAG not in run.tags:
            _add_untagged(busy, run)
    return busy


def _add_untagged(busy: ActiveRuns, run: DagsterRun) -> None:
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
