"""The pool of a run, with real processes."""

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures.process import BrokenProcessPool
from types import SimpleNamespace
from typing import Any

import psutil
from pebble import ProcessExpired

from ls4_assets.processing.pool import run_tasks

RUN = """
import time
from types import SimpleNamespace
from ls4_assets.processing.pool import carry_out
list(carry_out(time.sleep, [600.0, 600.0], SimpleNamespace(workers=2, worker_memory_mb=1500, frame_timeout_seconds=900)))
"""


def settings(**values: Any) -> Any:
    return SimpleNamespace(**({"workers": 1, "worker_memory_mb": 1500, "frame_timeout_seconds": 60} | values))


def test_no_worker_outlives_a_run_that_is_killed() -> None:
    """Workers of a killed run went on, published behind the back of the next run, or hung for ever with their memory."""
    with subprocess.Popen([sys.executable, "-c", RUN]) as run:
        family: list[psutil.Process] = []
        deadline = time.monotonic() + 60
        while len([one for one in family if one.ppid() != run.pid]) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.2)
            family = psutil.Process(run.pid).children(recursive=True)
        time.sleep(2)  # the workers are at work
        run.send_signal(signal.SIGKILL)
        run.wait()
    _, alive = psutil.wait_procs(family, timeout=20)
    for process in alive:
        process.kill()
    assert alive == []


def test_a_worker_cannot_take_more_memory_than_it_may() -> None:
    """One frame took the memory of the whole machine, and the kernel killed the database."""
    megabyte = 1 << 20
    ((_, fine),) = run_tasks(_take, [100 * megabyte], settings(worker_memory_mb=1000))  # type: ignore[arg-type, list-item]
    ((_, rejected),) = run_tasks(_take, [1400 * megabyte], settings(worker_memory_mb=1000))  # type: ignore[arg-type, list-item]
    assert fine == 100 * megabyte  # type: ignore[comparison-overlap]
    assert isinstance(rejected, MemoryError)


def test_a_worker_that_hangs_or_is_killed_costs_its_own_order_only() -> None:
    orders: Any = [-1, 30, 0, 1]
    outcomes = dict(run_tasks(_sleep_or_die, orders, settings(workers=2, frame_timeout_seconds=3)))  # type: ignore[arg-type]
    assert isinstance(outcomes.pop(-1), ProcessExpired)  # type: ignore[call-overload]
    assert isinstance(outcomes.pop(30), TimeoutError)  # type: ignore[call-overload]
    assert outcomes == {0: 0, 1: 1}


def test_a_worker_that_is_killed_before_it_took_an_order_costs_none() -> None:
    """The first worker was killed as it began, and all hundred frames of the batch "met an unexpected BrokenProcessPool"."""
    victim: list[int] = []

    def kill_the_first() -> None:
        while not victim:
            servers = [child for child in psutil.Process().children() if _is_forkserver(child)]
            workers = [worker for server in servers for worker in server.children()]
            if workers:
                victim.append(workers[0].pid)
                workers[0].kill()

    killer = threading.Thread(target=kill_the_first)
    killer.start()
    orders: Any = [0, 0.5, 1]
    outcomes = dict(run_tasks(_sleep_or_die, orders, settings()))  # type: ignore[arg-type]
    killer.join()
    expired = [outcome for outcome in outcomes.values() if isinstance(outcome, ProcessExpired)]
    assert len(outcomes) == 3
    assert len(expired) <= 1, "none, or the one that it had taken after all"
    assert not [outcome for outcome in outcomes.values() if isinstance(outcome, BrokenProcessPool)]


def _is_forkserver(process: psutil.Process) -> bool:
    try:
        return "forkserver" in " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return False


def _take(size: int) -> int:
    return len(bytearray(size))


def _sleep_or_die(seconds: float) -> float:
    if seconds < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(seconds)
    return seconds
