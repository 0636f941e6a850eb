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

from ls4_assets.errors import ConfigurationError
from ls4_assets.local import state as state_module
from ls4_assets.local.map_check import shows_imagery
from ls4_assets.local.postgres import Cluster, run_as
from ls4_assets.local.services import fail_interrupted_runs
from ls4_assets.local.state import State, choose_state, free_port, port_is_free
from ls4_assets.local.supervisor import Service, ServiceError, Supervisor
from ls4_assets.runtime import local_launcher as launcher_module
from ls4_assets.runtime.local_launcher import Life, LocalRunLauncher, life_of
from ls4_assets_tests.platform import running_platform

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root lends processes to other OS users")
DATABASE_USER = "postgres" if os.geteuid() == 0 else None
SLEEPER = "import subprocess, time; subprocess.Popen(['sleep', '999'], start_new_session=True); time.sleep(999)"


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that other OS users may enter, as pytest's own are not."""
    folder = Path(tempfile.mkdtemp(prefix="ls4-laptop-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def supervised(tmp_path: Path) -> Iterator[Supervisor]:
    with Supervisor(tmp_path, tmp_path / "processes.json") as supervisor:
        yield supervisor


# The state directory


def test_state_lies_in_the_checkout_where_everybody_can_reach_it(open_folder: Path) -> None:
    state, note = choose_state(open_folder, {})
    assert (state.home, note) == (open_folder / ".ls4", None)


def test_ls4_state_overrides(open_folder: Path) -> None:
    state, _ = choose_state(Path("/nowhere"), {"LS4_STATE": str(open_folder / "elsewhere")})
    assert state.home == open_folder / "elsewhere"


@root_only
def test_state_leaves_a_closed_checkout_and_says_so(open_folder: Path) -> None:
    checkout = open_folder / "checkout"
    checkout.mkdir()
    open_folder.chmod(0o700)
    state, note = choose_state(checkout, {})
    assert state.home == state_module.FALLBACK
    assert note is not None
    assert str(checkout) in note
    assert str(state_module.FALLBACK) in note


@root_only
def test_a_closed_folder_named_by_ls4_state_is_rejected_with_advice(open_folder: Path) -> None:
    open_folder.chmod(0o700)
    with pytest.raises(ConfigurationError, match="name a folder whose parents are open"):
        choose_state(Path("/"), {"LS4_STATE": str(open_folder / "state")})


def test_ports_stay_until_somebody_else_takes_one(tmp_path: Path) -> None:
    state = State(tmp_path)
    first = state.ports(("front", "dagit"))
    assert state.ports(("front", "dagit")) == first
    with socket.socket() as squatter:
        squatter.bind(("127.0.0.1", first["front"]))
        squatter.listen()
        second = state.ports(("front", "dagit"))
        assert second["front"] != first["front"]
        assert second["dagit"] == first["dagit"]
        with pytest.raises(ConfigurationError, match="is taken"):
            state.ports(("front",), wanted={"front": first["front"]})


def test_passwords_are_made_once_and_kept_private(tmp_path: Path) -> None:
    state = State(tmp_path)
    first = state.passwords(("ls4", "mapserver"))
    assert first["ls4"] != first["mapserver"]
    assert state.passwords(("ls4", "mapserver", "dagster")).items() > first.items()
    assert (tmp_path / "secrets.json").stat().st_mode & 0o777 == 0o600


def test_a_second_start_says_that_one_is_running(tmp_path: Path) -> None:
    state = State(tmp_path)
    state.save_environment({"LS4_MAP_URL": "http://127.0.0.1:4711"})
    with (
        state.lock(),
        pytest.raises(ConfigurationError, match="running already.*4711"),
        State(tmp_path).lock(),
    ):
        pass
    with state.lock():
        pass  # and the lock goes with its holder


# PostgreSQL


def test_the_cluster_has_postgis_and_listens_on_loopback_only(cluster: Cluster) -> None:
    with psycopg2.connect(cluster.admin_url) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_available_extensions WHERE name = 'postgis'")
        assert cursor.fetchone() == (1,)
    connection.close()
    server = cluster.process()
    assert server is not None
    assert server.username() != "root"
    listening = {c.laddr for c in server.net_connections() if c.status == psutil.CONN_LISTEN}
    assert listening == {("127.0.0.1", cluster.port)}


def test_a_wrong_password_is_rejected(cluster: Cluster) -> None:
    with pytest.raises(psycopg2.OperationalError, match="password authentication failed"):
        psycopg2.connect(cluster.admin_url.replace(cluster.password, "guess"))


def test_a_cluster_resumes_after_a_clean_stop_and_after_a_crash(open_folder: Path) -> None:
    settings = {"fsync": "off"}
    cluster = Cluster(open_folder / "data", free_port(), secrets.token_urlsafe(8), DATABASE_USER, settings)
    try:
        cluster.start()
        _execute(cluster, "CREATE TABLE kept AS SELECT 42 AS answer")
        cluster.stop()
        assert cluster.process() is None
        assert port_is_free(cluster.port)

        elsewhere = Cluster(cluster.data_dir, free_port(), cluster.password, DATABASE_USER, settings)
        elsewhere.start()
        _execute(elsewhere, "INSERT INTO kept VALUES (43)")
        crashed = elsewhere.process()
        assert crashed is not None
        crashed.kill()
        crashed.wait()

        # as after a reboot: the number now belongs to a living process of the same user
        with subprocess.Popen(["sleep", "60"], **run_as(DATABASE_USER)) as stranger:
            pid_file = cluster.data_dir / "postmaster.pid"
            pid_file.write_text(pid_file.read_text().replace(str(crashed.pid), str(stranger.pid), 1))
            cluster.start()
            assert stranger.poll() is None
            stranger.kill()
        assert _execute(cluster, "SELECT sum(answer) FROM kept") == [(85,)]
    finally:
        cluster.stop()


def test_an_interrupted_initdb_is_done_again(open_folder: Path) -> None:
    (open_folder / "data.new").mkdir()
    (open_folder / "data.new" / "PG_VERSION").write_text("half")
    cluster = Cluster(open_folder / "data", free_port(), secrets.token_urlsafe(8), DATABASE_USER, {"fsync": "off"})
    try:
        cluster.start()
        assert cluster.ready()
    finally:
        cluster.stop()


def test_a_cluster_that_cannot_start_says_why(open_folder: Path) -> None:
    with socket.socket() as squatter:
        squatter.bind(("127.0.0.1", 0))
        squatter.listen()
        port = squatter.getsockname()[1]
        cluster = Cluster(open_folder / "data", port, secrets.token_urlsafe(8), DATABASE_USER, {"fsync": "off"})
        with pytest.raises(ConfigurationError, match="Address already in use"):
            cluster.start()


# The supervisor


def test_what_dies_is_started_again(supervised: Supervisor, tmp_path: Path) -> None:
    supervised.start(_service("sleeper"))
    first = _children()[0]
    first.kill()
    first.wait()
    supervised.poll()
    again = _children()
    assert len(again) == 1
    assert again[0].pid != first.pid


def test_what_dies_again_and_again_is_given_up_with_its_log(supervised: Supervisor) -> None:
    supervised.start(_service("fickle", "print('no such folder')"))
    with pytest.raises(ServiceError, match="fickle dies again and again.*\n.*no such folder"):
        _poll_for(supervised, seconds=30)


def test_what_lived_for_a_while_is_started_again_however_often(supervised: Supervisor, monkeypatch: pytest.MonkeyPatch) -> None:
    """A database that was killed six times in five minutes ended the whole platform."""
    monkeypatch.setattr("ls4_assets.local.supervisor.YOUNG_SECONDS", 0)
    prepared: list[int] = []
    service = Service(
        "sleeper", _python("import time; time.sleep(1000)"), lambda: True, prepare=lambda: prepared.append(len(_children()))
    )
    supervised.start(service)
    for _ in range(7):
        (running,) = _children()
        running.kill()
        running.wait()
        supervised.poll()
    assert len(_children()) == 1
    assert prepared == [0] * 8, "the way is cleared before each start, when nothing is left of the one before"


def test_a_service_that_does_not_come_up_shows_the_end_of_its_log(supervised: Supervisor) -> None:
    broken = Service("broken", _python("import sys; sys.exit('port is taken')"), lambda: False)
    with pytest.raises(ServiceError, match="ended while starting.*\n.*port is taken"):
        supervised.start(broken)


def test_stopping_leaves_nothing_behind_not_even_what_ignores_it(tmp_path: Path) -> None:
    deaf = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + SLEEPER
    with Supervisor(tmp_path, tmp_path / "processes.json") as supervisor:
        supervisor.start(_service("polite", SLEEPER), _service("deaf", deaf))
        family = _wait_for_children(4)
    assert not [process for process in family if process.is_running()]
    assert not (tmp_path / "processes.json").exists()


def test_services_stop_in_reverse_order(tmp_path: Path) -> None:
    note = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: (open({!r}, 'a').write({!r}), sys.exit()))\n"
        "open({!r}, 'w').close()\n"
        "time.sleep(999)"
    )
    record = tmp_path / "order"
    with Supervisor(tmp_path, tmp_path / "processes.json") as supervisor:
        for name in "abc":
            up = tmp_path / f"{name}.up"
            supervisor.start(Service(name, _python(note.format(str(record), name, str(up))), up.exists))
    assert record.read_text() == "cba"


def test_a_start_after_a_crash_ends_what_the_crash_left(tmp_path: Path) -> None:
    ledger = tmp_path / "processes.json"
    Supervisor(tmp_path, ledger).start(_service("orphan", SLEEPER))  # never stopped: its supervisor was killed
    family = _wait_for_children(2)
    said: list[str] = []
    with Supervisor(tmp_path, ledger, said.append):
        psutil.wait_procs(family, timeout=5)
        assert not [process for process in family if process.is_running()]
    assert len(said) == 1


def test_a_number_that_means_another_process_now_is_left_alone(tmp_path: Path) -> None:
    ledger = tmp_path / "processes.json"
    ledger.write_text(f"[[{os.getpid()}, 1.0]]")
    signals: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: signals.append(number))
    try:
        with Supervisor(tmp_path, ledger):
            assert not signals
    finally:
        signal.signal(signal.SIGTERM, before)


# Runs as processes of this machine


def test_a_run_is_given_up_only_when_its_process_is_gone(cluster: Cluster, tmp_path: Path) -> None:
    """Runs of a killed code server counted as running for ever, and their frames waited; a living one must not be given up."""
    with running_platform(cluster, tmp_path) as platform, subprocess.Popen(["sleep", "100"]) as sleeper:
        launcher = LocalRunLauncher()
        launcher.register_instance(platform.instance)
        run = platform.instance.create_run_for_job(
            platform.definitions.resolve_implicit_global_asset_job_def(), status=dg.DagsterRunStatus.STARTED
        )
        assert life_of(platform.instance, run) is Life.UNKNOWN
        assert launcher.check_run_worker_health(run).status is WorkerStatus.RUNNING
        platform.instance.report_engine_event("Started process for run", run, EngineEventData.in_process(sleeper.pid))
        assert life_of(platform.instance, run) is Life.ALIVE
        sleeper.kill()
        _wait_until(lambda: psutil.Process(sleeper.pid).status() == psutil.STATUS_ZOMBIE)
        assert life_of(platform.instance, run) is Life.GONE
        sleeper.wait()
        assert life_of(platform.instance, run) is Life.GONE
        assert launcher.check_run_worker_health(run).status is WorkerStatus.FAILED


def test_a_number_that_another_process_has_now_is_not_taken_for_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a reboot the number of a dead run was that of some daemon, and the run was waited for."""
    began = psutil.Process().create_time()
    assert launcher_module._is_alive(os.getpid(), began + 1)
    assert not launcher_module._is_alive(os.getpid(), began - 3600)


def test_a_start_gives_up_the_runs_of_the_last_stop_but_none_that_lives(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "dagster"))
    with running_platform(cluster, tmp_path) as platform, subprocess.Popen(["sleep", "100"]) as sleeper:
        job = platform.definitions.resolve_implicit_global_asset_job_def()
        started, starting, living = (
            platform.instance.create_run_for_job(job, status=dg.DagsterRunStatus(status))
            for status in ("STARTED", "STARTING", "STARTED")
        )
        platform.instance.report_engine_event("Started process for run", living, EngineEventData.in_process(sleeper.pid))
        fail_interrupted_runs()
        after = [platform.instance.get_run_by_id(run.run_id) for run in (started, starting, living)]
        assert [run.status.value for run in after if run] == ["FAILURE", "FAILURE", "STARTED"]
        sleeper.kill()


def test_an_error_message_in_place_of_a_picture_is_not_imagery() -> None:
    assert not shows_imagery(b"<ServiceException>msDrawMap(): no</ServiceException>")
    assert not shows_imagery(b"")


def _wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _poll_for(supervisor: Supervisor, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        time.sleep(0.2)
        supervisor.poll()


def _service(name: str, code: str = "import time; time.sleep(1000)") -> Service:
    return Service(name, _python(code), lambda: True, stop_within=2)


def _python(code: str) -> tuple[str, ...]:
    return (sys.executable, "-c", code)


@pytest.fixture(autouse=True)
def _count_own_children_only() -> Iterator[None]:
    """Other tests' pool servers live as long as this process does."""
    _OTHERS.update(psutil.Process().children(recursive=True))
    yield
    _OTHERS.clear()


_OTHERS: set[psutil.Process] = set()


def _children() -> list[psutil.Process]:
    """What supervisors of this process started, without the cluster fixture's server (no child of ours)."""
    return [child for child in psutil.Process().children(recursive=True) if child not in _OTHERS]


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
