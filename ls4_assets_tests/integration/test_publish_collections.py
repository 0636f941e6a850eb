"""What the sensor `collections` waits for, and what it does not."""

import dagster as dg
import pytest
from dagster import DagsterRunStatus

from ls4_assets.assets import active_runs, keys
from ls4_assets.assets.active_runs import collections_in_progress
from ls4_assets.domain.names import Collection
from ls4_assets_tests.platform import Platform

COLLECTION = Collection("Travis", "USDA_1958", "frames")


def waiting_run(platform: Platform, asset: dg.AssetKey, tags: dict[str, str]) -> None:
    # Not yet started counts as queued does, which Dagster only lets a run with a code server be.
    job = platform.definitions.resolve_implicit_global_asset_job_def()
    platform.instance.create_run_for_job(job, status=DagsterRunStatus.NOT_STARTED, tags=tags, asset_selection=frozenset({asset}))


def test_a_rebuild_that_waits_in_the_queue_is_not_asked_for_again(platform: Platform) -> None:
    """On a busy machine the queue filled with rebuilds of one and the same collection, a new one every half minute."""
    tags = {keys.COLLECTION_TAG: COLLECTION.name, **keys.REBUILD_PRIORITY}
    waiting_run(platform, keys.tile_index("Travis"), tags)
    assert collections_in_progress(platform.instance).blocks(COLLECTION)


def test_the_waiting_runs_of_a_backfill_do_not_hold_up_what_is_made(platform: Platform) -> None:
    waiting_run(platform, keys.product("Travis", "cog"), {"dagster/partition": "USDA_1958/frames/bw/02-08-60_6-107"})
    assert not collections_in_progress(platform.instance).blocks(COLLECTION)


def test_so_many_waiting_runs_of_a_backfill_do_not_hold_up_any_other_collection(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a county of 50,000 frames was made anew, no map of the whole archive changed."""
    monkeypatch.setattr(active_runs, "_MOST_RUNS", 2)
    for number in (107, 108):
        waiting_run(platform, keys.product("Travis", "cog"), {"dagster/partition": f"USDA_1958/frames/bw/02-08-60_6-{number}"})
    assert not collections_in_progress(platform.instance).blocks(Collection("Bastrop", "USDA_1958", "frames"))
