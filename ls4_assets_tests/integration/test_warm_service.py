"""The warm service executes runs that other processes offer in the database, and gives back what it cannot finish."""

import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import dagster as dg
import psutil
import pytest
from dagster._core.launcher.base import WorkerStatus
from sqlalchemy import Engine, text

from ls4_assets.db import warm_runs
from ls4_assets.local.postgres import Cluster
from ls4_assets.runtime import run_client
from ls4_assets.runtime.local_launcher import LocalRunLauncher
from ls4_assets.runtime.lost_runs import fail_lost_runs
from ls4_assets.runtime.warm_client import WarmClient
from ls4_assets_tests.integration.test_run_server import COPIED_TAGS, ENDS, KEY, Warm, stop, wait_until
from ls4_assets_tests.platform import CHECKOUT, Platform, running_platform
from ls4_assets_tests.rasters import photograph, write_tif

STARTED = "The warm service started the run."


@pytest.fixture(scope="module")
def platform(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    with running_platform(cluster, tmp_path_factory.mktemp("service")) as running:
        # The county is in use, so no run has to wait until the service has loaded its assets.
        running.drop(KEY.format(number="200"), write_tif(tmp_path_factory.mktemp("first") / "drop.tif", photograph(64, 64)))
        running.settle()
        yield running


Start = Callable[..., Warm]


@pytest.fixture
def start(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Starts a warm service; the launcher finds it in the database only."""
    settings = {f"LS4_{name.upper()}": value for name, value in platform.archive.overrides.items()}
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv(run_client.SOCKET_VARIABLE, raising=False)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ls4-warm-")))
        environment = {"PATH": os.defpath, "TMPDIR": str(folder), "DAGSTER_HOME": platform.instance.root_directory}

        def start_service(slots: int = 2, drain_seconds: float = 60) -> Warm:
            options = [f"--slots={slots}", "--slot-memory-mb=2048", f"--drain-seconds={drain_seconds}"]
            command = [sys.executable, "-m", "ls4_assets.runtime.warm_service", *options]
            count = servers(platform.database)
            service = psutil.Popen(command, env=environment | settings, cwd=CHECKOUT)
            stack.callback(stop, service)
            wait_until(lambda: service.poll() is not None or servers(platform.database) > count)
            launcher = LocalRunLauncher()
            launcher.register_instance(platform.instance)
            return Warm(platform, launcher, service, folder / "service")

        yield start_service
        with platform.database.begin() as connection:
            connection.execute(text("DELETE FROM ls4.warm_server"))


def servers(database: Engine) -> int:
    with database.connect() as connection:
        return int(connection.execute(text("SELECT count(*) FROM ls4.warm_server")).scalar_one())


def processes_of_runs(warm: Warm) -> list[psutil.Process]:
    """The forks of the run server."""
    (server,) = [child for child in warm.server.children() if "run_server" in " ".join(child.cmdline())]
    return [child for child in server.children() if "resource_tracker" not in " ".join(child.cmdline())]


@contextmanager
def paused_run(warm: Warm) -> Iterator[None]:
    """The run does not end while a test acts on its service, however quick it is."""
    (process,) = processes_of_runs(warm)
    process.suspend()
    try:
        yield
    finally:
        process.resume()


@pytest.fixture
def cold(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """IDs of the runs that the launcher started its own way, which are not executed here."""
    started: list[str] = []
    monkeypatch.setattr(dg.DefaultRunLauncher, "launch_run", lambda launcher, context: started.append(context.dagster_run.run_id))
    return started


def test_offered_run_is_executed_and_its_slot_is_free_again(start: Start, cold: list[str]) -> None:
    warm = start()
    before = time.monotonic()
    run = warm.launch("201")
    assert time.monotonic() - before < 5, "a launcher that polls waits for the next step of the service"
    assert warm.wait_for_end(run) is dg.DagsterRunStatus.SUCCESS
    assert warm.platform.state(KEY.format(number="201")) == ("done", None)
    assert STARTED in warm.messages(run)
    wait_until(lambda: warm.platform.rows("SELECT * FROM ls4.warm_run") == [])
    assert cold == []


def test_launcher_starts_a_run_its_own_way_when_the_service_is_full(start: Start, cold: list[str]) -> None:
    warm = start(slots=1)
    first = warm.launch("202", size=3000)
    with paused_run(warm):
        second = warm.launch("203")
    assert cold == [second.run_id]
    assert warm.wait_for_end(first) is dg.DagsterRunStatus.SUCCESS


def test_launcher_starts_a_run_its_own_way_when_the_service_is_down(start: Start, cold: list[str]) -> None:
    """Killed a moment ago, its heartbeat is still new: the launcher gets no answer and withdraws the run."""
    warm = start()
    stop(warm.server)
    run = warm.launch("204")
    assert cold == [run.run_id]
    assert warm.platform.rows("SELECT * FROM ls4.warm_run") == []


@pytest.mark.parametrize(("memory_mb", "is_accepted"), [(2048, True), (3072, False)])
def test_run_that_needs_more_memory_than_a_slot_is_not_accepted(
    start: Start, memory_mb: int, is_accepted: bool, platform: Platform
) -> None:
    with platform.database.begin() as connection:
        warm_runs.register_server(connection, "server", 1, 2048)
    assert warm_runs.offer_run(platform.database, "a", "", memory_mb) == ("server" if is_accepted else None)
    assert warm_runs.offer_run(platform.database, "b", "", 0) == (None if is_accepted else "server"), "one slot"


def test_server_that_stops_or_is_silent_gets_no_runs(start: Start, platform: Platform) -> None:
    with platform.database.begin() as connection:
        warm_runs.register_server(connection, "server", 9, 2048)
        warm_runs.send_heartbeat(connection, "server", is_stopping=True)
    assert warm_runs.offer_run(platform.database, "a", "", 0) is None
    with platform.database.begin() as connection:
        warm_runs.send_heartbeat(connection, "server", is_stopping=False)
        connection.execute(text("UPDATE ls4.warm_server SET seen_at = now() - interval '11 s'"))
    assert warm_runs.offer_run(platform.database, "a", "", 0) is None
    with platform.database.begin() as connection:
        warm_runs.send_heartbeat(connection, "server", is_stopping=False)
    assert warm_runs.offer_run(platform.database, "a", "", 0) == "server"


def test_run_is_interrupted_by_a_process_that_only_has_the_database(start: Start) -> None:
    """Terminate in the Dagster UI is executed by the webserver, which neither started the run nor sees its process."""
    warm = start()
    run = warm.launch("205", size=6000)
    wait_until(lambda: warm.status(run) is dg.DagsterRunStatus.STARTED)
    webserver = LocalRunLauncher()
    webserver.register_instance(warm.platform.instance)
    assert webserver.terminate(run.run_id)
    assert warm.wait_for_end(run) is dg.DagsterRunStatus.CANCELED
    wait_until(lambda: processes_of_runs(warm) == [])


def test_retry_of_a_cold_run_is_a_run_of_the_service(start: Start) -> None:
    """Retries have the tags of their parent: one of a run that had started cold was failed while it was working."""
    warm = start()
    run = warm.launch("220", size=6000, **COPIED_TAGS)
    wait_until(lambda: warm.status(run) is dg.DagsterRunStatus.STARTED)
    assert warm.launcher.check_run_worker_health(run).status is WorkerStatus.RUNNING
    assert warm.launcher.terminate(run.run_id)
    assert warm.wait_for_end(run) is dg.DagsterRunStatus.CANCELED


def test_killed_run_is_noticed(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    warm = start()
    run = warm.launch("206", size=6000)
    assert warm.launcher.check_run_worker_health(run).status is WorkerStatus.RUNNING
    assert not warm.launcher.has_lost(run)
    (process,) = processes_of_runs(warm)
    process.kill()
    wait_until(lambda: warm.launcher.check_run_worker_health(run).status is WorkerStatus.FAILED)
    if warm.status(run) is dg.DagsterRunStatus.STARTING:
        monkeypatch.setattr(type(warm.platform.instance), "run_launcher", warm.launcher)
        assert fail_lost_runs(warm.platform.instance) == [run.run_id]
        assert warm.status(run) is dg.DagsterRunStatus.FAILURE


def test_runs_of_a_killed_service_are_given_up_after_a_while(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """After an outage of the database every service looks silent, so one look is not enough."""
    warm = start()
    run = warm.launch("207", size=6000)
    stop(warm.server)
    client = WarmClient(eviction_seconds=1)
    with warm.platform.database.begin() as connection:
        connection.execute(text("UPDATE ls4.warm_server SET seen_at = now() - interval '11 s'"))
    assert client.check_health(run.run_id).status is WorkerStatus.RUNNING
    wait_until(lambda: client.check_health(run.run_id).status is WorkerStatus.FAILED, seconds=5)
    assert servers(warm.platform.database) == 0


def test_service_that_was_given_up_ends_its_runs(start: Start) -> None:
    """Its runs were resumed elsewhere while it still executed them."""
    warm = start()
    run = warm.launch("208", size=6000)
    wait_until(lambda: warm.status(run) is dg.DagsterRunStatus.STARTED)
    children = warm.server.children(recursive=True)
    with warm.platform.database.begin() as connection:
        connection.execute(text("DELETE FROM ls4.warm_server"))
    assert warm.server.wait(30) == 1
    wait_until(lambda: not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in children), 30)
    assert warm.status(run) is dg.DagsterRunStatus.STARTED


def test_stopped_service_finishes_its_runs_and_accepts_no_more(start: Start, cold: list[str]) -> None:
    warm = start()
    run = warm.launch("209", size=3000)
    with paused_run(warm):
        warm.server.send_signal(signal.SIGTERM)
        wait_until(lambda: warm.platform.rows("SELECT 1 AS x FROM ls4.warm_server WHERE is_stopping") != [])
        second = warm.launch("210")
        assert cold == [second.run_id]
    assert warm.server.wait(60) == 0
    assert warm.status(run) is dg.DagsterRunStatus.SUCCESS
    assert servers(warm.platform.database) == 0


def test_stopped_service_interrupts_a_run_that_takes_too_long(start: Start) -> None:
    warm = start(drain_seconds=0)
    run = warm.launch("211", size=6000)
    wait_until(lambda: warm.status(run) is dg.DagsterRunStatus.STARTED)
    warm.server.send_signal(signal.SIGTERM)
    assert warm.server.wait(60) == 0
    # Where runs are resumed (deploy/dagster.yaml), it is still STARTED and lost.
    assert warm.status(run) in ENDS
    assert warm.launcher.check_run_worker_health(run).status is WorkerStatus.FAILED


def test_service_survives_an_outage_of_the_database(start: Start) -> None:
    warm = start()
    run = warm.launch("212", size=3000)
    with warm.platform.database.begin() as connection:
        others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE '%warm_%' AND pid <> pg_backend_pid()"
        connection.execute(text(others))
    assert warm.wait_for_end(run) is dg.DagsterRunStatus.SUCCESS
    second = warm.launch("213")
    assert warm.wait_for_end(second) is dg.DagsterRunStatus.SUCCESS
    assert STARTED in warm.messages(second)
