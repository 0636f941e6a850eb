"""A frame that is interrupted at its worst moment: by its run's death, a deletion, a full disk, another run of the same frame."""

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
from ls4_assets.domain.names import STEPS
from ls4_assets.local.postgres import Cluster
from ls4_assets.processing import admission
from ls4_assets.processing.tasks import Order, Outcome
from ls4_assets.processing.worker import process_frame
from ls4_assets_tests.platform import CHECKOUT, Platform, frame_of, running_platform
from ls4_assets_tests.rasters import photograph, write_tif
from resources.directory_storage import DirectoryStorage
from resources.open import open_database
from resources.storage import StoredObject

FOLDER = "bw/Travis/USDA_1958/frames/georef"
KEY = f"{FOLDER}/02-08-60_6-107.tif"
TABLE = "travis_usda_1958_frames"


def requested(platform: Platform) -> dg.SensorResult:
    platform.tick("ingest_poll")
    result = platform.tick("ingest_poll")
    assert isinstance(result, dg.SensorResult) and result.run_requests
    return result


def test_a_frame_that_was_published_when_its_run_was_killed_is_told_to_dagster_all_the_same(
    platform: Platform, good: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The frame was on the map, and red in the Dagster UI for ever: its run had died between the two."""
    platform.drop(KEY, good)
    result = requested(platform)
    with monkeypatch.context() as patch:
        patch.setattr(events, "materializations", _die)
        assert [run.success for run in platform.execute(result)] == [False]
    assert platform.state(KEY)[0] == "requested"
    made = platform.storage.head(frame_of(KEY).cog_key)
    assert platform.partitions("Travis", "cog") == {frame_of(KEY).partition: "FAILED"}
    platform.look()
    platform.skip_waits()
    platform.settle()
    assert platform.state(KEY) == ("done", None)
    assert platform.partitions("Travis", "cog") == {frame_of(KEY).partition: "MATERIALIZED"}
    assert platform.storage.head(frame_of(KEY).cog_key) == made, "nothing is made twice"


def _die(*_: object, **__: object) -> None:
    raise OSError("killed here")


def test_a_frame_whose_tif_is_deleted_while_its_cog_is_put_leaves_nothing_behind(
    platform: Platform, good: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The deletion was seen between the last check and the row: the frame stayed on the map without a source."""
    platform.drop(KEY, good)
    result = requested(platform)
    with monkeypatch.context() as patch:
        patch.setattr(frames, "make_frame", delete_while_putting)
        platform.execute(result)
    assert platform.state(KEY)[0] == "deleted"
    platform.settle()
    platform.settle()
    assert platform.rows("SELECT 1 FROM ls4.frame") == []
    assert platform.rows(f"SELECT to_regclass('public.{TABLE}') AS it") == [{"it": None}]
    assert [found.key for found in platform.storage.list("bw/")] == []


def delete_while_putting(order: Order) -> Outcome:
    upload = DirectoryStorage.upload

    def slow(self: DirectoryStorage, path: Path, key: str, **how: bool) -> StoredObject:
        self.delete(KEY)
        with open_database(order.settings.database_url.get_secret_value()).begin() as connection:
            gone = "UPDATE ls4.source SET state = :state WHERE frame = :frame"
            connection.execute(text(gone), {"state": SourceState.DELETED, "frame": order.frame.id})
        return upload(self, path, key, **how)

    DirectoryStorage.upload = slow  # type: ignore[method-assign]
    return process_frame(order)


def test_a_frame_for_which_there_is_no_room_waits_with_the_numbers_and_is_not_called_failed(
    platform: Platform, good: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk in the night cost every frame its attempts, and staff were told that their scans were bad."""
    platform.drop(KEY, good)
    result = requested(platform)
    with monkeypatch.context() as patch:
        patch.setattr(frames, "make_frame", with_a_full_disk)
        (run,) = platform.execute(result)
    assert not run.success
    state, reason = platform.state(KEY)
    assert state == "queued"
    assert reason and reason.startswith("02-08-60_6-107.tif needs ") and "and 0 MB are free" in reason and reason.endswith(".")
    (row,) = platform.rows("SELECT attempts, retry_after > now() + interval '1 minute' AS waits FROM ls4.source")
    assert row == {"attempts": 0, "waits": True}
    assert platform.look() == []
    platform.skip_waits()
    platform.settle()
    assert platform.state(KEY) == ("done", None)


@pytest.mark.parametrize(
    ("before", "after", "ends"),
    [("done", "done", "then materialise it again."), ("failed", "queued", "it is tried again by itself.")],
)
def test_a_person_whose_frame_finds_no_room_is_told_whether_it_is_tried_again(
    platform: Platform, good: Path, monkeypatch: pytest.MonkeyPatch, before: str, after: str, ends: str
) -> None:
    """It was to be tried again by itself, and never was."""
    platform.drop(KEY, good)
    platform.settle()
    with platform.database.begin() as connection:
        connection.execute(text("UPDATE ls4.source SET state = :state"), {"state": before})
    selection = [dg.AssetKey(["Travis", step]) for step in STEPS]
    with monkeypatch.context() as patch:
        patch.setattr(frames, "make_frame", with_a_full_disk)
        run = platform.run(selection, partition_key=frame_of(KEY).partition)
    assert not run.success
    told = platform.instance.fetch_observations(selection[-1], limit=1).records[0].event_log_entry.asset_observation
    assert told and told.description and ends in told.description
    assert platform.state(KEY)[0] == after


def with_a_full_disk(order: Order) -> Outcome:
    admission.shutil.disk_usage = lambda folder: type("Usage", (), {"free": 0})  # type: ignore[assignment, attr-defined]
    return process_frame(order)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
@pytest.mark.parametrize("megabytes", [3, 6])
def test_a_disk_that_fills_in_the_middle_of_a_frame_is_not_taken_for_a_corrupt_file(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, megabytes: int
) -> None:
    """A good scan was called truncated for good, because the step that wrote met a full disk."""
    scan = write_tif(tmp_path / "scan.tif", photograph(1500, 1500, seed=3))
    with small_disk(tmp_path / "small", megabytes) as work, running_platform(cluster, tmp_path, work_dir=str(work)) as platform:
        platform.drop(KEY, scan)
        result = requested(platform)
        with monkeypatch.context() as patch:
            patch.setattr(frames, "make_frame", without_asking_for_room)
            platform.execute(result)
        state, reason = platform.state(KEY)
        assert state == "queued"
        assert reason and "could not be finished because the disk of" in reason


def without_asking_for_room(order: Order) -> Outcome:
    admission.reserve_disk = lambda *_: None  # type: ignore[assignment]
    return process_frame(order)


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


# What a run process does; the test starts several of them at once.
RUN = """
import json, sys
from pathlib import Path
import dagster as dg
from ls4_assets.definitions import build_definitions
from ls4_assets.domain.names import STEPS
from ls4_assets.processing.tasks import Order, Outcome
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


def test_two_batches_a_backfill_and_rebuilds_of_one_collection_at_once_lose_and_tear_nothing(
    platform: Platform, tmp_path: Path
) -> None:
    keys = [f"{FOLDER}/02-08-60_6-10{number}.tif" for number in range(6)]
    for number, key in enumerate(keys):
        platform.drop(key, write_tif(tmp_path / f"{number}.tif", photograph(300, 320, seed=number)))
    requested(platform)
    partitions = [frame_of(key).partition for key in keys]
    whole = {"dagster/asset_partition_range_start": partitions[0], "dagster/asset_partition_range_end": partitions[-1]}
    orders = [(partitions[:4], {}, 1), (partitions[2:], {}, 1), ([], whole, 1), (None, {}, 4)]
    environment = dict(os.environ) | {"PYTHONPATH": str(CHECKOUT)}
    given = [json.dumps([platform.archive.overrides, str(tmp_path / "dagster"), *order]) for order in orders]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    running = [subprocess.Popen([sys.executable, "-W", "ignore", "-c", RUN, one], env=environment, **quiet) for one in given]
    assert [each.wait(500) for each in running] == [0] * 4
    platform.settle()
    platform.rebuild()
    assert [platform.state(key) for key in keys] == [("done", None)] * 6
    rows = platform.rows(f"SELECT location, served_location FROM {TABLE}")
    assert {str(row["location"]) for row in rows} == {f"/vsis3/ls4/{frame_of(key).cog_key}" for key in keys}
    for row in rows:
        with rasterio.open(row["served_location"]) as tif:
            assert tif.read(1).shape == (300, 320)
    for products in platform.rows("SELECT id, products, served_key FROM ls4.frame"):
        kept = json.loads(json.dumps(products["products"]))
        assert set(kept) == set(STEPS)
        stored = platform.storage.head(str(products["served_key"]))
        assert stored and stored.version == kept["cog"]["version"], products["id"]
