"""A small process supervisor: start services, wait until they are ready, restart those that exit, stop them all.

The services themselves are defined in ``services.py``; the map server has a supervisor of its own (``mapserver/workers.py``).
Every service runs in its own process group, so Ctrl-C in the terminal reaches only the supervisor, which then stops the services
in order. A file lists the running processes, so that a start after a crash can stop the processes that the crash left behind.
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

from ls4_assets.domain.backoff import Backoff
from ls4_assets.errors import Ls4Error
from ls4_assets.local.postgres import run_as

# A service that exits this soon after its start, this many times in a row, has a fault that a restart does not fix.
EARLY_EXIT_SECONDS = 30.0
MAX_EARLY_EXITS = 5
_BACKOFF = Backoff(first_seconds=1)


class ServiceError(Ls4Error):
    """A service does not start or does not keep running."""


@dataclass(frozen=True)
class Service:
    """One process to keep running.

    ``environment``: all variables of the process. It inherits none: a service that is taken over must not find the passwords of
    others. ``is_ready`` returns whether the service takes requests; it returns quickly and never raises. ``prepare`` runs before
    each start.
    """

    name: str
    argv: tuple[str, ...]
    is_ready: Callable[[], bool]
    environment: Mapping[str, str]
    user: str | None = None
    stop_signal: signal.Signals = signal.SIGTERM
    start_timeout_seconds: float = 90
    stop_timeout_seconds: float = 15
    prepare: Callable[[], None] = lambda: None


@dataclass
class _RunningService:
    service: Service
    process: subprocess.Popen[bytes]
    started_at: float
    early_exits: int = 0
    restart_at: float | None = None


class ServiceSupervisor:
    """A context manager that keeps services running and stops them on exit, the last one first.

    ``log_dir`` gets ``<name>.log`` of each service; ``process_file`` lists the running processes.
    """

    def __init__(self, log_dir: Path, process_file: Path, echo: Callable[[str], None] = print) -> None:
        self._log_dir = log_dir
        self._process_file = process_file
        self._echo = echo
        self._running: list[_RunningService] = []

    def __enter__(self) -> "ServiceSupervisor":
        self._stop_orphans()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def log_path(self, name: str) -> Path:
        """The file that gets the output of a service."""
        return self._log_dir / f"{name}.log"

    def start(self, *services: Service) -> None:
        """Start services in parallel and wait until all are ready.

        Raises ServiceError, with the end of the log, for a service that exits or is not ready in time.
        """
        started = []
        for service in services:
            self.log_path(service.name).unlink(missing_ok=True)
            started.append(_RunningService(service, self._spawn(service), time.monotonic()))
            self._running.append(started[-1])
            self._write_process_file()
        for running in started:
            self._wait_until_ready(running)

    def poll(self) -> None:
        """Restart the services that have exited; call this every second or so.

        Raises ServiceError for a service that keeps exiting early.
        """
        for running in self._running:
            if running.process.poll() is None:
                continue
            if running.restart_at is None:
                self._schedule_restart(running)
            if running.restart_at is not None and time.monotonic() >= running.restart_at:
                running.process, running.started_at, running.restart_at = self._spawn(running.service), time.monotonic(), None
                self._write_process_file()

    def _schedule_restart(self, running: _RunningService) -> None:
        """Restart at once after a long run, with backoff after early exits; give up after MAX_EARLY_EXITS."""
        now = time.monotonic()
        running.early_exits = running.early_exits + 1 if now - running.started_at < EARLY_EXIT_SECONDS else 0
        if running.early_exits >= MAX_EARLY_EXITS:
            raise ServiceError(f"{running.service.name} keeps exiting right after its start; {self._log_tail(running.service)}")
        self._echo(f"{running.service.name} exited with status {running.process.returncode}; restarting it.")
        self._stop_service(running)  # its child processes must not get in the way of the next start
        # The first early exit is restarted at once.
        running.restart_at = now + _BACKOFF.seconds(running.early_exits - 1)

    def stop(self) -> None:
        """Stop all services in reverse order; returns when all their processes are gone."""
        for running in reversed(self._running):
            self._stop_service(running)
        self._running.clear()
        self._process_file.unlink(missing_ok=True)

    def _spawn(self, service: Service) -> subprocess.Popen[bytes]:
        service.prepare()
        with self.log_path(service.name).open("ab") as log:
            return subprocess.Popen(
                service.argv, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, cwd="/",
                env=service.environment, start_new_session=True, **run_as(service.user),
            )  # fmt: skip

    def _wait_until_ready(self, running: _RunningService) -> None:
        service = running.service
        deadline = time.monotonic() + service.start_timeout_seconds
        while not service.is_ready():
            if running.process.poll() is not None:
                raise ServiceError(f"{service.name} exited during its start; {self._log_tail(service)}")
            if time.monotonic() > deadline:
                waited = f"{service.start_timeout_seconds:.0f} seconds"
                raise ServiceError(f"{service.name} is not ready after {waited}; {self._log_tail(service)}")
            time.sleep(0.2)

    def _log_tail(self, service: Service) -> str:
        path = self.log_path(service.name)
        tail = "\n".join(f"    {line}" for line in path.read_text(errors="replace").splitlines()[-15:])
        return f"fix the error at the end of its log, {path}:\n{tail}"

    def _stop_service(self, running: _RunningService) -> None:
        """Stop a service and all its descendants: first with its stop signal, then with SIGKILL."""
        # run workers may have sessions of their own, so the process group alone does not contain them all
        tree = _process_tree(running.process.pid)
        if running.process.poll() is None:
            running.process.send_signal(running.service.stop_signal)
            with contextlib.suppress(subprocess.TimeoutExpired):
                running.process.wait(running.service.stop_timeout_seconds)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(running.process.pid, signal.SIGKILL)
        for process in tree:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        running.process.wait()
        psutil.wait_procs(tree, timeout=5)

    def _write_process_file(self) -> None:
        started = []
        for running in self._running:
            with contextlib.suppress(psutil.NoSuchProcess):
                started.append([running.process.pid, psutil.Process(running.process.pid).create_time()])
        self._process_file.write_text(json.dumps(started))

    def _stop_orphans(self) -> None:
        """Stop the processes of a supervisor that was killed; a PID that now belongs to another process is left alone."""
        if not self._process_file.exists():
            return
        self._echo("Stopping processes that are left over from a start that did not shut down cleanly.")
        for pid, created_at in reversed(json.loads(self._process_file.read_text())):
            with contextlib.suppress(psutil.NoSuchProcess):
                process = psutil.Process(pid)
                if process.create_time() != created_at:
                    continue
                tree = _process_tree(pid)
                process.terminate()
                psutil.wait_procs([process], timeout=10)
                for member in tree:
                    with contextlib.suppress(psutil.NoSuchProcess):
                        member.kill()
                psutil.wait_procs(tree, timeout=5)
        self._process_file.unlink()


def _process_tree(pid: int) -> list[psutil.Process]:
    """A process and all its descendants at this moment; empty when it is gone."""
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []
