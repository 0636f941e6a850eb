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


def age_rebuilds(platform: Platform, seconds: int, duration: int = 1) -> None:
    """As if the last rebuilds had ended so long ago, after so many seconds."""
    end = f"extract(epoch FROM now()) - {seconds}"
    with platform.instance.run_storage.connect() as connection:  # type: ignore[attr-defined]
        connection.execute(text(f"UPDATE runs SET end_time = {end}, start_time = {end} - {duration}"))


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
    age_rebuilds(platform, 590)
    assert requested_assets(platform) == [growing]

    write(platform, "UPDATE ls4.collection SET requested_at = requested_at - interval '601 seconds'")
    age_rebuilds(platform, 601)
    assert requested_assets(platform) == [{"exports"}], "a drop that goes on for days"
    write(platform, f"UPDATE ls4.source SET state = 'done' WHERE key = '{LAST}'")
    change_frames(platform, seconds_ago=0)
    assert requested_assets(platform) == [{*growing, "exports"}]


def test_rebuilds_take_a_tenth_of_the_time_of_a_large_drop(platform: Platform, tmp_path: Path) -> None:
    for key in (LAST, f"{FOLDER}/02-08-60_6-107.tif"):
        platform.drop(key, write_tif(tmp_path / "x.tif", photograph(200, 200)))
    platform.settle()
    write(platform, f"UPDATE ls4.source SET state = 'queued' WHERE key = '{LAST}'")
    for seconds, expected in ((190, 0), (201, 1)):
        change_frames(platform, seconds_ago=20)
        age_rebuilds(platform, seconds, duration=20)
        assert len(requested_assets(platform)) == expected


def test_exports_follow_a_large_drop_at_once(platform: Platform, tmp_path: Path) -> None:
    """Each rebuild during a drop counted as an attempt to write the exports, which then waited for up to an hour."""
    for number in (107, 109):
        platform.drop(f"{FOLDER}/02-08-60_6-{number}.tif", write_tif(tmp_path / "x.tif", photograph(200, 200)))
    platform.settle()
    write(platform, f"UPDATE ls4.source SET state = 'queued' WHERE key = '{LAST}'")
    for _ in range(2):
        change_frames(platform, seconds_ago=20)
        age_rebuilds(platform, 601)
        assert len(requested_assets(platform)) == 1
    write(platform, f"UPDATE ls4.source SET state = 'failed' WHERE key = '{LAST}'")
    assert requested_assets(platform) == [{"exports"}]


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
