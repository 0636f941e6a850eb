"""Runs as tasks on ECS, in subnets that are known only when the platform is installed.

Dagster's launcher takes the network of a task as literal configuration. Here it comes from the environment, like everything
else that differs from one installation to the next, so that deploy/dagster.yaml and the image are the same everywhere.
"""

from collections.abc import Mapping
from typing import Any, Self

from dagster import Field, StringSource
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
