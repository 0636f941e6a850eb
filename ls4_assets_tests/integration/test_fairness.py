"""Who is next: a drop of many thousands must not make the others wait, and many small ones must not make it wait for ever."""

from collections import Counter

import pytest
from sqlalchemy import insert

from ls4_assets.db.schema import collection, source
from ls4_assets.domain.names import Collection, Frame
from ls4_assets.ingest.batches import Batch, ClaimedSource, Limits, claim_batches
from ls4_assets_tests.integration.ingest_fixtures import Intake, intake_fixture  # noqa: F401
from sensors.ingest_poll import batch_limits, request


def queue(intake: Intake, of: Collection, count: int, minutes_ago: float) -> None:
    """As a look would have queued so many frames of a collection, so long ago."""
    frames = [Frame(of, "bw", f"02-08-60_6-{number:06}") for number in range(count)]
    rows = [
        {
            "key": f"{frame.folder}/georef/{frame.stem}.tif",
            "state": "queued",
            "version": "v1",
            "size": 5,
            "frame": frame.id,
            "shard": of.shard,
            "collection": of.name,
            "partition": frame.partition,
        }
        for frame in frames
    ]
    with intake.archive.database.begin() as connection:
        row = {"name": of.name, "shard": of.shard, "partition": of.partition, "table_name": of.table}
        connection.execute(insert(collection), [row])
        connection.execute(insert(source), rows)
    ago = f"changed_at = now() - interval '{minutes_ago} minutes'"
    intake.write(f"UPDATE ls4.source SET {ago} WHERE collection = :name", name=of.name)


def county(name: str, year: int = 1958) -> Collection:
    return Collection(name, f"USDA_{year}", "frames")


def by_collection(batches: list[list[str]]) -> Counter[str]:
    return Counter("/".join(key.split("/")[1:3]) for batch in batches for key in batch)


def test_a_single_frame_is_in_the_next_batches_behind_a_drop_of_fifty_thousand(intake: Intake) -> None:
    """A county dropped its whole film archive; a frame dropped in another waited until it was through, for a day."""
    queue(intake, county("Travis"), 50_000, minutes_ago=60)
    for _ in range(5):
        intake.claim()
    queue(intake, county("Bastrop"), 1, minutes_ago=0)
    batches = intake.claim()
    assert by_collection(batches) == {"Bastrop/USDA_1958": 1}
    assert intake.count("state = 'requested' and shard = 'Travis'") == {"requested": 600}


def test_limits_of_a_collection_of_a_shard_and_of_a_look_hold(intake: Intake) -> None:
    for year in (1950, 1951, 1952):
        queue(intake, county("Travis", year), 60, minutes_ago=10)
    assert by_collection(intake.claim(size=10, claimed=4, per_shard=7, per_collection=3)).total() == 40
    second = intake.claim(size=10, claimed=10, per_shard=7, per_collection=3)
    assert len(second) == 3
    assert intake.claim(size=10, claimed=10, per_shard=7, per_collection=3) == []
    assert intake.claim(size=10, claimed=0, per_shard=99, per_collection=99) == []
    assert len(intake.claim(size=10, claimed=10, per_shard=99, per_collection=3)) == 2


def test_collections_take_turns(intake: Intake) -> None:
    queue(intake, county("Travis"), 100, minutes_ago=30)
    queue(intake, county("Bastrop"), 100, minutes_ago=20)
    queue(intake, county("Zavala"), 100, minutes_ago=10)
    first = intake.claim(size=10, claimed=4)
    assert [batch[0].split("/")[1] for batch in first] == ["Travis", "Bastrop", "Zavala", "Travis"]
    second = intake.claim(size=10, claimed=3)
    assert [batch[0].split("/")[1] for batch in second] == ["Bastrop", "Zavala", "Travis"]


def test_small_drops_of_a_shard_share_a_run(intake: Intake) -> None:
    """A frame in each of forty collections made forty runs, each of which takes longer to start than its frame."""
    for year in range(1920, 1960):
        queue(intake, county("Travis", year), 2, minutes_ago=5)
    queue(intake, county("Bastrop"), 1, minutes_ago=1)
    batches = intake.claim(size=40)
    assert sorted(len(batch) for batch in batches) == [1, 16, 32, 32]
    assert all(len({key.split("/")[1] for key in batch}) == 1 for batch in batches)


def test_a_steady_stream_of_small_drops_does_not_keep_a_large_one_waiting(intake: Intake) -> None:
    queue(intake, county("Travis"), 300, minutes_ago=30)
    done = 0
    for tick in range(12):
        for name in ("Bastrop", "Zavala", "Burnet"):
            queue(intake, Collection(name, f"USDA_{1900 + tick}", "frames"), 1, minutes_ago=0)
        claimed = intake.claim(size=100, claimed=2, per_collection=1)
        done += by_collection(claimed)["Travis/USDA_1958"]
        intake.finish(*(key for batch in claimed for key in batch))
    assert done == 300


def test_what_waits_for_its_next_attempt_is_passed_over(intake: Intake) -> None:
    queue(intake, county("Travis"), 30, minutes_ago=30)
    intake.write("UPDATE ls4.source SET retry_after = now() + interval '1 minute' WHERE key < :key", key="bw/Travis/USDA_1958/g")
    assert intake.claim() == []


def test_frames_of_a_shard_that_there_are_no_assets_for_wait_and_hold_up_nobody(intake: Intake) -> None:
    """One county was taken out of the list of shards: no run of any county could be requested any more."""
    queue(intake, county("Travis"), 3, minutes_ago=30)
    queue(intake, county("Bastrop"), 3, minutes_ago=5)
    limits = Limits(100, 10, 10, 10)
    assert [batch.shard for batch in claim_batches(intake.archive.database, limits, {"Bastrop"})] == ["Bastrop"]
    assert [batch.shard for batch in claim_batches(intake.archive.database, limits, {"Bastrop", "Travis"})] == ["Travis"]


def batch(frames: int, ahead: int = 0) -> Batch:
    claimed = ClaimedSource("key", "v1", 5, Frame(county("Travis"), "bw", "02-08-60_6-1"))
    return Batch("id", "Travis", (claimed,) * frames, ahead)


def test_in_the_queue_small_batches_overtake_large_ones_but_not_for_ever(intake: Intake, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dagster starts runs in the order of their priority; the sensor's own order counted for nothing once they were queued."""
    now = 1_800_000_000.0
    monkeypatch.setattr("ls4_assets.assets.keys.time.time", lambda: now)

    def priority(of: Batch) -> int:
        return int(request(of, intake.archive.settings).tags["dagster/priority"])

    large, behind = priority(batch(100)), priority(batch(100, ahead=500))
    assert behind < large < priority(batch(1)) < 0
    now += 300
    assert priority(batch(1)) > large
    now += 3600
    assert priority(batch(1)) < behind


def test_the_settings_bound_what_a_look_claims(intake: Intake) -> None:
    limits = batch_limits(intake.archive.settings, 15)
    assert (limits.size, limits.claimed, limits.per_shard, limits.per_collection) == (100, 5, 10, 6)
    assert batch_limits(intake.archive.settings, 25).claimed < 0
