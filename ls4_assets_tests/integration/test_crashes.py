"""Recovery: what a crashed run or a half-finished manual step leaves behind is completed by the next ticks."""

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from sqlalchemy import text

from ls4_assets.assets import collections, keys
from ls4_assets.db.schema import SourceState
from ls4_assets.ingest.batches import BatchLimits, claim_batches, release_batch
from ls4_assets.ingest.scan import scan_bucket, scan_lock
from ls4_assets.ingest.sources import requeue
from ls4_assets.operations.status import collect
from ls4_assets.operations.status_text import format_status
from ls4_assets_tests.platform import Platform, frame_of
from ls4_assets_tests.rasters import photograph, write_tif
from resources.directory_storage import DirectoryStorage
from resources.storage import ListedItem

FOLDER = "bw/Travis/USDA_1958/frames/georef"
KEY = f"{FOLDER}/02-08-60_6-107.tif"
OTHER = f"{FOLDER}/02-08-60_6-108.tif"
MAP = "mapfiles/travis_usda_1958_frames.map"


@pytest.mark.parametrize("step", ["_publish_files", "publish_collection_lists", "_update_row"])
def test_rebuild_that_crashes_after_the_table_is_repeated(
    platform: Platform, good: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """The run crashed after committing the table, and the shapefile and the mapfile were never made."""
    platform.drop(KEY, good)
    platform.ingest()
    with monkeypatch.context() as patch:
        patch.setattr(collections, step, crash)
        assert [run.success for run in platform.rebuild()] == [False]
    assert platform.rebuild() == []  # retried with backoff, not at each tick
    platform.skip_waits()
    assert [run.success for run in platform.rebuild()] == [True]
    assert platform.storage.head(MAP)
    assert platform.storage.head(frame_of(KEY).collection.tile_index_key("bw", "_idx.zip"))
    assert platform.rebuild() == []


def test_crashed_rebuild_is_repeated_although_another_frame_waits(
    platform: Platform, good: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a frame too large for the disk waited for days, shapefile and map stayed outdated."""
    platform.drop(KEY, good)
    platform.ingest()
    with monkeypatch.context() as patch:
        patch.setattr(collections, "publish_collection_lists", crash)
        platform.rebuild()
    platform.drop(OTHER, good)
    platform.tick("ingest_poll")
    with platform.database.begin() as connection:
        statement = "UPDATE ls4.source SET state = 'queued', retry_after = now() + interval '1 hour' WHERE key = :key"
        connection.execute(text(statement), {"key": OTHER})
    assert platform.rebuild() == [], "its batch may be about to end"
    platform.skip_waits()
    assert [run.success for run in platform.rebuild()] == [True]
    assert platform.storage.head(MAP)


def test_products_of_a_deleted_frame_are_removed_after_a_crashed_rebuild(
    platform: Platform, good: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    platform.drop(KEY, good)
    platform.drop(OTHER, good)
    platform.settle()
    platform.storage.delete(OTHER)
    platform.ingest()
    with monkeypatch.context() as patch:
        patch.setattr("ls4_assets.publishing.obsolete._delete_products", crash)
        assert [run.success for run in platform.rebuild()] == [False]
    platform.skip_waits()
    assert [run.success for run in platform.rebuild()] == [True]
    assert platform.storage.head(frame_of(OTHER).cog_key) is None


def crash(*_: object, **__: object) -> None:
    raise OSError("the disk is full")


def test_replaced_frame_with_one_product_made_by_hand_is_completed(platform: Platform, good: Path, tmp_path: Path) -> None:
    """After a replacement only deflate was materialized by hand: the frame counted as done, and the map kept the old image."""
    platform.drop(KEY, good)
    platform.settle()
    platform.drop(KEY, write_tif(tmp_path / "new.tif", photograph(240, 260, seed=3)))
    platform.tick("ingest_poll")
    assert platform.run([dg.AssetKey(["Travis", "deflate"])], partition_key=frame_of(KEY).partition).success
    assert platform.state(KEY)[0] == "queued"
    platform.settle()
    assert platform.state(KEY) == ("done", None)
    assert platform.rows("SELECT width, height FROM ls4.frame") == [{"width": 260, "height": 240}]


def test_collection_with_only_failed_frames_is_removed_with_them(platform: Platform, good: Path) -> None:
    """A mistyped collection with one bad file stayed in the status forever, and the correct spelling was rejected."""
    wrong = KEY.replace("USDA_1958", "usda_1958")
    platform.drop(wrong, b"not a tif")
    platform.settle()
    assert [status.name for status in collect(platform.settings).collections] == ["Travis_usda_1958_frames"]
    platform.storage.delete(wrong)
    platform.settle()
    platform.rebuild()
    assert collect(platform.settings).collections == ()
    platform.drop(KEY, good)
    platform.settle()
    assert platform.state(KEY) == ("done", None)


def test_collection_with_only_a_failed_frame_has_no_map_url(platform: Platform, good: Path) -> None:
    platform.drop(KEY, good)
    platform.drop(OTHER, b"not a tif")
    platform.settle()
    platform.storage.delete(KEY)
    platform.settle()
    (status,) = collect(platform.settings).collections
    assert (status.indexed, status.map_url, len(status.failed)) == (0, None, 1)
    platform.storage.delete(OTHER)
    platform.settle()
    platform.rebuild()
    assert collect(platform.settings).collections == ()
    assert platform.rows("SELECT to_regclass('public.travis_usda_1958_frames') AS it") == [{"it": None}]


def test_frame_rejected_later_can_still_be_deleted(platform: Platform, good: Path, tmp_path: Path) -> None:
    """After the county was removed from the list of shards, its frames could not be removed from the map."""
    platform.drop(KEY, good)
    platform.settle()
    shards = tmp_path / "archive.toml"
    shards.write_text('agency = ["USDA"]\n')
    without_county = platform.with_settings(archive_file=str(shards))
    without_county.ingest()
    assert platform.state(KEY)[0] == "rejected"
    assert len(platform.rows("SELECT 1 FROM travis_usda_1958_frames")) == 1
    platform.storage.delete(KEY)
    platform.settle()
    assert platform.rows("SELECT to_regclass('public.travis_usda_1958_frames') AS it") == [{"it": None}]


def test_partition_of_a_waiting_run_stays_although_its_file_is_deleted(platform: Platform, good: Path) -> None:
    """The first file of a batch was deleted while its run was queued, and the whole run failed without its partition."""
    platform.drop(KEY, good)
    platform.drop(OTHER, good)
    requested = platform.tick("ingest_poll")
    assert isinstance(requested, dg.SensorResult) and requested.run_requests
    batch = requested.run_requests[0].tags["ls4/batch"]
    waiting_run = platform.instance.create_run_for_job(
        platform.definitions.resolve_implicit_global_asset_job_def(),
        tags={"ls4/batch": batch},
        status=dg.DagsterRunStatus.STARTED,
    )
    platform.storage.delete(KEY)
    platform.ingest()
    assert frame_of(KEY).partition in platform.instance.get_dynamic_partitions("frames/Travis")
    (run,) = platform.execute(requested)
    assert platform.state(OTHER) == ("done", None)
    assert not run.success
    platform.instance.report_run_canceled(waiting_run)
    platform.ingest()
    assert frame_of(KEY).partition not in platform.instance.get_dynamic_partitions("frames/Travis")


def test_unreadable_folder_does_not_stop_the_scan(platform: Platform, good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lost+found that only root may read stopped every scan of the archive."""
    platform.drop(KEY, good)
    (unreadable := Path(platform.settings.storage) / "lost+found").mkdir()
    level = DirectoryStorage.list_level

    def guarded(self: DirectoryStorage, folder: str, after: str = "") -> Iterator[ListedItem]:
        if folder.startswith(unreadable.name):
            raise PermissionError(13, "Permission denied", str(unreadable))
        return level(self, folder, after)

    monkeypatch.setattr(DirectoryStorage, "list_level", guarded)
    report = scan_bucket(platform.archive)
    assert any("lost+found" in error for error in report.errors)
    assert platform.state(KEY)[0] == "settling"


def test_two_scans_exclude_each_other(platform: Platform) -> None:
    with scan_lock(platform.database) as first, scan_lock(platform.database) as second:
        assert (first, second) == (True, False)
    with scan_lock(platform.database) as again:
        assert again


def test_source_with_crashing_runs_is_retried_with_backoff_and_then_fails(platform: Platform, good: Path) -> None:
    platform.drop(KEY, good)
    platform.tick("ingest_poll")
    platform.tick("ingest_poll")
    waits = []
    for attempt in range(1, 4):
        (row,) = platform.rows("SELECT batch, attempts FROM ls4.source")
        assert row["attempts"] == attempt
        release_batch(platform.database, str(row["batch"]), 3)
        (after,) = platform.rows("SELECT extract(epoch FROM retry_after - now())::int AS wait, state FROM ls4.source")
        waits.append(after["wait"])
        assert claim_batches(platform.database, BatchLimits(100, 10, 10, 10)) == []
        platform.skip_waits()
        claim_batches(platform.database, BatchLimits(100, 10, 10, 10))
    assert 25 <= int(str(waits[0])) <= 30 < int(str(waits[1])) <= 120
    state, reason = platform.state(KEY)
    assert state == "failed"
    assert reason and "crashed 3 times" in reason and "ls4 retry" in reason
    assert requeue(platform.database, [SourceState.FAILED], None) == 1
    platform.settle()
    assert platform.state(KEY) == ("done", None)


def test_run_that_could_not_start_does_not_count_as_an_attempt(platform: Platform, good: Path) -> None:
    """While a quota rejected every task, each attempt requested twice the memory, and after five all frames had failed."""
    platform.drop(KEY, good)
    platform.tick("ingest_poll")
    platform.tick("ingest_poll")
    (row,) = platform.rows("SELECT batch FROM ls4.source")
    job = platform.definitions.resolve_implicit_global_asset_job_def()
    run = platform.instance.create_run_for_job(job, tags={keys.BATCH_TAG: str(row["batch"])})
    platform.instance.report_run_failed(run, "Capacity is unavailable at this time.")
    platform.tick("ingest_poll")
    state, reason = platform.state(KEY)
    assert state == "queued"
    assert reason and reason.startswith("No run could be started for it") and reason.endswith("it is retried automatically.")
    (row,) = platform.rows("SELECT attempts, retry_after > now() + interval '1 minute' AS waits FROM ls4.source")
    assert row == {"attempts": 0, "waits": True}
    assert f"    waiting: {reason}" in format_status(collect(platform.settings))
    other_keys = [KEY.replace("Travis", "Bastrop"), KEY.replace("1958", "1959")]
    for key in other_keys:
        platform.drop(key, good)
    assert platform.ingest() == [], "no run is requested for the other frames during the wait"
    platform.skip_waits()
    assert [platform.state(key)[0] for key in (KEY, *other_keys)] == ["queued"] * 3
    assert len(platform.execute(platform.tick("ingest_poll"))) == 1, "one batch tests whether a run starts"
    platform.ingest()
    assert {platform.state(key) for key in (KEY, *other_keys)} == {("done", None)}
