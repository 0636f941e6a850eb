"""Runs that people execute again in the Dagster UI after the bucket has changed."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.definitions.job_base import InMemoryJob
from dagster._core.events import DagsterEvent
from dagster._core.execution.api import execute_run
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster_graphql.test.utils import execute_dagster_graphql

from ls4_assets.assets import keys
from ls4_assets.domain.products import STEPS
from ls4_assets_tests.platform import Platform, frame_of
from ls4_assets_tests.rasters import photograph, write_tif
from ls4_assets_tests.workspace import loaded_workspace

KEYS = [f"bw/Travis/USDA_{year}/frames/georef/02-08-60_6-10{year}.tif" for year in (1958, 1966, 1967)]
GONE, *LEFT = [frame_of(key).partition for key in KEYS]
LAUNCH = """mutation ($params: ExecutionParams!) { launchPipelineReexecution(executionParams: $params) {
  __typename ... on PythonError { message } ... on LaunchRunSuccess { run { id } }
} }"""


@pytest.fixture
def batch(platform: Platform, tmp_path: Path) -> dg.DagsterRun:
    """The finished run of a batch of three frames, of which the first one has left."""
    for seed, key in enumerate(KEYS):
        platform.drop(key, write_tif(tmp_path / "photo.tif", photograph(60, 70, seed=seed)))
    (run,) = platform.ingest()
    platform.rebuild()
    leave(platform, KEYS[0])
    return run.dagster_run


def leave(platform: Platform, *gone: str) -> None:
    for key in gone:
        platform.storage.delete(key)
    platform.settle()
    platform.settle()
    assert not {frame_of(key).partition for key in gone} & {*platform.instance.get_dynamic_partitions("frames/Travis")}


@pytest.fixture
def workspace(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> Iterator[WorkspaceProcessContext]:
    with loaded_workspace(platform, monkeypatch) as loaded:
        yield loaded


def launch(workspace: WorkspaceProcessContext, run: dg.DagsterRun) -> dict[str, Any]:
    """*Re-execute* of a run."""
    context = workspace.create_request_context()
    selector = {
        "repositoryLocationName": context.code_location_names[0],
        "repositoryName": "__repository__",
        "jobName": "__ASSET_JOB",
        "assetSelection": [{"path": ["Travis", step]} for step in STEPS],
        "assetCheckSelection": [],
    }
    tags = [{"key": key, "value": value} for key, value in run.tags.items()]
    metadata = {"rootRunId": run.run_id, "parentRunId": run.run_id, "tags": tags}
    params = {"selector": selector, "runConfigData": run.run_config, "executionMetadata": metadata}
    launched = execute_dagster_graphql(context, LAUNCH, {"params": params}).data["launchPipelineReexecution"]
    assert isinstance(launched, dict)
    return launched


def execute(platform: Platform, run_id: str) -> dg.DagsterRun:
    """Execute a queued run in this process."""
    instance = platform.instance
    starting = DagsterEvent(dg.DagsterEventType.RUN_STARTING.value, "__ASSET_JOB")
    instance.report_dagster_event(starting, run_id=run_id)
    run = instance.get_run_by_id(run_id)
    assert run
    job = platform.definitions.resolve_implicit_global_asset_job_def().get_subset(asset_selection=run.asset_selection)
    execute_run(InMemoryJob(job), run, instance)
    ended = instance.get_run_by_id(run_id)
    assert ended
    return ended


def test_batch_whose_first_frame_has_left(platform: Platform, batch: dg.DagsterRun, workspace: WorkspaceProcessContext) -> None:
    """Its run failed with "Partition range ... is not a valid range" before any frame."""
    assert batch.tags["dagster/partition"] == GONE
    platform.instance.wipe_assets([keys.product("Travis", "cog")])
    run = execute(platform, launch(workspace, batch)["run"]["id"])
    assert platform.partitions("Travis", "cog") == dict.fromkeys(LEFT, "MATERIALIZED")
    # It was shown as its first frame.
    assert (run.tags["ls4/collections"], run.tags["ls4/frames"]) == ("3 collections", "3")
    failures = [event.dagster_event for event in platform.instance.all_logs(run.run_id) if event.dagster_event]
    (failure,) = [event.step_failure_data.user_failure_data for event in failures if event.is_step_failure]
    assert failure and str(failure.description).startswith("1 of 3 frames failed; the others are done. 02-08-60_6-101958")


def test_batch_whose_frames_have_all_left(platform: Platform, batch: dg.DagsterRun, workspace: WorkspaceProcessContext) -> None:
    """As above, for each frame."""
    leave(platform, *KEYS[1:])
    assert "All frames of this run have left the archive" in launch(workspace, batch)["message"]
