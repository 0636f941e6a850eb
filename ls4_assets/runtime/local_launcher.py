"""Runs as processes of this machine, of which Dagster can find out whether they are still alive.

Dagster's own launcher leaves that to the code server, which forgets its runs when it is killed, and stops watching them once
PostgreSQL was away for a moment. A run whose process is gone would then count as running for ever, and hold its frames.
"""

from enum import Enum

import psutil
from dagster import DagsterInstance, DagsterRun
from dagster._core.events import DagsterEventType, EngineEventData
from dagster._core.launcher import DefaultRunLauncher
from dagster._core.launcher.base import CheckRunHealthResult, WorkerStatus

# Between the start of a process and its first event, the clocks of kernel and database client may differ by so much.
_CLOCK_SECONDS = 2.0


class Life(Enum):
    """What is known of a run's process. UNKNOWN: it has not said its number yet."""

    ALIVE = "alive"
    GONE = "gone"
    UNKNOWN = "unknown"


class LocalRunLauncher(DefaultRunLauncher):
    """Named in dagster.yaml; the daemon's run monitoring asks it every few seconds."""

    @property
    def supports_check_run_worker_health(self) -> bool:
        return True

    def check_run_worker_health(self, run: DagsterRun) -> CheckRunHealthResult:
        if life_of(self._instance, run) is Life.GONE:
            return CheckRunHealthResult(WorkerStatus.FAILED, "its process is gone, killed or ended with the code server")
        return CheckRunHealthResult(WorkerStatus.RUNNING)


def life_of(instance: DagsterInstance, run: DagsterRun) -> Life:
    """Look for the processes that the run's events name."""
    said = []
    for entry in instance.all_logs(run.run_id, of_type=DagsterEventType.ENGINE_EVENT):
        data = entry.dagster_event.event_specific_data if entry.dagster_event else None
        if isinstance(data, EngineEventData) and "pid" in data.metadata:
            said.append((int(str(data.metadata["pid"].value)), entry.timestamp))
    if not said:
        return Life.UNKNOWN
    return Life.ALIVE if any(_is_alive(pid, since) for pid, since in said) else Life.GONE


def _is_alive(pid: int, since: float) -> bool:
    """Whether the process that had this number at `since` still runs; a later one with its number is another."""
    try:
        process = psutil.Process(pid)
        return bool(process.create_time() <= since + _CLOCK_SECONDS and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
