"""The sensor `publish_collections`: rebuilds collections whose frames changed, with one run per batch instead of one per frame.

It reads from the frame table what the index lacks (`ls4_assets.publishing.rebuilds`), so it does not matter which run made
the frames: one of an ingest sensor, a backfill from the Dagster UI, or a re-execution.
"""

from datetime import UTC, datetime
from uuid import uuid4

import dagster as dg
from dagster import DagsterInstance

from ls4_assets import logs
from ls4_assets.assets import keys
from ls4_assets.assets.active_runs import ActiveRuns, collections_in_progress
from ls4_assets.db.tile_index import served_root
from ls4_assets.domain.names import Collection
from ls4_assets.publishing.exports import format_version
from ls4_assets.publishing.maps import map_format
from ls4_assets.publishing.rebuilds import (
    count_frames,
    delete_withdrawn_collection,
    mark_requested,
    pending_rebuilds,
    withdrawn_collections,
)
from ls4_assets.runtime.lost_runs import fail_lost_runs
from ls4_assets.runtime.run_line import COLLECTION_KIND
from resources.archive import Archive
from sensors import minimum_interval

RUNS_PER_TICK = 20


def publish_collections_sensor(seconds: int) -> dg.SensorDefinition:
    """The sensor, with a tick every `seconds`."""

    @dg.sensor(
        name="publish_collections",
        asset_selection=dg.AssetSelection.all(),
        minimum_interval_seconds=minimum_interval(seconds),
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Rebuilds tile index, overview mosaic, mapfile and exports of the collections whose frames changed.",
    )
    def publish_collections(context: dg.SensorEvaluationContext, archive: Archive) -> dg.SensorResult | dg.SkipReason:
        fail_lost_runs(context.instance)
        active_runs = collections_in_progress(context.instance)
        remove_withdrawn_collections(context.instance, archive, active_runs)
        settings = archive.settings
        due = pending_rebuilds(
            archive.database,
            settings.public_url,
            served_root(archive.storage),
            format_version(settings),
            map_format(settings),
        )
        if not due:
            return dg.SkipReason("Nothing to rebuild. A collection whose frames are being made is rebuilt when they are done.")
        now = datetime.now(UTC)
        startable = [entry for entry in due if entry.may_start(now) and not active_runs.blocks(entry.collection)]
        requests = [
            _request(context.instance, archive, entry.collection, entry.first_asset) for entry in startable[:RUNS_PER_TICK]
        ]
        if not requests:
            return dg.SkipReason(f"{len(due)} collections are due and wait for their active runs to end.")
        return dg.SensorResult(run_requests=requests)

    return publish_collections


def remove_withdrawn_collections(instance: DagsterInstance, archive: Archive, active_runs: ActiveRuns) -> None:
    """Remove the rows and partitions of collections without frames or files, unless a run of theirs is active."""
    for collection in withdrawn_collections(archive.database):
        if not active_runs.blocks(collection) and delete_withdrawn_collection(archive.database, collection):
            instance.delete_dynamic_partition(str(keys.collection_partitions(collection.shard).name), collection.partition)


def _request(instance: DagsterInstance, archive: Archive, collection: Collection, first_asset: str) -> dg.RunRequest:
    mark_requested(archive.database, collection, first_asset)
    frames = count_frames(archive.database, collection)
    logs.emit("rebuild_requested", shard=collection.shard, collection=collection.name)
    instance.add_dynamic_partitions(str(keys.collection_partitions(collection.shard).name), [collection.partition])
    return dg.RunRequest(
        run_key=uuid4().hex,
        asset_selection=keys.assets_from_step(collection.shard, first_asset),
        partition_key=collection.partition,
        tags={
            **keys.size_tags(COLLECTION_KIND, frames),
            keys.COLLECTION_TAG: collection.name,
            **keys.NO_RETRIES,
            **keys.REBUILD_PRIORITY,
        },
    )
