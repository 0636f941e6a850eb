"""Each process of the platform is killed in the middle of a batch, while readers look: nothing is lost, torn or left behind.

LS4_KILLS_SEED chooses another schedule, LS4_KILLS_ROUNDS another length; LS4_KILLS_KEEP leaves the state directory for a look.
"""

import contextlib
import logging
import os
import random
import time
from collections.abc import Callable

import dagster as dg
import psutil
import pytest
from dagster import DagsterInstance
from sqlalchemy.exc import DBAPIError

from ls4_assets.assets import keys
from ls4_assets_tests.kills import COLLECTION, FOLDER, Laptop, Readers, running_laptop, runs_under_way

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

TARGETS = {
    "pool worker": False,
    "run": False,
    "code-server": False,
    "dagster-daemon": False,
    "postgres backend": True,
    "postgres": True,
    "mapserv": False,
    "mapserver": True,
    "nginx": True,
}
BAD = f"{FOLDER}/02-08-60_6-999.tif"
FRAMES = 12
PATIENCE = 900  # beside other work on the machine a run alone may take a minute to begin


def test_whatever_is_killed_whenever_every_frame_ends_right_and_readers_see_whole_things() -> None:
    seed, rounds = int(os.environ.get("LS4_KILLS_SEED", "1")), int(os.environ.get("LS4_KILLS_ROUNDS", "14"))
    chance = random.Random(seed)
    schedule = chance.sample(list(TARGETS), len(TARGETS))
    schedule = (schedule + chance.choices(list(TARGETS), k=rounds))[:rounds]
    quick = {
        "settle_seconds": "0.5",
        "sensor_seconds": "2",
        "reader_grace_seconds": "3",
        "worker_processes": "2",
        "batch_size": "7",
    }
    with running_laptop(**quick) as laptop, Readers(laptop) as readers:
        laptop.drop({number: 40 + number for number in range(100, 100 + FRAMES)})
        (laptop.state.archive / BAD).write_bytes(b"not a tif")
        settle(laptop, readers)
        for number, target in enumerate(schedule):
            began = time.time()
            before = revisions(laptop)
            tones = changed_tones(laptop, chance, number)
            laptop.drop(tones)
            kill_one(laptop, chance, target)
            seconds = settle(laptop, readers)
            done = f"{len(tones)} frames, all right again after {seconds:.0f} s"
            logging.getLogger(__name__).info("round %s: %s killed; %s; readers %s", number, target, done, readers.counts)
            assert not readers.complaints, f"{target}: {readers.complaints[:10]}"
            assert_told(laptop)
            assert_nothing_left(laptop, began)
            made = {frame: revision - before.get(frame, 0) for frame, revision in revisions(laptop).items()}
            assert sum(made.values()) <= len(tones) + 4, f"{target}: made again more often than the frames in work: {made}"
        assert min(readers.counts["map"], readers.counts["index"], readers.counts["cog"]) > 5 * rounds


def changed_tones(laptop: Laptop, chance: random.Random, number: int) -> dict[int, int]:
    """Some frames that are replaced, and one that is new."""
    replaced = chance.sample(sorted(laptop.tones), 8)
    return {frame: 50 + (7 * number + frame) % 190 for frame in [*replaced, 100 + FRAMES + number]}


def kill_one(laptop: Laptop, chance: random.Random, target: str) -> None:
    """At a random moment; what lives only while frames are made is waited for."""
    if target in ("pool worker", "run"):
        until(lambda: bool(laptop.victims(target)), PATIENCE)
        time.sleep(chance.uniform(0, 2))
    else:
        time.sleep(chance.uniform(0, 15))
    found: list[psutil.Process] = []

    def there() -> bool:
        found[:] = laptop.victims(target)
        return bool(found)

    until(there, PATIENCE)
    with contextlib.suppress(psutil.NoSuchProcess):
        laptop.kill(chance.choice(found), TARGETS[target])


def settle(laptop: Laptop, readers: Readers) -> float:
    """Wait until all is as it should be; only waiting times are cut short. Returns the seconds it took."""
    since = time.monotonic()

    def right() -> bool:
        try:
            laptop.skip_waits()
            states = {row["key"]: row["state"] for row in laptop.rows("SELECT key, state FROM ls4.source")}
            wanted = {laptop.key(number): "done" for number in laptop.tones} | {BAD: "failed"}
            behind = "index_revision <> files_revision OR index_revision <> map_revision OR map_revision = 0"
            unindexed = "SELECT 1 FROM ls4.frame WHERE revision <> indexed_revision"
            return (
                states == wanted
                and not laptop.rows(unindexed)
                and not laptop.rows(f"SELECT 1 FROM ls4.collection WHERE {behind}")
                and len(laptop.rows(f"SELECT 1 FROM {COLLECTION}")) == len(laptop.tones)
                and not runs_under_way()
            )
        except DBAPIError:
            return False

    until(
        right,
        PATIENCE,
        lambda: f"{laptop.rows('SELECT key, state, reason, attempts, retry_after FROM ls4.source')} {runs_under_way()}",
    )
    readers.shown = dict.fromkeys(laptop.tones, 0.0)
    return time.monotonic() - since


def assert_told(laptop: Laptop) -> None:
    """the Dagster UI shows what is: every good frame materialised, the bad one failed."""
    partitions = keys.frame_partitions("Travis")
    with DagsterInstance.get() as instance:
        known = instance.get_dynamic_partitions("frames/Travis")
        shown = instance.get_status_by_partition(dg.AssetKey(["Travis", "cog"]), known, partitions) or {}
    wanted = {laptop.frame(number).partition: "MATERIALIZED" for number in laptop.tones}
    assert {key: status.name for key, status in shown.items() if status and not key.endswith("999")} == wanted


def assert_nothing_left(laptop: Laptop, began: float) -> None:
    """No half file, no scratch folder and no second COG, of an earlier round at least: a run sweeps what runs before it left."""
    halves = [*laptop.state.archive.glob(".unfinished/*"), *laptop.state.work.glob("ls4-*")]
    assert [path for path in halves if path.stat().st_mtime < began] == []
    hidden = [
        path for path in laptop.state.archive.rglob(".*") if path.name != ".unfinished" and path.parent.name != ".unfinished"
    ]
    assert hidden == []
    kept = {str(row["served_key"]) for row in laptop.rows("SELECT served_key FROM ls4.frame")}
    served = {key for number in laptop.tones for key in _below(laptop, laptop.frame(number).served_folder)}
    assert served <= kept, f"COGs that no map reads: {sorted(served - kept)}"


def _below(laptop: Laptop, folder: str) -> list[str]:
    root = laptop.state.archive
    return [str(path.relative_to(root)) for path in (root / folder).rglob("*") if path.is_file()]


def revisions(laptop: Laptop) -> dict[str, int]:
    """How often each frame was published."""
    return {str(row["id"]): int(str(row["revision"])) for row in laptop.rows("SELECT id, revision FROM ls4.frame")}


def until(holds: Callable[[], bool], seconds: float, explain: Callable[[], object] = lambda: "") -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, explain()
        time.sleep(0.5)
