"""The facts of the platform's health with a real Dagster instance, and what `ls4 status` and the monitor make of them."""

import json
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest
from click.testing import CliRunner, Result
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.remote_origin import (
    GrpcServerCodeLocationOrigin,
    RemoteInstigatorOrigin,
    RemoteJobOrigin,
    RemoteRepositoryOrigin,
)
from dagster._core.scheduler.instigation import InstigatorState, InstigatorStatus, SensorInstigatorData, TickData, TickStatus
from dagster._daemon.types import DaemonHeartbeat
from dagster_shared.error import SerializableErrorInfo
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import delete, func, update

from ls4_assets import logs
from ls4_assets.cli.main import main
from ls4_assets.db.schema import warm_server
from ls4_assets.db.warm_runs import register_server
from ls4_assets.local.postgres import Cluster
from ls4_assets.operations.health.conditions import ESSENTIAL_SENSORS, judge
from ls4_assets.operations.health.facts import collect_facts
from ls4_assets.operations.health.model import Health
from ls4_assets.operations.health.monitor import Monitor, run_monitor
from ls4_assets.operations.status import CollectionStatus, Status, collect
from ls4_assets.operations.status_text import format_status
from ls4_assets.runtime import instance as instances
from ls4_assets.runtime.run_client import SOCKET_VARIABLE
from ls4_assets.settings import Settings
from ls4_assets_tests.platform import Platform, frame_of, running_platform
from ls4_assets_tests.rasters import photograph, write_tif

SENSORS = ("ingest_poll", *ESSENTIAL_SENSORS)
KEY = "bw/Travis/USDA_1958/frames/georef/02-08-60_6-107.tif"
OTHER_KEY = "bw/Travis/USDA_1966/frames/georef/02-08-66_6-108.tif"


def origin_of(sensor: str) -> RemoteInstigatorOrigin:
    location = GrpcServerCodeLocationOrigin(host="127.0.0.1", port=1, location_name="ls4")
    return RemoteInstigatorOrigin(RemoteRepositoryOrigin(location, "__repository__"), sensor)


@dataclass
class Daemon:
    """Writes what Dagster's daemon writes while it runs."""

    platform: Platform
    home: Path

    @property
    def settings(self) -> Settings:
        return self.platform.settings

    def set_sensor(self, name: str, status: InstigatorStatus) -> None:
        instance, origin = self.platform.instance, origin_of(name)
        state = InstigatorState(origin, InstigatorType.SENSOR, status, SensorInstigatorData())
        exists = instance.get_instigator_state(origin.get_id(), origin.get_selector().get_id())
        (instance.update_instigator_state if exists else instance.add_instigator_state)(state)

    def tick(self, name: str, status: TickStatus = TickStatus.SKIPPED, error: str | None = None) -> None:
        origin = origin_of(name)
        now = time.time()
        self.platform.instance.create_tick(
            TickData(
                instigator_origin_id=origin.get_id(),
                instigator_name=name,
                instigator_type=InstigatorType.SENSOR,
                status=status,
                timestamp=now,
                end_timestamp=now,
                selector_id=origin.get_selector().get_id(),
                error=SerializableErrorInfo(error, [], None) if error else None,
            )
        )

    def beat(self, *, seconds_ago: float = 0) -> None:
        for kind in ("SENSOR", "QUEUED_RUN_COORDINATOR"):
            self.platform.instance.add_daemon_heartbeat(DaemonHeartbeat(time.time() - seconds_ago, kind, "test", None))

    def judge(self, *, later: timedelta = timedelta()) -> Health:
        return judge(collect_facts(self.settings, datetime.now(UTC) + later))


@pytest.fixture(scope="module")
def shared(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    folder = tmp_path_factory.mktemp("health")
    with running_platform(cluster, folder) as platform:
        yield Daemon(platform, folder / "dagster")


@pytest.fixture
def daemon(shared: Daemon, monkeypatch: pytest.MonkeyPatch) -> Iterator[Daemon]:
    """All sensors on and ticking, and the daemon's heartbeat now."""
    monkeypatch.setenv("DAGSTER_HOME", str(shared.home))
    for name, value in shared.platform.archive.overrides.items():
        monkeypatch.setenv(f"LS4_{name.upper()}", value)
    shared.platform.instance.wipe()
    for name in SENSORS:
        shared.set_sensor(name, InstigatorStatus.DECLARED_IN_CODE)
        shared.tick(name)
    shared.beat()
    yield shared
    (shared.home / "workspace.yaml").unlink(missing_ok=True)


def names(health: Health) -> list[str]:
    return [condition.name for condition in health.conditions]


def ls4(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


def test_platform_that_works(daemon: Daemon) -> None:
    facts = collect_facts(daemon.settings)
    assert set(facts.sensors) == set(SENSORS) and facts.scanned_at
    assert (datetime.now(UTC) - facts.scanned_at).total_seconds() < 60
    assert judge(facts).summary.startswith("OK: last scan ")
    result = ls4("status", "--check")
    assert result.exit_code == 0 and result.output.startswith("OK: last scan ") and result.output.count("\n") == 1


def test_sensor_that_is_off(daemon: Daemon) -> None:
    """With the ingest sensor off, a dropped frame never arrived, and `ls4 status` reported nothing, with exit status 0."""
    daemon.set_sensor("ingest_poll", InstigatorStatus.STOPPED)
    result = ls4("status", "--check")
    assert result.exit_code == 2
    assert result.output.startswith("CRITICAL: sensor ingest_poll is OFF. Turn it on: ")
    whole = ls4("status")
    assert whole.exit_code == 1 and whole.output.splitlines()[0] == result.output.strip()
    read = json.loads(ls4("status", "--json").output)
    assert read["health"]["status"] == "critical" and read["health"]["conditions"][0]["name"] == "SensorOff"
    assert "collections" in read


def test_sensor_that_a_person_turned_on(daemon: Daemon) -> None:
    daemon.set_sensor("ingest_poll", InstigatorStatus.RUNNING)
    assert names(daemon.judge()) == []


def test_daemon_that_is_dead(daemon: Daemon) -> None:
    daemon.beat(seconds_ago=130)
    health = daemon.judge()
    assert names(health) == ["ServiceDown-daemon"]
    assert "the daemon has not reported for 2 min" in health.summary


def test_sensor_without_ticks_and_sensor_that_fails(daemon: Daemon) -> None:
    later = timedelta(minutes=4)
    daemon.beat(seconds_ago=-later.total_seconds())
    assert names(daemon.judge(later=later)) == ["SensorSilent"] * 3
    daemon.beat()
    daemon.tick("ingest_poll", TickStatus.FAILURE, "ValueError: oops\nmore")
    health = daemon.judge()
    assert names(health) == ["SensorFailing"] and "(ValueError: oops)" in health.summary
    # The last good scan is still known.
    assert collect_facts(daemon.settings).scanned_at


def test_queue_that_is_blocked(daemon: Daemon) -> None:
    origin = RemoteJobOrigin(origin_of("").repository_origin, "frames")
    run = dg.DagsterRun(job_name="frames", status=dg.DagsterRunStatus.QUEUED, remote_job_origin=origin)
    daemon.platform.instance.add_run(run)
    assert names(daemon.judge()) == []
    later = timedelta(minutes=5)
    for name in SENSORS:
        daemon.set_sensor(name, InstigatorStatus.STOPPED)
    daemon.beat(seconds_ago=-later.total_seconds())
    health = daemon.judge(later=later)
    assert names(health)[-1] == "QueueBlocked"
    assert health.conditions[-1].sentence == "1 run queued, and none has started for 5 min (0 in progress)."


@contextmanager
def listening() -> Iterator[int]:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield int(server.getsockname()[1])


def test_code_server_that_is_dead(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CODE_HOST", "127.0.0.1")
    with listening() as port:
        workspace = {"load_from": [{"grpc_server": {"host": {"env": "CODE_HOST"}, "port": port, "location_name": "ls4"}}]}
        (daemon.home / "workspace.yaml").write_text(json.dumps(workspace))
        assert names(daemon.judge()) == []
    assert names(daemon.judge()) == ["ServiceDown-code"]


def test_run_server_that_is_dead(daemon: Daemon, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Every run started seconds later, and only a log said so."""
    path = tmp_path / "run-server.sock"
    monkeypatch.setenv(SOCKET_VARIABLE, str(path))
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        assert names(daemon.judge()) == []
    assert names(daemon.judge()) == ["ServiceDown-warm"]


def test_warm_service_that_is_silent(daemon: Daemon) -> None:
    with daemon.platform.database.begin() as connection:
        register_server(connection, "a", 1, 2048)
    assert collect_facts(daemon.settings).has_run_server is True
    with daemon.platform.database.begin() as connection:
        connection.execute(update(warm_server).values(seen_at=func.now() - timedelta(minutes=1)))
    assert names(daemon.judge()) == ["ServiceDown-warm"]
    with daemon.platform.database.begin() as connection:
        connection.execute(delete(warm_server))
    assert names(daemon.judge()) == []


def test_database_that_is_down(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--json` printed a sentence, which no program could read."""
    with listening() as port:
        pass
    monkeypatch.setenv("LS4_DATABASE_URL", f"postgresql+psycopg2://ls4@127.0.0.1:{port}/ls4")
    started = time.monotonic()
    checked, whole, read = ls4("status", "--check"), ls4("status"), ls4("status", "--json")
    assert time.monotonic() - started < 5
    assert (checked.exit_code, whole.exit_code, read.exit_code) == (2, 1, 1)
    assert whole.output == checked.output and whole.output.startswith("CRITICAL: the database does not answer (")
    assert whole.output.count("\n") == 1
    assert json.loads(read.output)["health"]["conditions"][0]["name"] == "DatabaseDown"


def test_dagster_whose_state_cannot_be_read(daemon: Daemon, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "missing"))
    health = daemon.judge()
    assert names(health) == ["DagsterDatabaseDown"]


def test_json_has_the_error_of_an_unknown_collection(daemon: Daemon) -> None:
    result = ls4("status", "Nowhere", "--json")
    assert result.exit_code == 1 and json.loads(result.output)["error"].startswith("There is no collection Nowhere")


def test_check_without_an_archive_is_critical(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Status 1 would be a warning."""
    monkeypatch.setenv("LS4_CONFIG", str(tmp_path / "missing.toml"))
    result = ls4("status", "--check")
    assert result.exit_code == 2 and result.output.startswith("CRITICAL: LS4_CONFIG names ")


def test_monitor_writes_files_and_reports_a_stopped_platform_once(daemon: Daemon, tmp_path: Path) -> None:
    """The messages about a stopped platform came from a sensor, which had stopped too."""
    messages = tmp_path / "messages.txt"
    settings = daemon.settings.model_copy(update={"notify_file": messages, "notify_group_wait_seconds": 0.0})
    monitor = Monitor(settings, tmp_path)
    monitor.check()
    assert not messages.exists()
    job = dg.DagsterRun(job_name="frames", status=dg.DagsterRunStatus.STARTED, tags={"ls4/kind": "frames"})
    daemon.platform.instance.add_run(job)
    daemon.platform.instance.report_run_failed(job)
    daemon.set_sensor("notifications", InstigatorStatus.STOPPED)
    monitor.check()
    monitor.check()
    assert messages.read_text().count("ls4: the platform has stopped: sensor notifications is OFF.") == 1
    written = json.loads((tmp_path / "health.json").read_text())
    assert written["status"] == "critical" and written["summary"].startswith("CRITICAL: sensor notifications is OFF.")
    families = {family.name: family for family in text_string_to_metric_families((tmp_path / "metrics.txt").read_text())}
    assert [sample.value for sample in families["ls4_health"].samples] == [2]
    (count,) = [each for each in families["ls4_run_duration_seconds"].samples if each.name.endswith("_count")]
    assert (count.labels, count.value) == ({"kind": "frames", "status": "failure"}, 1)
    daemon.set_sensor("notifications", InstigatorStatus.DECLARED_IN_CODE)
    monitor.check()
    assert messages.read_text().count("ls4: resolved: sensor notifications is OFF.") == 1


def test_monitor_keeps_one_instance_open_until_a_use_of_it_fails(
    daemon: Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every check opened the instance twice."""
    opened: list[dg.DagsterInstance] = []
    really_open = instances.open_instance

    def open_and_count() -> dg.DagsterInstance:
        opened.append(really_open())
        return opened[-1]

    monkeypatch.setattr(instances, "open_instance", open_and_count)
    monitor = Monitor(daemon.settings, tmp_path)
    for _ in range(3):
        assert monitor.check().severity == 0
    assert len(opened) == 1
    with monkeypatch.context() as patch:
        patch.setattr(opened[0], "get_daemon_heartbeats", lambda: 1 / 0)
        assert monitor.check().conditions[0].name == "DagsterDatabaseDown"
    assert monitor.check().severity == 0 and len(opened) == 2


def test_prefix_of_names(daemon: Daemon, tmp_path: Path) -> None:
    """`ls4 status Travis` reported an unknown collection."""
    for key in (KEY, OTHER_KEY):
        daemon.platform.drop(key, write_tif(tmp_path / "a.tif", photograph(200, 220, 1)))
    daemon.platform.settle()
    both = collect(daemon.settings, "travis")
    assert [each.name for each in both.collections] == [
        "Travis_USDA_1958_frames",
        "Travis_USDA_1966_frames",
    ] and both.report is None
    one = collect(daemon.settings, "Travis_USDA_1966")
    assert [each.name for each in one.collections] == ["Travis_USDA_1966_frames"] and one.report
    (line,) = [line for line in format_status(one) if line.startswith("    last run: ")]
    assert line == "    last run: 1 frame"
    daemon.platform.storage.delete(KEY)
    daemon.platform.ingest()
    (status,) = collect(daemon.settings, frame_of(KEY).collection.name).collections
    assert (status.indexed, status.leaving, status.done) == (1, 1, 0)
    assert "1 on the map (1 of them leave with the next rebuild)" in "\n".join(format_status(collect(daemon.settings)))


def test_text_of_adopted_and_leaving_frames() -> None:
    """A frame whose deletion waited for the rebuild was reported as "adopted without a georef tif"."""
    status = CollectionStatus("A", 3, 3, 0, 5, "http://example.org/a.map", leaving=1)
    text = format_status(Status((status,), {}))
    assert text[0].endswith("5 on the map (1 of them leave with the next rebuild, 1 of them adopted without a georef tif)")


def test_monitor_survives_a_full_disk(daemon: Daemon, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A full disk ended the monitor, and its messages with it; the demo stopped, as a service of it kept exiting."""
    (tmp_path / ".metrics.txt.new").mkdir()
    messages = tmp_path / "messages.txt"
    settings = daemon.settings.model_copy(update={"notify_file": messages, "notify_group_wait_seconds": 0.0})
    logs.configure()
    daemon.set_sensor("ingest_poll", InstigatorStatus.STOPPED)
    sleeps = iter(range(3))

    def sleep(_seconds: float) -> None:
        if next(sleeps, None) is None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_monitor(Monitor(settings, tmp_path), sleep)
    assert messages.read_text().count("the platform has stopped: sensor ingest_poll is OFF.") == 1
    assert capfd.readouterr().err.count('"monitor_failed"') == 3
