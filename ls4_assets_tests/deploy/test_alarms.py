"""Alarms and notices against what they look for: the very lines that our processes write, and events as AWS documents them."""

import logging
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import boto3
import dagster as dg
import pytest
from dagster._core.launcher import CheckRunHealthResult, WorkerStatus
from dagster._daemon.monitoring.run_monitoring import check_run_timeout, monitor_started_run, monitor_starting_run
from dagster._daemon.run_coordinator.queued_run_coordinator_daemon import QueuedRunCoordinatorDaemon

from ls4_assets_tests.deploy.conftest import Stacks, require_cdk
from mapserver.sync import Sync

require_cdk()

CLUSTER = "arn:aws:ecs:us-east-1:111122223333:cluster/ls4"


class Enough(BaseException):
    """Ends what looks for ever."""


def alarm(stacks: Stacks, name: str) -> dict[str, Any]:
    (found,) = (each for each in stacks.platform.of_type("AWS::CloudWatch::Alarm").values() if each["AlarmName"] == f"ls4-{name}")
    return found  # type: ignore[no-any-return]


def is_counted(stacks: Stacks, log: str, metric: str, line: str) -> bool:
    """Whether a filter on the log group takes the line for the metric. Of the language of patterns, what ours are written in:
    quoted terms, all of which must be there, or any of those with a question mark."""
    (filters,) = (
        each["FilterPattern"]
        for each in stacks.platform.of_type("AWS::Logs::MetricFilter").values()
        if each["MetricTransformations"][0]["MetricName"] == metric and f"ClusterLog{log}" in str(each["LogGroupName"])
    )
    terms = re.findall(r'(\??)"([^"]*)"', filters)
    assert " ".join(f'{mark}"{term}"' for mark, term in terms) == filters and len({mark for mark, _ in terms}) == 1
    there = [term in line for _, term in terms]
    return any(there) if terms[0][0] else all(there)


# Runs that fail


def test_a_failed_run_is_counted_by_its_own_last_line(stacks: Stacks, capfd: pytest.CaptureFixture[str]) -> None:
    @dg.op
    def fails() -> None:
        raise ValueError

    @dg.job
    def job() -> None:
        fails()

    with dg.DagsterInstance.ephemeral() as instance:
        job.execute_in_process(instance=instance, raise_on_error=False)
    lines = capfd.readouterr().err.splitlines()
    assert len([line for line in lines if is_counted(stacks, "run", "RunsFailed", line)]) == 1


def rejected(run: MagicMock, instance: MagicMock) -> None:
    instance.run_launcher.launch_run.side_effect = RuntimeError("Capacity is unavailable at this time")
    run.status = dg.DagsterRunStatus.QUEUED
    queue = MagicMock()
    queue.run_queue_config.max_user_code_failure_retries = 0
    QueuedRunCoordinatorDaemon(1)._dequeue_run(instance, MagicMock(), run, queue, None)


def too_slow_to_start(run: MagicMock, instance: MagicMock) -> None:
    run.status = dg.DagsterRunStatus.STARTING
    monitor_starting_run(instance, MagicMock(dagster_run=run), logging.getLogger("dagster.daemon.Monitoring"))


def lost(run: MagicMock, instance: MagicMock) -> None:
    run.status = dg.DagsterRunStatus.STARTED
    instance.run_launcher.check_run_worker_health.return_value = CheckRunHealthResult(WorkerStatus.FAILED)
    monitor_started_run(instance, MagicMock(), MagicMock(dagster_run=run), logging.getLogger("dagster.daemon.Monitoring"))


def too_long(run: MagicMock, instance: MagicMock) -> None:
    run.tags = {}
    record = MagicMock(dagster_run=run, start_time=0.0)
    check_run_timeout(instance, record, logging.getLogger("dagster.daemon.Monitoring"), 43200.0)


@pytest.mark.parametrize("fails", [rejected, too_slow_to_start, lost, too_long])
def test_a_run_that_fails_in_the_daemons_hands_is_counted(
    stacks: Stacks, fails: Callable[[MagicMock, MagicMock], None], caplog: pytest.LogCaptureFixture
) -> None:
    """With Spot exhausted every run failed, and no alarm came: the failures were never in the log of runs."""
    caplog.set_level(logging.INFO)
    run = MagicMock(run_id="4e34436e", job_name="frames", remote_job_origin=None)
    instance = MagicMock(
        run_monitoring_start_timeout_seconds=600, run_monitoring_max_resume_run_attempts=0, run_monitoring_max_runtime_seconds=0
    )
    instance.get_run_by_id.return_value = run
    instance.get_run_stats.return_value.launch_time = 0.0
    instance.run_launcher.get_run_worker_debug_info.return_value = None
    instance.all_logs.return_value = []
    fails(run, instance)
    assert instance.report_run_failed.called
    assert len([line for line in caplog.messages if is_counted(stacks, "daemon", "RunsFailed", line)]) == 1, caplog.messages
    assert not is_counted(stacks, "daemon", "RunsFailed", "Collected 3 runs for monitoring")


def test_both_counts_come_into_one_alarm(stacks: Stacks) -> None:
    assert (alarm(stacks, "RunsFail")["Namespace"], alarm(stacks, "RunsFail")["MetricName"]) == ("ls4", "RunsFailed")


# Maps


@pytest.mark.parametrize("name", ["MapFront", "Absent-maps", "Absent-daemon", "SidecarSilent"])
def test_what_is_not_there_at_all_is_told_of(stacks: Stacks, name: str) -> None:
    """With no map task left there was no count of healthy ones either, and the alarm stayed quiet over a dark map."""
    assert alarm(stacks, name)["TreatMissingData"] == "breaching"
    assert alarm(stacks, name)["ComparisonOperator"] == "LessThanThreshold"


def test_the_sidecars_words_are_those_that_alarms_look_for(
    stacks: Stacks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A sidecar that had ended was missed by nobody; one whose bucket was away got an all-clear five minutes later."""
    caplog.set_level(logging.INFO)
    away = MagicMock()
    away.list.side_effect = OSError("the bucket is away")
    monkeypatch.setattr("mapserver.sync.time.sleep", MagicMock(side_effect=Enough))
    with pytest.raises(Enough):
        Sync(away, tmp_path, tmp_path / "collections.json", tmp_path / "state.json").run(2)
    for metric in ("SyncFailed", "SyncBeats"):
        assert len([line for line in caplog.messages if is_counted(stacks, "maps", metric, line)]) == 1, metric
    assert alarm(stacks, "MapsStale")["MetricName"] == "SyncFailed"


def test_one_silent_sidecar_among_as_many_as_there_may_be_shows(stacks: Stacks) -> None:
    """Each tells of itself once a minute; what is compared is how often, by the number of tasks."""
    found = alarm(stacks, "SidecarSilent")
    metrics = {each["Id"]: each for each in found["Metrics"]}
    assert [each["Expression"] for each in metrics.values() if "Expression" in each] == ["beats / tasks"]
    assert metrics["beats"]["MetricStat"]["Metric"] == {"MetricName": "SyncBeats", "Namespace": "ls4"}
    assert metrics["tasks"]["MetricStat"]["Metric"]["MetricName"] == "RunningTaskCount"
    (minutes,) = {each["MetricStat"]["Period"] // 60 for each in metrics.values() if "MetricStat" in each}
    (scaling,) = stacks.platform.of_type("AWS::ApplicationAutoScaling::ScalableTarget").values()
    tasks = scaling["MaxCapacity"]
    assert (tasks - 1) * minutes / tasks < found["Threshold"] < minutes - 1


# Events of ECS


def is_taken(pattern: Mapping[str, Any], event: Mapping[str, Any]) -> bool:
    """EventBridge's own way, as far as our rules go: of lists, one element is enough."""
    for name, wanted in pattern.items():
        found = event.get(name)
        found = found if isinstance(found, list) else [found]
        if isinstance(wanted, Mapping):
            if not any(isinstance(each, Mapping) and is_taken(wanted, each) for each in found):
                return False
        elif not any(fits(matcher, each) for matcher in wanted for each in found if each is not None):
            return False
    return True


def fits(matcher: object, value: object) -> bool:
    match matcher:
        case {"anything-but": other}:
            return bool(value != other)
        case {"prefix": str(beginning)}:
            return isinstance(value, str) and value.startswith(beginning)
        case {"Fn::ImportValue": str(exported)}:
            return "Cluster" in exported and value == CLUSTER
    return bool(matcher == value)


def stopped(code: str, exit_code: int | None, family: str = "ls4-run", cluster: str = CLUSTER) -> dict[str, Any]:
    """As "Amazon ECS task state change events" of the ECS developer guide has it."""
    container = {"name": "run", "lastStatus": "STOPPED"} | ({} if exit_code is None else {"exitCode": exit_code})
    detail = {"clusterArn": cluster, "group": f"family:{family}", "lastStatus": "STOPPED", "stopCode": code}
    return {"source": "aws.ecs", "detail-type": "ECS Task State Change", "detail": detail | {"containers": [container]}}


def action(name: str) -> dict[str, Any]:
    detail = {"eventType": "WARN", "eventName": name, "clusterArn": CLUSTER}
    return {"source": "aws.ecs", "detail-type": "ECS Service Action", "detail": detail}


def deployment(name: str, cluster: str = "ls4") -> dict[str, Any]:
    """As "Amazon ECS service deployment state change events" has it: it names no cluster but in the service's ARN."""
    service = f"arn:aws:ecs:us-east-1:111122223333:service/{cluster}/code"
    detail = {"eventType": "ERROR", "eventName": name, "deploymentId": "ecs-svc/123"}
    return {"source": "aws.ecs", "detail-type": "ECS Deployment State Change", "resources": [service], "detail": detail}


@pytest.mark.parametrize(
    ("event", "told"),
    [
        pytest.param(stopped("TaskFailedToStart", None, "ls4-maps"), {"TaskNotStarted"}, id="an image that is not there"),
        pytest.param(stopped("EssentialContainerExited", 137), {"RunKilled"}, id="a run without memory"),
        pytest.param(stopped("EssentialContainerExited", 0), set(), id="a run that is done"),
        pytest.param(stopped("EssentialContainerExited", 137, "other"), set(), id="a task that is no run"),
        pytest.param(stopped("TaskFailedToStart", None, cluster=CLUSTER + "x"), set(), id="a task of others"),
        pytest.param(action("SERVICE_TASK_START_IMPAIRED"), {"ServiceImpaired"}, id="a service that starts no task"),
        pytest.param(action("SERVICE_TASK_PLACEMENT_FAILURE"), {"ServiceImpaired"}, id="a service without room"),
        pytest.param(action("SERVICE_STEADY_STATE"), set(), id="a service that is well"),
        pytest.param(deployment("SERVICE_DEPLOYMENT_FAILED"), {"DeploymentFailed"}, id="a deployment that went back"),
        pytest.param(deployment("SERVICE_DEPLOYMENT_COMPLETED"), set(), id="a deployment that is done"),
        pytest.param(deployment("SERVICE_DEPLOYMENT_FAILED", "other"), set(), id="a deployment of others"),
    ],
)
def test_what_ecs_says_once_is_told(stacks: Stacks, event: dict[str, Any], told: set[str]) -> None:
    """A deployment that went back told nobody: its event is of another kind than that of a service without tasks."""
    notices = {
        re.sub(r"^Alarms|[0-9A-F]{8}$", "", name): each["EventPattern"]
        for name, each in stacks.platform.of_type("AWS::Events::Rule").items()
        if name.startswith("Alarms")
    }
    assert {name for name, pattern in notices.items() if is_taken(pattern, event)} == told


def test_stop_codes_are_those_of_ecs(stacks: Stacks) -> None:
    known = set(boto3.client("ecs", region_name="us-east-1").meta.service_model.shape_for("TaskStopCode").enum)
    named = {
        code
        for each in stacks.platform.of_type("AWS::Events::Rule").values()
        for code in each["EventPattern"]["detail"].get("stopCode", [])
    }
    assert named and named <= known
