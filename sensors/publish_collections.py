"""The sensor that rebuilds a collection once its frames are done: one run a batch, not one a frame.

It asks the frame table what the index does not show yet, so it does not matter who made the frames: the bucket sensor, a
backfill from the Dagster UI, or a re-execution.
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
from ls4_assets.publishing.rebuilds import due_collections, forget_collection, mark_requested, withdrawn_collections
from resources.archive import Archive

RUNS_PER_TICK = 20


def publish_collections_sensor(seconds: int) -> dg.SensorDefinition:
    """The sensor, looking every `seconds`."""

    @dg.sensor(
        name="publish_collections",
        asset_selection=dg.AssetSelection.all(),
        minimum_interval_seconds=seconds,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Rebuilds tile index, overview mosaic, mapfile and catalogue of the collections whose frames changed.",
    )
    def publish_collections(context: dg.SensorEvaluationContext, archive: Archive) -> dg.SensorResult | dg.SkipReason:
        busy = collections_in_progress(context.instance)
        forget_withdrawn(context.instance, archive, busy)
        settings = archive.settings
        due = due_collections(archive.database, settings.public_url, served_root(archive.storage), format_version(settings))
        if not due:
            return dg.SkipReason("Nothing to rebuild; a collection whose frames are being made follows when they are.")
        now = datetime.now(UTC)
        free = [entry for entry in due if entry.may_start(now) and not busy.blocks(entry.collection)]
        requests = [_request(context.instance, archive, entry.collection, entry.first) for entry in free[:RUNS_PER_TICK]]
        if not requests:
            return dg.SkipReason(f"{len(due)} collections are due and wait for runs of theirs to end.")
        return dg.SensorResult(run_requests=requests)

    return publish_collections


def forget_withdrawn(instance: DagsterInstance, archive: Archive, busy: ActiveRuns) -> None:
    """Remove the partitions of collections of which nothing is left, when no run of theirs is under way."""
    for of in withdrawn_collections(archive.database):
        if not busy.blocks(of) and forget_collection(archive.database, of):
            instance.delete_dynamic_partition(str(keys.collection_partitions(of.shard).name), of.partition)


def _request(instance: DagsterInstance, archive: Archive, of: Collection, first: str) -> dg.RunRequest:
    mark_requested(archive.database, of, first)
    logs.event("rebuild_requested", shard=of.shard, collection=of.name)
    instance.add_dynamic_partitions(str(keys.collection_partitions(of.shard).name), [of.partition])
    return dg.RunRequest(
        run_key=uuid4().hex,
        asset_selection=keys.from_step_on(of.shard, first),
        partition_key=of.partition,
        tags={keys.KIND_TAG: "collection", keys.COLLECTION_TAG: of.name, **keys.NO_RETRIES, **keys.REBUILD_PRIORITY},
    )
