"""Launch runs on AWS: small ones in the warm service, others as ECS tasks; resume runs whose task or service was stopped.

A task takes a minute to start, a run of the warm service a second (``run_line.py`` says which runs are small). When the service
is full or down, small runs start as tasks too, and a run that the service lost is resumed as a task.

Dagster's launcher accepts the network of a task only as literal configuration. This one reads it from the environment, like
everything else that differs between installations, so deploy/dagster.yaml and the image are the same everywhere.
"""

from collections.abc import Mapping
from functools import cached_property
from typing import Any, Self

from dagster import DagsterRun, Field, StringSource
from dagster._core.launcher.base import CheckRunHealthResult, LaunchRunContext, WorkerStatus
from dagster._serdes import ConfigurableClassData
from dagster_aws.ecs import EcsRunLauncher

from ls4_assets.runtime.run_line import warm_memory_mb
from ls4_assets.runtime.warm_client import WarmClient
from ls4_assets.settings import load_settings

# Dagster's launcher tags each run with its task.
_TASK_TAG = "ecs/task_arn"


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

    @cached_property
    def _warm(self) -> WarmClient:
        return WarmClient()

    def launch_run(self, context: LaunchRunContext) -> None:
        run = context.dagster_run
        memory_mb = warm_memory_mb(run.tags, load_settings())
        if memory_mb is not None:
            if self._warm.start(self._instance, run, memory_mb):
                return
            self._instance.report_engine_event(
                "The warm service is full or down. The run starts as a task, in about a minute.", run
            )
        super().launch_run(context)

    def terminate(self, run_id: str) -> bool:
        run = self._instance.get_run_by_id(run_id)
        if run is None or run.is_finished or not self._warm.has(run_id):
            return bool(super().terminate(run_id))
        self._instance.report_run_canceling(run)
        return self._warm.interrupt(run_id)

    def has_lost(self, run: DagsterRun) -> bool:
        """Whether the process of a starting run is gone. Only known of the warm service; tasks have a start timeout."""
        return self._warm.has_lost(self._instance, run)

    def check_run_worker_health(self, run: DagsterRun) -> CheckRunHealthResult:
        # A run that was executed again has the tag of the first run's task.
        if _TASK_TAG not in run.tags or self._warm.has(run.run_id):
            return self._warm.check_health(run.run_id)
        return self._check_task_health(run)

    def _check_task_health(self, run: DagsterRun) -> CheckRunHealthResult:
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
