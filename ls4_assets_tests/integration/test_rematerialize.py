"""`ls4 rematerialize` with a real backfill, driven by the iteration of the backfill daemon, while the map stays served."""

import json
import logging
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
import pytest
from affine import Affine
from dagster._core.execution.backfill import BulkActionStatus, PartitionBackfill
from dagster._core.remote_origin import InProcessCodeLocationOrigin
from dagster._core.test_utils import create_test_daemon_workspace_context
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster._core.workspace.load_target import InProcessWorkspaceLoadTarget
from dagster._daemon.backfill import execute_backfill_iteration
from sqlalchemy.exc import SQLAlchemyError

from ls4_assets.assets import keys
from ls4_assets.cli import backfill
from ls4_assets.cli.backfill import follow, launch, read_progress
from ls4_assets.domain.products import COLLECTION_STEPS, STEPS
from ls4_assets.errors import UnknownCollectionError
from ls4_assets.local.postgres import Cluster
from ls4_assets_tests.platform import SHARDS, Platform, frame_of, running_platform
from ls4_assets_tests.rasters import photograph, write_tif

NAME = "Travis_USDA_1958_frames"
KEYS = [f"bw/Travis/USDA_1958/frames/georef/02-08-60_6-10{number}.tif" for number in range(3)]
COLLECTION = frame_of(KEYS[0]).collection


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("platform")


@pytest.fixture(scope="module")
def platform(cluster: Cluster, folder: Path) -> Iterator[Platform]:
    """Three frames on the map, shared by all tests of this module; only the last test damages a tif."""
    with running_platform(cluster, folder, dagster_url="http://dagster.test") as running:
        for number, key in enumerate(KEYS):
            running.drop(key, write_photograph(folder, number))
        running.settle()
        yield running


@pytest.fixture(scope="module")
def daemon(platform: Platform, folder: Path) -> Iterator["Daemon"]:
    shards = folder / "archive.toml"
    shards.write_text("\n".join(f"{kind} = {[name for name in SHARDS if SHARDS[name] == kind]}" for kind in set(SHARDS.values())))
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (platform.archive.overrides | {"archive_file": str(shards)}).items():
            patch.setenv(f"LS4_{name.upper()}", value)
        with _daemon(folder) as running:
            yield running


def write_photograph(folder: Path, number: int) -> Path:
    transform = Affine(1, 0, -10_880_000.0 + 200 * number, 0, -1, 3_540_000.0)
    return write_tif(folder / f"{number}.tif", photograph(200, 220, 1, number), transform=transform)


class Daemon:
    """One iteration of the backfill daemon at a time, over the code location. Runs are executed in this process."""

    def __init__(self, instance: dg.DagsterInstance, workspace: object) -> None:
        self.instance = instance
        self._workspace = workspace

    def run(self, backfill_id: str) -> BulkActionStatus:
        for _ in range(6):
            errors = [e for e in execute_backfill_iteration(self._workspace, logging.getLogger("test")) if e]  # type: ignore[arg-type]
            assert not errors, errors
            backfill = self.instance.get_backfill(backfill_id)
            assert isinstance(backfill, PartitionBackfill)
            if backfill.status != BulkActionStatus.REQUESTED:
                return backfill.status
        raise AssertionError("the backfill did not end")


@contextmanager
def _daemon(folder: Path) -> Iterator[Daemon]:
    """A second Dagster instance on the database of the platform, as in another process."""
    config = json.loads((folder / "dagster" / "dagster.yaml").read_text())
    sync = ("run_launcher", "sync_in_memory_run_launcher"), ("run_coordinator", "sync_in_memory_run_coordinator")
    for key, module in sync:
        name = "".join(word.title() for word in module.split("_"))
        package = "launcher" if key == "run_launcher" else "run_coordinator"
        config[key] = {"module": f"dagster._core.{package}.{module}", "class": name}
    home = folder / "daemon"
    home.mkdir()
    (home / "dagster.yaml").write_text(json.dumps(config))
    origin = InProcessCodeLocationOrigin(LoadableTargetOrigin(module_name="ls4_assets.definitions"))
    with (
        dg.DagsterInstance.from_config(str(home)) as instance,
        create_test_daemon_workspace_context(InProcessWorkspaceLoadTarget(origin), instance) as workspace,
    ):
        yield Daemon(instance, workspace)


@contextmanager
def watched(platform: Platform) -> Iterator[list[str]]:
    """What was missing for map users during the block: index rows, the mapfile, or the COG of a row."""
    missed: list[str] = []
    stopped = threading.Event()

    def watch() -> None:
        while not stopped.is_set():
            try:
                rows = platform.rows(f"SELECT served_location FROM {COLLECTION.table}")
            except SQLAlchemyError as error:
                missed.append(f"the table: {error}")
                return
            served = [str(row["served_location"]) for row in rows]
            if len(served) != len(KEYS):
                missed.append(f"{len(served)} rows")
            missed.extend(path for path in served if not Path(path).is_file())
            if platform.storage.head(COLLECTION.map_key) is None:
                missed.append("the mapfile")
            time.sleep(0.02)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield missed
    finally:
        stopped.set()
        thread.join()


def count_materializations(platform: Platform, step: str) -> int:
    """Materializations of an asset so far."""
    return len(platform.instance.fetch_materializations(dg.AssetKey(["Travis", step]), limit=1000).records)


def test_all_frames_are_rebuilt_while_the_map_is_served(platform: Platform, daemon: Daemon) -> None:
    before = {row["id"]: row["products"] for row in platform.rows("SELECT id, products FROM ls4.frame")}
    counts = {step: count_materializations(platform, step) for step in STEPS}
    platform.storage.delete(frame_of(KEYS[1]).deflate_key)  # as after it expired
    with watched(platform) as missed:
        launched = launch(platform.instance, platform.settings, NAME, "deflate")
        assert read_progress(platform.instance, launched).final_status is None
        assert daemon.run(launched.id) == BulkActionStatus.COMPLETED_SUCCESS
        assert [run.success for run in platform.rebuild()] == [True]
    assert missed == []
    assert launched.url == f"http://dagster.test/runs/b/{launched.id}"
    runs = platform.instance.get_runs(dg.RunsFilter(tags={"dagster/backfill": launched.id}))
    assert len(runs) == 1  # one batch, not one run for each frame
    for step in STEPS:
        assert count_materializations(platform, step) == counts[step] + len(KEYS)
        after = {row["id"]: row["products"] for row in platform.rows("SELECT id, products FROM ls4.frame")}
        assert all(after[id_][step]["made_by"] != before[id_][step]["made_by"] for id_ in before)  # type: ignore[index]
    end = read_progress(platform.instance, launched)
    assert (end.done, end.failed, end.final_status) == (3, (), BulkActionStatus.COMPLETED_SUCCESS)
    assert platform.rebuild() == [] and platform.ingest() == []


def test_rebuild_from_the_cog_step_makes_only_cogs_and_needs_no_expired_products(platform: Platform, daemon: Daemon) -> None:
    frame = frame_of(KEYS[0])
    platform.storage.delete(frame.deflate_key)
    platform.storage.delete(frame.overviews_key)
    counts = {step: count_materializations(platform, step) for step in STEPS}
    drop_tags = keys.run_priority(1)
    launched = launch(platform.instance, platform.settings, NAME.lower(), "cog")
    assert daemon.run(launched.id) == BulkActionStatus.COMPLETED_SUCCESS
    assert {step: count_materializations(platform, step) - counts[step] for step in STEPS} == {
        "deflate": 0,
        "overviews": 0,
        "cog": 3,
    }
    (run,) = platform.instance.get_runs(dg.RunsFilter(tags={"dagster/backfill": launched.id}))
    assert int(run.tags["dagster/priority"]) < int(drop_tags["dagster/priority"]), "a smaller drop has priority"


def test_index_and_map_are_rebuilt_without_the_frames(platform: Platform, daemon: Daemon) -> None:
    counts = {step: count_materializations(platform, step) for step in ("cog", *COLLECTION_STEPS)}
    with watched(platform) as missed:
        launched = launch(platform.instance, platform.settings, NAME, "tile_index")
        assert daemon.run(launched.id) == BulkActionStatus.COMPLETED_SUCCESS
    assert missed == []
    rebuilt = {step: count_materializations(platform, step) - before for step, before in counts.items()}
    assert rebuilt == {"cog": 0} | dict.fromkeys(COLLECTION_STEPS, 1)
    (run,) = platform.instance.get_runs(dg.RunsFilter(tags={"dagster/backfill": launched.id}))
    assert run.tags["ls4/collection"] == NAME


def test_assets_from_a_step() -> None:
    assets = {step: [key.path[1] for key in keys.assets_from_step("Travis", step)] for step in (*STEPS, *COLLECTION_STEPS)}
    assert assets["deflate"] == ["deflate", "overviews", "cog"] and assets["cog"] == ["cog"]
    assert assets["tile_index"] == ["tile_index", "overview_mosaic", "mapfile", "exports"] and assets["exports"] == ["exports"]


def test_unknown_name_is_reported_with_the_closest_match(platform: Platform) -> None:
    before = platform.instance.get_backfills_count()
    with pytest.raises(
        UnknownCollectionError, match=r"no collection Travis_USDA_1985_frames; did you mean Travis_USDA_1958_frames\?"
    ):
        launch(platform.instance, platform.settings, "Travis_USDA_1985_frames", "deflate")
    assert platform.instance.get_backfills_count() == before


def test_progress_and_failures_with_reasons_are_printed(
    platform: Platform, daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backfill, "POLL_SECONDS", 0.05)
    platform.drop(KEYS[1], b"not a tif")
    platform.tick("ingest_poll")
    launched = launch(platform.instance, platform.settings, NAME, "deflate")
    platform.tick("ingest_poll")
    output: list[str] = []
    with ThreadPoolExecutor(1) as executor:
        future = executor.submit(follow, platform.instance, platform.settings, launched, output.append)
        while not output and not future.done():
            time.sleep(0.01)
        assert daemon.run(launched.id) == BulkActionStatus.COMPLETED_FAILED
        assert not future.result(timeout=60)
    assert output[0] == "0 of 3 done"
    assert output[-2] == "2 of 3 rebuilt, 1 failed."
    assert output[-1].startswith(f"failed: {frame_of(KEYS[1]).partition}\n")
    assert "02-08-60_6-101.tif" in output[-1]
