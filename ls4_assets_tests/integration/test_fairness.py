"""Order of batches: a drop of thousands must not delay the others, and many small drops must not starve it."""

from collections import Counter

import pytest
from sqlalchemy import insert

from ls4_assets.db import schema
from ls4_assets.domain.names import Collection, Frame
from ls4_assets.ingest.batches import Batch, BatchLimits, ClaimedSource, claim_batches
from ls4_assets_tests.integration.ingest_fixtures import Ingest, ingest_fixture  # noqa: F401
from sensors.ingest_poll import batch_limits, run_request


def queue(ingest: Ingest, collection: Collection, count: int, minutes_ago: float) -> None:
    """Queue `count` frames of a collection, as a scan did `minutes_ago`."""
    frames = [Frame(collection, "bw", f"02-08-60_6-{number:06}") for number in range(count)]
    rows = [
        {
            "key": f"{frame.folder}/georef/{frame.stem}.tif",
            "state": "queued",
            "version": "v1",
            "size": 5,
            "frame": frame.id,
            "shard": collection.shard,
            "collection": collection.name,
            "partition": frame.partition,
        }
        for frame in frames
    ]
    with ingest.archive.database.begin() as connection:
        row = {
            "name": collection.name,
            "shard": collection.shard,
            "partition": collection.partition,
            "table_name": collection.table,
        }
        connection.execute(insert(schema.collection), [row])
        connection.execute(insert(schema.source), rows)
    assignment = f"changed_at = now() - interval '{minutes_ago} minutes'"
    ingest.write(f"UPDATE ls4.source SET {assignment} WHERE collection = :name", name=collection.name)


def county(name: str, year: int = 1958) -> Collection:
    return Collection(name, f"USDA_{year}", "frames")


def by_collection(batches: list[list[str]]) -> Counter[str]:
    return Counter("/".join(key.split("/")[1:3]) for batch in batches for key in batch)


def test_single_frame_is_claimed_next_despite_a_drop_of_fifty_thousand(ingest: Ingest) -> None:
    """A county dropped its whole film archive, and a frame of another county waited a day behind it."""
    queue(ingest, county("Travis"), 50_000, minutes_ago=60)
    for _ in range(5):
        ingest.claim()
    queue(ingest, county("Bastrop"), 1, minutes_ago=0)
    batches = ingest.claim()
    assert by_collection(batches) == {"Bastrop/USDA_1958": 1}
    assert ingest.count("state = 'requested' and shard = 'Travis'") == {"requested": 600}


def test_limits_of_collection_shard_and_scan_are_respected(ingest: Ingest) -> None:
    for year in (1950, 1951, 1952):
        queue(ingest, county("Travis", year), 60, minutes_ago=10)
    assert by_collection(ingest.claim(batch_size=10, new_batches=4, per_shard=7, per_collection=3)).total() == 40
    second = ingest.claim(batch_size=10, new_batches=10, per_shard=7, per_collection=3)
    assert len(second) == 3
    assert ingest.claim(batch_size=10, new_batches=10, per_shard=7, per_collection=3) == []
    assert ingest.claim(batch_size=10, new_batches=0, per_shard=99, per_collection=99) == []
    assert len(ingest.claim(batch_size=10, new_batches=10, per_shard=99, per_collection=3)) == 2


def test_collections_take_turns(ingest: Ingest) -> None:
    queue(ingest, county("Travis"), 100, minutes_ago=30)
    queue(ingest, county("Bastrop"), 100, minutes_ago=20)
    queue(ingest, county("Zavala"), 100, minutes_ago=10)
    first = ingest.claim(batch_size=10, new_batches=4)
    assert [batch[0].split("/")[1] for batch in first] == ["Travis", "Bastrop", "Zavala", "Travis"]
    second = ingest.claim(batch_size=10, new_batches=3)
    assert [batch[0].split("/")[1] for batch in second] == ["Bastrop", "Zavala", "Travis"]


def test_small_drops_of_a_shard_share_a_batch(ingest: Ingest) -> None:
    """A frame in each of forty collections made forty runs, and each took longer to start than its frame."""
    for year in range(1920, 1960):
        queue(ingest, county("Travis", year), 2, minutes_ago=5)
    queue(ingest, county("Bastrop"), 1, minutes_ago=1)
    batches = ingest.claim(batch_size=40)
    assert sorted(len(batch) for batch in batches) == [1, 16, 32, 32]
    assert all(len({key.split("/")[1] for key in batch}) == 1 for batch in batches)


def test_steady_stream_of_small_drops_does_not_starve_a_large_one(ingest: Ingest) -> None:
    queue(ingest, county("Travis"), 300, minutes_ago=30)
    done = 0
    for tick in range(12):
        for name in ("Bastrop", "Zavala", "Burnet"):
            queue(ingest, Collection(name, f"USDA_{1900 + tick}", "frames"), 1, minutes_ago=0)
        claimed = ingest.claim(batch_size=100, new_batches=2, per_collection=1)
        done += by_collection(claimed)["Travis/USDA_1958"]
        ingest.finish(*(key for batch in claimed for key in batch))
    assert done == 300


def test_sources_waiting_for_a_retry_are_skipped(ingest: Ingest) -> None:
    queue(ingest, county("Travis"), 30, minutes_ago=30)
    ingest.write("UPDATE ls4.source SET retry_after = now() + interval '1 minute' WHERE key < :key", key="bw/Travis/USDA_1958/g")
    assert ingest.claim() == []


def test_frames_of_a_shard_without_assets_wait_and_do_not_block_others(ingest: Ingest) -> None:
    """A county was removed from the list of shards, and no run of any county could be requested."""
    queue(ingest, county("Travis"), 3, minutes_ago=30)
    queue(ingest, county("Bastrop"), 3, minutes_ago=5)
    limits = BatchLimits(100, 10, 10, 10)
    assert [batch.shard for batch in claim_batches(ingest.archive.database, limits, {"Bastrop"})] == ["Bastrop"]
    assert [batch.shard for batch in claim_batches(ingest.archive.database, limits, {"Bastrop", "Travis"})] == ["Travis"]


def batch(frames: int, backlog: int = 0) -> Batch:
    claimed = ClaimedSource("key", "v1", 5, Frame(county("Travis"), "bw", "02-08-60_6-1"))
    return Batch("id", "Travis", (claimed,) * frames, backlog)


def test_small_batches_overtake_large_ones_in_the_run_queue_but_not_forever(
    ingest: Ingest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dagster starts queued runs by priority, so the order in which the sensor requested them had no effect."""
    now = 1_800_000_000.0
    monkeypatch.setattr("ls4_assets.assets.keys.time.time", lambda: now)

    def priority(batch: Batch) -> int:
        return int(run_request(batch, ingest.archive.settings).tags["dagster/priority"])

    large, behind = priority(batch(100)), priority(batch(100, backlog=500))
    assert behind < large < priority(batch(1)) < 0
    now += 300
    assert priority(batch(1)) > large
    now += 3600
    assert priority(batch(1)) < behind


def test_settings_limit_what_a_tick_claims(ingest: Ingest) -> None:
    limits = batch_limits(ingest.archive.settings, 15)
    assert (limits.batch_size, limits.new_batches, limits.open_per_shard, limits.open_per_collection) == (100, 5, 10, 6)
    assert batch_limits(ingest.archive.settings, 25).new_batches < 0
