"""Runs that rebuild collections: which may start now, as requests of a sensor, or submitted by the run that made the frames.

Which collections are behind is in `publishing.rebuilds`, and the rebuild itself in `collections`. The run that finishes the last
frame of a collection submits the rebuild itself. The sensors request every rebuild that is missing, so none of these is lost.
"""

from collections.abc import Container, Iterable
from datetime import UTC, datetime, timedelta
from typing import NamedTuple
from uuid import uuid4

import dagster as dg
from dagster import DagsterInstance, DagsterRunStatus, RunsFilter

from ls4_assets import logs
from ls4_assets.assets import keys
from ls4_assets.assets.active_runs import ActiveRuns
from ls4_assets.assets.collection_frames import try_observe_frames
from ls4_assets.db.tile_index import served_root
from ls4_assets.domain.names import Collection, Frame
from ls4_assets.publishing.exports import format_version
from ls4_assets.publishing.maps import map_format
from ls4_assets.publishing.rebuilds import PendingRebuild, count_frames, mark_requested, pending_rebuilds
from ls4_assets.runtime.run_line import COLLECTION_KIND
from ls4_assets.runtime.submit import submit_asset_run
from resources.archive import Archive

# The run of a batch that ends a drop into many collections leaves the others to the sensor.
MAX_SUBMITTED = 5
# A collection that is still receiving frames is rebuilt when the last rebuild is this many times its duration ago, so that
# rebuilds of up to a minute take at most a tenth of the time of a large drop.
_PAUSE_FACTOR = 10
_SHORTEST_PAUSE, _LONGEST_PAUSE = timedelta(seconds=30), timedelta(minutes=10)
# It has not started: it will include every frame that is done by now.
_WAITING = [DagsterRunStatus.NOT_STARTED, DagsterRunStatus.QUEUED, DagsterRunStatus.STARTING]


def load_due_rebuilds(archive: Archive, names: Iterable[str] | None = None) -> list[PendingRebuild]:
    """The collections that are behind, all or those with these names, sorted."""
    settings, root = archive.settings, served_root(archive.storage)
    formats = (format_version(settings), map_format(settings))
    return pending_rebuilds(archive.database, settings.public_url, root, *formats, names=names)


class RebuildRequests(NamedTuple):
    """The requests of one tick, and how many collections are due."""

    requests: list[dg.RunRequest]
    due: int


def request_rebuilds(
    instance: DagsterInstance, archive: Archive, active_runs: ActiveRuns, shards: Container[str], limit: int
) -> RebuildRequests:
    """Run requests for up to `limit` collections of `shards` that are due and have no active run."""
    due = [entry for entry in load_due_rebuilds(archive) if entry.collection.shard in shards]
    now = datetime.now(UTC)
    free = (entry for entry in due if entry.may_start(now) and not active_runs.blocks(entry.collection))
    requests: list[dg.RunRequest] = []
    requested: list[Collection] = []
    for entry in free:
        if len(requests) == limit:
            break
        if _is_paused(instance, entry, now) or not _claim(instance, archive, entry):
            continue
        request = dg.RunRequest(
            run_key=uuid4().hex,
            asset_selection=_assets(entry),
            partition_key=entry.collection.partition,
            tags=_tags(archive, entry.collection),
        )
        requests.append(request)
        requested.append(entry.collection)
    # Also after deletions and changed links, which no run of frames makes.
    try_observe_frames(instance, archive, requested)
    return RebuildRequests(requests, len(due))


def submit_rebuilds(context: dg.AssetExecutionContext, archive: Archive, frames: Iterable[Frame]) -> None:
    """Submit the rebuilds that wait only for these frames, which the run of `context` finished. Errors leave it to the sensor."""
    if context.run.remote_job_origin is None:
        return  # a run outside a code location, which the queue cannot launch
    collections = {frame.collection.name for frame in frames}
    try:
        # One earlier attempt may be a rebuild that runs now, from the time before these frames.
        due = [entry for entry in load_due_rebuilds(archive, collections) if not entry.is_busy and entry.attempts <= 1]
        for entry in due[:MAX_SUBMITTED]:
            waiting = RunsFilter(statuses=_WAITING, tags={keys.COLLECTION_TAG: entry.collection.name})
            if context.instance.get_run_ids(waiting, limit=1) or not _claim(context.instance, archive, entry):
                continue
            submit_asset_run(context, _assets(entry), entry.collection.partition, _tags(archive, entry.collection))
    except Exception as error:  # noqa: BLE001  # the frames are done, and the sensor requests the rebuild
        context.log.warning(f"The rebuild could not be requested by this run ({error}); the sensor publish_collections does it.")


def _is_paused(instance: DagsterInstance, entry: PendingRebuild, now: datetime) -> bool:
    """Whether a collection that is still receiving frames was rebuilt too recently."""
    finished = RunsFilter(statuses=[DagsterRunStatus.SUCCESS], tags={keys.COLLECTION_TAG: entry.collection.name})
    records = instance.get_run_records(finished, limit=1) if entry.is_busy else []
    if not records or not records[0].end_time:
        return False
    start, end = records[0].start_time or records[0].end_time, records[0].end_time
    pause = max(_SHORTEST_PAUSE, min(_PAUSE_FACTOR * timedelta(seconds=end - start), _LONGEST_PAUSE))
    return now.timestamp() - end < pause.total_seconds()


def _claim(instance: DagsterInstance, archive: Archive, entry: PendingRebuild) -> bool:
    """Record that this process requests the rebuild. Returns False if another one did so first."""
    collection = entry.collection
    if not mark_requested(archive.database, entry):
        return False
    logs.emit("rebuild_requested", shard=collection.shard, collection=collection.name)
    instance.add_dynamic_partitions(str(keys.collection_partitions(collection.shard).name), [collection.partition])
    return True


def _assets(entry: PendingRebuild) -> list[dg.AssetKey]:
    assets = keys.assets_from_step(entry.collection.shard, entry.first_asset)
    return assets if entry.with_exports else assets[:-1]


def _tags(archive: Archive, collection: Collection) -> dict[str, str]:
    size = keys.size_tags(COLLECTION_KIND, count_frames(archive.database, collection))
    return {**size, keys.COLLECTION_TAG: collection.name, **keys.NO_RETRIES, **keys.REBUILD_PRIORITY}
