"""Runs and rebuilds whose frames cannot be observed end well, because only the display of staleness depends on it."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
from sqlalchemy import create_engine, text

from ls4_assets import logs
from ls4_assets.assets import keys
from ls4_assets_tests.platform import Platform

KEY = "bw/Travis/USDA_1958/frames/georef/02-08-60_6-101.tif"
PARTITION = "USDA_1958/frames"


@contextmanager
def rejected_observations(platform: Platform) -> Iterator[None]:
    """Dagster's database raises an error for each observation."""
    engine = create_engine(vars(platform.instance.event_log_storage)["postgres_url"])
    body = "BEGIN RAISE EXCEPTION 'no observation today'; END"
    when = "WHEN (NEW.dagster_event_type = 'ASSET_OBSERVATION')"
    trigger = f"CREATE TRIGGER reject BEFORE INSERT ON event_logs FOR EACH ROW {when} EXECUTE FUNCTION reject_observation()"
    try:
        with engine.begin() as connection:
            connection.execute(text(f"CREATE FUNCTION reject_observation() RETURNS trigger LANGUAGE plpgsql AS $${body}$$"))
            connection.execute(text(trigger))
        yield
    finally:
        with engine.begin() as connection:
            connection.execute(text("DROP TRIGGER IF EXISTS reject ON event_logs"))
            connection.execute(text("DROP FUNCTION IF EXISTS reject_observation()"))
        engine.dispose()


def observations(platform: Platform) -> int:
    own = dg.AssetRecordsFilter(keys.collection_frames("Travis"), asset_partitions=[PARTITION])
    return len(platform.instance.fetch_observations(own, limit=10).records)


def test_frames_are_made_and_published_although_they_cannot_be_observed(platform: Platform, good: Path, tmp_path: Path) -> None:
    """A run whose frames were done failed at its end, because Dagster's database rejected the observation."""
    log = tmp_path / "ls4.log"
    logs.configure(log)
    platform.drop(KEY, good)
    with rejected_observations(platform):
        assert [run.success for run in platform.settle()] == [True, True]
        assert platform.rows("SELECT frames FROM ls4.collection") == [{"frames": 1}]
    missed = [line for line in map(json.loads, log.read_text().splitlines()) if line["event"] == "not_observed"]
    # Of the run of the frame, of the sensor that requests the rebuild, and of the rebuild, which names its collection.
    assert [line.get("collection") for line in missed] == [None, None, "Travis_USDA_1958_frames"]
    assert {(line["level"], "no observation today" in line["error"]) for line in missed} == {("warning", True)}
    assert observations(platform) == 0
    # The next rebuild observes again.
    assert platform.run([keys.tile_index("Travis")], partition_key=PARTITION).success
    assert observations(platform) == 1
