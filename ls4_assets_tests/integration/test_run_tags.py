"""Every run names its collections in a tag, by which people filter the list of runs in the Dagster UI."""

from collections.abc import Mapping, Sequence

import dagster as dg
import pytest

from ls4_assets.assets import keys
from ls4_assets.domain.products import STEPS
from ls4_assets.runtime.dagster_names import PARTITION_RANGE_TAGS, PARTITION_TAG
from ls4_assets.runtime.run_guard import RunError
from ls4_assets_tests.platform import Platform

OLD, NEW = ([f"USDA_{year}/frames/bw/02-08-60_6-{number}" for number in range(3)] for year in (1958, 1966))
FRAMES = [keys.product("Travis", step) for step in STEPS]


@pytest.fixture(autouse=True)
def partitions(platform: Platform) -> None:
    platform.instance.add_dynamic_partitions("frames/Travis", [*OLD, *NEW])
    platform.instance.add_dynamic_partitions("collections/Travis", ["USDA_1958/frames"])


def store_run(
    platform: Platform,
    assets: Sequence[dg.AssetKey],
    tags: Mapping[str, str],
    frames: Sequence[str] = (),
    parent: dg.DagsterRun | None = None,
) -> dg.DagsterRun:
    """Store a run as the daemon and the webserver do."""
    job = platform.definitions.resolve_implicit_global_asset_job_def().get_subset(asset_selection=set(assets))
    parent_id = parent.run_id if parent else None
    return platform.instance.create_run_for_job(
        job,
        tags=dict(tags),
        run_config={"ops": {keys.frames_op_name("Travis"): {"config": {"frames": [*frames]}}}} if frames else {},
        asset_selection=frozenset(assets),
        parent_run_id=parent_id,
        root_run_id=parent_id,
    )


def range_tags(first: str, last: str) -> dict[str, str]:
    return dict(zip(PARTITION_RANGE_TAGS, (first, last), strict=True))


def test_runs_of_all_kinds_are_found_by_their_collection(platform: Platform) -> None:
    """The list showed a batch as its first frame, and a backfill as a range of keys."""
    inherited = {"ls4/collections": "2 collections"}
    runs = {
        "drop": store_run(platform, FRAMES, {PARTITION_TAG: OLD[0], **keys.size_tags("frames", 3)}, frames=OLD),
        "rebuild": store_run(platform, keys.assets_from_step("Travis", "tile_index"), {PARTITION_TAG: "USDA_1958/frames"}),
        "backfill": store_run(platform, FRAMES, inherited | range_tags(OLD[0], OLD[2])),
        "frame of a backfill": store_run(platform, FRAMES, inherited | {PARTITION_TAG: OLD[1]}),
        "one frame": store_run(platform, FRAMES, {PARTITION_TAG: OLD[2]}),
        "range": store_run(platform, FRAMES, range_tags(OLD[1], OLD[2])),
    }
    found = platform.instance.get_runs(dg.RunsFilter(tags={"ls4/collections": "Travis_USDA_1958_frames"}))
    assert {run.run_id for run in found} == {run.run_id for run in runs.values()}
    both = store_run(platform, FRAMES, range_tags(OLD[2], NEW[0]))
    assert both.tags["ls4/collections"] == "2 collections"


def test_the_launcher_does_not_take_a_run_of_people_for_small(platform: Platform) -> None:
    """Only sensors estimate the memory that a frame needs."""
    assert "ls4/frames" not in store_run(platform, FRAMES, {PARTITION_TAG: OLD[0]}).tags


def test_range_whose_end_has_left_is_not_executed_again(platform: Platform) -> None:
    """It failed with Dagster's error that the range is not valid."""
    tags = range_tags(OLD[0], OLD[2])
    first = store_run(platform, FRAMES, tags)
    assert store_run(platform, FRAMES, tags, parent=first).tags["ls4/collections"] == "Travis_USDA_1958_frames"
    platform.instance.delete_dynamic_partition("frames/Travis", OLD[0])
    with pytest.raises(RunError, match="The first or the last frame of this run has left the archive"):
        store_run(platform, FRAMES, tags, parent=first)
