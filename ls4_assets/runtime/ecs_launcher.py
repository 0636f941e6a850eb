"""Runs as tasks on ECS, in subnets that are known only when the platform is installed, and resumed after they were told to stop.

Dagster's launcher takes the network of a task as literal configuration. Here it comes from the environment, like everything
else that differs from one installation to the next, so that deploy/dagster.yaml and the image are the same everywhere.
"""

from collections.abc import Mapping
from typing import Any, Self

from dagster import DagsterRun, Field, StringSource
from dagster._core.launcher.base import CheckRunHealthResult, WorkerStatus
from dagster._serdes import ConfigurableClassData
from dagster_aws.ecs import EcsRunLauncher


class FargateRunLauncher(EcsRunLauncher[Any]):
    """EcsRunLauncher that is told `subnets`, with commas between them, and the `security_group` of runs."""

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        network = {"subnets": Field(StringSource), "security_group": Field(StringSource)}
        return {**super().config_type(), **network}  # type: ignore[no-untyped-call]  # it has no types

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData, config_value: Mapping[str, Any]) -> Self:
        given = dict(config_value)
        network = {
            "subnets": given.pop("subnets").split(","),
            "securityGroups": [given.pop("security_group")],
            "assignPublicIp": "DISABLED",
        }
        task = {**given.get("run_task_kwargs", {}), "networkConfiguration": {"awsvpcConfiguration": network}}
        return cls(inst_data=inst_data, **{**given, "run_task_kwargs": task})

    def check_run_worker_health(self, run: DagsterRun) -> CheckRunHealthResult:
        """As of the task, but a task that is over before its run is has failed, whatever it says itself.

        When Spot wants its machine back the process is told to stop, leaves its run to whoever resumes it, and exits with 0,
        which Dagster takes for success: it would wait for the run until its longest time is over.
        """
        health: CheckRunHealthResult = super().check_run_worker_health(run)
        now = self._instance.get_run_by_id(run.run_id) if health.status == WorkerStatus.SUCCESS else None
        if now is None or now.is_finished:
            return health
        why = "Its task was told to stop before the run was over, as Fargate Spot does that wants its machine back."
        return CheckRunHealthResult(WorkerStatus.FAILED, why, run_worker_id=health.run_worker_id)
