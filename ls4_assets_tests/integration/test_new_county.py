"""A first frame in a county: its assets come with a reload of the code server, which the platform starts itself."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from dagster import DagsterInstance
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import GrpcServerTarget

from ls4_assets.definitions import build_definitions
from ls4_assets.local.child import ChildError, call_in_child
from ls4_assets.local.postgres import Cluster
from ls4_assets.local.state import find_free_port
from ls4_assets.runtime import reloading
from ls4_assets_tests.integration.test_run_server import wait_until
from ls4_assets_tests.platform import CHECKOUT, Platform, running_platform
from ls4_assets_tests.rasters import photograph, write_tif

KEY = "bw/{county}/USDA_1958/frames/georef/02-08-60_6-201.tif"


@pytest.fixture(scope="module")
def platform(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    with running_platform(cluster, tmp_path_factory.mktemp("county")) as running:
        yield running


class Daemon:
    """What Dagster's daemon and webserver know of a code server, and the ticks that they request from it."""

    def __init__(self, context: WorkspaceProcessContext, instance: DagsterInstance) -> None:
        self._context, self._instance = context, instance

    def groups(self) -> set[str]:
        (entry,) = self._context.create_request_context().get_code_location_entries().values()
        assert entry.code_location is not None, entry.load_error
        (repository,) = entry.code_location.get_repositories().values()
        return {node.group_name or "" for node in repository.get_asset_node_snaps()}

    def tick(self) -> list[list[str]]:
        """The first parts of the asset keys of each run that a tick of the sensor requests."""
        (entry,) = self._context.create_request_context().get_code_location_entries().values()
        assert entry.code_location is not None
        (repository,) = entry.code_location.get_repositories().values()
        data = entry.code_location.get_sensor_execution_data(
            self._instance, repository.handle, "ingest_poll", None, None, None, None, None
        )
        return [sorted({key.path[0] for key in request.asset_selection or []}) for request in data.run_requests or []]


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def daemon(platform: Platform) -> Iterator[Daemon]:
    port = find_free_port()
    settings = {f"LS4_{name.upper()}": value for name, value in platform.archive.overrides.items()}
    options = ["--module-name", "ls4_assets.definitions", "--location-name", "ls4", "--host", "127.0.0.1", "--port", str(port)]
    command = [sys.executable, "-m", "ls4_assets.runtime.code_server", *options]
    environment = {"PATH": os.defpath, "DAGSTER_HOME": platform.instance.root_directory} | settings
    server = subprocess.Popen(command, env=environment, cwd=CHECKOUT)
    try:
        wait_until(lambda: listens(port), 60)
        target = GrpcServerTarget(host="127.0.0.1", port=port, socket=None, location_name="ls4")
        with WorkspaceProcessContext(platform.instance, target) as context:
            yield Daemon(context, platform.instance)
    finally:
        server.kill()
        server.wait()


def test_first_frame_of_a_county_brings_its_assets(platform: Platform, daemon: Daemon, tmp_path: Path) -> None:
    """266 empty counties looked healthy in the Dagster UI, and an unused county cost memory and time in every process."""
    assert daemon.groups() == {"archive", "collections"}
    for county in ("Travis", "Bastrop"):
        platform.drop(KEY.format(county=county), write_tif(tmp_path / "drop.tif", photograph(64, 64)))
        started, requested = time.monotonic(), list[list[str]]()
        while not requested:
            requested = daemon.tick()
            # A request for an asset that the daemon does not know yet fails the whole tick.
            assert all({*groups} <= daemon.groups() for groups in requested)
            assert time.monotonic() - started < 90
        assert requested == [[county]]
    assert daemon.groups() == {"archive", "collections", "Travis", "Bastrop"}


def test_definitions_stay_when_they_cannot_be_loaded_again(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not reloading.request_reload(), "this process serves no definitions"
    requests: list[bool] = []
    monkeypatch.setattr(reloading, "_reload", lambda: requests.append(True))
    definitions = build_definitions({"Bastrop": "county"}, platform.archive, 5)
    Platform(platform.archive, platform.instance, definitions).tick("ingest_poll")
    assert requests == [True], "frames of Travis wait"


class _CopyError(Exception):
    def __init__(self, first: str, second: str) -> None:
        super().__init__(first + second)


def raise_what_cannot_be_copied() -> None:
    raise _CopyError("a", "b")


def test_child_returns_raises_and_dies() -> None:
    assert call_in_child("os.path:join", "a", "b") == "a/b"
    with pytest.raises(FileNotFoundError):
        call_in_child("os:listdir", "/does/not/exist")
    with pytest.raises(ChildError, match="_CopyError: ab; fix it and start again"):
        call_in_child("ls4_assets_tests.integration.test_new_county:raise_what_cannot_be_copied")
    with pytest.raises(ChildError, match="os:_exit ended with status 3; start again"):
        call_in_child("os:_exit", 3)
