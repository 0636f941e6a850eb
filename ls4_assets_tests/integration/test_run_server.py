"""Runs start as forks of a warm process, and end, fail and are interrupted as runs in a process of their own do."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import psutil
import pytest
from dagster._core.code_pointer import CodePointer
from dagster._core.launcher.base import LaunchRunContext, WorkerStatus
from dagster._core.origin import JobPythonOrigin, RepositoryPythonOrigin
from dagster._core.remote_origin import GrpcServerCodeLocationOrigin, RemoteJobOrigin, RemoteRepositoryOrigin
from dagster._core.storage.tags import GRPC_INFO_TAG

from ls4_assets.local.postgres import Cluster
from ls4_assets.runtime import run_client
from ls4_assets.runtime.local_launcher import LocalRunLauncher
from ls4_assets.runtime.lost_runs import fail_lost_runs
from ls4_assets_tests.platform import CHECKOUT, Platform, running_platform
from ls4_assets_tests.rasters import photograph, write_tif

KEY = "bw/Travis/USDA_1958/frames/georef/02-08-60_6-{number}.tif"
ORIGIN = JobPythonOrigin(
    "__ASSET_JOB", RepositoryPythonOrigin(sys.executable, CodePointer.from_module("ls4_assets.definitions", "defs", None))
)
# As Dagster copies them to the retry of a run that the code server executed.
COPIED_TAGS = {GRPC_INFO_TAG: '{"host": "127.0.0.1", "port": 1}'}
REMOTE_ORIGIN = RemoteJobOrigin(RemoteRepositoryOrigin(GrpcServerCodeLocationOrigin("127.0.0.1", 1), "defs"), "__ASSET_JOB")


@dataclass
class Warm:
    """A platform, its run server and the launcher that uses it."""

    platform: Platform
    launcher: LocalRunLauncher
    server: psutil.Popen
    socket: Path

    def launch(self, name: str, *, size: int = 300, **tags: str) -> dg.DagsterRun:
        """Drop a photograph and launch the run that the sensor requests, with more tags."""
        self.platform.drop(KEY.format(number=name), write_tif(self.socket.parent / "drop.tif", photograph(size, size)))
        requests: list[dg.RunRequest] = []
        while not requests:
            result = self.platform.tick("ingest_poll")
            requests = list(result.run_requests or []) if isinstance(result, dg.SensorResult) else []
        (request,) = requests
        selection = frozenset(request.asset_selection or [])
        job = self.platform.definitions.resolve_implicit_global_asset_job_def()
        run = self.platform.instance.create_run_for_job(
            job.get_subset(asset_selection=set(selection)),
            run_config=request.run_config,
            tags={**request.tags, **tags, "dagster/partition": request.partition_key or ""},
            asset_selection=selection,
            job_code_origin=ORIGIN,
            remote_job_origin=REMOTE_ORIGIN,
            status=dg.DagsterRunStatus.STARTING,
        )
        self.launcher.launch_run(LaunchRunContext(run, None))
        return run

    def status(self, run: dg.DagsterRun) -> dg.DagsterRunStatus:
        current = self.platform.instance.get_run_by_id(run.run_id)
        assert current is not None
        return current.status

    def wait_for_end(self, run: dg.DagsterRun) -> dg.DagsterRunStatus:
        wait_until(lambda: self.status(run) in ENDS)
        return self.status(run)

    def log_lines(self) -> list[dict[str, Any]]:
        """What the server and its runs logged."""
        return [json.loads(line) for line in (self.socket.parent / "ls4.jsonl").read_text().splitlines()]

    def messages(self, run: dg.DagsterRun) -> list[str]:
        events = (entry.dagster_event for entry in self.platform.instance.all_logs(run.run_id))
        return [event.message or "" for event in events if event]


ENDS = (dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED)


def wait_until(condition: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def platform(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    with running_platform(cluster, tmp_path_factory.mktemp("warm")) as running:
        yield running


@pytest.fixture
def warm(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> Iterator[Warm]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ls4-warm-")))
        settings = {f"LS4_{name.upper()}": value for name, value in platform.archive.overrides.items()}
        settings |= {"PATH": os.defpath, "OPENBLAS_NUM_THREADS": "1", "DAGSTER_HOME": platform.instance.root_directory}
        socket = folder / "run-server.sock"
        settings["LS4_LOG_FILE"] = str(folder / "ls4.jsonl")
        command = [sys.executable, "-m", "ls4_assets.runtime.run_server", str(socket)]
        server = psutil.Popen(command, env=settings, cwd=CHECKOUT)
        stack.callback(stop, server)
        wait_until(lambda: server.is_running() and run_client.is_running(socket))
        monkeypatch.setenv(run_client.SOCKET_VARIABLE, str(socket))
        launcher = LocalRunLauncher()
        launcher.register_instance(platform.instance)
        yield Warm(platform, launcher, server, socket)


def stop(server: psutil.Popen) -> None:
    children = server.children(recursive=True) if server.is_running() else []
    for process in (server, *children):
        with suppress(psutil.NoSuchProcess):
            process.kill()
    server.wait()


def test_run_and_its_workers_are_forks_of_the_server(warm: Warm) -> None:
    """A run spent three CPU seconds on imports, and its pool another second, before the first pixel."""
    run = warm.launch("101", size=3000)
    commands: set[str] = set()

    def is_finished() -> bool:
        for child in warm.server.children(recursive=True):
            try:
                commands.add(" ".join(child.cmdline()))
            except psutil.Error:
                continue
        return warm.status(run) in ENDS

    wait_until(is_finished)
    assert warm.status(run) is dg.DagsterRunStatus.SUCCESS
    assert warm.platform.state(KEY.format(number="101")) == ("done", None)
    assert any("The run server forked process" in message for message in warm.messages(run))
    imported_again = [command for command in commands if "multiprocessing.forkserver" in command or "dagster api" in command]
    assert not imported_again
    wait_until(lambda: not [child for child in warm.server.children() if child.status() == psutil.STATUS_ZOMBIE])

    def ends() -> list[dict[str, Any]]:
        return [line for line in warm.log_lines() if line["event"] == "run_process_ended" and line["run_id"] == run.run_id]

    wait_until(lambda: bool(ends()))
    (ended,) = ends()
    assert ended["exit_code"] == 0
    assert 0 < ended["cpu_seconds"] < 60


def test_run_of_the_last_frame_queues_the_rebuild_of_its_collection(warm: Warm) -> None:
    """A finished photograph waited for the next tick of the sensor before its collection was rebuilt."""
    run = warm.launch("300")
    assert warm.wait_for_end(run) == dg.DagsterRunStatus.SUCCESS, warm.messages(run)
    (rebuild,) = warm.platform.instance.get_runs(dg.RunsFilter(tags={"ls4/collection": "Travis_USDA_1958_frames"}))
    assert (rebuild.status, rebuild.tags["dagster/partition"]) == (dg.DagsterRunStatus.QUEUED, "USDA_1958/frames")
    assert rebuild.asset_selection == {
        dg.AssetKey(["Travis", name]) for name in ("tile_index", "overview_mosaic", "mapfile", "exports")
    }
    assert (rebuild.remote_job_origin, rebuild.job_code_origin) == (REMOTE_ORIGIN, ORIGIN)
    assert warm.platform.rebuild() == [], "requested twice"
    warm.platform.instance.report_run_canceled(rebuild)
    warm.platform.skip_waits()
    assert [lost.success for lost in warm.platform.rebuild()] == [True], "a lost rebuild must be requested again"


@pytest.mark.parametrize("tags", [{}, COPIED_TAGS])
def test_interrupted_run_is_canceled(warm: Warm, tags: dict[str, str]) -> None:
    """Retries have the tags of their parent: one of a run that had started cold could not be terminated."""
    run = warm.launch("102" if tags else "103", size=6000, **tags)
    wait_until(lambda: warm.status(run) is dg.DagsterRunStatus.STARTED)
    assert warm.launcher.terminate(run.run_id)
    assert warm.wait_for_end(run) is dg.DagsterRunStatus.CANCELED
    wait_until(lambda: len(warm.server.children(recursive=True)) <= 1)


def test_run_whose_server_was_killed_can_be_interrupted(warm: Warm) -> None:
    """The server that follows does not know it: it counted as canceled while it was working."""
    run = warm.launch("104", size=6000)
    wait_until(lambda: warm.status(run) is dg.DagsterRunStatus.STARTED)
    warm.server.kill()
    assert warm.launcher.terminate(run.run_id)
    assert warm.wait_for_end(run) is dg.DagsterRunStatus.CANCELED


def test_killed_run_is_noticed_while_it_starts(warm: Warm, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run killed in the state Starting blocked its collection for five minutes."""
    run = warm.launch("103", size=3000)
    assert warm.launcher.check_run_worker_health(run).status is WorkerStatus.RUNNING
    (process,) = [child for child in warm.server.children() if "resource_tracker" not in " ".join(child.cmdline())]
    process.kill()
    wait_until(lambda: warm.launcher.check_run_worker_health(run).status is WorkerStatus.FAILED)
    monkeypatch.setattr(type(warm.platform.instance), "run_launcher", warm.launcher)
    assert fail_lost_runs(warm.platform.instance) == [run.run_id]
    assert warm.status(run) is dg.DagsterRunStatus.FAILURE
    assert fail_lost_runs(warm.platform.instance) == []
    # It looked like a run that cannot start, after which no photograph of the archive is taken for two minutes.
    assert warm.wait_for_end(warm.launch("108")) is dg.DagsterRunStatus.SUCCESS
    assert warm.platform.rows(f"SELECT attempts FROM ls4.source WHERE key = '{KEY.format(number='103')}'") == [{"attempts": 1}]


def test_run_finishes_without_its_server_and_the_next_starts_cold(warm: Warm, monkeypatch: pytest.MonkeyPatch) -> None:
    run = warm.launch("104", size=3000)
    warm.server.send_signal(signal.SIGKILL)
    warm.server.wait()
    assert warm.wait_for_end(run) is dg.DagsterRunStatus.SUCCESS
    cold: list[str] = []
    monkeypatch.setattr(dg.DefaultRunLauncher, "launch_run", lambda launcher, context: cold.append(context.dagster_run.run_id))
    second = warm.launch("105")
    assert cold == [second.run_id]
    assert any("cannot be reached" in message and "takes longer" in message for message in warm.messages(second))


def test_changed_code_is_loaded_before_the_next_run(warm: Warm) -> None:
    source = CHECKOUT / "ls4_assets" / "errors.py"
    before = source.stat()
    try:
        os.utime(source, (before.st_atime, time.time() + 5))
        run = warm.launch("106")
        assert "--fd=" in " ".join(warm.server.cmdline())
        assert warm.wait_for_end(run) is dg.DagsterRunStatus.SUCCESS
    finally:
        os.utime(source, (before.st_atime, before.st_mtime))


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("", "[]"),
        (
            "import threading, time; threading.Thread(target=threading.Event().wait, daemon=True, name='leak').start()",
            "['thread leak']",
        ),
        (
            "import socket; s = socket.create_server(('127.0.0.1', 0)); c = socket.create_connection(s.getsockname())",
            "connection to",
        ),
    ],
    ids=["nothing", "thread", "connection"],
)
def test_what_does_not_survive_a_fork_is_found(code: str, found: str) -> None:
    """A lock that a thread held at the fork stayed locked in the run for ever."""
    script = f"{code}\nfrom ls4_assets.runtime.run_server import find_open_resources\nprint(find_open_resources())"
    environment = {"PATH": os.defpath, "OPENBLAS_NUM_THREADS": "1"}
    output = subprocess.run(
        [sys.executable, "-c", script], env=environment, cwd=CHECKOUT, capture_output=True, text=True, check=True
    )
    assert found in output.stdout
