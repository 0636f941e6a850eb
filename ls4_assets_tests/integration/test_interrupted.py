"""Frames interrupted at the worst moment: by a crashed run, a deletion, a full disk, another run of the same frame."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
import pytest
import rasterio
from sqlalchemy import text

from ls4_assets.assets import events, frames
from ls4_assets.db.schema import SourceState
from ls4_assets.domain.products import STEPS
from ls4_assets.local.postgres import Cluster
from ls4_assets.processing import admission, worker
from ls4_assets.processing.tasks import FrameOutcome, FrameTask
from ls4_assets.processing.worker import process_frame
from ls4_assets_tests.platform import CHECKOUT, Platform, frame_of, running_platform
from ls4_assets_tests.rasters import photograph, write_tif
from resources.directory_storage import DirectoryStorage
from resources.open import open_database
from resources.storage import StoredObject

FOLDER = "bw/Travis/USDA_1958/frames/georef"
KEY = f"{FOLDER}/02-08-60_6-107.tif"
TABLE = "travis_usda_1958_frames"


def request_run(platform: Platform) -> dg.SensorResult:
    result = platform.tick("ingest_poll")
    assert isinstance(result, dg.SensorResult) and result.run_requests
    return result


def test_frame_published_before_its_run_was_killed_is_reported_to_dagster(
    platform: Platform, good: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run crashed between publishing and reporting: the frame was on the map, but failed in the Dagster UI forever."""
    platform.drop(KEY, good)
    result = request_run(platform)
    with monkeypatch.context() as patch:
        patch.setattr(events, "frame_materializations", crash)
        assert [run.success for run in platform.execute(result)] == [False]
    assert platform.state(KEY)[0] == "requested"
    cog = platform.storage.head(frame_of(KEY).cog_key)
    assert platform.partitions("Travis", "cog") == {frame_of(KEY).partition: "FAILED"}
    platform.ingest()
    platform.skip_waits()
    platform.settle()
    assert platform.state(KEY) == ("done", None)
    assert platform.partitions("Travis", "cog") == {frame_of(KEY).partition: "MATERIALIZED"}
    assert platform.storage.head(frame_of(KEY).cog_key) == cog, "nothing is made twice"


def crash(*_: object, **__: object) -> None:
    raise OSError("killed here")


def test_frame_deleted_during_its_upload_leaves_nothing_behind(
    platform: Platform, good: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The deletion came between the last check and writing the row: the frame stayed on the map without a source."""
    platform.drop(KEY, good)
    result = request_run(platform)
    with monkeypatch.context() as patch:
        patch.setattr(frames, "process_frame", delete_during_upload)
        platform.execute(result)
    assert platform.state(KEY)[0] == "deleted"
    platform.settle()
    platform.settle()
    assert platform.rows("SELECT 1 FROM ls4.frame") == []
    assert platform.rows(f"SELECT to_regclass('public.{TABLE}') AS it") == [{"it": None}]
    assert [stored.key for stored in platform.storage.list("bw/")] == []


def delete_during_upload(task: FrameTask) -> FrameOutcome:
    upload = DirectoryStorage.upload

    def delete_and_upload(self: DirectoryStorage, path: Path, key: str, **options: bool) -> StoredObject:
        self.delete(KEY)
        with open_database(task.settings.database_url.get_secret_value()).begin() as connection:
            statement = "UPDATE ls4.source SET state = :state WHERE frame = :frame"
            connection.execute(text(statement), {"state": SourceState.DELETED, "frame": task.frame.id})
        return upload(self, path, key, **options)

    DirectoryStorage.upload = delete_and_upload  # type: ignore[method-assign]
    return process_frame(task)


def test_frame_without_enough_disk_space_is_requeued_with_the_numbers(
    platform: Platform, good: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk at night used up the attempts of every frame, and staff got messages that their files were bad."""
    platform.drop(KEY, good)
    result = request_run(platform)
    with monkeypatch.context() as patch:
        patch.setattr(frames, "process_frame", process_with_full_disk)
        (run,) = platform.execute(result)
    assert not run.success
    state, reason = platform.state(KEY)
    assert state == "queued"
    assert reason and reason.startswith("02-08-60_6-107.tif needs ") and "and 0 MB is free" in reason and reason.endswith(".")
    (row,) = platform.rows("SELECT attempts, retry_after > now() + interval '1 minute' AS waits FROM ls4.source")
    assert row == {"attempts": 0, "waits": True}
    assert platform.ingest() == []
    platform.skip_waits()
    platform.settle()
    assert platform.state(KEY) == ("done", None)


def test_file_that_is_overwritten_while_it_is_read_is_processed_as_a_whole(
    platform: Platform, good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy tool that writes to the same file mixes two photographs for a program that reads it."""
    write_tif(tmp_path / "new.tif", photograph(200, 220, seed=5))
    platform.drop(KEY, good)
    result = request_run(platform)
    with monkeypatch.context() as patch:
        patch.setattr(frames, "process_frame", overwrite_during_download)
        platform.execute(result)
    assert platform.rows("SELECT 1 FROM ls4.frame") == [], "nothing of the mixture is published"
    platform.skip_waits()
    platform.settle()
    assert platform.state(KEY) == ("done", None)
    (row,) = platform.rows(f"SELECT served_location FROM {TABLE}")
    with rasterio.open(row["served_location"]) as cog, rasterio.open(tmp_path / "new.tif") as new:
        assert (cog.read(1) == new.read(1)).all()


def overwrite_during_download(task: FrameTask) -> FrameOutcome:
    download = DirectoryStorage.download

    def download_and_overwrite(self: DirectoryStorage, key: str, path: Path) -> None:
        source = self.root / key
        data = (self.root.parent / "new.tif").read_bytes()
        download(self, key, path)
        half = path.stat().st_size // 2
        with source.open("r+b") as file:
            file.write(data)
            file.truncate()
        path.write_bytes(path.read_bytes()[:half] + data[half:])

    DirectoryStorage.download = download_and_overwrite  # type: ignore[method-assign]  # only in this worker process
    return process_frame(task)


@pytest.mark.parametrize(
    ("before", "after", "advice"),
    [("done", "done", "then materialize it again."), ("failed", "queued", "the frame is retried automatically.")],
)
@pytest.mark.parametrize("problem", ["full", "read-only"])
def test_message_about_a_disk_says_whether_the_frame_is_retried(
    platform: Platform, good: Path, monkeypatch: pytest.MonkeyPatch, before: str, after: str, advice: str, problem: str
) -> None:
    """The message promised an automatic retry that never came."""
    platform.drop(KEY, good)
    platform.settle()
    with platform.database.begin() as connection:
        connection.execute(text("UPDATE ls4.source SET state = :state"), {"state": before})
    selection = [dg.AssetKey(["Travis", step]) for step in STEPS]
    with monkeypatch.context() as patch:
        process = process_with_full_disk if problem == "full" else process_with_read_only_archive
        patch.setattr(frames, "process_frame", process)
        run = platform.run(selection, partition_key=frame_of(KEY).partition)
    assert not run.success
    observation = platform.instance.fetch_observations(selection[-1], limit=1).records[0].event_log_entry.asset_observation
    assert observation and observation.description and advice in observation.description
    assert platform.state(KEY)[0] == after


def process_with_read_only_archive(task: FrameTask) -> FrameOutcome:
    def reject_write(*_: object, **__: object) -> StoredObject:
        raise OSError(30, "Read-only file system")

    DirectoryStorage.upload = reject_write  # type: ignore[method-assign]  # only in this worker process
    return process_frame(task)


def test_archive_is_not_blamed_for_another_folder(platform: Platform, good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A scratch folder of another user was reported as an archive that is read-only, with advice that could not help."""
    platform.drop(KEY, good)
    result = request_run(platform)
    with monkeypatch.context() as patch:
        patch.setattr(frames, "process_frame", process_with_unwritable_scratch)
        (run,) = platform.execute(result)
    assert not run.success
    _, reason = platform.state(KEY)
    assert reason and "PermissionError" in reason and "archive" not in reason


def process_with_unwritable_scratch(task: FrameTask) -> FrameOutcome:
    def reject_write(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", str(task.scratch))

    worker.__dict__["process"] = reject_write  # only in this worker process
    return process_frame(task)


def process_with_full_disk(task: FrameTask) -> FrameOutcome:
    admission.shutil.disk_usage = lambda folder: type("Usage", (), {"free": 0})  # type: ignore[attr-defined]  # only in this worker process
    return process_frame(task)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
@pytest.mark.parametrize("megabytes", [3, 6])
def test_disk_that_fills_during_processing_is_not_reported_as_a_corrupt_file(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, megabytes: int
) -> None:
    """A good file was rejected as truncated, because the writing step ran into a full disk."""
    path = write_tif(tmp_path / "scan.tif", photograph(1500, 1500, seed=3))
    with small_disk(tmp_path / "small", megabytes) as work, running_platform(cluster, tmp_path, work_dir=str(work)) as platform:
        platform.drop(KEY, path)
        result = request_run(platform)
        with monkeypatch.context() as patch:
            patch.setattr(frames, "process_frame", process_without_admission)
            platform.execute(result)
        state, reason = platform.state(KEY)
        assert state == "queued"
        assert reason and "could not be finished because the disk of" in reason


def process_without_admission(task: FrameTask) -> FrameOutcome:
    admission.reserve_disk = lambda *_: None
    return process_frame(task)


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


# A run process; the test starts several at once.
RUN = """
import json, sys
from pathlib import Path
import dagster as dg
from ls4_assets.definitions import build_definitions
from ls4_assets.domain.products import STEPS
from ls4_assets.processing.tasks import FrameOutcome, FrameTask
from ls4_assets_tests.platform import SHARDS, Platform
from resources.archive import Archive
overrides, home, config, tags, times = json.loads(sys.argv[1])
archive = Archive(overrides=overrides)
with dg.DagsterInstance.from_config(home) as instance:
    platform = Platform(archive, instance, build_definitions(SHARDS, archive, 5, archive.settings.profiles))
    for _ in range(times):
        if config is None:
            rebuilt = [dg.AssetKey(["Travis", asset]) for asset in ("tile_index", "mapfile")]
            platform.run(rebuilt, partition_key="USDA_1958/frames")
        else:
            first = config[0] if config else None
            ops = {"ops": {"Travis_frames": {"config": {"frames": config}}}} if config else {}
            done = platform.run([dg.AssetKey(["Travis", step]) for step in STEPS], ops, first, tags)
            sys.exit(0 if done.success else 1)
"""


def test_concurrent_batches_backfill_and_rebuilds_of_a_collection_lose_nothing(platform: Platform, tmp_path: Path) -> None:
    keys = [f"{FOLDER}/02-08-60_6-10{number}.tif" for number in range(6)]
    for number, key in enumerate(keys):
        platform.drop(key, write_tif(tmp_path / f"{number}.tif", photograph(300, 320, seed=number)))
    request_run(platform)
    partitions = [frame_of(key).partition for key in keys]
    range_tags = {"dagster/asset_partition_range_start": partitions[0], "dagster/asset_partition_range_end": partitions[-1]}
    runs = [(partitions[:4], {}, 1), (partitions[2:], {}, 1), ([], range_tags, 1), (None, {}, 4)]
    environment = dict(os.environ) | {"PYTHONPATH": str(CHECKOUT)}
    arguments = [json.dumps([platform.archive.overrides, str(tmp_path / "dagster"), *run]) for run in runs]

    command = [sys.executable, "-W", "ignore", "-c", RUN]
    processes = [
        subprocess.Popen([*command, argument], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for argument in arguments
    ]
    assert [process.wait(500) for process in processes] == [0] * 4
    platform.settle()
    platform.rebuild()
    assert [platform.state(key) for key in keys] == [("done", None)] * 6
    rows = platform.rows(f"SELECT location, served_location FROM {TABLE}")
    assert {str(row["location"]) for row in rows} == {f"/vsis3/ls4/{frame_of(key).cog_key}" for key in keys}
    for row in rows:
        with rasterio.open(row["served_location"]) as tif:
            assert tif.read(1).shape == (300, 320)
    for products in platform.rows("SELECT id, products, served_key FROM ls4.frame"):
        recorded = json.loads(json.dumps(products["products"]))
        assert set(recorded) == set(STEPS)
        stored = platform.storage.head(str(products["served_key"]))
        assert stored and stored.version == recorded["cog"]["version"], products["id"]
