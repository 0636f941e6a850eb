"""Runs that were killed while they started. Dagster's run monitoring examines a starting run only after its start timeout.

A run that has started is examined by Dagster itself, through the launcher's health check.
"""

from typing import Protocol, runtime_checkable

from dagster import DagsterInstance, DagsterRun, DagsterRunStatus, RunsFilter

# On a run whose process was killed while it started: it crashed, unlike a run for which no process could be started.
LOST_TAG = "ls4/lost"


@runtime_checkable
class WatchfulLauncher(Protocol):
    """A launcher that finds out whether the process of a run is gone, whatever the state of the run."""

    def has_lost(self, run: DagsterRun) -> bool: ...


def fail_lost_runs(instance: DagsterInstance) -> list[str]:
    """Report starting runs whose process is gone as failed, so that their frames and collections are free; returns their IDs."""
    launcher = instance.run_launcher
    if not isinstance(launcher, WatchfulLauncher):
        return []
    starting = instance.get_runs(RunsFilter(statuses=[DagsterRunStatus.STARTING]))
    lost = [run for run in starting if launcher.has_lost(run) and _is_starting(instance, run)]
    for run in lost:
        instance.add_run_tags(run.run_id, {LOST_TAG: "true"})
        instance.report_run_failed(run, "The process of this run was killed while it started.")
    return [run.run_id for run in lost]


def _is_starting(instance: DagsterInstance, run: DagsterRun) -> bool:
    """Whether a run still starts: its process may have ended because the run has finished since."""
    current = instance.get_run_by_id(run.run_id)
    return current is not None and current.status is DagsterRunStatus.STARTING
