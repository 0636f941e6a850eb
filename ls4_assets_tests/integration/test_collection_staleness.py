"""Which collections the Dagster UI shows as stale: exactly those whose frames changed, until they are rebuilt."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster_graphql.test.utils import execute_dagster_graphql
from sqlalchemy import create_engine, text

from ls4_assets.assets import collections, keys
from ls4_assets.domain.products import COLLECTION_STEPS
from ls4_assets.operations.reconcile.model import ActionKind
from ls4_assets.operations.reconcile.run import Reconciler
from ls4_assets.runtime.history import HistoryPruner
from ls4_assets_tests.platform import Platform, frame_of
from ls4_assets_tests.rasters import photograph, write_tif
from ls4_assets_tests.workspace import loaded_workspace
from resources.archive import Archive

OLD, NEW = "USDA_1958/frames", "USDA_1966/frames"
STATUS = """query ($path: [String!]!, $partition: String!) {
  assetNodeOrError(assetKey: {path: $path}) { ... on AssetNode {
    staleStatus(partition: $partition) staleCauses(partition: $partition) { key { path } reason }
    dependencyKeys { path } dependedByKeys { path }
    assetObservations(partitions: [$partition]) { runId metadataEntries { label ... on IntMetadataEntry { intValue } } }
  } }
}"""


@pytest.fixture
def workspace(platform: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WorkspaceProcessContext]:
    """The UI's view of two collections of Travis with two published frames each."""
    for collection in (OLD, NEW):
        for number in range(2):
            drop(platform, tmp_path, collection, number)
    platform.settle()
    with loaded_workspace(platform, monkeypatch) as loaded:
        yield loaded


def key_of(collection: str, number: int) -> str:
    return f"bw/Travis/{collection}/georef/02-08-60_6-{number}.tif"


def drop(platform: Platform, folder: Path, collection: str, number: int, seed: int = 0) -> None:
    platform.drop(key_of(collection, number), write_tif(folder / "photo.tif", photograph(60, 70, seed=seed)))


def page(workspace: WorkspaceProcessContext, asset: str, partition: str) -> dict[str, object]:
    variables = {"path": ["Travis", asset], "partition": partition}
    node = execute_dagster_graphql(workspace.create_request_context(), STATUS, variables).data["assetNodeOrError"]
    assert isinstance(node, dict)
    return node


def statuses(workspace: WorkspaceProcessContext) -> dict[str, object]:
    return {partition: page(workspace, "tile_index", partition)["staleStatus"] for partition in (OLD, NEW)}


def rebuild_by_hand(platform: Platform, partition: str) -> None:
    """As *Materialize* on the partition's page."""
    assert platform.run([keys.tile_index("Travis")], partition_key=partition).success


def test_only_the_collection_with_new_frames_is_stale_until_it_is_rebuilt(
    platform: Platform, workspace: WorkspaceProcessContext, tmp_path: Path
) -> None:
    """Five new frames of 1966 marked two collections of 1958 "Unsynced (5)" for ever."""
    assert statuses(workspace) == {OLD: "FRESH", NEW: "FRESH"}
    for number in range(2, 7):
        drop(platform, tmp_path, NEW, number)
    platform.ingest()
    assert statuses(workspace) == {OLD: "FRESH", NEW: "STALE"}
    causes = page(workspace, "tile_index", NEW)["staleCauses"]
    assert causes == [{"key": {"path": ["Travis", "collection_frames"]}, "reason": "has a new data version"}]
    platform.rebuild()
    assert statuses(workspace) == {OLD: "FRESH", NEW: "FRESH"}


def test_replaced_frame_makes_its_collection_stale(
    platform: Platform, workspace: WorkspaceProcessContext, tmp_path: Path
) -> None:
    drop(platform, tmp_path, OLD, 0, seed=5)
    platform.ingest()
    assert statuses(workspace) == {OLD: "STALE", NEW: "FRESH"}
    platform.rebuild()
    assert statuses(workspace) == {OLD: "FRESH", NEW: "FRESH"}


def test_deleted_frame_makes_its_collection_stale(platform: Platform, workspace: WorkspaceProcessContext) -> None:
    platform.storage.delete(key_of(OLD, 1))
    platform.ingest()
    assert statuses(workspace) == {OLD: "STALE", NEW: "FRESH"}
    platform.rebuild()
    assert statuses(workspace) == {OLD: "FRESH", NEW: "FRESH"}
    # The rows of deleted frames are removed after the rebuild, which changes nothing.
    rebuild_by_hand(platform, OLD)
    assert statuses(workspace) == {OLD: "FRESH", NEW: "FRESH"}


def test_lineage_from_cog_to_tile_index_is_visible(workspace: WorkspaceProcessContext) -> None:
    between = page(workspace, "collection_frames", NEW)
    assert between["dependencyKeys"] == [{"path": ["Travis", "cog"]}]
    assert between["dependedByKeys"] == [{"path": ["Travis", "tile_index"]}]
    assert between["staleStatus"] == "FRESH"


def test_run_of_frames_adds_one_observation_per_collection(
    platform: Platform, workspace: WorkspaceProcessContext, tmp_path: Path
) -> None:
    """Neither one per frame, nor another one for the rebuild or for a repeated one."""
    before = count_observations(platform)
    for number in range(2, 5):
        drop(platform, tmp_path, NEW, number)
    platform.settle()
    rebuild_by_hand(platform, NEW)
    rebuild_by_hand(platform, OLD)
    assert count_observations(platform) == before | {NEW: before[NEW] + 1}
    observations = page(workspace, "collection_frames", NEW)["assetObservations"]
    assert isinstance(observations, list)
    assert observations[0] == {"runId": "", "metadataEntries": [{"label": "frames", "intValue": 5}]}


def test_frame_that_arrives_during_a_rebuild_leaves_the_collection_stale(
    platform: Platform, workspace: WorkspaceProcessContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refresh_index = collections.refresh_index

    def refresh_and_drop(archive: Archive, collection: object) -> dg.MaterializeResult[None]:
        result = refresh_index(archive, frame_of(key_of(NEW, 0)).collection)
        drop(platform, tmp_path, NEW, 8)
        platform.ingest()
        return result

    monkeypatch.setattr(collections, "refresh_index", refresh_and_drop)
    rebuild_by_hand(platform, NEW)
    monkeypatch.undo()
    assert statuses(workspace) == {OLD: "FRESH", NEW: "STALE"}
    rebuild_by_hand(platform, NEW)
    assert statuses(workspace) == {OLD: "FRESH", NEW: "FRESH"}


def test_frame_that_arrives_between_start_and_refresh_is_in_the_index(
    platform: Platform, workspace: WorkspaceProcessContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dagster reads the versions of inputs when the run starts, so the collection stayed stale after its rebuild."""
    refresh_index = collections.refresh_index

    def drop_and_refresh(archive: Archive, collection: object) -> dg.MaterializeResult[None]:
        drop(platform, tmp_path, NEW, 8)
        platform.ingest()
        return refresh_index(archive, frame_of(key_of(NEW, 0)).collection)

    monkeypatch.setattr(collections, "refresh_index", drop_and_refresh)
    rebuild_by_hand(platform, NEW)
    assert statuses(workspace) == {OLD: "FRESH", NEW: "FRESH"}


def test_change_that_nothing_observed_is_observed_by_the_rebuild(platform: Platform, workspace: WorkspaceProcessContext) -> None:
    """As after a crash between the change and the request of the rebuild."""
    before = count_observations(platform)
    with platform.database.begin() as connection:
        connection.execute(text("UPDATE ls4.frame SET revision = revision + 1 WHERE partition LIKE 'USDA_1966%'"))
    rebuild_by_hand(platform, NEW)
    assert statuses(workspace) == {OLD: "FRESH", NEW: "FRESH"}
    assert count_observations(platform) == before | {NEW: before[NEW] + 1}


def test_pruning_keeps_the_observations_that_staleness_needs(
    platform: Platform, workspace: WorkspaceProcessContext, tmp_path: Path
) -> None:
    for seed in (1, 2):
        for collection in (OLD, NEW):
            drop(platform, tmp_path, collection, 0, seed=seed)
        platform.ingest()
        if seed == 1:
            platform.rebuild()
            platform.skip_waits()
    rebuild_by_hand(platform, OLD)
    assert statuses(workspace) == {OLD: "FRESH", NEW: "STALE"}
    graph = platform.definitions.resolve_asset_graph()
    children = {key: graph.get(key).child_keys for key in graph.get_all_asset_keys()}
    HistoryPruner(platform.instance, datetime.now(UTC) + timedelta(days=1), children).run()
    assert statuses(workspace) == {OLD: "FRESH", NEW: "STALE"}
    assert count_observations(platform) == {OLD: 1, NEW: 2}


def count_observations(platform: Platform) -> dict[str, int]:
    query = "SELECT partition, count(*) FROM event_logs WHERE asset_key = :asset GROUP BY partition"
    with create_engine(vars(platform.instance.event_log_storage)["postgres_url"]).connect() as connection:
        return dict(connection.execute(text(query), {"asset": keys.collection_frames("Travis").to_string()}).tuples().all())


@pytest.mark.parametrize(
    "wiped", [("tile_index",), ("mapfile",), ("collection_frames",), ("collection_frames", *COLLECTION_STEPS)]
)
def test_wiped_history_of_a_collection_heals(
    platform: Platform, workspace: WorkspaceProcessContext, wiped: tuple[str, ...]
) -> None:
    """After a wipe the UI said *Missing*, and a backfill of what is missing rebuilt what was right."""
    files, rows, checked = stored_files(platform), recorded(platform), passed_checks(platform)
    platform.instance.wipe_assets([dg.AssetKey(["Travis", asset]) for asset in wiped])
    reconcile(platform)
    for asset in COLLECTION_STEPS:
        assert {page(workspace, asset, partition)["staleStatus"] for partition in (OLD, NEW)} == {"FRESH"}, asset
    assert (stored_files(platform), recorded(platform)) == (files, rows)
    # A wipe deletes the evaluations of checks too.
    assert passed_checks(platform) == checked
    assert len(checked) == 2 * (1 + 2), "index_counts_match, mapfile_valid and map_renders of both collections"
    assert reconcile(platform) == []


def test_index_of_an_earlier_version_is_fresh_after_reconcile(platform: Platform, workspace: WorkspaceProcessContext) -> None:
    """Every tile index that an earlier version made was *Unsynced* after the upgrade, until its next rebuild."""
    of_frames = "dagster/input_data_version/Travis/collection_frames", "dagster/input_event_pointer/Travis/collection_frames"
    own = dg.AssetRecordsFilter(keys.tile_index("Travis"), asset_partitions=[OLD])
    (record,) = platform.instance.fetch_materializations(own, limit=1).records
    assert record.asset_materialization
    tags = {name: value for name, value in (record.asset_materialization.tags or {}).items() if name not in of_frames}
    earlier = dg.AssetMaterialization(keys.tile_index("Travis"), partition=OLD, tags=tags)
    platform.instance.report_runless_asset_event(earlier)
    assert statuses(workspace) == {OLD: "STALE", NEW: "FRESH"}
    assert reconcile(platform) == [OLD]
    assert {page(workspace, asset, OLD)["staleStatus"] for asset in COLLECTION_STEPS} == {"FRESH"}
    assert reconcile(platform) == []


def test_pending_rebuild_is_not_recorded_as_done(platform: Platform, workspace: WorkspaceProcessContext, tmp_path: Path) -> None:
    drop(platform, tmp_path, NEW, 8)
    platform.ingest()
    platform.instance.wipe_assets([keys.tile_index("Travis")])
    assert reconcile(platform) == [OLD]
    assert statuses(workspace) == {OLD: "FRESH", NEW: "MISSING"}


def reconcile(platform: Platform) -> list[str]:
    """The partitions whose history `ls4 reconcile --apply` restored."""
    reconciler = Reconciler(platform.archive, platform.instance, apply=True, grace_period=timedelta(0))
    return [action.target for report in reconciler.run() for action in report.actions if action.kind == ActionKind.RECORD]


def recorded(platform: Platform) -> list[list[dict[str, object]]]:
    """Rows of the collections and of both tile indexes."""
    tables = {"ls4.collection": "name", "travis_usda_1958_frames": "location", "travis_usda_1966_frames": "location"}
    return [platform.rows(f"SELECT * FROM {table} ORDER BY {column}") for table, column in tables.items()]


def passed_checks(platform: Platform) -> set[tuple[str, str]]:
    """The checks of collections that passed, with the partition of each."""
    passed = "execution_status = 'SUCCEEDED' AND asset_key = ANY(:assets)"
    query = f"SELECT check_name, partition FROM asset_check_executions WHERE {passed}"
    assets = [dg.AssetKey(["Travis", asset]).to_string() for asset in COLLECTION_STEPS]
    with create_engine(vars(platform.instance.event_log_storage)["postgres_url"]).connect() as connection:
        return {(row.check_name, row.partition) for row in connection.execute(text(query), {"assets": assets})}


def stored_files(platform: Platform) -> dict[str, str]:
    return {stored.key: stored.version for stored in platform.storage.list("")}
