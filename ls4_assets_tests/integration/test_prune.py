"""Pruning Dagster's database: every page of the Dagster UI answers the same before and after, and runs are not disturbed."""

import threading
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster_graphql.test.utils import execute_dagster_graphql
from sqlalchemy import create_engine, text

from ls4_assets.assets import keys
from ls4_assets.domain.products import COLLECTION_STEPS, STEPS
from ls4_assets.runtime.history import HistoryPruner, PruneReport
from ls4_assets_tests.platform import Platform, frame_of
from ls4_assets_tests.rasters import photograph, write_tif
from ls4_assets_tests.workspace import loaded_workspace

FOLDER = "bw/Travis/USDA_1958/frames/georef"
GOOD = [f"{FOLDER}/02-08-60_6-{number}.tif" for number in range(3)]
BAD = f"{FOLDER}/02-08-60_6-9.tif"
FRAMES = [frame_of(key).partition for key in (*GOOD, BAD)]
COLLECTION = frame_of(BAD).collection.partition

_EVENT = "runId timestamp partition tags { key value } metadataEntries { label description }"
ASSET_PAGE = f"""query ($path: [String!]!, $partitions: [String!]!) {{
  assetNodeOrError(assetKey: {{path: $path}}) {{ ... on AssetNode {{
    dependencyKeys {{ path }} dependedByKeys {{ path }}
    partitionStats {{ numMaterialized numFailed numMaterializing numPartitions }}
    assetPartitionStatuses {{ ... on DefaultPartitionStatuses {{
      materializedPartitions failedPartitions unmaterializedPartitions materializingPartitions }} }}
    latestMaterializationByPartition(partitions: $partitions) {{ {_EVENT} }}
    assetMaterializations(limit: 1) {{ {_EVENT} }}
    assetObservations(limit: 1) {{ {_EVENT} }}
    assetChecksOrError {{ ... on AssetChecks {{ checks {{ name
      executionForLatestMaterialization {{ id status runId evaluation {{ success partition metadataEntries {{ label }} }} }}
    }} }} }}
  }} }}
  assetsLatestInfo(assetKeys: [{{path: $path}}]) {{
    latestMaterialization {{ {_EVENT} }} unstartedRunIds inProgressRunIds latestRun {{ id status }} }}
}}"""
PARTITION_PAGE = f"""query ($path: [String!]!, $partition: String!) {{
  assetNodeOrError(assetKey: {{path: $path}}) {{ ... on AssetNode {{
    staleStatus(partition: $partition)
    staleCauses(partition: $partition) {{ key {{ path }} partitionKey reason category }}
    latestRunForPartition(partition: $partition) {{ id status startTime endTime stepKeysToExecute }}
    assetMaterializations(partitions: [$partition], limit: 1) {{
      {_EVENT} runOrError {{ ... on Run {{ id status startTime endTime
        stats {{ ... on RunStatsSnapshot {{ stepsSucceeded }} }} }} }} }}
    assetObservations(partitions: [$partition], limit: 1) {{ {_EVENT} }}
  }} }}
}}"""
CHECK_PAGE = """query ($path: [String!]!, $name: String!, $partition: String!) {
  assetCheckExecutions(assetKey: {path: $path}, checkName: $name, limit: 1, partition: $partition) {
    id status runId timestamp evaluation { success severity description metadataEntries { label description } } }
}"""
RUNS_PAGE = """query ($after: Float!) {
  runsOrError(filter: {createdAfter: $after}) { ... on Runs { results { id status startTime endTime tags { key value }
    assets { key { path } } stepStats { stepKey status materializations { label } }
    eventConnection { events { __typename ... on MessageEvent { message timestamp } } } } } }
}"""

Ask = Callable[[str, Mapping[str, object]], Any]


@pytest.fixture
def ask(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ask]:
    """A function that answers a query as the Dagster UI does."""
    with loaded_workspace(platform, monkeypatch) as workspace:

        def answer(query: str, variables: Mapping[str, object]) -> object:
            return execute_dagster_graphql(workspace.create_request_context(), query, variables).data

        yield answer


def pages(ask: Ask, since: datetime) -> dict[str, Any]:
    """The answers of the pages of all assets, partitions and checks, and of the runs since a time."""
    answers: dict[str, Any] = {"runs": ask(RUNS_PAGE, {"after": since.timestamp()})}
    for name in ("georef", *STEPS, *COLLECTION_STEPS):
        path, partitions = ["Travis", name], FRAMES if name in ("georef", *STEPS) else [COLLECTION]
        answers[name] = ask(ASSET_PAGE, {"path": path, "partitions": partitions})
        for partition in partitions:
            answers[f"{name} {partition}"] = ask(PARTITION_PAGE, {"path": path, "partition": partition})
    checks = {"cog": ("cog_valid", "raw_scan_exists"), "tile_index": ("index_counts_match",), "mapfile": ("mapfile_valid",)}
    for name, check_names in checks.items():
        for check in check_names:
            for partition in FRAMES if name == "cog" else [COLLECTION]:
                variables = {"path": ["Travis", name], "name": check, "partition": partition}
                answers[f"{check} {partition}"] = ask(CHECK_PAGE, variables)
    return answers


def rows(platform: Platform) -> dict[str, int]:
    with create_engine(vars(platform.instance.event_log_storage)["postgres_url"]).connect() as connection:
        tables = ("event_logs", "asset_event_tags", "asset_check_executions", "runs", "run_tags")
        return {table: int(connection.scalar(text(f"SELECT count(*) FROM {table}")) or 0) for table in tables}


def prune(platform: Platform, before: datetime) -> PruneReport:
    graph = platform.definitions.resolve_asset_graph()
    children = {key: graph.get(key).child_keys for key in graph.get_all_asset_keys()}
    return HistoryPruner(platform.instance, before, children).run()


def drop(platform: Platform, folder: Path, *names: str, seed: int) -> None:
    for name in names:
        platform.drop(name, write_tif(folder / "photo.tif", photograph(60, 70, seed=seed)))


def materialize(platform: Platform, number: int, *steps: str) -> None:
    selection = [dg.AssetKey(["Travis", step]) for step in steps]
    assert platform.run(selection, partition_key=FRAMES[number]).success


def test_pages_answer_the_same_after_pruning(platform: Platform, ask: Ask, tmp_path: Path) -> None:
    """Three generations of frames and collections, a failed frame, and staleness that refers to an older event."""
    platform.drop(BAD, b"%PDF-1.7")
    for seed in range(3):
        drop(platform, tmp_path, *GOOD, seed=seed)
        platform.settle()
        platform.skip_waits()
    # The newest overviews were made from an older event of deflate, which has the same version as the newest one.
    materialize(platform, 0, "overviews", "cog")
    materialize(platform, 0, "deflate")
    # Stale, because deflate was made from a newer scan.
    materialize(platform, 1, "overviews", "cog")
    drop(platform, tmp_path, GOOD[1], seed=7)
    platform.tick("ingest_poll")
    platform.tick("ingest_poll")
    materialize(platform, 1, "deflate")
    since = datetime.now(UTC)
    materialize(platform, 2, *STEPS)
    before, counts = pages(ask, since), rows(platform)
    overviews = [before[f"overviews {partition}"] for partition in FRAMES[:2]]
    assert [page["assetNodeOrError"]["staleStatus"] for page in overviews] == ["FRESH", "STALE"]

    report = prune(platform, since)
    after = pages(ask, since)
    assert {page: answer for page, answer in after.items() if answer != before[page]} == {}
    # Dagster computes the status of partitions from the log again when it has no cache.
    for name in (*STEPS, *COLLECTION_STEPS):
        platform.instance.event_log_storage.wipe_asset_cached_status(dg.AssetKey(["Travis", name]))
    after = pages(ask, since)
    assert {page: answer for page, answer in after.items() if answer != before[page]} == {}

    left = rows(platform)
    assert all(left[table] < counts[table] for table in counts), (counts, left)
    assert left["event_logs"] < 0.7 * counts["event_logs"]
    assert min(report.events, report.evaluations, report.runs) > 0
    assert prune(platform, since).events == 0


def test_runs_work_while_history_is_pruned(platform: Platform, tmp_path: Path) -> None:
    """A limit in the future makes everything prunable but what belongs to a run that has not ended."""
    drop(platform, tmp_path, *GOOD, seed=1)
    platform.settle()
    drop(platform, tmp_path, *GOOD, seed=2)
    stop, reports, errors = threading.Event(), list[PruneReport](), list[Exception]()

    def prune_repeatedly() -> None:
        while not stop.is_set():
            try:
                reports.append(prune(platform, datetime.now(UTC) + timedelta(days=1)))
            except Exception as error:  # noqa: BLE001  # the main thread reports it
                errors.append(error)

    thread = threading.Thread(target=prune_repeatedly)
    thread.start()
    try:
        runs = platform.settle()
    finally:
        stop.set()
        thread.join()
    assert errors == [] and len(reports) > 1 and sum(report.events for report in reports) > 0
    assert runs and all(run.success for run in runs)
    for step in STEPS:
        assert platform.partitions("Travis", step) == dict.fromkeys(FRAMES[:3], "MATERIALIZED")
        latest = platform.instance.get_latest_materialization_event(keys.product("Travis", step))
        assert latest and platform.instance.get_run_by_id(latest.run_id)


def test_schedule_prunes_by_the_setting(platform: Platform, tmp_path: Path) -> None:
    drop(platform, tmp_path, GOOD[0], seed=1)
    platform.ingest()
    materialize(platform, 0, *STEPS)
    counts = rows(platform)
    job = platform.definitions.resolve_job_def("prune_history")
    assert job.execute_in_process(instance=platform.instance).success
    assert rows(platform)["asset_check_executions"] == counts["asset_check_executions"], "the history of 90 days is kept"
    with create_engine(vars(platform.instance.event_log_storage)["postgres_url"]).begin() as connection:
        connection.execute(text("UPDATE event_logs SET timestamp = timestamp - interval '91 days'"))
        connection.execute(text("UPDATE runs SET end_time = end_time - 91 * 86400"))
    events = rows(platform)["event_logs"]
    assert job.execute_in_process(instance=platform.instance).success
    assert rows(platform)["event_logs"] < events
    assert platform.definitions.resolve_schedule_def("prune_history").default_status == dg.DefaultScheduleStatus.RUNNING
