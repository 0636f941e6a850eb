"""A fake ECS whose tasks really run: moto implements the API, and each task is a process with only its container's environment.

moto's own tasks advance at every request and always succeed. Here a task is RUNNING until its process exits, and then has that
exit code. StopTask stops the process as Fargate does, with SIGTERM first.
"""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
from moto.core.exceptions import JsonRESTError
from moto.ecs.models import EC2ContainerServiceBackend, Task, ecs_backends
from moto.moto_api import state_manager

from ls4_assets_tests.s3_servers import REGION

ACCOUNT = "123456789012"
CLUSTER, FAMILY, CONTAINER = "ls4", "ls4-run", "run"
PROGRAMS = Path(sys.executable).parent


@dataclass
class RunningTask:
    """A task with its process. `command` is the command in the launcher's request."""

    task: Task
    process: subprocess.Popen[bytes]
    command: list[str]

    @property
    def overrides(self) -> dict[str, Any]:
        return dict(self.task.overrides)

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal to all processes of the container."""
        os.killpg(self.process.pid, number)


@dataclass
class FakeEcs:
    """The tasks that were started. `throttle_count`: the number of coming RunTask calls that are throttled."""

    backend: EC2ContainerServiceBackend
    folder: Path
    started: list[RunningTask] = field(default_factory=list)
    throttle_count: int = 0
    throttled: int = 0
    stopped: threading.Event = field(default_factory=threading.Event)

    def run_task(self, real: Callable[..., list[Task]]) -> Callable[..., list[Task]]:
        def throttling(*given: Any, **named: Any) -> list[Task]:
            if self.throttle_count:
                self.throttle_count -= 1
                self.throttled += 1
                raise JsonRESTError("ThrottlingException", "Rate exceeded.")
            return real(*given, **named)

        return throttling

    def watch(self) -> None:
        while not self.stopped.wait(0.05):
            for task in list(self.backend.tasks.get(CLUSTER, {}).values()):
                if task.id not in {running.task.id for running in self.started}:
                    self.started.append(self._start(task))
            for running in self.started:
                self._update(running)

    def _start(self, task: Task) -> RunningTask:
        (override,) = task.overrides["containerOverrides"]
        definition = self.backend.describe_task_definition(task.task_definition_arn)
        (container,) = definition.container_definitions
        defaults: Any = container["environment"]
        variables = {entry["name"]: entry["value"] for entry in [*defaults, *override.get("environment", [])]}
        home = self.folder / task.id
        home.mkdir()
        environment = {"PATH": f"{PROGRAMS}:/usr/bin:/bin", "HOME": str(home), "TMPDIR": str(home), **variables}
        with (self.folder / f"{task.id}.log").open("wb") as log:
            process = subprocess.Popen(
                override["command"], cwd=home, env=environment, stdout=log, stderr=log, start_new_session=True
            )
        task.containers[0].last_status = "RUNNING"
        return RunningTask(task, process, override["command"])

    def _update(self, running: RunningTask) -> None:
        code = running.process.poll()
        if code is None:
            if running.task.desired_status == "STOPPED" and running.task.stop_code != "UserInitiated":  # type: ignore[attr-defined]
                running.task.stop_code = "UserInitiated"  # type: ignore[attr-defined]
                running.task.last_status = "DEACTIVATING"  # moto would set STOPPED at once
                running.process.send_signal(signal.SIGTERM)
        elif running.task.containers[0].last_status != "STOPPED":
            running.task.containers[0].last_status = "STOPPED"
            running.task.containers[0].exitCode = 128 - code if code < 0 else code
            running.task.stopped_reason = running.task.stopped_reason or "Essential container in task exited"
            running.task.last_status = running.task.desired_status = "STOPPED"


@contextmanager
def running_fake_ecs(folder: Path, environment: Mapping[str, str]) -> Iterator[FakeEcs]:
    """A cluster with one task definition, whose container has `environment`; the moto server must run in this process."""
    backend = ecs_backends[ACCOUNT][REGION]
    state_manager.set_transition("ecs::task", {"progression": "manual", "times": 1 << 60})
    Task.stop_code = ""  # type: ignore[attr-defined]  # moto does not define it
    client = boto3.client("ecs")
    client.create_cluster(
        clusterName=CLUSTER,
        capacityProviders=["FARGATE", "FARGATE_SPOT"],
        defaultCapacityProviderStrategy=[{"capacityProvider": "FARGATE_SPOT", "weight": 1}],
    )
    variables = [{"name": name, "value": value} for name, value in environment.items()]
    container = {"name": CONTAINER, "image": "ls4", "memory": 2048, "environment": variables}
    client.register_task_definition(
        family=FAMILY,
        networkMode="awsvpc",
        requiresCompatibilities=["FARGATE"],
        cpu="1024",
        memory="2048",
        containerDefinitions=[container],
    )
    ecs = FakeEcs(backend, folder)
    real = backend.run_task
    backend.run_task = ecs.run_task(real)  # type: ignore[method-assign]  # only for this test
    thread = threading.Thread(target=ecs.watch)
    thread.start()
    try:
        yield ecs
    finally:
        ecs.stopped.set()
        thread.join()
        backend.run_task = real  # type: ignore[method-assign]
        state_manager.unset_transition("ecs::task")
        for running in ecs.started:
            if running.process.poll() is None:
                running.kill()
            running.process.wait()


def network_environment(logs_bucket: str) -> dict[str, str]:
    """The variables that deploy/dagster.yaml reads: the cluster, the account's default network, the bucket of logs."""
    ec2 = boto3.client("ec2")
    subnets = [subnet["SubnetId"] for subnet in ec2.describe_subnets()["Subnets"]]
    return {
        "DAGSTER_RUN_CLUSTER": CLUSTER,
        "DAGSTER_RUN_SUBNETS": ",".join(subnets),
        "DAGSTER_RUN_SECURITY_GROUP": ec2.describe_security_groups()["SecurityGroups"][0]["GroupId"],
        "DAGSTER_LOGS_BUCKET": logs_bucket,
    }
