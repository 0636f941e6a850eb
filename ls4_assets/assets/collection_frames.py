"""The asset `collection_frames` of a shard, one partition for each collection, between `cog` and `tile_index`.

Nothing makes it: ls4 observes it when the frames of a collection changed. From its data version Dagster computes which tile
indexes are stale. If `tile_index` depended on `cog` directly, a new frame would make every collection of its shard stale.
"""

import logging
from collections.abc import Iterable

import dagster as dg

from ls4_assets import logs
from ls4_assets.assets import event_store, keys
from ls4_assets.assets.details import AssetDetails
from ls4_assets.assets.provenance import input_tags
from ls4_assets.db.frames_version import FramesVersion, load_frames_versions
from ls4_assets.domain.names import Collection
from ls4_assets.runtime.dagster_names import DATA_VERSION_IS_USER_PROVIDED_TAG, DATA_VERSION_TAG
from resources.archive import Archive

# Frames may change again between a rebuild and the observation of what it indexed.
_RECENT = 10


def collection_frames_spec(shard: str, details: AssetDetails) -> dg.AssetSpec:
    return dg.AssetSpec(
        keys.collection_frames(shard),
        deps=[dg.AssetDep(keys.product(shard, "cog"), partition_mapping=dg.AllPartitionMapping())],
        partitions_def=keys.collection_partitions(shard),
        group_name=shard,
        kinds={"postgres"},
        description="The frames of the collection. Its data version changes when one is added, replaced or removed.",
        **details.of(observe_frames, "collection"),
    )


def observe_frames(instance: dg.DagsterInstance, archive: Archive, collections: Iterable[Collection]) -> dict[str, FramesVersion]:
    """Store an observation for each collection whose frames changed since the last one. Returns the version of each by name."""
    by_name = {collection.name: collection for collection in collections}
    with archive.database.connect() as connection:
        versions = load_frames_versions(connection, by_name)
    observations = [
        _observation(by_name[name], version)
        for name, version in versions.items()
        if [*_recent_versions(instance, by_name[name], limit=1).values()] != [version.current]
    ]
    # Without a run: history would keep the run for as long as the observation.
    event_store.store_asset_events(instance, event_store.RUNLESS_ORIGIN, observations)
    return versions


def try_observe_frames(instance: dg.DagsterInstance, archive: Archive, collections: Iterable[Collection]) -> None:
    """As `observe_frames`, where the work is done already: an error is logged, and the next change or rebuild observes again."""
    try:
        observe_frames(instance, archive, collections)
    except Exception as error:  # noqa: BLE001  # only the display of staleness depends on it
        logs.emit("not_observed", logging.WARNING, error=str(error))


def indexed_version_tags(instance: dg.DagsterInstance, archive: Archive, collection: Collection) -> dict[str, str]:
    """Tags of a materialization of `tile_index`: the version of the frames in it, and the event that observed this version.

    Dagster's own tags have the newest event at the start of the run, and a rebuild also indexes what changed after that.
    """
    try:
        version = observe_frames(instance, archive, [collection])[collection.name]
        recent = _recent_versions(instance, collection, limit=_RECENT)
    except Exception as error:  # noqa: BLE001  # the index is refreshed, and Dagster has tags of its own
        logs.emit("not_observed", logging.WARNING, collection=collection.name, error=str(error))
        return {}
    event_id = next((event_id for event_id, observed in recent.items() if observed == version.indexed), None)
    # A version that was never observed is no longer current, and Dagster's own tags show that.
    return {} if event_id is None else input_tags(keys.collection_frames(collection.shard), version.indexed, event_id)


def _observation(collection: Collection, version: FramesVersion) -> dg.AssetObservation:
    return dg.AssetObservation(
        asset_key=keys.collection_frames(collection.shard),
        partition=collection.partition,
        metadata={"frames": dg.MetadataValue.int(version.frames)},
        tags={DATA_VERSION_TAG: version.current, DATA_VERSION_IS_USER_PROVIDED_TAG: "true"},
    )


def _recent_versions(instance: dg.DagsterInstance, collection: Collection, limit: int) -> dict[int, str | None]:
    """The data versions that were observed last, by the ID of their event, the newest first."""
    own = dg.AssetRecordsFilter(keys.collection_frames(collection.shard), asset_partitions=[collection.partition])
    records = instance.fetch_observations(own, limit=limit).records
    observations = {record.storage_id: record.event_log_entry.asset_observation for record in records}
    return {event_id: (event.tags or {}).get(DATA_VERSION_TAG) for event_id, event in observations.items() if event}
