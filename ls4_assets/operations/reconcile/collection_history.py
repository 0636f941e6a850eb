"""Materializations of the collection assets that Dagster lost, or that an earlier version stored without the frames they are of.

Postgres records which of them are up to date. The others are pending, and their rebuild materializes them. The history of frames
is in `history`.
"""

from collections.abc import Mapping, Set

import dagster as dg
from sqlalchemy import Connection, Row, func, select

from ls4_assets.assets import event_store, keys
from ls4_assets.assets.collection_frames import indexed_version_tags
from ls4_assets.assets.provenance import input_tags
from ls4_assets.db.frames_version import load_frames_versions
from ls4_assets.db.schema import collection as collection_table
from ls4_assets.db.schema import export_state, overview_mosaic
from ls4_assets.domain.names import Collection
from ls4_assets.domain.products import COLLECTION_STEPS
from ls4_assets.operations.reconcile.check_history import evaluate_again
from ls4_assets.operations.reconcile.model import Action, ActionKind
from ls4_assets.runtime.dagster_names import DATA_VERSION_IS_USER_PROVIDED_TAG, DATA_VERSION_TAG, INPUT_DATA_VERSION_TAG
from resources.archive import Archive

_FIRST = COLLECTION_STEPS[0]


def find_lost_collection_history(
    connection: Connection, instance: dg.DagsterInstance, collection: Collection, materialized: Mapping[str, Set[str]]
) -> list[Action]:
    """An action, with the names of the assets as value, if assets that are up to date have no right materialization."""
    current = _current_assets(connection, collection)
    lost = [asset for asset in current if collection.partition not in materialized[asset]]
    if _FIRST in current and _FIRST not in lost:
        frames_tag = _input_tag(keys.collection_frames(collection.shard))
        lost = lost if frames_tag in _last(instance, collection, _FIRST)[1] else [_FIRST]
    if not lost:
        return []
    # Dagster compares the event that an asset was made from with the last one, so those after it are stored again as well.
    restored = current[current.index(lost[0]) :]
    reason = f"has no right materialization of {lost[0]} in the Dagster UI"
    return [Action(ActionKind.RECORD, collection.partition, reason, value=" ".join(restored))]


def restore_collection_history(archive: Archive, instance: dg.DagsterInstance, collection: Collection, action: Action) -> None:
    """Store the materializations that the action names, without a run, each after the one that it was made from; check them."""
    lost = str(action.value).split()
    with archive.database.connect() as connection:
        row = _load_row(connection, collection)
    for asset in [asset for asset in COLLECTION_STEPS if asset in lost and row]:
        version = _known_version(instance, collection, asset) or f"revision-{row.index_revision if row else 0}"
        tags = {DATA_VERSION_TAG: version, DATA_VERSION_IS_USER_PROVIDED_TAG: "true"}
        event = dg.AssetMaterialization(
            dg.AssetKey([collection.shard, asset]),
            partition=collection.partition,
            metadata={"restored": dg.MetadataValue.text("from Postgres, without a rebuild")},
            tags=tags | _made_from(archive, instance, collection, asset),
        )
        event_store.store_asset_events(instance, event_store.RUNLESS_ORIGIN, [event])
    if row:
        evaluate_again(archive, instance, collection, lost)


def _made_from(archive: Archive, instance: dg.DagsterInstance, collection: Collection, asset: str) -> dict[str, str]:
    if asset == _FIRST:
        return indexed_version_tags(instance, archive, collection)
    previous = COLLECTION_STEPS[COLLECTION_STEPS.index(asset) - 1]
    event_id, tags = _last(instance, collection, previous)
    version = tags.get(DATA_VERSION_TAG)
    return input_tags(dg.AssetKey([collection.shard, previous]), version, event_id) if version else {}


def _known_version(instance: dg.DagsterInstance, collection: Collection, asset: str) -> str | None:
    """The data version of the asset's last materialization, or that from which the next asset was made."""
    if version := _last(instance, collection, asset)[1].get(DATA_VERSION_TAG):
        return version
    following = COLLECTION_STEPS[COLLECTION_STEPS.index(asset) + 1 :][:1]
    tag = _input_tag(dg.AssetKey([collection.shard, asset]))
    return next((_last(instance, collection, each)[1].get(tag) for each in following), None)


def _last(instance: dg.DagsterInstance, collection: Collection, asset: str) -> tuple[int | None, Mapping[str, str]]:
    """ID and tags of the last materialization."""
    own = dg.AssetRecordsFilter(dg.AssetKey([collection.shard, asset]), asset_partitions=[collection.partition])
    for record in instance.fetch_materializations(own, limit=1).records:
        materialization = record.asset_materialization
        return record.storage_id, (materialization.tags if materialization else None) or {}
    return None, {}


def _input_tag(asset: dg.AssetKey) -> str:
    return INPUT_DATA_VERSION_TAG.format(asset=asset.to_user_string())


def _current_assets(connection: Connection, collection: Collection) -> list[str]:
    """The collection assets that no rebuild is due for."""
    row, versions = _load_row(connection, collection), load_frames_versions(connection, [collection.name])[collection.name]
    if row is None or versions.current != versions.indexed or not row.index_revision:
        return []
    revisions = {
        "tile_index": row.files_revision,
        "overview_mosaic": row.mosaic_revision,
        "mapfile": row.map_revision,
        "exports": row.exports_revision,
    }
    return [asset for asset in COLLECTION_STEPS if revisions[asset] == row.index_revision]


def _load_row(connection: Connection, collection: Collection) -> Row[tuple[int, int, int, int, int]] | None:
    """The revisions of a collection that is published."""
    columns = collection_table.c
    joined = collection_table.outerjoin(overview_mosaic, overview_mosaic.c.collection == columns.name)
    joined = joined.outerjoin(export_state, export_state.c.collection == columns.name)
    query = select(
        columns.index_revision,
        columns.files_revision,
        columns.map_revision,
        func.coalesce(overview_mosaic.c.revision, 0).label("mosaic_revision"),
        func.coalesce(export_state.c.revision, 0).label("exports_revision"),
    )
    is_published = (columns.name == collection.name, columns.withdrawn_at.is_(None), columns.published_at.is_not(None))
    return connection.execute(query.select_from(joined).where(*is_published)).first()
