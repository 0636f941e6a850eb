"""Launch runs as ECS tasks, in subnets set at installation, and resume runs whose task was stopped.

Dagster's launcher accepts the network of a task only as literal configuration. This one reads it from the environment, like
everything else that differs between installations, so deploy/dagster.yaml and the image are the same everywhere.
"""

from collections.abc import Mapping
from typing import Any, Self

from dagster import DagsterRun, Field, StringSource
from dagster._core.launcher.base import CheckRunHealthResult, WorkerStatus
from dagster._serdes import ConfigurableClassData
from dagster_aws.ecs import EcsRunLauncher


class FargateRunLauncher(EcsRunLauncher[Any]):
    """EcsRunLauncher with two more options: `subnets`, separated by commas, and the `security_group` of the tasks."""

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        network = {"subnets": Field(StringSource), "security_group": Field(StringSource)}
        return {**super().config_type(), **network}  # type: ignore[no-untyped-call]  # it has no types

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData, config_value: Mapping[str, Any]) -> Self:
        config = dict(config_value)
        network = {
            "subnets": config.pop("subnets").split(","),
            "securityGroups": [config.pop("security_group")],
            "assignPublicIp": "DISABLED",
        }
        task = {**config.get("run_task_kwargs", {}), "networkConfiguration": {"awsvpcConfiguration": network}}
        return cls(inst_data=inst_data, **{**config, "run_task_kwargs": task})

    def check_run_worker_health(self, run: DagsterRun) -> CheckRunHealthResult:
        """Health of the task. A task that exited before its run finished counts as failed, even with exit code 0.

        When Fargate Spot reclaims capacity, the process gets SIGTERM, leaves its run to be resumed, and exits with 0. Dagster
        would take that for success and wait for the run until its maximum runtime.
        """
        health: CheckRunHealthResult = super().check_run_worker_health(run)
        current = self._instance.get_run_by_id(run.run_id) if health.status == WorkerStatus.SUCCESS else None
        if current is None or current.is_finished:
            return health
        message = "Its task was stopped before the run finished, for example because Fargate Spot reclaimed the capacity."
        return CheckRunHealthResult(WorkerStatus.FAILED, message, run_worker_id=health.run_worker_id)
