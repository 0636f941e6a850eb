"""The whole production path without an AWS account: event, queue, daemon, RunTask, a task's process, S3, PostGIS, mapfile,
GetMap.

The daemon and the code server are real Dagster processes; AWS is moto, with tasks that really run (ls4_assets_tests/ecs.py).
"""

import json
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import boto3
import httpx
import numpy as np
import pytest
import yaml
from dagster import DagsterInstance, DagsterRun, DagsterRunStatus, RunsFilter
from dagster._core.storage.dagster_run import FINISHED_STATUSES
from sqlalchemy import make_url, text

from deploy.aws.config import read_config
from ls4_assets.local.postgres import Cluster
from ls4_assets.local.state import find_free_port
from ls4_assets.runtime.run_line import FRAMES_TAG, KIND_TAG
from ls4_assets_tests import ecs
from ls4_assets_tests.deploy import containers
from ls4_assets_tests.deploy.conftest import EXAMPLE, Stacks, require_cdk, synthesize
from ls4_assets_tests.ecs import FakeEcs, RunningTask, running_fake_ecs
from ls4_assets_tests.integration.serving_fixtures import rgba, running, wait_until_healthy
from ls4_assets_tests.integration.test_ingest_events import new_queue
from ls4_assets_tests.platform import CHECKOUT, PASSWORDS, Platform, frame_of, running_platform
from ls4_assets_tests.rasters import photograph, write_tif
from ls4_assets_tests.s3_servers import ACCESS_KEY, REGION, SECRET_KEY, S3Server, s3_server_fixture  # noqa: F401
from mapserver.config import PostgresService, write_config
from mapserver.sync import MapfileSync
from resources.s3_storage import S3Storage

pytestmark = pytest.mark.slow

FOLDER = "bw/Travis/USDA_1958/frames/georef"
NAME, TABLE = "Travis_USDA_1958_frames", "travis_usda_1958_frames"
TIMEOUT_SECONDS = 240.0
# Variables that only this test sets: few shards, short waits, one worker, a server in place of AWS.
TEST_ONLY = {
    "LS4_ARCHIVE_FILE",
    "LS4_SENSOR_SECONDS",
    "LS4_READER_GRACE_SECONDS",
    "LS4_S3_ENDPOINT_URL",
    "AWS_ENDPOINT_URL",
    "LS4_WORKER_PROCESSES",
}
CREDENTIALS = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY, "AWS_DEFAULT_REGION": REGION}


@dataclass
class Production:
    """The platform as it runs on AWS; `platform` gives access to its bucket, tables and runs."""

    platform: Platform
    ecs: FakeEcs
    compute_logs: S3Storage
    home: Path
    port: int
    environment: dict[str, str]
    warm_command: list[str]

    @property
    def instance(self) -> DagsterInstance:
        return self.platform.instance

    def drop(self, number: int, side: int = 600) -> str:
        key = f"{FOLDER}/02-08-60_6-{number}.tif"
        self.platform.drop(key, write_tif(self.home / f"{number}.tif", photograph(side, side, seed=number)))
        return key

    def wait_until(self, condition: Callable[[], object], message: str) -> None:
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while not condition():
            assert time.monotonic() < deadline, f"{message}\n{self.logs()}"
            time.sleep(0.05)

    def wait_until_on_map(self, *dropped: str) -> None:
        """Wait until these keys are done and the collection's map shows all frames."""
        query = "SELECT map_revision > 0 AND map_revision = index_revision AND frames = :n AS shown FROM ls4.collection"

        def is_shown() -> bool:
            (count,) = self.platform.rows("SELECT count(*) AS n FROM ls4.source WHERE state = 'done'")
            return all(self.platform.state(key)[0] == "done" for key in dropped) and self.platform.rows(query, n=count["n"]) == [
                {"shown": True}
            ]

        self.wait_until(lambda: all(self._is_recorded(key) for key in dropped) and is_shown(), "not on the map")

    def _is_recorded(self, key: str) -> bool:
        return bool(self.platform.rows("SELECT 1 AS x FROM ls4.source WHERE key = :key", key=key))

    def runs_of_kind(self, kind: str) -> list[DagsterRun]:
        return list(self.instance.get_runs(RunsFilter(tags={KIND_TAG: kind})))

    def task_of(self, run_id: str) -> RunningTask:
        (task,) = [task for task in self.ecs.started if run_id in " ".join(task.command)][-1:]
        return task

    def stop_next_run(self, seen: set[str]) -> DagsterRun:
        """Wait for the next run of frames and suspend its process with SIGSTOP."""
        stopped: list[DagsterRun] = []

        def started() -> bool:
            stopped[:] = [
                run for run in self.runs_of_kind("frames") if run.run_id not in seen and run.status == DagsterRunStatus.STARTED
            ]
            return bool(stopped)

        self.wait_until(started, "no run of frames starts")
        if pid := self.warm_process(stopped[0]):
            os.kill(pid, signal.SIGSTOP)
        else:
            self.task_of(stopped[0].run_id).kill(signal.SIGSTOP)
        return stopped[0]

    def terminate(self, run: DagsterRun) -> None:
        """Terminate a run as the webserver does, in a process that did not start it."""
        with pytest.MonkeyPatch.context() as patch:
            for name, value in self.environment.items():
                patch.setenv(name, value)
            with DagsterInstance.from_config(str(self.home / "dagster_home")) as instance:
                assert instance.run_launcher.terminate(run.run_id)

    def warm_process(self, run: DagsterRun) -> int | None:
        """The process ID of a run that the warm service executes."""
        rows = self.platform.rows("SELECT pid FROM ls4.warm_run WHERE run_id = :run_id", run_id=run.run_id)
        return int(str(rows[0]["pid"])) if rows else None

    def commands(self, run: DagsterRun) -> list[str]:
        """What the tasks of a run executed: `execute_run`, `resume_run`."""
        return [task.command[2] for task in self.ecs.started if run.run_id in " ".join(task.command)]

    @contextmanager
    def warm_service(self, *options: str) -> Iterator[subprocess.Popen[bytes]]:
        """A container of the warm service with the command in the template, and with other `options`."""
        container = Path(tempfile.mkdtemp(prefix="warm-", dir=self.home))
        environment = {"PATH": os.environ["PATH"], "HOME": str(container), "TMPDIR": str(container), **self.environment}
        with (self.home / f"{container.name}.log").open("wb") as log:
            command = [*self.warm_command, *options]
            process = subprocess.Popen(command, cwd=container, env=environment, stdout=log, stderr=log, start_new_session=True)
        try:
            query = "SELECT 1 AS x FROM ls4.warm_server WHERE seen_at > now() - interval '2 s' AND NOT is_stopping"
            self.wait_until(lambda: self.platform.rows(query), "the warm service does not start")
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            with self.platform.database.begin() as connection:
                connection.execute(text("DELETE FROM ls4.warm_server"))

    def status(self, run: DagsterRun) -> DagsterRunStatus:
        current = self.instance.get_run_by_id(run.run_id)
        assert current
        return current.status

    def logs(self) -> str:
        paths = sorted([*self.home.glob("*.log"), *self.home.glob("tasks/*.log")], key=lambda path: path.stat().st_mtime)
        return "\n".join(f"--- {path.name}\n{path.read_text(errors='replace')[-2500:]}" for path in paths[-6:])


@pytest.fixture(scope="module")
def production(s3_server: Callable[[str], S3Server], cluster: Cluster) -> Iterator[Production]:
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ls4-aws-")))
        home.chmod(0o755)
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        server = s3_server("moto")
        for service in ("SQS", "ECS", "EC2"):
            patch.setenv(f"AWS_ENDPOINT_URL_{service}", server.endpoint_url)
        bucket, compute_logs = server.new_bucket(), server.new_bucket()
        queue = event_queue(bucket)
        settings = {"s3_endpoint_url": server.endpoint_url, "s3_region": REGION, "events_queue_url": queue}
        platform = stack.enter_context(
            running_platform(cluster, home, f"s3://{bucket.bucket}", **settings, fargate="true", reader_grace_seconds="0")
        )
        require_cdk()
        stacks = synthesize(read_config(EXAMPLE), home / "cdk.out")
        environment = environment_of(stacks, platform, home, server) | ecs.network_environment(compute_logs.bucket)
        for name in environment:
            if name.startswith(("DAGSTER_RUN_", "DAGSTER_LOGS_", "PG", "LS4_PASSWORD_")):
                patch.setenv(name, environment[name])
        (home / "tasks").mkdir()
        tasks = stack.enter_context(running_fake_ecs(home / "tasks", environment))
        port = find_free_port()
        write_instance(home / "dagster_home", port)
        log = stack.enter_context((home / "services.log").open("wb"))
        for argv in services(stacks, home / "dagster_home", port):
            daemons = {name: value for name, value in containers.environment(stacks, "daemon").items() if name.startswith("AWS_")}
            ours = {"PATH": os.environ["PATH"], "HOME": str(home), **environment, **daemons}
            process = subprocess.Popen(argv, cwd=home, env=ours, stdout=log, stderr=log)
            stack.callback(stop, process)
            wait_for_port(port, home / "services.log")
        environment["LS4_WORKER_PROCESSES"] = containers.environment(stacks, "warm")["LS4_WORKER_PROCESSES"]
        command = containers.container(stacks, "warm")["Command"]
        yield Production(platform, tasks, compute_logs, home, port, environment, [str(ecs.PROGRAMS / command[0]), *command[1:]])


def event_queue(bucket: S3Storage) -> str:
    """A queue that gets events for every object, including our own products, without the filter of the EventBridge rule."""
    queue, _ = new_queue(bucket.bucket)
    arn = f"arn:aws:sqs:{REGION}:{ecs.ACCOUNT}:{bucket.bucket}"
    configurations = [{"QueueArn": arn, "Events": ["s3:ObjectCreated:*", "s3:ObjectRemoved:*"]}]
    bucket.client.put_bucket_notification_configuration(
        Bucket=bucket.bucket,
        NotificationConfiguration={"QueueConfigurations": configurations},  # type: ignore[typeddict-item]
    )
    return queue


def environment_of(stacks: Stacks, platform: Platform, home: Path, server: S3Server) -> dict[str, str]:
    """The environment of a run's container in the template, with the servers, folders and passwords of this test."""
    (home / "archive.toml").write_text('county = ["Travis"]\n')
    settings = {name.upper(): value for name, value in platform.archive.overrides.items()}
    database = make_url(platform.settings.database_url.get_secret_value())
    overrides = {
        **{f"LS4_{name}": value for name, value in settings.items() if name != "SETTLE_SECONDS"},
        "LS4_ARCHIVE_FILE": str(home / "archive.toml"),
        "LS4_SENSOR_SECONDS": "1",
        "LS4_NOTIFY_TOPIC": boto3.client("sns", endpoint_url=server.endpoint_url).create_topic(Name="ls4-alarms")["TopicArn"],
        "PGHOST": str(database.host),
        "PGPORT": str(database.port),
        "PGSSLMODE": "prefer",
        "LS4_PASSWORD_DAGSTER": PASSWORDS["dagster"],
        "DAGSTER_HOME": str(home / "dagster_home"),
        "AWS_ENDPOINT_URL": server.endpoint_url,
    }
    variables = containers.environment(stacks, "run")
    secret = {each["Name"] for each in containers.container(stacks, "run")["Secrets"]}
    missing = set(overrides) - set(variables) - secret - TEST_ONLY
    assert not missing, f"the template does not set {missing}"
    # There is no map server that a run could ask to render its mapfile.
    del variables["LS4_MAP_INTERNAL_URL"]
    return variables | overrides | CREDENTIALS


def write_instance(folder: Path, port: int) -> None:
    """Write Dagster's configuration of production, with shorter waits."""
    folder.mkdir()
    config = yaml.safe_load((CHECKOUT / "deploy" / "dagster.yaml").read_text())
    config["run_monitoring"] |= {"start_timeout_seconds": 60, "poll_interval_seconds": 2}
    (folder / "dagster.yaml").write_text(json.dumps(config))
    location = {"host": "127.0.0.1", "port": port, "location_name": "ls4"}
    (folder / "workspace.yaml").write_text(json.dumps({"load_from": [{"grpc_server": location}]}))


def services(stacks: Stacks, folder: Path, port: int) -> list[list[str]]:
    """The code server and the daemon, the former with the command of the template but for its address."""
    program, *code = containers.container(stacks, "code")["Command"]
    code = code[: code.index("--host")]
    return [
        [str(ecs.PROGRAMS / program), *code, "--host", "127.0.0.1", "--port", str(port)],
        [str(ecs.PROGRAMS / "dagster-daemon"), "run", "--workspace", str(folder / "workspace.yaml")],
    ]


def wait_for_port(port: int, log: Path) -> None:
    """Wait until the code server accepts connections: a daemon that starts without it retries much later."""
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)


def stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextmanager
def map_server(production: Production, cluster: Cluster) -> Iterator[httpx.Client]:
    """MapServer over the bucket, with the files that `mapserver.sync` copies."""
    storage = production.platform.storage
    serving = Path(tempfile.mkdtemp(prefix="srv-", dir=production.home))
    serving.chmod(0o755)
    config = write_config(
        serving / "run",
        port=find_free_port(),
        mapfiles_dir=serving / "mapfiles",
        database=PostgresService("127.0.0.1", cluster.port, "ls4", "mapserver", PASSWORDS["mapserver"]),
        workers=1,
        gdal_options={
            **storage.gdal_options(),
            **{name: CREDENTIALS[name] for name in CREDENTIALS if "DEFAULT" not in name},
        },
    )
    MapfileSync(storage, serving / "mapfiles", config.collections_file, serving / "state.json").sync_once()
    with ExitStack() as stack:
        log = stack.enter_context((production.home / "serving.log").open("ab"))
        stack.enter_context(running(config.workers_argv, log))
        stack.enter_context(running(config.nginx_argv, log))
        client = stack.enter_context(httpx.Client(base_url=config.base_url, timeout=60))
        wait_until_healthy(client, config.health_url)
        yield client


def test_from_the_drop_to_the_map(production: Production, cluster: Cluster) -> None:
    key = production.drop(1)
    production.wait_until_on_map(key)

    frames, rebuild = production.ecs.started[:2]
    assert frames.command[:3] == ["dagster", "api", "execute_run"]
    assert (frames.overrides["cpu"], frames.overrides["memory"]) == ("1024", "2048")
    assert "cpu" not in rebuild.overrides, "a rebuild has the size in the task definition"
    assert len(json.dumps(frames.overrides)) < 8192
    assert frames.task.capacity_provider_name == "FARGATE_SPOT", "the default of the cluster"
    assert list(production.compute_logs.list("dagster/storage/")), "the output of runs is kept"
    # Each product sends an event too; those start no run.
    assert len(production.runs_of_kind("frames")) == 1
    assert production.platform.rows("SELECT key FROM ls4.inbox") == []
    assert production.platform.storage.head(frame_of(key).cog_key)

    ((minx, maxx, miny, maxy),) = [
        tuple(row.values())
        for row in production.platform.rows(
            "SELECT ST_XMin(outline), ST_XMax(outline), ST_YMin(outline), ST_YMax(outline) FROM ls4.collection"
        )
    ]
    wms = {"SERVICE": "WMS", "VERSION": "1.1.1", "REQUEST": "GetMap", "LAYERS": NAME, "STYLES": "", "SRS": "EPSG:3857"}
    size = {"WIDTH": "200", "HEIGHT": "200", "FORMAT": "image/png", "TRANSPARENT": "TRUE"}
    with map_server(production, cluster) as client:
        pixels = rgba(client.get(f"/wms/{TABLE}", params={**wms, **size, "BBOX": f"{minx},{miny},{maxx},{maxy}"}))
    assert np.count_nonzero(pixels[..., 3] == 255) > 0.9 * 200 * 200
    assert pixels[..., 0].std() > 5


def test_throttled_run_task_loses_no_run(production: Production) -> None:
    """Without adaptive retries a throttled call marks its run as failed and drops it."""
    before = {run.run_id for run in production.instance.get_runs()}
    production.ecs.throttle_count = 5
    production.wait_until_on_map(production.drop(2))
    assert production.ecs.throttled == 5

    def final_statuses() -> set[DagsterRunStatus]:
        statuses = {run.status for run in production.instance.get_runs() if run.run_id not in before}
        return statuses if statuses <= set(FINISHED_STATUSES) else set()

    production.wait_until(final_statuses, "a run does not end")
    assert final_statuses() == {DagsterRunStatus.SUCCESS}


def test_run_of_a_killed_task_is_resumed(production: Production) -> None:
    before = {run.run_id for run in production.runs_of_kind("frames")}
    key = production.drop(3, side=3000)
    run = production.stop_next_run(before)
    production.task_of(run.run_id).kill()
    production.wait_until_on_map(key)
    assert production.commands(run) == ["execute_run", "resume_run"]
    killed = [task for task in production.ecs.started if task.process.returncode == -signal.SIGKILL]
    assert [task.task.containers[0].exitCode for task in killed] == [137]


def test_run_of_a_task_that_spot_interrupts_is_resumed(production: Production) -> None:
    """The stopped process exits with 0, as after success: its run counted as running until its maximum runtime, half a day."""
    before = {run.run_id for run in production.runs_of_kind("frames")}
    key = production.drop(5, side=3000)
    run = production.stop_next_run(before)
    task = production.task_of(run.run_id)
    task.process.send_signal(signal.SIGTERM)
    task.kill(signal.SIGCONT)
    production.wait_until_on_map(key)
    assert production.commands(run) == ["execute_run", "resume_run"]
    assert task.task.containers[0].exitCode == 0
    production.wait_until(lambda: production.status(run) == DagsterRunStatus.SUCCESS, "the run does not end")


def test_terminated_run_stops_its_task_and_its_frame_is_processed_by_another(production: Production) -> None:
    before = {run.run_id for run in production.runs_of_kind("frames")}
    key = production.drop(4, side=3000)
    run = production.stop_next_run(before)
    task = production.task_of(run.run_id)
    production.terminate(run)
    production.wait_until(lambda: task.task.desired_status == "STOPPED", "the task is not stopped")
    task.kill(signal.SIGCONT)
    production.wait_until(lambda: task.process.poll() is not None, "the task's process keeps running")
    production.wait_until(lambda: production.status(run) == DagsterRunStatus.CANCELED, "the run is not canceled")
    production.wait_until(lambda: production.platform.state(key)[0] == "queued", "the frame is not queued again")
    production.platform.skip_waits()
    production.wait_until_on_map(key)
    assert len(production.runs_of_kind("frames")) == len(before) + 2


def is_pending(pid: int, number: signal.Signals) -> bool:
    """Whether a suspended process has received this signal."""
    status = Path(f"/proc/{pid}/status").read_text()
    (pending,) = (int(line.split()[1], 16) for line in status.splitlines() if line.startswith("ShdPnd:"))
    return bool(pending >> (number - 1) & 1)


def test_one_frame_is_processed_and_published_without_a_task(production: Production) -> None:
    """Each of the two runs waited about a minute for its task to start."""
    before = {run.run_id for run in production.instance.get_runs()}
    with production.warm_service():
        production.wait_until_on_map(production.drop(6))
        runs = [run for run in production.instance.get_runs() if run.run_id not in before]
        production.wait_until(lambda: all(production.status(run) in FINISHED_STATUSES for run in runs), "a run does not end")
    assert {production.status(run) for run in runs} == {DagsterRunStatus.SUCCESS}
    assert {"frames", "collection"} <= {run.tags[KIND_TAG] for run in runs}
    assert {run.run_id: production.commands(run) for run in runs} == {run.run_id: [] for run in runs}


def test_full_service_leaves_runs_to_tasks_and_a_terminated_run_frees_its_slot(production: Production) -> None:
    before = {run.run_id for run in production.runs_of_kind("frames")}
    with production.warm_service("--slots=1"):
        first = production.drop(7, side=3000)
        warm = production.stop_next_run(before)
        pid = production.warm_process(warm)
        assert pid
        second = production.drop(8)
        is_done = "SELECT 1 AS x FROM ls4.source WHERE key = :key AND state = 'done'"
        production.wait_until(lambda: production.platform.rows(is_done, key=second), "the second frame is not processed")
        (task,) = [run for run in production.runs_of_kind("frames") if run.run_id not in before | {warm.run_id}]
        assert (production.commands(warm), production.commands(task)) == ([], ["execute_run"])

        production.terminate(warm)
        production.wait_until(lambda: is_pending(pid, signal.SIGINT), "the run is not interrupted")
        os.kill(pid, signal.SIGCONT)
        production.wait_until(lambda: production.status(warm) == DagsterRunStatus.CANCELED, "the run is not canceled")
        production.wait_until(lambda: production.platform.state(first)[0] == "queued", "the frame is not queued again")
        production.platform.skip_waits()
        production.wait_until_on_map(first, second)
        (retry,) = [run for run in production.runs_of_kind("frames") if run.run_id not in before | {warm.run_id, task.run_id}]
        # As after a crash, the frame gets twice the memory, which a slot does not have.
        assert production.commands(retry) == ["execute_run"]
        assert production.warm_process(warm) is None


@pytest.mark.parametrize(
    ("number", "signal_number", "options"),
    [
        pytest.param(9, signal.SIGKILL, [], id="killed"),
        # As a deployment does when a run takes longer than the service may take to stop.
        pytest.param(10, signal.SIGTERM, ["--drain-seconds=0"], id="stopped"),
    ],
)
def test_run_of_a_service_that_ends_is_resumed_by_a_task(
    production: Production, number: int, signal_number: int, options: list[str]
) -> None:
    before = {run.run_id for run in production.runs_of_kind("frames")}
    with production.warm_service(*options) as service:
        key = production.drop(number, side=3000)
        run = production.stop_next_run(before)
        pid = production.warm_process(run)
        assert pid
        if signal_number == signal.SIGKILL:
            os.killpg(service.pid, signal.SIGKILL)
        else:
            service.terminate()
            production.wait_until(lambda: is_pending(pid, signal.SIGINT), "the run is not interrupted")
            os.kill(pid, signal.SIGCONT)
            assert service.wait(60) == 0
        production.wait_until_on_map(key)
    production.wait_until(lambda: production.status(run) == DagsterRunStatus.SUCCESS, "the run does not end")
    assert production.commands(run) == ["resume_run"]


def test_large_drop_is_processed_by_tasks(production: Production) -> None:
    """Last in this file, because it does not wait for the frames."""
    before = {run.run_id for run in production.runs_of_kind("frames")}
    tif = write_tif(production.home / "large.tif", photograph(64, 64)).read_bytes()
    with production.warm_service():
        for number in range(500):
            production.platform.drop(f"{FOLDER}/03-08-60_9-{number}.tif", tif)

        def large() -> list[DagsterRun]:
            runs = [run for run in production.runs_of_kind("frames") if run.run_id not in before]
            return [run for run in runs if int(run.tags[FRAMES_TAG]) > production.platform.settings.warm_frames]

        # The first batch has as many frames as events arrived before its tick.
        production.wait_until(lambda: any(production.commands(run) for run in large()), "no task is started")
        assert [production.warm_process(run) for run in large()] == [None] * len(large())
