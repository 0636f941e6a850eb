"""Runs that were killed while they started. Dagster's run monitoring examines a starting run only after its start timeout.

A run that has started is examined by Dagster itself, through the launcher's health check.
"""

from dagster import DagsterInstance, DagsterRunStatus, RunsFilter

from ls4_assets.runtime.local_launcher import LocalRunLauncher, ProcessState, process_state


def fail_lost_runs(instance: DagsterInstance) -> list[str]:
    """Report starting runs whose process is gone as failed, so that their frames and collections are free; returns their IDs.

    Only where runs are local processes.
    """
    if not isinstance(instance.run_launcher, LocalRunLauncher):
        return []
    starting = instance.get_runs(RunsFilter(statuses=[DagsterRunStatus.STARTING]))
    lost = [run for run in starting if process_state(instance, run) is ProcessState.GONE]
    for run in lost:
        instance.report_run_failed(run, "The process of this run was killed while it started.")
    return [run.run_id for run in lost]
