"""Dagster's configuration in production, beside the laptop's."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from dagster import DagsterInstance
from moto import mock_aws

from ls4_assets.runtime.ecs_launcher import FargateRunLauncher
from ls4_assets_tests.deploy.conftest import Stacks
from ls4_assets_tests.platform import CHECKOUT

LAPTOP, PRODUCTION = CHECKOUT / "dagster.yaml", CHECKOUT / "deploy" / "dagster.yaml"
# Of run monitoring, what the launcher makes possible: a process of the machine starts at once and cannot be resumed.
OF_THE_LAUNCHER = {"start_timeout_seconds", "max_resume_run_attempts", "max_runtime_seconds"}


def read(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text())  # type: ignore[no-any-return]


def test_production_differs_from_the_laptop_in_launcher_logs_concurrency_and_connection_only() -> None:
    laptop, production = read(LAPTOP), read(PRODUCTION)
    differing = {name for name in laptop.keys() | production.keys() if laptop.get(name) != production.get(name)}
    assert differing == {"run_launcher", "compute_logs", "concurrency", "storage", "run_monitoring"}
    ours, theirs = laptop["run_monitoring"], production["run_monitoring"]
    assert {name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name)} == OF_THE_LAUNCHER
    # How much at once differs; what may not run at the same time does not.
    assert laptop["concurrency"]["runs"]["tag_concurrency_limits"] == production["concurrency"]["runs"]["tag_concurrency_limits"]
    assert laptop["concurrency"]["pools"]["granularity"] == production["concurrency"]["pools"]["granularity"]


def test_the_driver_of_the_database_is_named() -> None:
    assert read(PRODUCTION)["storage"]["postgres"]["postgres_db"]["scheme"] == "postgresql+psycopg2"


def test_every_container_of_dagster_has_what_both_files_name(stacks: Stacks) -> None:
    """Runs read dagster.yaml too: a variable that is missing there fails every run before its first step."""
    files = (PRODUCTION, CHECKOUT / "deploy" / "workspace.yaml")
    named = {name for file in files for name in re.findall(r"\{env: (\w+)\}", file.read_text())}
    assert len(named) >= 6
    tasks = stacks.platform.of_type("AWS::ECS::TaskDefinition")
    checked = []
    for task in tasks.values():
        for container in task["ContainerDefinitions"]:
            if container["Name"] in ("run", "code", "daemon", "webserver"):
                given = {each["Name"] for kind in ("Environment", "Secrets") for each in container[kind]}
                assert named - given == set(), container["Name"]
                checked.append(container["Name"])
    assert sorted(checked) == ["code", "daemon", "run", "webserver"]


@mock_aws
def test_the_launcher_starts_runs_in_the_networks_of_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    configured = read(PRODUCTION)
    del configured["storage"]  # there is no such server: what is looked at here needs none
    (tmp_path / "dagster.yaml").write_text(yaml.safe_dump(configured))
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
