"""The sensor `publish_collections`: rebuilds collections whose frames changed, with one run per batch instead of one per frame.

It reads from the frame table what the index lacks (`ls4_assets.publishing.rebuilds`), so it does not matter which run made
the frames: one of an ingest sensor, a backfill from the Dagster UI, or a re-execution. A run of an ingest sensor submits its
rebuilds itself when its frames are done; this sensor requests all others, and those that were lost.
"""

import dagster as dg
from dagster import DagsterInstance

from ls4_assets.assets import keys
from ls4_assets.assets.active_runs import ActiveRuns, collections_in_progress
from ls4_assets.assets.details import MADE_BY_COLLECTIONS
from ls4_assets.assets.rebuild_runs import request_rebuilds
from ls4_assets.publishing.rebuilds import delete_withdrawn_collection, withdrawn_collections
from ls4_assets.runtime.lost_runs import fail_lost_runs
from resources.archive import Archive
from sensors import minimum_interval
from sensors.defined_shards import DefinedShards

RUNS_PER_TICK = 20


def publish_collections_sensor(seconds: int, shards: DefinedShards) -> dg.SensorDefinition:
    """The sensor, with a tick every `seconds`."""

    @dg.sensor(
        name="publish_collections",
        asset_selection=MADE_BY_COLLECTIONS,
        minimum_interval_seconds=minimum_interval(seconds),
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Rebuilds tile index, overview mosaic, mapfile and exports of the collections whose frames changed.",
    )
    def publish_collections(context: dg.SensorEvaluationContext, archive: Archive) -> dg.SensorResult | dg.SkipReason:
        fail_lost_runs(context.instance)
        active_runs = collections_in_progress(context.instance)
        remove_withdrawn_collections(context.instance, archive, active_runs)
        requests, due = request_rebuilds(context.instance, archive, active_runs, shards.usable, RUNS_PER_TICK)
        if not due:
            return dg.SkipReason("Nothing to rebuild. A collection whose frames are being made is rebuilt when they are done.")
        if not requests:
            return dg.SkipReason(f"{due} collections are due and wait for their active runs to end.")
        return dg.SensorResult(run_requests=requests)

    return publish_collections


def remove_withdrawn_collections(instance: DagsterInstance, archive: Archive, active_runs: ActiveRuns) -> None:
    """Remove the rows and partitions of collections without frames or files, unless a run of theirs is active."""
    for collection in withdrawn_collections(archive.database):
        if not active_runs.blocks(collection) and delete_withdrawn_collection(archive.database, collection):
            instance.delete_dynamic_partition(str(keys.collection_partitions(collection.shard).name), collection.partition)
