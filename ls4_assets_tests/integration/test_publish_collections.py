"""When the sensor `publish_collections` rebuilds a collection, and which runs it waits for."""

from pathlib import Path

import dagster as dg
import pytest
from dagster import DagsterRunStatus
from sqlalchemy import text

from ls4_assets.assets import active_runs, keys
from ls4_assets.assets.active_runs import collections_in_progress
from ls4_assets.domain.names import Collection
from ls4_assets_tests.platform import Platform
from ls4_assets_tests.rasters import photograph, write_tif

COLLECTION = Collection("Travis", "USDA_1958", "frames")


FOLDER = "bw/Travis/USDA_1958/frames/georef"
LAST = f"{FOLDER}/02-08-60_6-109.tif"


def write(platform: Platform, statement: str) -> None:
    with platform.database.begin() as connection:
        connection.execute(text(statement))


def change_frames(platform: Platform, seconds_ago: int) -> None:
    """As if all frames were replaced by other pixels."""
    changed_at = f"now() - interval '{seconds_ago} seconds'"
    write(platform, f"UPDATE ls4.frame SET revision = revision + 1, updated_at = {changed_at}")


def requested_assets(platform: Platform) -> list[set[str]]:
    """The assets of each rebuild that a tick requests; the rebuilds are executed."""
    result = platform.tick("publish_collections")
    platform.execute(result)
    requests = (result.run_requests or []) if isinstance(result, dg.SensorResult) else []
    return [{asset.path[-1] for asset in request.asset_selection or []} for request in requests]


def test_large_drop_is_published_as_it_grows(platform: Platform, tmp_path: Path) -> None:
    """A collection of 400 frames showed nothing before its last frame was made."""
    for number in (107, 108, 109):
        platform.drop(f"{FOLDER}/02-08-60_6-{number}.tif", write_tif(tmp_path / "x.tif", photograph(200, 200)))
    platform.ingest()
    write(platform, f"UPDATE ls4.source SET state = 'queued' WHERE key = '{LAST}'")
    assert requested_assets(platform) == [], "the frames may be done in a moment"
    growing = {"tile_index", "overview_mosaic", "mapfile"}
    change_frames(platform, seconds_ago=20)
    assert requested_assets(platform) == [growing], "exports are written whole, once"

    change_frames(platform, seconds_ago=20)
    assert requested_assets(platform) == [], "rebuilt a moment ago"
    write(platform, "UPDATE ls4.collection SET requested_at = requested_at - interval '590 seconds'")
    assert requested_assets(platform) == [growing]

    write(platform, "UPDATE ls4.collection SET requested_at = requested_at - interval '601 seconds'")
    assert requested_assets(platform) == [{"exports"}], "a drop that goes on for days"
    write(platform, f"UPDATE ls4.source SET state = 'done' WHERE key = '{LAST}'")
    change_frames(platform, seconds_ago=0)
    assert requested_assets(platform) == [{*growing, "exports"}]


def test_rebuilds_take_a_tenth_of_the_time_of_a_large_drop(platform: Platform, tmp_path: Path) -> None:
    for key in (LAST, f"{FOLDER}/02-08-60_6-107.tif"):
        platform.drop(key, write_tif(tmp_path / "x.tif", photograph(200, 200)))
    platform.settle()
    write(platform, f"UPDATE ls4.source SET state = 'queued' WHERE key = '{LAST}'")
    with platform.instance.run_storage.connect() as connection:  # type: ignore[attr-defined]
        connection.execute(text("UPDATE runs SET start_time = end_time - 20"))
    for seconds, expected in ((100, 0), (101, 1)):
        change_frames(platform, seconds_ago=20)
        write(platform, f"UPDATE ls4.collection SET requested_at = now() - interval '{seconds + 99} seconds'")
        assert len(requested_assets(platform)) == expected


def test_deletion_requests_its_rebuild_in_the_same_tick(platform: Platform, tmp_path: Path) -> None:
    """A deleted photograph stayed on the map until the next tick of another sensor."""
    for key in (LAST, f"{FOLDER}/02-08-60_6-107.tif"):
        platform.drop(key, write_tif(tmp_path / "x.tif", photograph(200, 200)))
    platform.settle()
    platform.storage.delete(LAST)
    result = platform.tick("ingest_poll")
    assert isinstance(result, dg.SensorResult)
    (request,) = result.run_requests or []
    assert request.tags[keys.COLLECTION_TAG] == COLLECTION.name
    assert isinstance(platform.tick("publish_collections"), dg.SkipReason), "requested twice"


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
