"""Tests of the worker pool of a run, with real processes."""

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import psutil
from pebble import ProcessExpired

from ls4_assets.processing.header_limit import EXIT_CODES, limit_header_time
from ls4_assets.processing.pool import run_tasks
from ls4_assets.settings import FrameSettings

SCRIPT = """
import time
from ls4_assets.processing.pool import run_tasks
from ls4_assets.settings import FrameSettings
list(run_tasks(time.sleep, [600.0, 600.0], FrameSettings(worker_processes=2, worker_memory_mb=1500, frame_timeout_seconds=900)))
"""


def make_settings(**values: Any) -> Any:
    return FrameSettings(**({"worker_processes": 1, "worker_memory_mb": 1500, "frame_timeout_seconds": 60} | values))


def test_workers_exit_when_their_run_is_killed() -> None:
    """Workers of a killed run kept running: they published during the next run, or hung forever with their memory."""
    with subprocess.Popen([sys.executable, "-c", SCRIPT]) as run:
        descendants: list[psutil.Process] = []
        deadline = time.monotonic() + 60
        while len([process for process in descendants if process.ppid() != run.pid]) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.2)
            descendants = psutil.Process(run.pid).children(recursive=True)
        time.sleep(2)  # until the workers have started their tasks
        run.send_signal(signal.SIGKILL)
        run.wait()
    _, alive = psutil.wait_procs(descendants, timeout=20)
    for process in alive:
        process.kill()
    assert alive == []


def test_worker_memory_is_limited() -> None:
    """One frame used all memory of the machine, and the kernel killed the database."""
    megabyte = 1 << 20
    ((_, admitted),) = run_tasks(_allocate, [100 * megabyte], make_settings(worker_memory_mb=1000))
    ((_, rejected),) = run_tasks(_allocate, [1400 * megabyte], make_settings(worker_memory_mb=1000))
    assert admitted == 100 * megabyte
    assert isinstance(rejected, MemoryError)


def test_hanging_or_killed_worker_fails_only_its_own_task() -> None:
    tasks: Any = [-1, 30, 0, 1]
    outcomes: dict[Any, Any] = dict(run_tasks(_sleep_or_crash, tasks, make_settings(worker_processes=2, frame_timeout_seconds=3)))
    assert isinstance(outcomes.pop(-1), ProcessExpired)
    assert isinstance(outcomes.pop(30), TimeoutError)
    assert outcomes == {0: 0, 1: 1}


def test_header_that_takes_too_long_fails_only_its_own_task() -> None:
    """A sidecar that was slow to parse occupied its worker for an hour, and C code cannot be interrupted."""
    started = time.monotonic()
    tasks: Any = [0.5, 0, 1000]
    outcomes: dict[Any, Any] = dict(run_tasks(_read_header_for, tasks, make_settings(worker_processes=2)))
    expired = outcomes.pop(1000)
    assert isinstance(expired, ProcessExpired) and expired.exitcode == -signal.SIGPROF
    assert outcomes == {0: 0, 0.5: 0.5}
    assert time.monotonic() - started < 40


def test_header_that_waits_for_another_process_fails_only_its_own_task() -> None:
    """A worker that waited for a FIFO used no CPU, and was occupied until the time limit of the frame."""
    tasks: Any = [0, 1000]
    outcomes: dict[Any, Any] = dict(run_tasks(_wait_in_header, tasks, make_settings(worker_processes=2)))
    expired = outcomes.pop(1000)
    assert isinstance(expired, ProcessExpired) and expired.exitcode == -signal.SIGALRM
    assert expired.exitcode in EXIT_CODES
    assert outcomes == {0: 0}


def test_time_after_the_header_is_not_limited() -> None:
    tasks: Any = [0]
    (outcome,) = run_tasks(_read_pixels, tasks, make_settings())
    assert outcome == (0, "done")


def test_workers_have_no_network_for_grids(monkeypatch: Any) -> None:
    monkeypatch.setenv("PROJ_NETWORK", "ON")
    tasks: Any = ["PROJ_NETWORK"]
    assert dict(run_tasks(os.getenv, tasks, make_settings())) == {"PROJ_NETWORK": "OFF"}


def test_worker_killed_before_taking_a_task_fails_none() -> None:
    """The first worker was killed at its start, and all hundred frames of the batch failed with BrokenProcessPool."""
    victim: list[int] = []

    def kill_first_worker() -> None:
        while not victim:
            servers = [child for child in psutil.Process().children() if _is_forkserver(child)]
            workers = [worker for server in servers for worker in server.children()]
            if workers:
                victim.append(workers[0].pid)
                workers[0].kill()

    killer = threading.Thread(target=kill_first_worker)
    killer.start()
    tasks: Any = [0, 0.5, 1]
    outcomes = dict(run_tasks(_sleep_or_crash, tasks, make_settings()))
    killer.join()
    expired = [outcome for outcome in outcomes.values() if isinstance(outcome, ProcessExpired)]
    assert len(outcomes) == 3
    assert len(expired) <= 1, "none, or the one task that it had already taken"
    assert not [outcome for outcome in outcomes.values() if isinstance(outcome, BrokenProcessPool)]


def _read_header_for(seconds: float) -> float:
    with limit_header_time(2):
        end = time.process_time() + seconds
        while time.process_time() < end:
            pass
    return seconds


def _wait_in_header(seconds: float) -> float:
    with limit_header_time(2, wait_seconds=1):
        time.sleep(seconds)
    return seconds


def _read_pixels(_task: object) -> str:
    with limit_header_time(0.3, wait_seconds=0.3):
        pass
    end = time.process_time() + 1
    while time.process_time() < end:
        pass
    return "done"


def _is_forkserver(process: psutil.Process) -> bool:
    try:
        return "forkserver" in " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return False


def _allocate(size: int) -> int:
    return len(bytearray(size))


def _sleep_or_crash(seconds: float) -> float:
    if seconds < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(seconds)
    return seconds
