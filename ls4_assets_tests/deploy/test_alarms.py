"""Alarms against their inputs: the log lines that our processes really write, and ECS events as AWS documents them."""

import json
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

from ls4_assets import logs
from ls4_assets_tests.deploy.conftest import Stacks, require_cdk
from mapserver.sync import MapfileSync

require_cdk()

CLUSTER = "arn:aws:ecs:us-east-1:111122223333:cluster/ls4"


class StopLoopError(BaseException):
    """Ends an endless loop; not an Exception, so that the loop does not catch it."""


def alarm(stacks: Stacks, name: str) -> dict[str, Any]:
    alarms = stacks.platform.of_type("AWS::CloudWatch::Alarm").values()
    (properties,) = (properties for properties in alarms if properties["AlarmName"] == f"ls4-{name}")
    return properties  # type: ignore[no-any-return]  # templates are untyped JSON


def is_counted(stacks: Stacks, log: str, metric: str, line: str) -> bool:
    """Whether a filter on the log group counts the line for the metric.

    Implements the part of CloudWatch's filter syntax that our patterns use: quoted terms, of which all must match, or any of
    those with a question mark; or the event of a JSON line.
    """
    (filters,) = (
        each["FilterPattern"]
        for each in stacks.platform.of_type("AWS::Logs::MetricFilter").values()
        if each["MetricTransformations"][0]["MetricName"] == metric and f"ClusterLog{log}" in str(each["LogGroupName"])
    )
    if event := re.fullmatch(r'\{ \$\.event = "(\w+)" \}', filters):
        return line.startswith("{") and bool(json.loads(line)["event"] == event[1])
    terms = re.findall(r'(\??)"([^"]*)"', filters)
    assert " ".join(f'{mark}"{term}"' for mark, term in terms) == filters and len({mark for mark, _ in terms}) == 1
    matches = [term in line for _, term in terms]
    return any(matches) if terms[0][0] else all(matches)


# Failed runs


def test_failed_run_is_counted_by_its_last_log_line(stacks: Stacks, capfd: pytest.CaptureFixture[str]) -> None:
    @dg.op
    def fails() -> None:
        raise ValueError

    @dg.job
    def job() -> None:
        fails()

    with dg.DagsterInstance.ephemeral() as instance:
        job.execute_in_process(instance=instance, raise_on_error=False)
    lines = capfd.readouterr().err.splitlines()
    for log in ("run", "warm"):
        assert len([line for line in lines if is_counted(stacks, log, "RunsFailed", line)]) == 1, log


def launch_rejected(run: MagicMock, instance: MagicMock) -> None:
    instance.run_launcher.launch_run.side_effect = RuntimeError("Capacity is unavailable at this time")
    run.status = dg.DagsterRunStatus.QUEUED
    queue = MagicMock()
    queue.run_queue_config.max_user_code_failure_retries = 0
    QueuedRunCoordinatorDaemon(1)._dequeue_run(instance, MagicMock(), run, queue, None)


def start_timed_out(run: MagicMock, instance: MagicMock) -> None:
    run.status = dg.DagsterRunStatus.STARTING
    monitor_starting_run(instance, MagicMock(dagster_run=run), logging.getLogger("dagster.daemon.Monitoring"))


def lost(run: MagicMock, instance: MagicMock) -> None:
    run.status = dg.DagsterRunStatus.STARTED
    instance.run_launcher.check_run_worker_health.return_value = CheckRunHealthResult(WorkerStatus.FAILED)
    monitor_started_run(instance, MagicMock(), MagicMock(dagster_run=run), logging.getLogger("dagster.daemon.Monitoring"))


def runtime_exceeded(run: MagicMock, instance: MagicMock) -> None:
    run.tags = {}
    record = MagicMock(dagster_run=run, start_time=0.0)
    check_run_timeout(instance, record, logging.getLogger("dagster.daemon.Monitoring"), 43200.0)


@pytest.mark.parametrize("fails", [launch_rejected, start_timed_out, lost, runtime_exceeded])
def test_run_that_the_daemon_reports_as_failed_is_counted(
    stacks: Stacks, fails: Callable[[MagicMock, MagicMock], None], caplog: pytest.LogCaptureFixture
) -> None:
    """Without Spot capacity every run failed and no alarm was sent: the failures were not in the log of the runs."""
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


def test_both_log_groups_feed_one_alarm(stacks: Stacks) -> None:
    assert (alarm(stacks, "RunsFailing")["Namespace"], alarm(stacks, "RunsFailing")["MetricName"]) == ("ls4", "RunsFailed")


# Maps


@pytest.mark.parametrize(
    "name", ["MapServersUnhealthy", "ServiceDown-maps", "ServiceDown-daemon", "ServiceDown-warm", "MapfileSyncSilent"]
)
def test_missing_data_raises_the_alarm(stacks: Stacks, name: str) -> None:
    """Without any map task the metric of healthy ones had no data, and no alarm was sent while the map was down."""
    assert alarm(stacks, name)["TreatMissingData"] == "breaching"
    assert alarm(stacks, name)["ComparisonOperator"] == "LessThanThreshold"


def test_log_events_of_the_sidecar_match_the_filters(
    stacks: Stacks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """A sidecar that had exited raised no alarm, and the alarm for an unavailable bucket was cleared after five minutes."""
    log = tmp_path / "log.jsonl"
    request.addfinalizer(logs.configure)
    logs.configure(log)
    unavailable = MagicMock()
    unavailable.list.side_effect = OSError("the bucket is unavailable")
    monkeypatch.setattr("mapserver.sync.time.sleep", MagicMock(side_effect=StopLoopError))
    with pytest.raises(StopLoopError):
        MapfileSync(unavailable, tmp_path, tmp_path / "collections.json", tmp_path / "state.json").run(2)
    lines = log.read_text().splitlines()
    for metric in ("SyncFailed", "SyncHeartbeats"):
        assert len([line for line in lines if is_counted(stacks, "maps", metric, line)]) == 1, metric
        assert not is_counted(stacks, "maps", metric, "[error] 7#7: sync_failed, as nginx would log it")
    assert alarm(stacks, "MapfileSyncFailed")["MetricName"] == "SyncFailed"


def test_one_silent_sidecar_among_the_maximum_number_raises_the_alarm(stacks: Stacks) -> None:
    """Each sidecar logs a heartbeat every minute; the alarm compares their number per task."""
    properties = alarm(stacks, "MapfileSyncSilent")
    metrics = {metric["Id"]: metric for metric in properties["Metrics"]}
    expressions = [metric["Expression"] for metric in metrics.values() if "Expression" in metric]
    assert expressions == ["heartbeats / tasks"]
    assert metrics["heartbeats"]["MetricStat"]["Metric"] == {"MetricName": "SyncHeartbeats", "Namespace": "ls4"}
    assert metrics["tasks"]["MetricStat"]["Metric"]["MetricName"] == "RunningTaskCount"
    (minutes,) = {each["MetricStat"]["Period"] // 60 for each in metrics.values() if "MetricStat" in each}
    (scaling,) = stacks.platform.of_type("AWS::ApplicationAutoScaling::ScalableTarget").values()
    tasks = scaling["MaxCapacity"]
    assert (tasks - 1) * minutes / tasks < properties["Threshold"] < minutes - 1


# ECS events


def matches_event(pattern: Mapping[str, Any], event: Mapping[str, Any]) -> bool:
    """EventBridge's matching, as far as our rules use it: one matching element of a list is enough."""
    for name, expected in pattern.items():
        value = event.get(name)
        values = value if isinstance(value, list) else [value]
        if isinstance(expected, Mapping):
            if not any(isinstance(value, Mapping) and matches_event(expected, value) for value in values):
                return False
        elif not any(matches_value(matcher, value) for matcher in expected for value in values if value is not None):
            return False
    return True


def matches_value(matcher: object, value: object) -> bool:
    match matcher:
        case {"anything-but": other}:
            return bool(value != other)
        case {"prefix": str(prefix)}:
            return isinstance(value, str) and value.startswith(prefix)
        case {"Fn::ImportValue": str(exported)}:
            return "Cluster" in exported and value == CLUSTER
    return bool(matcher == value)


def stopped(code: str, exit_code: int | None, family: str = "ls4-run", cluster: str = CLUSTER) -> dict[str, Any]:
    """An event as in "Amazon ECS task state change events" of the ECS developer guide."""
    container = {"name": "run", "lastStatus": "STOPPED"} | ({} if exit_code is None else {"exitCode": exit_code})
    detail = {"clusterArn": cluster, "group": f"family:{family}", "lastStatus": "STOPPED", "stopCode": code}
    return {"source": "aws.ecs", "detail-type": "ECS Task State Change", "detail": detail | {"containers": [container]}}


def action(name: str) -> dict[str, Any]:
    detail = {"eventType": "WARN", "eventName": name, "clusterArn": CLUSTER}
    return {"source": "aws.ecs", "detail-type": "ECS Service Action", "detail": detail}


def deployment(name: str, cluster: str = "ls4") -> dict[str, Any]:
    """An event as in "Amazon ECS service deployment state change events": only the service's ARN contains the cluster."""
    service = f"arn:aws:ecs:us-east-1:111122223333:service/{cluster}/code"
    detail = {"eventType": "ERROR", "eventName": name, "deploymentId": "ecs-svc/123"}
    return {"source": "aws.ecs", "detail-type": "ECS Deployment State Change", "resources": [service], "detail": detail}


@pytest.mark.parametrize(
    ("event", "matching_rules"),
    [
        pytest.param(stopped("TaskFailedToStart", None, "ls4-maps"), {"TaskFailedToStart"}, id="missing image"),
        pytest.param(stopped("EssentialContainerExited", 137), {"RunKilled"}, id="run out of memory"),
        pytest.param(stopped("EssentialContainerExited", 0), set(), id="successful run"),
        pytest.param(stopped("EssentialContainerExited", 137, "other"), set(), id="task of another family"),
        pytest.param(stopped("TaskFailedToStart", None, cluster=CLUSTER + "x"), set(), id="task of another cluster"),
        pytest.param(action("SERVICE_TASK_START_IMPAIRED"), {"ServiceImpaired"}, id="service that starts no task"),
        pytest.param(action("SERVICE_TASK_PLACEMENT_FAILURE"), {"ServiceImpaired"}, id="service without capacity"),
        pytest.param(action("SERVICE_STEADY_STATE"), set(), id="healthy service"),
        pytest.param(deployment("SERVICE_DEPLOYMENT_FAILED"), {"DeploymentFailed"}, id="deployment rolled back"),
        pytest.param(deployment("SERVICE_DEPLOYMENT_COMPLETED"), set(), id="deployment completed"),
        pytest.param(deployment("SERVICE_DEPLOYMENT_FAILED", "other"), set(), id="deployment of another cluster"),
    ],
)
def test_failure_events_of_ecs_are_forwarded(stacks: Stacks, event: dict[str, Any], matching_rules: set[str]) -> None:
    """A rolled-back deployment was not reported: its event has another type than that of a service without tasks."""
    patterns = {
        re.sub(r"^Alarms|[0-9A-F]{8}$", "", name): rule["EventPattern"]
        for name, rule in stacks.platform.of_type("AWS::Events::Rule").items()
        if name.startswith("Alarms")
    }
    assert {name for name, pattern in patterns.items() if matches_event(pattern, event)} == matching_rules


def test_stop_codes_are_those_of_ecs(stacks: Stacks) -> None:
    valid = set(boto3.client("ecs", region_name="us-east-1").meta.service_model.shape_for("TaskStopCode").enum)
    used = {
        code
        for rule in stacks.platform.of_type("AWS::Events::Rule").values()
        for code in rule["EventPattern"]["detail"].get("stopCode", [])
    }
    assert used and used <= valid
