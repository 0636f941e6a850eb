"""Launch runs as processes of one machine, and let Dagster check whether such a process is still running.

They are forks of the run server (``run_server.py``), of the warm service in a container of its own (``warm_service.py``), or
processes of the code server, whichever is there.

Dagster's default launcher leaves that check to the code server, which loses its runs when it is killed and stops monitoring them
after a short PostgreSQL outage. A run whose process has exited would then count as running forever and keep its frames.
"""

import os
import signal
from contextlib import suppress
from enum import Enum
from functools import cached_property
from pathlib import Path

import psutil
from dagster import DagsterInstance, DagsterRun
from dagster._core.events import EngineEventData
from dagster._core.launcher import DefaultRunLauncher
from dagster._core.launcher.base import CheckRunHealthResult, LaunchRunContext, WorkerStatus
from dagster._grpc.types import ExecuteRunArgs
from dagster._serdes import serialize_value

from ls4_assets.runtime import run_client
from ls4_assets.runtime.run_client import RunServerError, RunServerUnavailableError
from ls4_assets.runtime.warm_client import WarmClient, engine_events

# Maximum difference between the clocks of the kernel (process start) and the database client (first event).
_CLOCK_SECONDS = 2.0
# Metadata of the event of a fork.
_FORKED = "run_server"


class ProcessState(Enum):
    """State of the process of a run. UNKNOWN: no event has named its process ID yet."""

    ALIVE = "alive"
    GONE = "gone"
    UNKNOWN = "unknown"


class LocalRunLauncher(DefaultRunLauncher):
    """The launcher named in dagster.yaml. The daemon's run monitoring calls it every few seconds."""

    @cached_property
    def _warm(self) -> WarmClient:
        return WarmClient()

    @property
    def supports_check_run_worker_health(self) -> bool:
        return True

    def launch_run(self, context: LaunchRunContext) -> None:
        """Start the run in the run server or the warm service, or in the code server when there is neither."""
        run, path = context.dagster_run, run_client.server_socket()
        if path is None:
            # Every run fits: all containers share this machine's memory.
            if not self._warm.start(self._instance, run, 0):
                super().launch_run(context)
            return
        assert run.job_code_origin is not None  # every launched run has one
        arguments = ExecuteRunArgs(run.job_code_origin, run.run_id, self._instance.get_ref(), set_exit_code_on_failure=True)
        try:
            pid = run_client.start_run(path, run.run_id, serialize_value(arguments), _groups(run))
        except RunServerUnavailableError as error:
            self._instance.report_engine_event(f"{error} The run starts in the code server, which takes longer.", run)
            super().launch_run(context)
            return
        data = EngineEventData({**EngineEventData.in_process(pid).metadata, _FORKED: str(path)})
        self._instance.report_engine_event(f"The run server forked process {pid}.", run, data)

    def terminate(self, run_id: str) -> bool:
        path, run = run_client.server_socket(), self._instance.get_run_by_id(run_id)
        if run is None or run.is_finished or not (self._is_forked(run) if path else self._is_warm(run)):
            return bool(super().terminate(run_id))  # type: ignore[no-untyped-call]
        self._instance.report_run_canceling(run)
        return self._interrupt_fork(path, run) if path else self._warm.interrupt(run_id)

    def _interrupt_fork(self, path: Path, run: DagsterRun) -> bool:
        """Interrupt a fork of the run server, also one of a server that was killed since: the new one does not know it."""
        with suppress(RunServerError):
            if run_client.interrupt_run(path, run.run_id):
                return True
        processes = {pid for pid, since in _named_processes(self._instance, run) if _is_alive(pid, since)}
        for pid in processes:
            os.kill(pid, signal.SIGINT)
        return bool(processes)

    # A retry has the tags of its parent, that of the code server as well: only its own events say where a run is.

    def _is_forked(self, run: DagsterRun) -> bool:
        return any(_FORKED in data.metadata for data, _ in engine_events(self._instance, run))

    def _is_warm(self, run: DagsterRun) -> bool:
        """Whether the warm service has, or had, the run."""
        if run_client.server_socket() is not None:
            return False
        return self._warm.has(run.run_id) or self._warm.has_started(self._instance, run)

    def has_lost(self, run: DagsterRun) -> bool:
        """Whether the process of a starting run is gone."""
        if self._is_warm(run):
            return self._warm.has_lost(self._instance, run)
        return process_state(self._instance, run) is ProcessState.GONE

    def check_run_worker_health(self, run: DagsterRun) -> CheckRunHealthResult:
        if self._is_warm(run):
            return self._warm.check_health(run.run_id)
        if process_state(self._instance, run) is ProcessState.GONE:
            return CheckRunHealthResult(
                WorkerStatus.FAILED, "its process no longer exists; it was killed, or stopped with the code server"
            )
        return CheckRunHealthResult(WorkerStatus.RUNNING)


def _groups(run: DagsterRun) -> set[str]:
    """The asset groups of a run: the first part of each asset's key is its shard, which is its group."""
    return {key.path[0] for key in run.asset_selection or () if len(key.path) > 1}


def process_state(instance: DagsterInstance, run: DagsterRun) -> ProcessState:
    """State of the processes that the events of the run name."""
    processes = _named_processes(instance, run)
    if not processes:
        return ProcessState.UNKNOWN
    return ProcessState.ALIVE if any(_is_alive(pid, since) for pid, since in processes) else ProcessState.GONE


def _named_processes(instance: DagsterInstance, run: DagsterRun) -> list[tuple[int, float]]:
    """The process IDs that the events of the run name, each with the time of the event."""
    events = [(data, since) for data, since in engine_events(instance, run) if "pid" in data.metadata]
    return [(int(str(data.metadata["pid"].value)), since) for data, since in events]


def _is_alive(pid: int, since: float) -> bool:
    """Whether the process that had this ID at `since` is still running. A process that started later reuses the ID."""
    try:
        process = psutil.Process(pid)
        return bool(process.create_time() <= since + _CLOCK_SECONDS and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
