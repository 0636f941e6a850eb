"""`python -m ls4_assets.runtime.warm_service`: the warm service, which executes small runs in forks of a warm process.

It claims the runs that launchers offer it in the database (`ls4_assets.db.warm_runs`), at most `--slots` at a time. This process
has the database connection; the run server that it starts (``run_server.py``) has none, because connections do not survive a
fork. When the service stops, its runs have `--drain-seconds` to finish; then they are interrupted, and another worker resumes
them. The launchers' side is ``warm_client.py``.
"""

import argparse
import logging
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

import psycopg2
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from ls4_assets import logs
from ls4_assets.db import warm_runs
from ls4_assets.db.shards_in_use import find_in_use
from ls4_assets.db.warm_runs import WarmRun
from ls4_assets.errors import Ls4Error
from ls4_assets.runtime import run_client
from ls4_assets.runtime.run_client import RunServerUnavailableError
from ls4_assets.settings import load_settings
from resources.open import open_database

# Updated at each step; a container's health check reads its age.
HEARTBEAT_FILE = Path(tempfile.gettempdir()) / "ls4-warm-service"
_STEP_SECONDS = 1.0
# A service that stops lets its runs finish for so long, and then has so long to interrupt them. Fargate kills a task 120 s after
# the notice.
DRAIN_SECONDS, INTERRUPT_SECONDS = 75.0, 30.0


class WarmServiceError(Ls4Error):
    """The service cannot continue; its container starts again."""


@dataclass
class WarmService:
    """One process of the service, with its run server at `socket`. `stop` may be called by a signal handler."""

    socket: Path
    slots: int
    slot_memory_mb: int
    drain_seconds: float
    server: str = field(default_factory=lambda: uuid4().hex)
    _stopping_since: float | None = None
    _is_registered: bool = False
    _interrupted: set[str] = field(default_factory=set)

    def stop(self) -> None:
        self._stopping_since = self._stopping_since or time.monotonic()

    def serve(self) -> None:
        """Execute runs until the service is stopped and they have ended. Raises WarmServiceError, RunServerError."""
        engine = open_database(load_settings().database_url.get_secret_value())
        while True:
            try:
                with engine.connect() as connection:
                    self._serve_connected(connection)
                return
            except (DBAPIError, psycopg2.Error) as error:
                logs.emit("warm_service", logging.WARNING, state="database unavailable", reason=str(error).strip())
            HEARTBEAT_FILE.touch()
            if self._is_overdue(self.drain_seconds):
                return
            time.sleep(_STEP_SECONDS)

    def _serve_connected(self, connection: Connection) -> None:
        with connection.begin():
            connection.execute(text(f"LISTEN {warm_runs.CHANNEL}"))
            if not self._is_registered:
                warm_runs.register_server(connection, self.server, self.slots, self.slot_memory_mb)
        if not self._is_registered:
            logs.emit("warm_service", state="started", server=self.server, slots=self.slots)
        self._is_registered = True
        while self._step(connection) and not self._is_overdue(self.drain_seconds + INTERRUPT_SECONDS):
            _wait_for_notification(connection)
        with connection.begin():
            warm_runs.delete_server(connection, self.server)
        logs.emit("warm_service", state="stopped", server=self.server)

    def _is_overdue(self, seconds: float) -> bool:
        """Whether the service was stopped at least that long ago."""
        return self._stopping_since is not None and time.monotonic() - self._stopping_since >= seconds

    def _step(self, connection: Connection) -> bool:
        """Send a heartbeat, start and interrupt runs and delete those that ended; returns False when the service may exit.

        A stopping service starts no run that was offered before; its launcher withdraws it.
        """
        HEARTBEAT_FILE.touch()
        is_stopping = self._stopping_since is not None
        with connection.begin():
            if not warm_runs.send_heartbeat(connection, self.server, is_stopping=is_stopping):
                # The runs have been given to other workers, so this container must not execute them any longer.
                raise WarmServiceError("The warm service was silent for so long that its runs were given up; it starts again.")
            runs = warm_runs.load_runs(connection, self.server)
        for run in runs.values():
            if run.pid is None and not is_stopping:
                self._start(connection, run)
        started = {run_id: run for run_id, run in runs.items() if run.pid is not None}
        is_drained = self._is_overdue(self.drain_seconds)
        self._interrupt({run_id for run_id, run in started.items() if run.is_interrupted or is_drained})
        ended = started.keys() - run_client.list_runs(self.socket).keys()
        with connection.begin():
            warm_runs.delete_runs(connection, ended)
        return runs.keys() != ended or not is_stopping

    def _start(self, connection: Connection, run: WarmRun) -> None:
        """Fork the process of a run, unless its launcher has withdrawn it. The launcher waits for the lock meanwhile."""
        with connection.begin():
            if not warm_runs.lock_offer(connection, run.run_id):
                return
            try:
                # The line of a warm run does not say which assets it makes, so its server must know all.
                groups = find_in_use(connection).shards
                pid = run_client.start_run(self.socket, run.run_id, run.arguments, groups)
            except RunServerUnavailableError as error:
                logs.emit("warm_service", state="run rejected", run_id=run.run_id, reason=str(error))
                return  # the launcher withdraws it
            warm_runs.record_start(connection, run.run_id, pid)

    def _interrupt(self, run_ids: set[str]) -> None:
        for run_id in run_ids - self._interrupted:
            run_client.interrupt_run(self.socket, run_id)
        self._interrupted |= run_ids


def _wait_for_notification(connection: Connection) -> None:
    """Wait until a launcher changes a row, at most for a step."""
    driver = connection.connection.driver_connection
    assert driver is not None
    driver.poll()
    # A notification may have come with the answer of a query.
    if not driver.notifies:
        select.select([driver], [], [], _STEP_SECONDS)
        driver.poll()
    driver.notifies.clear()


def run(slots: int, slot_memory_mb: int, drain_seconds: float) -> None:
    """Start a run server and serve until SIGTERM."""
    with tempfile.TemporaryDirectory(prefix="ls4-warm-") as folder:
        socket = Path(folder) / "run-server.sock"
        service = WarmService(socket, slots, slot_memory_mb, drain_seconds)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda number, frame: service.stop())
        environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}  # a thread would not survive a fork
        command = [sys.executable, "-m", "ls4_assets.runtime.run_server", str(socket)]
        process = subprocess.Popen(command, env=environment)
        try:
            while not run_client.is_running(socket):
                HEARTBEAT_FILE.touch()
                if process.poll() is not None:
                    raise WarmServiceError(f"The run server exited with status {process.returncode}; see its messages above.")
                time.sleep(0.2)
            service.serve()
        finally:
            _end(process, socket)


def _end(process: subprocess.Popen[bytes], socket: Path) -> None:
    """Kill the run server and what is left of its runs."""
    with suppress(run_client.RunServerError):
        for pid in run_client.list_runs(socket).values():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    process.kill()
    process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description="Execute small runs in forks of a warm process.")
    parser.add_argument("--slots", type=int, required=True, help="maximum runs at a time")
    parser.add_argument("--slot-memory-mb", type=int, required=True, help="memory of one run in MB")
    parser.add_argument("--drain-seconds", type=float, default=DRAIN_SECONDS, help="time that runs have to finish when it stops")
    options = parser.parse_args()
    logs.configure(load_settings().log_file)
    try:
        run(options.slots, options.slot_memory_mb, options.drain_seconds)
    except Ls4Error as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
