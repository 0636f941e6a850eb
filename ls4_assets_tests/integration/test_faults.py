"""Bad files of every kind, dropped together with good ones and processed through the sensors."""

from collections.abc import Callable, Iterator
from pathlib import Path

import dagster as dg
import numpy as np
import pytest
import rasterio
from rasterio.control import GroundControlPoint

from ls4_assets.domain.products import STEPS
from ls4_assets.local.postgres import Cluster
from ls4_assets.operations.status import collect
from ls4_assets.operations.status_text import format_status
from ls4_assets.processing.worker import process_frame
from ls4_assets_tests.platform import Platform, frame_of, running_platform
from ls4_assets_tests.rasters import photograph, write_tif

FOLDER = "bw/Travis/USDA_1958/frames/georef"
GOOD = f"{FOLDER}/02-08-60_6-100.tif"
BAD = f"{FOLDER}/02-08-60_6-666.tif"


@pytest.fixture
def platform(cluster: Cluster, tmp_path: Path) -> Iterator[Platform]:
    with running_platform(cluster, tmp_path, max_pixels="4000000") as running:
        yield running


def write_without_georeference(path: Path) -> Path:
    return write_tif(path, photograph(50, 60), crs=None, transform=None)


def write_with_two_gcps(path: Path) -> Path:
    write_tif(path, photograph(50, 60), crs=None, transform=None)
    with rasterio.open(path, "r+") as tif:
        corners = [(0, 0, -97.0, 30.0), (0, 60, -96.9, 30.0), (50, 0, -97.0, 29.9), (50, 60, -96.9, 29.9)]
        tif.gcps = [GroundControlPoint(row, col, x, y) for row, col, x, y in corners[:2]], rasterio.CRS.from_epsg(4326)
    return path


def write_truncated(path: Path) -> Path:
    write_tif(path, photograph(400, 400), tiled=True, blockxsize=128, blockysize=128)
    path.write_bytes(path.read_bytes()[:90_000])
    return path


def writer_of(data: bytes) -> Callable[[Path], Path]:
    def write(path: Path) -> Path:
        path.write_bytes(data)
        return path

    return write


PIXEL_FAULTS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "no georeference": (write_without_georeference, "georef"),
    "two ground control points": (write_with_two_gcps, "control points"),
    "three bands under bw": (lambda path: write_tif(path, photograph(50, 60, 3)), "nc/"),
    "complex pixels": (lambda path: write_tif(path, photograph(50, 60).astype(np.complex64)), "complex pixels"),
    "no valid pixel": (lambda path: write_tif(path, photograph(50, 60), mask=np.zeros((50, 60), bool)), "valid"),
    "truncated": (write_truncated, "again"),
    "not a tif": (writer_of(b"%PDF-1.7 this is not a tif"), "tif"),
    "empty": (writer_of(b""), "empty|bytes"),
    "huge": (lambda path: write_tif(path, photograph(8, 8), width=3000, height=2000, sparse_ok=True), "pixels"),
}


def write_huge(path: Path) -> Path:
    profile = {
        "driver": "GTiff",
        "count": 1,
        "dtype": "uint8",
        "crs": "EPSG:3857",
        "sparse_ok": True,
        "tiled": True,
        "bigtiff": "yes",
    }
    with rasterio.open(path, "w", width=100_000, height=100_000, transform=rasterio.Affine(1, 0, 0, 0, -1, 0), **profile):
        pass
    return path


PIXEL_FAULTS["huge"] = (write_huge, "4,000,000")


def test_mixed_batch_serves_good_files_and_gives_a_reason_for_each_bad_one(
    platform: Platform, good: Path, tmp_path: Path
) -> None:
    bad = {}
    for number, (kind, (write, _)) in enumerate(PIXEL_FAULTS.items()):
        bad[kind] = f"{FOLDER}/02-08-60_6-{600 + number}.tif"
        platform.drop(bad[kind], write(tmp_path / f"{number}.tif"))
    for number in range(3):
        platform.drop(f"{FOLDER}/02-08-60_6-10{number}.tif", good)
    runs = platform.settle()
    assert [run.success for run in runs] == [False, True]  # one batch with failures, one rebuild
    for kind, key in bad.items():
        state, reason = platform.state(key)
        assert state == "failed", kind
        assert reason and _matches(PIXEL_FAULTS[kind][1], reason), f"{kind}: {reason}"
        assert reason.endswith(".") and "\n" not in reason and reason.startswith(key.rpartition("/")[2]), reason
    for step in STEPS:
        statuses = platform.partitions("Travis", step)
        assert {statuses[frame_of(key).partition] for key in bad.values()} == {"FAILED"}
        assert sum(status == "MATERIALIZED" for status in statuses.values()) == 3
    assert len(platform.rows("SELECT 1 FROM travis_usda_1958_frames")) == 3
    (status,) = collect(platform.settings).collections
    assert (status.dropped, status.done, status.indexed, len(status.failed)) == (12, 3, 3, 9)
    assert platform.ingest() == []  # failed frames are not retried


REJECTED_NAMES = {
    "rgb/Travis/USDA_1958/frames/georef/02-08-60_6-107.tif": "nc/Travis",
    "bw/Travs/USDA_1958/frames/georef/02-08-60_6-107.tif": "did you mean Travis",
    f"{FOLDER}/scan0001.tif": "02-08-60_6-107.tif",
    f"{FOLDER}/fotografía ñ.tif": "rename the file",
    f"{FOLDER}/02-08-60 6-107.tif": "rename the file",
    f"{FOLDER}/02-08-60_6-100.TIF": "same name",
    "bw/Travis/02-08-60_6-107.tif": "move the file",
    "02-08-60_6-107.tif": "move the file",
}


def test_files_with_bad_names_are_listed_and_have_no_partition(platform: Platform, good: Path) -> None:
    platform.drop(GOOD, good)
    platform.settle()
    for key in REJECTED_NAMES:
        platform.drop(key, good)
    platform.settle()
    rejected = collect(platform.settings).rejected
    assert set(rejected) == set(REJECTED_NAMES)
    for key, advice in REJECTED_NAMES.items():
        assert advice in rejected[key]
        assert rejected[key].endswith(".") and "\n" not in rejected[key]
    assert list(platform.partitions("Travis", "cog")) == [frame_of(GOOD).partition]
    platform.tick("notifications")
    event = platform.instance.get_latest_materialization_event(dg.AssetKey("rejected_files"))
    assert event and event.asset_materialization
    assert event.asset_materialization.metadata["rejected"].value == len(REJECTED_NAMES)
    assert "Did you mean Travis" in str(event.asset_materialization.metadata["files"].value)
    assert any("did you mean Travis" in line for line in format_status(collect(platform.settings)))
    for key in REJECTED_NAMES:
        platform.storage.delete(key)
    platform.settle()
    assert collect(platform.settings).rejected == {}


def test_served_frame_keeps_its_last_good_version_when_a_new_one_fails(platform: Platform, good: Path) -> None:
    platform.drop(GOOD, good)
    platform.settle()
    cog = platform.storage.head(frame_of(GOOD).cog_key)
    platform.drop(GOOD, b"not a tif any more")
    platform.settle()
    state, reason = platform.state(GOOD)
    assert state == "failed"
    assert reason and "last good version of this frame stays on the map" in reason
    assert platform.storage.head(frame_of(GOOD).cog_key) == cog
    assert len(platform.rows("SELECT 1 FROM travis_usda_1958_frames")) == 1
    platform.drop(GOOD, good)
    platform.settle()
    assert platform.state(GOOD) == ("done", None)


def test_late_world_file_makes_a_failed_frame_succeed(platform: Platform, tmp_path: Path) -> None:
    platform.drop(BAD, write_tif(tmp_path / "x.tif", photograph(50, 60), crs=None, transform=None))
    platform.settle()
    assert platform.state(BAD)[0] == "failed"
    platform.drop(BAD.replace(".tif", ".tfw"), b"1.0\n0.0\n0.0\n-1.0\n620000.5\n3349999.5\n")
    platform.drop(BAD.replace(".tif", ".prj"), rasterio.CRS.from_epsg(26914).to_wkt(version="WKT1_ESRI").encode())
    platform.settle()
    assert platform.state(BAD) == ("done", None)
    assert platform.partitions("Travis", "cog") == {frame_of(BAD).partition: "MATERIALIZED"}


def test_file_deleted_while_its_run_waits_fails_alone(platform: Platform, good: Path) -> None:
    platform.drop(GOOD, good)
    platform.drop(BAD, good)
    requested = platform.tick("ingest_poll")
    platform.storage.delete(BAD)
    (run,) = platform.execute(requested)
    assert not run.success
    assert "deleted" in str(platform.state(BAD)[1])
    platform.settle()
    assert platform.state(BAD)[0] == "deleted"
    assert len(platform.rows("SELECT 1 FROM travis_usda_1958_frames")) == 1
    assert list(platform.partitions("Travis", "cog")) == [frame_of(GOOD).partition]


def test_version_dropped_during_the_run_of_the_old_one_wins(platform: Platform, good: Path, tmp_path: Path) -> None:
    platform.drop(GOOD, good)
    requested = platform.tick("ingest_poll")
    platform.drop(GOOD, write_tif(tmp_path / "new.tif", photograph(210, 230, seed=5)))
    platform.execute(requested)
    platform.settle()
    assert platform.state(GOOD) == ("done", None)
    assert platform.rows("SELECT width, height FROM ls4.frame") == [{"width": 230, "height": 210}]


def test_unlisted_bucket_does_not_count_as_empty(platform: Platform, good: Path, tmp_path: Path) -> None:
    """An unmounted disk was taken for an empty archive, and every map was withdrawn."""
    platform.drop(GOOD, good)
    platform.settle()
    away = tmp_path / "away"
    (tmp_path / "archive").rename(away)
    platform.settle()
    assert platform.state(GOOD) == ("done", None)
    (tmp_path / "archive").mkdir()
    platform.settle()
    assert platform.state(GOOD) == ("done", None)
    (tmp_path / "archive").rmdir()
    away.rename(tmp_path / "archive")
    platform.settle()
    assert len(platform.rows("SELECT 1 FROM travis_usda_1958_frames")) == 1


def test_sources_of_a_crashed_run_are_requeued(platform: Platform, good: Path) -> None:
    platform.drop(GOOD, good)
    requested = platform.tick("ingest_poll")
    assert isinstance(requested, dg.SensorResult) and requested.run_requests
    batch = requested.run_requests[0].tags["ls4/batch"]
    run = platform.instance.create_run_for_job(
        platform.definitions.resolve_implicit_global_asset_job_def(),
        tags={"ls4/batch": batch},
        status=dg.DagsterRunStatus.FAILURE,
    )
    assert run.status == dg.DagsterRunStatus.FAILURE
    assert platform.ingest() == []
    platform.skip_waits()
    runs = platform.settle()
    assert [run.success for run in runs] == [True, True]
    assert platform.state(GOOD) == ("done", None)


def test_killed_worker_fails_only_its_own_frame(platform: Platform, good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel killed one worker for lack of memory, and the whole batch of a hundred frames was lost."""
    from ls4_assets.assets import frames

    for number in range(3):
        platform.drop(f"{FOLDER}/02-08-60_6-10{number}.tif", good)
    requested = platform.tick("ingest_poll")
    with monkeypatch.context() as patch:
        patch.setattr(frames, "process_frame", crash_at_101)
        (run,) = platform.execute(requested)
    assert not run.success
    states = [platform.state(f"{FOLDER}/02-08-60_6-10{number}.tif")[0] for number in range(3)]
    assert states == ["done", "requested", "done"]
    assert "was killed" in str(platform.state(f"{FOLDER}/02-08-60_6-101.tif")[1])
    platform.ingest()
    platform.skip_waits()
    platform.settle()
    assert platform.state(f"{FOLDER}/02-08-60_6-101.tif") == ("done", None)


def crash_at_101(task: object) -> object:
    import os
    import signal

    from ls4_assets.processing.tasks import FrameTask

    assert isinstance(task, FrameTask)
    if task.frame.stem.endswith("101"):
        os.kill(os.getpid(), signal.SIGKILL)
    return process_frame(task)


def _matches(pattern: str, text: str) -> bool:
    import re

    return re.search(pattern, text) is not None
