"""An ECS whose tasks really run: moto answers the API, and each task is a process with nothing but its container's environment.

moto's own tasks advance at every look and always end well; here a task is RUNNING until its process ends, and then bears its
exit code. StopTask ends the process as Fargate does, with SIGTERM first.
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
class Started:
    """A task with its process. `command` is what the launcher asked for."""

    task: Task
    process: subprocess.Popen[bytes]
    command: list[str]

    @property
    def overrides(self) -> dict[str, Any]:
        return dict(self.task.overrides)

    def kill(self, number: int = signal.SIGKILL) -> None:
        """The container and all its processes, as the kernel does it."""
        os.killpg(self.process.pid, number)


@dataclass
class Ecs:
    """`rejections`: so many RunTask calls are throttled before the next succeeds."""

    backend: EC2ContainerServiceBackend
    folder: Path
    started: list[Started] = field(default_factory=list)
    rejections: int = 0
    rejected: int = 0
    ended: threading.Event = field(default_factory=threading.Event)

    def run_task(self, real: Callable[..., list[Task]]) -> Callable[..., list[Task]]:
        def throttled(*given: Any, **named: Any) -> list[Task]:
            if self.rejections:
                self.rejections -= 1
                self.rejected += 1
                raise JsonRESTError("ThrottlingException", "Rate exceeded.")
            return real(*given, **named)

        return throttled

    def watch(self) -> None:
        while not self.ended.wait(0.05):
            for task in list(self.backend.tasks.get(CLUSTER, {}).values()):
                if task.id not in {one.task.id for one in self.started}:
                    self.started.append(self._start(task))
            for one in self.started:
                self._note(one)

    def _start(self, task: Task) -> Started:
        (override,) = task.overrides["containerOverrides"]
        definition = self.backend.describe_task_definition(task.task_definition_arn)
        (container,) = definition.container_definitions
        told = {entry["name"]: entry["value"] for entry in [*container["environment"], *override.get("environment", [])]}
        home = self.folder / task.id
        home.mkdir()
        environment = {"PATH": f"{PROGRAMS}:/usr/bin:/bin", "HOME": str(home), "TMPDIR": str(home), **told}
        with (self.folder / f"{task.id}.log").open("wb") as log:
            process = subprocess.Popen(
                override["command"], cwd=home, env=environment, stdout=log, stderr=log, start_new_session=True
            )
        task.containers[0].last_status = "RUNNING"
        return Started(task, process, override["command"])

    def _note(self, one: Started) -> None:
        code = one.process.poll()
        if code is None:
            if one.task.desired_status == "STOPPED" and one.task.stop_code != "UserInitiated":  # type: ignore[attr-defined]
                one.task.stop_code = "UserInitiated"  # type: ignore[attr-defined]
                one.task.last_status = "DEACTIVATING"  # moto has it stopped at once
                one.process.send_signal(signal.SIGTERM)
        elif one.task.containers[0].last_status != "STOPPED":
            one.task.containers[0].last_status = "STOPPED"
            one.task.containers[0].exitCode = 128 - code if code < 0 else code
            one.task.stopped_reason = one.task.stopped_reason or "Essential container in task exited"
            one.task.last_status = one.task.desired_status = "STOPPED"


@contextmanager
def running_ecs(folder: Path, environment: Mapping[str, str]) -> Iterator[Ecs]:
    """A cluster with one task definition, whose container has `environment`; the moto server runs in this process already."""
    backend = ecs_backends[ACCOUNT][REGION]
    state_manager.set_transition("ecs::task", {"progression": "manual", "times": 1 << 60})
    Task.stop_code = ""  # type: ignore[attr-defined]  # moto has none
    client = boto3.client("ecs")
    client.create_cluster(
        clusterName=CLUSTER,
        capacityProviders=["FARGATE", "FARGATE_SPOT"],
        defaultCapacityProviderStrategy=[{"capacityProvider": "FARGATE_SPOT", "weight": 1}],
    )
    told = [{"name": name, "value": value} for name, value in environment.items()]
    container = {"name": CONTAINER, "image": "ls4", "memory": 2048, "environment": told}
    client.register_task_definition(
        family=FAMILY,
        networkMode="awsvpc",
        requiresCompatibilities=["FARGATE"],
        cpu="1024",
        memory="2048",
        containerDefinitions=[container],  # type: ignore[list-item]
    )
    ecs = Ecs(backend, folder)
    real = backend.run_task
    backend.run_task = ecs.run_task(real)  # type: ignore[method-assign]
    thread = threading.Thread(target=ecs.watch)
    thread.start()
    try:
        yield ecs
    finally:
        ecs.ended.set()
        thread.join()
        backend.run_task = real  # type: ignore[method-assign]
        state_manager.unset_transition("ecs::task")
        for one in ecs.started:
            if one.process.poll() is None:
                one.kill()
            one.process.wait()


def places(logs_bucket: str) -> dict[str, str]:
    """What deploy/dagster.yaml takes from the environment: the cluster, the account's default network, the bucket of logs."""
    ec2 = boto3.client("ec2")
    subnets = [subnet["SubnetId"] for subnet in ec2.describe_subnets()["Subnets"]]
    return {
        "DAGSTER_RUN_CLUSTER": CLUSTER,
        "DAGSTER_RUN_SUBNETS": ",".join(subnets),
        "DAGSTER_RUN_SECURITY_GROUP": ec2.describe_security_groups()["SecurityGroups"][0]["GroupId"],
        "DAGSTER_LOGS_BUCKET": logs_bucket,
    }
