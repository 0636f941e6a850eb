"""Dagster's configuration in production, compared with that of one machine."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from dagster import DagsterInstance
from moto import mock_aws

from ls4_assets.runtime.ecs_launcher import FargateRunLauncher
from ls4_assets_tests.deploy.conftest import Stacks
from ls4_assets_tests.deploy.containers import DAGSTER
from ls4_assets_tests.platform import CHECKOUT

LOCAL, PRODUCTION = CHECKOUT / "dagster.yaml", CHECKOUT / "deploy" / "dagster.yaml"
# Options of run monitoring that depend on the launcher: a local process starts at once and cannot be resumed.
LAUNCHER_OPTIONS = {"start_timeout_seconds", "max_resume_run_attempts", "max_runtime_seconds"}


def read(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text())  # type: ignore[no-any-return]  # YAML is untyped


def test_production_differs_only_in_launcher_logs_concurrency_and_connection() -> None:
    local, production = read(LOCAL), read(PRODUCTION)
    differing = {name for name in local.keys() | production.keys() if local.get(name) != production.get(name)}
    assert differing == {"run_launcher", "compute_logs", "concurrency", "storage", "run_monitoring"}
    options, other = local["run_monitoring"], production["run_monitoring"]
    assert {name for name in options.keys() | other.keys() if options.get(name) != other.get(name)} == LAUNCHER_OPTIONS
    # The number of parallel runs differs; the limits for runs that exclude each other do not.
    assert local["concurrency"]["runs"]["tag_concurrency_limits"] == production["concurrency"]["runs"]["tag_concurrency_limits"]
    assert local["concurrency"]["pools"]["granularity"] == production["concurrency"]["pools"]["granularity"]


def test_database_driver_is_explicit() -> None:
    assert read(PRODUCTION)["storage"]["custom"]["config"]["postgres_db"]["scheme"] == "postgresql+psycopg2"


def test_every_dagster_container_has_the_variables_of_both_files(stacks: Stacks) -> None:
    """Runs read dagster.yaml too: a missing variable fails every run before its first step."""
    files = (PRODUCTION, CHECKOUT / "deploy" / "workspace.yaml")
    required = {name for file in files for name in re.findall(r"\{env: (\w+)\}", file.read_text())}
    assert len(required) >= 6
    tasks = stacks.platform.of_type("AWS::ECS::TaskDefinition")
    checked = []
    for task in tasks.values():
        for container in task["ContainerDefinitions"]:
            if container["Name"] in DAGSTER:
                variables = {variable["Name"] for kind in ("Environment", "Secrets") for variable in container[kind]}
                assert required - variables == set(), container["Name"]
                checked.append(container["Name"])
    assert sorted(checked) == sorted(DAGSTER)


@mock_aws
def test_launcher_starts_runs_in_the_networks_of_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import boto3

    environment = {
        "AWS_DEFAULT_REGION": "us-east-1",
        "PGHOST": "db.internal",
        "PGPORT": "5432",
        "LS4_PASSWORD_DAGSTER": "secret",
        "DAGSTER_LOGS_BUCKET": "logs",
        "DAGSTER_RUN_CLUSTER": "ls4",
        "DAGSTER_RUN_SUBNETS": "subnet-1,subnet-2",
        "DAGSTER_RUN_SECURITY_GROUP": "sg-1",
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    container = {"name": "run", "image": "ls4", "memory": 512}
    boto3.client("ecs").register_task_definition(family="ls4-run", containerDefinitions=[container])
    configuration = read(PRODUCTION)
    del configuration["storage"]  # the server does not exist, and this test does not need it
    (tmp_path / "dagster.yaml").write_text(yaml.safe_dump(configuration))
    with DagsterInstance.from_config(str(tmp_path)) as instance:
        launcher = instance.run_launcher
        assert isinstance(launcher, FargateRunLauncher)
        assert launcher.run_task_kwargs == {
            "cluster": "ls4",
            "propagateTags": "TASK_DEFINITION",
            "networkConfiguration": {
                "awsvpcConfiguration": {
                    "subnets": ["subnet-1", "subnet-2"],
                    "securityGroups": ["sg-1"],
                    "assignPublicIp": "DISABLED",
                }
            },
        }
        assert (launcher.use_current_ecs_task_config, launcher.secrets_tags) == (False, [])
        assert str(launcher.task_definition).endswith("task-definition/ls4-run:1")
        assert type(instance.compute_log_manager).__name__ == "S3ComputeLogManager"
