"""A tif that is taken away and put back as it was, while its frame is worked on: it is made, or shown, whatever came first."""

from pathlib import Path

import pytest

from ls4_assets.assets import collections
from ls4_assets.db import frames as records
from ls4_assets.domain.names import STEPS
from ls4_assets.ingest.scan import scan_bucket
from ls4_assets.processing import worker
from ls4_assets.processing.tasks import Order, Outcome
from ls4_assets.processing.worker import process_frame
from ls4_assets_tests.platform import Platform, frame_of

FOLDER = "bw/Travis/USDA_1958/frames/georef"
KEY = f"{FOLDER}/02-08-60_6-107.tif"
OTHER = f"{FOLDER}/02-08-60_6-108.tif"


def make(platform: Platform, tmp_path: Path) -> Outcome:
    """As a run's worker does."""
    scratch = tmp_path / "ls4-run-x"
    scratch.mkdir()
    return process_frame(Order(platform.settings, frame_of(KEY), STEPS, False, "r" * 32, scratch))


def tell(platform: Platform, outcome: Outcome) -> None:
    """As a run does with what its workers have made."""
    if outcome.source and outcome.complete:
        with platform.database.begin() as connection:
            records.told(connection, outcome.source)


def assert_on_the_map(platform: Platform) -> None:
    platform.settle()
    assert platform.state(KEY) == ("done", None)
    assert platform.rows("SELECT deleted FROM ls4.frame WHERE source_key = :key", key=KEY) == [{"deleted": False}]
    assert platform.storage.head(frame_of(KEY).cog_key)
    assert platform.rows("SELECT count(*) AS n FROM travis_usda_1958_frames") == [{"n": 2}]


def test_products_that_a_rebuild_removes_while_they_are_found_right_are_made_again(
    platform: Platform, good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The frame counted as done, and had neither a COG nor a row, for ever."""
    platform.drop(KEY, good)
    platform.drop(OTHER, good)
    platform.settle()
    platform.storage.delete(KEY)
    platform.look()
    platform.drop(KEY, good)
    platform.tick("ingest_poll")
    platform.tick("ingest_poll")
    confirm = worker._FrameJob._confirm

    def after_the_rebuild(bench: worker._FrameJob, content: str) -> Outcome:
        collections.refresh_index(platform.archive, frame_of(KEY).collection)
        return confirm(bench, content)

    with monkeypatch.context() as patch:
        patch.setattr(worker._FrameJob, "_confirm", after_the_rebuild)
        outcome = make(platform, tmp_path)
    assert outcome.status == "superseded"
    assert platform.state(KEY)[0] == "queued"
    tell(platform, outcome)
    assert_on_the_map(platform)


def test_a_frame_that_left_between_its_end_and_dagster_s_knowing_is_made_again(
    platform: Platform, good: Path, tmp_path: Path
) -> None:
    """The frame counted as done although it was leaving: the next rebuild removed its COG, and nobody made another."""
    platform.drop(OTHER, good)
    platform.settle()
    platform.drop(KEY, good)
    platform.tick("ingest_poll")
    platform.tick("ingest_poll")
    outcome = make(platform, tmp_path)
    path = Path(platform.storage.gdal_path(KEY))
    aside = path.parents[1] / ".aside"
    path.rename(aside)
    platform.tick("ingest_poll")
    platform.tick("ingest_poll")
    assert platform.state(KEY)[0] == "deleted"
    aside.rename(path)
    scan_bucket(platform.archive)
    tell(platform, outcome)
    assert platform.state(KEY)[0] != "done"
    assert_on_the_map(platform)
