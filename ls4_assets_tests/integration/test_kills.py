"""Crash safety: each process of the platform is killed during a batch while readers run; nothing is lost, torn or left behind.

LS4_KILLS_SEED selects another schedule, LS4_KILLS_ROUNDS its length; LS4_KILLS_KEEP keeps the state directory for inspection.
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
from ls4_assets_tests.kills import COLLECTION, FOLDER, LocalPlatform, Readers, running_local_platform, unfinished_runs

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

# The kinds of processes to kill, and whether the map may be down afterwards.
TARGETS = {
    "pool worker": False,
    "run": False,
    "code-server": False,
    "run-server": False,
    "dagster-daemon": False,
    "postgres backend": True,
    "postgres": True,
    "mapserv": False,
    "mapserver": True,
    "nginx": True,
}
BAD_KEY = f"{FOLDER}/02-08-60_6-999.tif"
FRAMES = 12
TIMEOUT_SECONDS = 900  # on a busy machine a run alone may need a minute to start


def test_killed_processes_lose_no_frame_and_readers_see_no_partial_state() -> None:
    seed, rounds = int(os.environ.get("LS4_KILLS_SEED", "1")), int(os.environ.get("LS4_KILLS_ROUNDS", "14"))
    rng = random.Random(seed)
    schedule = rng.sample(list(TARGETS), len(TARGETS))
    schedule = (schedule + rng.choices(list(TARGETS), k=rounds))[:rounds]
    quick = {
        "settle_seconds": "0.5",
        "sensor_seconds": "2",
        "reader_grace_seconds": "3",
        "worker_processes": "2",
        "batch_size": "7",
    }
    with running_local_platform(**quick) as local, Readers(local) as readers:
        local.drop({number: 40 + number for number in range(100, 100 + FRAMES)})
        (local.state.archive / BAD_KEY).write_bytes(b"not a tif")
        wait_until_settled(local, readers)
        for number, target in enumerate(schedule):
            began = time.time()
            before = revisions(local)
            tones = changed_tones(local, rng, number)
            local.drop(tones)
            kill_one(local, rng, target)
            seconds = wait_until_settled(local, readers)
            done = f"{len(tones)} frames settled after {seconds:.0f} s"
            logging.getLogger(__name__).info("round %s: %s killed; %s; readers %s", number, target, done, readers.counts)
            assert not readers.errors, f"{target}: {readers.errors[:10]}"
            assert_partitions_match(local)
            assert_nothing_left(local, began)
            published = {frame: revision - before.get(frame, 0) for frame, revision in revisions(local).items()}
            assert sum(published.values()) <= len(tones) + 4, f"{target}: too many frames were processed again: {published}"
        assert min(readers.counts["map"], readers.counts["index"], readers.counts["cog"]) > 5 * rounds


def changed_tones(local: LocalPlatform, rng: random.Random, number: int) -> dict[int, int]:
    """New tones by frame number: eight replaced frames and one new frame."""
    replaced = rng.sample(sorted(local.tones), 8)
    return {frame: 50 + (7 * number + frame) % 190 for frame in [*replaced, 100 + FRAMES + number]}


def kill_one(local: LocalPlatform, rng: random.Random, target: str) -> None:
    """Kill one process of the target at a random moment; wait for processes that run only while frames are processed."""
    if target in ("pool worker", "run"):
        wait_until(lambda: bool(local.find_processes(target)), TIMEOUT_SECONDS)
        time.sleep(rng.uniform(0, 2))
    else:
        time.sleep(rng.uniform(0, 15))
    processes: list[psutil.Process] = []

    def is_running() -> bool:
        processes[:] = local.find_processes(target)
        return bool(processes)

    wait_until(is_running, TIMEOUT_SECONDS)
    with contextlib.suppress(psutil.NoSuchProcess):
        local.kill(rng.choice(processes), TARGETS[target])


def wait_until_settled(local: LocalPlatform, readers: Readers) -> float:
    """Wait until every frame has its final state and the index and map are current; skips backoff. Returns the seconds."""
    since = time.monotonic()

    def is_settled() -> bool:
        try:
            local.skip_waits()
            states = {row["key"]: row["state"] for row in local.rows("SELECT key, state FROM ls4.source")}
            expected = {local.key(number): "done" for number in local.tones} | {BAD_KEY: "failed"}
            behind = "index_revision <> files_revision OR index_revision <> map_revision OR map_revision = 0"
            unindexed = "SELECT 1 FROM ls4.frame WHERE revision <> indexed_revision"
            return (
                states == expected
                and not local.rows(unindexed)
                and not local.rows(f"SELECT 1 FROM ls4.collection WHERE {behind}")
                and len(local.rows(f"SELECT 1 FROM {COLLECTION}")) == len(local.tones)
                and not unfinished_runs()
            )
        except DBAPIError:
            return False

    wait_until(
        is_settled,
        TIMEOUT_SECONDS,
        lambda: f"{local.rows('SELECT key, state, reason, attempts, retry_after FROM ls4.source')} {unfinished_runs()}",
    )
    readers.frames_on_map = list(local.tones)
    return time.monotonic() - since


def assert_partitions_match(local: LocalPlatform) -> None:
    """Dagster's partition status matches: every good frame is materialized, the bad one is not."""
    partitions = keys.frame_partitions("Travis")
    with DagsterInstance.get() as instance:
        partition_keys = instance.get_dynamic_partitions("frames/Travis")
        statuses = instance.get_status_by_partition(dg.AssetKey(["Travis", "cog"]), partition_keys, partitions) or {}
    expected = {local.frame(number).partition: "MATERIALIZED" for number in local.tones}
    assert {key: status.name for key, status in statuses.items() if status and not key.endswith("999")} == expected


def assert_nothing_left(local: LocalPlatform, began: float) -> None:
    """No partial file, scratch folder or second COG from before `began`: each run cleans up after earlier runs."""
    partial_files = [*local.state.archive.glob(".unfinished/*"), *local.state.work.glob("ls4-*")]
    assert [path for path in partial_files if path.stat().st_mtime < began] == []
    hidden = [
        path for path in local.state.archive.rglob(".*") if path.name != ".unfinished" and path.parent.name != ".unfinished"
    ]
    assert hidden == []
    kept = {str(row["served_key"]) for row in local.rows("SELECT served_key FROM ls4.frame")}
    served = {key for number in local.tones for key in _below(local, local.frame(number).served_folder)}
    assert served <= kept, f"COGs that no map reads: {sorted(served - kept)}"


def _below(local: LocalPlatform, folder: str) -> list[str]:
    root = local.state.archive
    return [str(path.relative_to(root)) for path in (root / folder).rglob("*") if path.is_file()]


def revisions(local: LocalPlatform) -> dict[str, int]:
    """How often each frame was published."""
    return {str(row["id"]): int(str(row["revision"])) for row in local.rows("SELECT id, revision FROM ls4.frame")}


def wait_until(condition: Callable[[], bool], seconds: float, explain: Callable[[], object] = lambda: "") -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, explain()
        time.sleep(0.5)
