"""Which runs the sensor `publish_collections` waits for."""

import dagster as dg
import pytest
from dagster import DagsterRunStatus

from ls4_assets.assets import active_runs, keys
from ls4_assets.assets.active_runs import collections_in_progress
from ls4_assets.domain.names import Collection
from ls4_assets_tests.platform import Platform

COLLECTION = Collection("Travis", "USDA_1958", "frames")


def add_waiting_run(platform: Platform, asset: dg.AssetKey, tags: dict[str, str]) -> None:
    # NOT_STARTED counts like QUEUED, a status that Dagster allows only for runs with a code location.
    job = platform.definitions.resolve_implicit_global_asset_job_def()
    platform.instance.create_run_for_job(job, status=DagsterRunStatus.NOT_STARTED, tags=tags, asset_selection=frozenset({asset}))


def test_queued_rebuild_is_not_requested_again(platform: Platform) -> None:
    """On a busy machine the queue filled with rebuilds of the same collection, one more every 30 s."""
    tags = {keys.COLLECTION_TAG: COLLECTION.name, **keys.REBUILD_PRIORITY}
    add_waiting_run(platform, keys.tile_index("Travis"), tags)
    assert collections_in_progress(platform.instance).blocks(COLLECTION)


def test_queued_backfill_runs_do_not_block_the_rebuild(platform: Platform) -> None:
    add_waiting_run(platform, keys.product("Travis", "cog"), {"dagster/partition": "USDA_1958/frames/bw/02-08-60_6-107"})
    assert not collections_in_progress(platform.instance).blocks(COLLECTION)


def test_many_queued_backfill_runs_do_not_block_other_collections(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a county of 50,000 frames was rematerialized, no map of the whole archive changed."""
    monkeypatch.setattr(active_runs, "_MAX_RUNS", 2)
    for number in (107, 108):
        add_waiting_run(
            platform, keys.product("Travis", "cog"), {"dagster/partition": f"USDA_1958/frames/bw/02-08-60_6-{number}"}
        )
    assert not collections_in_progress(platform.instance).blocks(Collection("Bastrop", "USDA_1958", "frames"))
