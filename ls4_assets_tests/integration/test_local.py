"""One machine: the state directory, a real PostgreSQL cluster, and the supervisor with real processes."""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import dagster as dg
import psutil
import psycopg2
import pytest
from dagster._core.events import EngineEventData
from dagster._core.launcher.base import WorkerStatus
from dagster._core.storage.tags import GRPC_INFO_TAG

from ls4_assets.errors import ConfigurationError
from ls4_assets.local import state as state_module
from ls4_assets.local.map_check import shows_imagery
from ls4_assets.local.postgres import Cluster, run_as
from ls4_assets.local.preparation import fail_interrupted_runs
from ls4_assets.local.state import StateDirectory, choose_state_directory, find_free_port, is_port_free
from ls4_assets.local.supervisor import Service, ServiceError, ServiceSupervisor
from ls4_assets.runtime import local_launcher as launcher_module
from ls4_assets.runtime.local_launcher import LocalRunLauncher, ProcessState, process_state
from ls4_assets_tests.platform import running_platform

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root can start processes as other OS users")
DATABASE_USER = "postgres" if os.geteuid() == 0 else None
SLEEPER = "import subprocess, time; subprocess.Popen(['sleep', '999'], start_new_session=True); time.sleep(999)"


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that other OS users may enter; they cannot enter pytest's own folders."""
    folder = Path(tempfile.mkdtemp(prefix="ls4-local-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def supervised(tmp_path: Path) -> Iterator[ServiceSupervisor]:
    with ServiceSupervisor(tmp_path, tmp_path / "processes.json") as supervisor:
        yield supervisor


# State directory


def test_default_state_directory_is_in_the_checkout(open_folder: Path) -> None:
    state, note = choose_state_directory(open_folder, {})
    assert (state.home, note) == (open_folder / ".ls4", None)


def test_ls4_state_overrides_the_default(open_folder: Path) -> None:
    state, _ = choose_state_directory(Path("/nowhere"), {"LS4_STATE": str(open_folder / "elsewhere")})
    assert state.home == open_folder / "elsewhere"


@root_only
def test_state_of_a_closed_checkout_goes_to_the_fallback_with_a_note(open_folder: Path) -> None:
    checkout = open_folder / "checkout"
    checkout.mkdir()
    open_folder.chmod(0o700)
    state, note = choose_state_directory(checkout, {})
    assert state.home == state_module.FALLBACK_HOME
    assert note is not None
    assert str(checkout) in note
    assert str(state_module.FALLBACK_HOME) in note


@root_only
def test_closed_folder_in_ls4_state_is_rejected_with_advice(open_folder: Path) -> None:
    open_folder.chmod(0o700)
    with pytest.raises(ConfigurationError, match="name a folder whose parents are open"):
        choose_state_directory(Path("/"), {"LS4_STATE": str(open_folder / "state")})


def test_ports_stay_the_same_until_another_process_takes_one(tmp_path: Path) -> None:
    state = StateDirectory(tmp_path)
    first = state.allocate_ports(("maps", "dagster_ui"))
    assert state.allocate_ports(("maps", "dagster_ui")) == first
    with socket.socket() as squatter:
        squatter.bind(("127.0.0.1", first["maps"]))
        squatter.listen()
        second = state.allocate_ports(("maps", "dagster_ui"))
        assert second["maps"] != first["maps"]
        assert second["dagster_ui"] == first["dagster_ui"]
        with pytest.raises(ConfigurationError, match="is taken"):
            state.allocate_ports(("maps",), fixed={"maps": first["maps"]})


def test_passwords_are_generated_once_and_kept_private(tmp_path: Path) -> None:
    state = StateDirectory(tmp_path)
    first = state.get_passwords(("ls4", "mapserver"))
    assert first["ls4"] != first["mapserver"]
    assert state.get_passwords(("ls4", "mapserver", "dagster")).items() > first.items()
    assert (tmp_path / "secrets.json").stat().st_mode & 0o777 == 0o600


def test_second_start_is_rejected_with_the_address_of_the_first(tmp_path: Path) -> None:
    state = StateDirectory(tmp_path)
    state.save_environment({"LS4_MAP_URL": "http://127.0.0.1:4711"})
    with (
        state.lock(),
        pytest.raises(ConfigurationError, match="already running.*4711"),
        StateDirectory(tmp_path).lock(),
    ):
        pass
    with state.lock():
        pass  # the lock is released with its holder


# PostgreSQL


def test_cluster_has_postgis_and_listens_on_loopback_only(cluster: Cluster) -> None:
    with psycopg2.connect(cluster.admin_url) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_available_extensions WHERE name = 'postgis'")
        assert cursor.fetchone() == (1,)
    connection.close()
    server = cluster.process()
    assert server is not None
    assert server.username() != "root"
    listening = {c.laddr for c in server.net_connections() if c.status == psutil.CONN_LISTEN}
    assert listening == {("127.0.0.1", cluster.port)}


def test_wrong_password_is_rejected(cluster: Cluster) -> None:
    with pytest.raises(psycopg2.OperationalError, match="password authentication failed"):
        psycopg2.connect(cluster.admin_url.replace(cluster.password, "guess"))


def test_cluster_keeps_its_data_after_a_clean_stop_and_after_a_crash(open_folder: Path) -> None:
    settings = {"fsync": "off"}
    cluster = Cluster(open_folder / "data", find_free_port(), secrets.token_urlsafe(8), DATABASE_USER, settings)
    try:
        cluster.start()
        _execute(cluster, "CREATE TABLE kept AS SELECT 42 AS answer")
        cluster.stop()
        assert cluster.process() is None
        assert is_port_free(cluster.port)

        elsewhere = Cluster(cluster.data_dir, find_free_port(), cluster.password, DATABASE_USER, settings)
        elsewhere.start()
        _execute(elsewhere, "INSERT INTO kept VALUES (43)")
        crashed = elsewhere.process()
        assert crashed is not None
        crashed.kill()
        crashed.wait()

        # as after a reboot: the PID now belongs to another process of the same user
        with subprocess.Popen(["sleep", "60"], **run_as(DATABASE_USER)) as other:
            pid_file = cluster.data_dir / "postmaster.pid"
            pid_file.write_text(pid_file.read_text().replace(str(crashed.pid), str(other.pid), 1))
            cluster.start()
            assert other.poll() is None
            other.kill()
        assert _execute(cluster, "SELECT sum(answer) FROM kept") == [(85,)]
    finally:
        cluster.stop()


def test_interrupted_initdb_is_repeated(open_folder: Path) -> None:
    (open_folder / "data.new").mkdir()
    (open_folder / "data.new" / "PG_VERSION").write_text("half")
    cluster = Cluster(open_folder / "data", find_free_port(), secrets.token_urlsafe(8), DATABASE_USER, {"fsync": "off"})
    try:
        cluster.start()
        assert cluster.is_ready()
    finally:
        cluster.stop()


def test_cluster_that_cannot_start_reports_the_reason(open_folder: Path) -> None:
    with socket.socket() as squatter:
        squatter.bind(("127.0.0.1", 0))
        squatter.listen()
        port = squatter.getsockname()[1]
        cluster = Cluster(open_folder / "data", port, secrets.token_urlsafe(8), DATABASE_USER, {"fsync": "off"})
        with pytest.raises(ConfigurationError, match="Address already in use"):
            cluster.start()


# Service supervisor


def test_exited_service_is_restarted(supervised: ServiceSupervisor, tmp_path: Path) -> None:
    supervised.start(_service("sleeper"))
    first = _children()[0]
    first.kill()
    first.wait()
    supervised.poll()
    restarted = _children()
    assert len(restarted) == 1
    assert restarted[0].pid != first.pid


def test_service_that_keeps_exiting_early_is_given_up_with_its_log(supervised: ServiceSupervisor) -> None:
    supervised.start(_service("fickle", "print('no such folder')"))
    with pytest.raises(ServiceError, match="fickle keeps exiting right after its start.*\n.*no such folder"):
        _poll_for(supervised, seconds=30)


def test_service_that_ran_for_a_while_is_restarted_any_number_of_times(
    supervised: ServiceSupervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A database that was killed six times in five minutes stopped the whole platform."""
    monkeypatch.setattr("ls4_assets.local.supervisor.EARLY_EXIT_SECONDS", 0)
    prepared: list[int] = []
    service = Service(
        "sleeper", _python("import time; time.sleep(1000)"), lambda: True, {}, prepare=lambda: prepared.append(len(_children()))
    )
    supervised.start(service)
    for _ in range(7):
        (running,) = _children()
        running.kill()
        running.wait()
        supervised.poll()
    assert len(_children()) == 1
    assert prepared == [0] * 8, "prepare runs before each start, after all processes of the previous start have gone"


def test_service_that_does_not_start_shows_the_end_of_its_log(supervised: ServiceSupervisor) -> None:
    broken = Service("broken", _python("import sys; sys.exit('port is taken')"), lambda: False, {})
    with pytest.raises(ServiceError, match="exited during its start.*\n.*port is taken"):
        supervised.start(broken)


def test_stop_also_kills_processes_that_ignore_sigterm(tmp_path: Path) -> None:
    stubborn = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + SLEEPER
    with ServiceSupervisor(tmp_path, tmp_path / "processes.json") as supervisor:
        supervisor.start(_service("polite", SLEEPER), _service("stubborn", stubborn))
        processes = _wait_for_children(4)
    assert not [process for process in processes if process.is_running()]
    assert not (tmp_path / "processes.json").exists()


def test_services_stop_in_reverse_order(tmp_path: Path) -> None:
    note = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: (open({!r}, 'a').write({!r}), sys.exit()))\n"
        "open({!r}, 'w').close()\n"
        "time.sleep(999)"
    )
    record = tmp_path / "order"
    with ServiceSupervisor(tmp_path, tmp_path / "processes.json") as supervisor:
        for name in "abc":
            up = tmp_path / f"{name}.up"
            supervisor.start(Service(name, _python(note.format(str(record), name, str(up))), up.exists, {}))
    assert record.read_text() == "cba"


def test_start_after_a_crash_stops_the_orphaned_processes(tmp_path: Path) -> None:
    process_file = tmp_path / "processes.json"
    ServiceSupervisor(tmp_path, process_file).start(_service("orphan", SLEEPER))  # never stopped: its supervisor was killed
    processes = _wait_for_children(2)
    messages: list[str] = []
    with ServiceSupervisor(tmp_path, process_file, messages.append):
        psutil.wait_procs(processes, timeout=5)
        assert not [process for process in processes if process.is_running()]
    assert len(messages) == 1


def test_process_that_reuses_a_recorded_pid_is_left_alone(tmp_path: Path) -> None:
    process_file = tmp_path / "processes.json"
    process_file.write_text(f"[[{os.getpid()}, 1.0]]")
    signals: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: signals.append(number))
    try:
        with ServiceSupervisor(tmp_path, process_file):
            assert not signals
    finally:
        signal.signal(signal.SIGTERM, before)


# Runs as local processes


def test_run_fails_only_when_its_process_is_gone(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of a killed code server counted as running forever, and their frames waited. A run that is alive must not fail."""
    with running_platform(cluster, tmp_path) as platform, subprocess.Popen(["sleep", "100"]) as sleeper:
        for name, value in platform.archive.overrides.items():
            monkeypatch.setenv(f"LS4_{name.upper()}", value)
        launcher = LocalRunLauncher()
        launcher.register_instance(platform.instance)
        run = platform.instance.create_run_for_job(
            platform.definitions.resolve_implicit_global_asset_job_def(),
            status=dg.DagsterRunStatus.STARTED,
            # Dagster's tag of a run of the code server.
            tags={GRPC_INFO_TAG: "{}"},
        )
        assert process_state(platform.instance, run) is ProcessState.UNKNOWN
        assert launcher.check_run_worker_health(run).status is WorkerStatus.RUNNING
        platform.instance.report_engine_event("Started process for run", run, EngineEventData.in_process(sleeper.pid))
        assert process_state(platform.instance, run) is ProcessState.ALIVE
        sleeper.kill()
        _wait_until(lambda: psutil.Process(sleeper.pid).status() == psutil.STATUS_ZOMBIE)
        assert process_state(platform.instance, run) is ProcessState.GONE
        sleeper.wait()
        assert process_state(platform.instance, run) is ProcessState.GONE
        assert launcher.check_run_worker_health(run).status is WorkerStatus.FAILED


def test_process_that_reuses_the_pid_of_a_run_is_not_taken_for_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a reboot a system daemon had the PID of a lost run, and the run counted as running."""
    began = psutil.Process().create_time()
    assert launcher_module._is_alive(os.getpid(), began + 1)
    assert not launcher_module._is_alive(os.getpid(), began - 3600)


def test_start_fails_the_interrupted_runs_but_not_a_running_one(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "dagster"))
    with running_platform(cluster, tmp_path) as platform, subprocess.Popen(["sleep", "100"]) as sleeper:
        job = platform.definitions.resolve_implicit_global_asset_job_def()
        started, starting, running = (
            platform.instance.create_run_for_job(job, status=dg.DagsterRunStatus(status))
            for status in ("STARTED", "STARTING", "STARTED")
        )
        platform.instance.report_engine_event("Started process for run", running, EngineEventData.in_process(sleeper.pid))
        fail_interrupted_runs()
        after = [platform.instance.get_run_by_id(run.run_id) for run in (started, starting, running)]
        assert [run.status.value for run in after if run] == ["FAILURE", "FAILURE", "STARTED"]
        sleeper.kill()


def test_error_message_is_not_imagery() -> None:
    assert not shows_imagery(b"<ServiceException>msDrawMap(): no</ServiceException>")
    assert not shows_imagery(b"")


def _wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _poll_for(supervisor: ServiceSupervisor, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        time.sleep(0.2)
        supervisor.poll()


def _service(name: str, code: str = "import time; time.sleep(1000)") -> Service:
    return Service(name, _python(code), lambda: True, {}, stop_timeout_seconds=2)


def _python(code: str) -> tuple[str, ...]:
    return (sys.executable, "-c", code)


@pytest.fixture(autouse=True)
def _count_own_children_only() -> Iterator[None]:
    """The pool servers of other tests run as long as this process."""
    _OTHER_CHILDREN.update(psutil.Process().children(recursive=True))
    yield
    _OTHER_CHILDREN.clear()


_OTHER_CHILDREN: set[psutil.Process] = set()


def _children() -> list[psutil.Process]:
    """The processes that supervisors in this process started, without the server of the cluster fixture (not a child)."""
    return [child for child in psutil.Process().children(recursive=True) if child not in _OTHER_CHILDREN]


def _wait_for_children(count: int) -> list[psutil.Process]:
    deadline = time.monotonic() + 20
    while len(_children()) < count and time.monotonic() < deadline:
        time.sleep(0.1)
    assert len(_children()) == count
    time.sleep(0.3)
    return _children()


def _execute(cluster: Cluster, statement: str) -> list[tuple[object, ...]]:
    connection = psycopg2.connect(cluster.admin_url)
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute(statement)
            return list(cursor.fetchall()) if cursor.description else []
    finally:
        connection.close()
