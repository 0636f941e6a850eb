"""Collections that have runs in progress. Which collections need a rebuild is in `publishing.rebuilds`."""

from dagster import DagsterInstance, DagsterRun, RunsFilter

from ls4_assets.assets import keys
from ls4_assets.domain.names import Collection, Frame
from ls4_assets.domain.products import STEPS
from ls4_assets.runtime.dagster_names import ACTIVE_STATUSES, PARTITION_RANGE_TAGS, PARTITION_TAG, UNFINISHED_STATUSES

# With this many unfinished runs every collection counts as in progress, which also keeps the queue from growing.
_MAX_RUNS = 500


class ActiveRuns:
    """Collections, or whole shards, that unfinished runs are still changing."""

    def __init__(self) -> None:
        self.blocks_all = False
        self.shards: set[str] = set()
        self.collections: set[str] = set()

    def blocks(self, collection: Collection) -> bool:
        return self.blocks_all or collection.shard in self.shards or collection.name in self.collections


def collections_in_progress(instance: DagsterInstance) -> ActiveRuns:
    """Collections of queued rebuilds and of all runs in progress.

    Backfill runs have none of our tags, so their collections come from their assets and partitions. Batches of the ingest sensor
    are not included: `pending_rebuilds` excludes their collections by the source table.
    """
    active = ActiveRuns()
    # Rebuilds of the sensor and of `ls4 rematerialize`.
    rebuilds = instance.get_runs(RunsFilter(statuses=UNFINISHED_STATUSES, tags=keys.REBUILD_PRIORITY), limit=_MAX_RUNS)
    # Queued backfill runs do not count: they may wait for hours, and finished frames should be published in that time.
    in_progress = instance.get_runs(RunsFilter(statuses=ACTIVE_STATUSES), limit=_MAX_RUNS)
    active.blocks_all = _MAX_RUNS in (len(rebuilds), len(in_progress))
    for run in [*rebuilds, *in_progress]:
        if name := run.tags.get(keys.COLLECTION_TAG):
            active.collections.add(name)
        elif keys.BATCH_TAG not in run.tags:
            _add_untagged(active, run)
    return active


def _add_untagged(active: ActiveRuns, run: DagsterRun) -> None:
    tags = (PARTITION_TAG, *PARTITION_RANGE_TAGS)
    partitions = [run.tags[tag] for tag in tags if tag in run.tags]
    for key in run.asset_selection or ():
        if len(key.path) == 2:
            shard, asset = key.path
            names = {_collection_name(shard, asset, partition) for partition in partitions}
            if len(names) == 1 and None not in names:
                active.collections |= {str(name) for name in names}
            else:
                # A range that spans collections may include any of the shard.
                active.shards.add(shard)


def _collection_name(shard: str, asset: str, partition: str) -> str | None:
    """Name of the partition's collection; None if the partition key is not one of ours, because a person added it."""
    try:
        if asset in (*STEPS, "georef"):
            return Frame.from_partition(shard, partition).collection.name
        return Collection.from_partition(shard, partition).name
    except ValueError:
        return None
