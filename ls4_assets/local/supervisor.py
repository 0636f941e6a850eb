"""A small process supervisor: start, wait until ready, restart what dies, stop everything.

It knows nothing of what it runs (``services.py`` does). Every service is a process group of its own, so that
Ctrl-C in the terminal reaches the supervisor alone and the services stop in order; a list of what was started
stays on disk, so that a start after a crash can end what the crash left behind.
"""

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import psutil

from ls4_assets.errors import Ls4Error
from ls4_assets.local.postgres import run_as

# A service that dies younger than this, so many times in a row, has something that a restart does not mend.
YOUNG_SECONDS = 30.0
YOUNG_DEATHS = 5


class ServiceError(Ls4Error):
    """A service does not start or does not stay up."""


@dataclass(frozen=True)
class Service:
    """One process to keep running. ``ready`` tells whether it serves; it is quick and never raises. ``prepare`` clears the way
    for it, before each start of it."""

    name: str
    argv: tuple[str, ...]
    ready: Callable[[], bool]
    environment: Mapping[str, str] | None = None
    user: str | None = None
    stop_signal: signal.Signals = signal.SIGTERM
    ready_within: float = 90
    stop_within: float = 15
    prepare: Callable[[], None] = lambda: None


@dataclass
class _Running:
    service: Service
    process: subprocess.Popen[bytes]
    started: float
    young_deaths: int = 0
    start_again_at: float | None = None


class Supervisor:
    """A context manager that keeps services running, and stops them on leaving, the last one first.

    ``logs`` gets ``<name>.log`` of each; ``ledger`` is the file that lists what runs.
    """

    def __init__(self, logs: Path, ledger: Path, say: Callable[[str], None] = print) -> None:
        self._logs = logs
        self._ledger = ledger
        self._say = say
        self._running: list[_Running] = []

    def __enter__(self) -> "Supervisor":
        self._end_leftovers()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def log(self, name: str) -> Path:
        """Where the output of a service goes."""
        return self._logs / f"{name}.log"

    def start(self, *services: Service) -> None:
        """Start services side by side, wait until all are ready. Raises ServiceError with the log's end."""
        fresh = []
        for service in services:
            self.log(service.name).unlink(missing_ok=True)
            fresh.append(_Running(service, self._spawn(service), time.monotonic()))
            self._running.append(fresh[-1])
            self._write_ledger()
        for one in fresh:
            self._await(one)

    def poll(self) -> None:
        """Restart what has died; call it often. Raises ServiceError for what keeps dying."""
        for one in self._running:
            if one.process.poll() is None:
                continue
            if one.start_again_at is None:
                self._bury(one)
            if one.start_again_at is not None and time.monotonic() >= one.start_again_at:
                one.process, one.started, one.start_again_at = self._spawn(one.service), time.monotonic(), None
                self._write_ledger()

    def _bury(self, one: _Running) -> None:
        """What lived for a while is started again at once, what dies young ever more slowly, and not for ever."""
        now = time.monotonic()
        one.young_deaths = one.young_deaths + 1 if now - one.started < YOUNG_SECONDS else 0
        if one.young_deaths >= YOUNG_DEATHS:
            raise ServiceError(f"{one.service.name} dies again and again; {self._tail(one.service)}")
        self._say(f"{one.service.name} ended (exit status {one.process.returncode}): starting it again")
        self._end(one)  # what it had started must not be in the way of the new one
        one.start_again_at = now + (0.25 * 2**one.young_deaths if one.young_deaths > 1 else 0)

    def stop(self) -> None:
        """Stop all that was started, in reverse order; returns when nothing of it is left."""
        for one in reversed(self._running):
            self._end(one)
        self._running.clear()
        self._ledger.unlink(missing_ok=True)

    def _spawn(self, service: Service) -> subprocess.Popen[bytes]:
        service.prepare()
        with self.log(service.name).open("ab") as log:
            return subprocess.Popen(
                service.argv, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, cwd="/",
                env=service.environment, start_new_session=True, **run_as(service.user),
            )  # fmt: skip

    def _await(self, one: _Running) -> None:
        deadline = time.monotonic() + one.service.ready_within
        while not one.service.ready():
            if one.process.poll() is not None:
                raise ServiceError(f"{one.service.name} ended while starting; {self._tail(one.service)}")
            if time.monotonic() > deadline:
                waited = f"{one.service.ready_within:.0f} seconds"
                raise ServiceError(f"{one.service.name} is not ready after {waited}; {self._tail(one.service)}")
            time.sleep(0.2)

    def _tail(self, service: Service) -> str:
        path = self.log(service.name)
        last = "\n".join(f"    {line}" for line in path.read_text(errors="replace").splitlines()[-15:])
        return f"mend what its log says, {path}:\n{last}"

    def _end(self, one: _Running) -> None:
        """Stop a service and everything it started: politely, then by force."""
        # run workers may be in sessions of their own, so the group alone does not hold them all
        family = _family(one.process.pid)
        if one.process.poll() is None:
            one.process.send_signal(one.service.stop_signal)
            with contextlib.suppress(subprocess.TimeoutExpired):
                one.process.wait(one.service.stop_within)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(one.process.pid, signal.SIGKILL)
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        one.process.wait()
        psutil.wait_procs(family, timeout=5)

    def _write_ledger(self) -> None:
        started = []
        for one in self._running:
            with contextlib.suppress(psutil.NoSuchProcess):
                started.append([one.process.pid, psutil.Process(one.process.pid).create_time()])
        self._ledger.write_text(json.dumps(started))

    def _end_leftovers(self) -> None:
        """End what a killed supervisor left; a number that means another process by now is left alone."""
        if not self._ledger.exists():
            return
        self._say("Ending what an earlier start, which did not stop properly, has left running.")
        for pid, created in reversed(json.loads(self._ledger.read_text())):
            with contextlib.suppress(psutil.NoSuchProcess):
                process = psutil.Process(pid)
                if process.create_time() != created:
                    continue
                family = _family(pid)
                process.terminate()
                psutil.wait_procs([process], timeout=10)
                for member in family:
                    with contextlib.suppress(psutil.NoSuchProcess):
                        member.kill()
                psutil.wait_procs(family, timeout=5)
        self._ledger.unlink()


def _family(pid: int) -> list[psutil.Process]:
    """A process and all that descend from it, now; none when it is gone."""
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []
