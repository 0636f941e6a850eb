"""A tif removed and put back unchanged while its frame is processed: the frame is on the map in the end."""

from pathlib import Path

import pytest

from ls4_assets.assets import collections
from ls4_assets.db import frames as records
from ls4_assets.domain.products import STEPS
from ls4_assets.ingest.scan import scan_bucket
from ls4_assets.processing.products import FrameProducts
from ls4_assets.processing.tasks import FrameOutcome, FrameTask
from ls4_assets.processing.worker import process_frame
from ls4_assets_tests.platform import Platform, frame_of

FOLDER = "bw/Travis/USDA_1958/frames/georef"
KEY = f"{FOLDER}/02-08-60_6-107.tif"
OTHER = f"{FOLDER}/02-08-60_6-108.tif"


def run_worker(platform: Platform, tmp_path: Path) -> FrameOutcome:
    """Process the frame, as the worker of a run does."""
    scratch = tmp_path / "ls4-run-x"
    scratch.mkdir()
    return process_frame(FrameTask(platform.settings, frame_of(KEY), STEPS, False, "r" * 32, scratch))


def mark_done(platform: Platform, outcome: FrameOutcome) -> None:
    """Record the result, as a run does after its workers."""
    if outcome.source and outcome.complete:
        with platform.database.begin() as connection:
            records.mark_done(connection, outcome.source)


def assert_on_the_map(platform: Platform) -> None:
    platform.settle()
    assert platform.state(KEY) == ("done", None)
    assert platform.rows("SELECT deleted FROM ls4.frame WHERE source_key = :key", key=KEY) == [{"deleted": False}]
    assert platform.storage.head(frame_of(KEY).cog_key)
    assert platform.rows("SELECT count(*) AS n FROM travis_usda_1958_frames") == [{"n": 2}]


def test_products_removed_by_a_rebuild_during_their_validation_are_made_again(
    platform: Platform, good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The frame counted as done, but had neither a COG nor a row."""
    platform.drop(KEY, good)
    platform.drop(OTHER, good)
    platform.settle()
    platform.storage.delete(KEY)
    platform.ingest()
    platform.drop(KEY, good)
    platform.tick("ingest_poll")
    platform.tick("ingest_poll")
    touch_unchanged = FrameProducts.touch_unchanged

    def touch_after_rebuild(products: FrameProducts, content_hash: str) -> FrameOutcome:
        collections.refresh_index(platform.archive, frame_of(KEY).collection)
        collections.publish_map(platform.archive, frame_of(KEY).collection)
        return touch_unchanged(products, content_hash)

    with monkeypatch.context() as patch:
        patch.setattr(FrameProducts, "touch_unchanged", touch_after_rebuild)
        outcome = run_worker(platform, tmp_path)
    assert outcome.status == "superseded"
    assert platform.state(KEY)[0] == "queued"
    mark_done(platform, outcome)
    assert_on_the_map(platform)


def test_frame_deleted_between_its_end_and_the_report_to_dagster_is_made_again(
    platform: Platform, good: Path, tmp_path: Path
) -> None:
    """The frame counted as done although it was marked as deleted: the next rebuild removed its COG for good."""
    platform.drop(OTHER, good)
    platform.settle()
    platform.drop(KEY, good)
    platform.tick("ingest_poll")
    platform.tick("ingest_poll")
    outcome = run_worker(platform, tmp_path)
    path = Path(platform.storage.gdal_path(KEY))
    aside = path.parents[1] / ".aside"
    path.rename(aside)
    platform.ingest()
    assert platform.state(KEY)[0] == "deleted"
    aside.rename(path)
    scan_bucket(platform.archive)
    mark_done(platform, outcome)
    assert platform.state(KEY)[0] != "done"
    assert_on_the_map(platform)
