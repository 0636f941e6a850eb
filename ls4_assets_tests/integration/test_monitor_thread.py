"""The monitor in the process of the Dagster webserver, while PostgreSQL stops and starts, and nothing else runs."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from ls4_assets.local.services import returns_ok
from ls4_assets.local.state import find_free_port
from ls4_assets_tests.conftest import new_cluster
from ls4_assets_tests.platform import CHECKOUT, Platform, running_platform

pytestmark = pytest.mark.timeout(300)


@dataclass
class Webserver:
    process: subprocess.Popen[bytes]
    port: int
    folder: Path

    @property
    def is_up(self) -> bool:
        return returns_ok(f"http://127.0.0.1:{self.port}/server_info")

    @property
    def messages(self) -> str:
        file = self.folder / "messages.txt"
        return file.read_text() if file.exists() else ""

    @property
    def summary(self) -> str:
        file = self.folder / "health.json"
        return str(json.loads(file.read_text())["summary"]) if file.exists() else ""


@contextmanager
def running_webserver(platform: Platform, home: Path, folder: Path) -> Iterator[Webserver]:
    port = find_free_port()
    settings = {f"LS4_{name.upper()}": value for name, value in platform.archive.overrides.items()} | {
        "LS4_MONITOR_DIR": str(folder),
        "LS4_NOTIFY_FILE": str(folder / "messages.txt"),
        # Longer than Dagster tries to connect.
        "LS4_NOTIFY_GROUP_WAIT_SECONDS": "20",
        "LS4_DAGSTER_URL": f"http://127.0.0.1:{port}",
    }
    module = ("-m", "ls4_assets.operations.webserver", "--host", "127.0.0.1", "--port", str(port), "--empty-workspace")
    environment = {"PATH": os.defpath, "DAGSTER_HOME": str(home)} | settings
    with subprocess.Popen([sys.executable, *module], env=environment, cwd=CHECKOUT) as process:
        try:
            yield Webserver(process, port, folder)
        finally:
            process.terminate()


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.5)


def test_database_that_stops_is_reported_even_if_it_is_down_at_the_start(tmp_path: Path) -> None:
    """Without its database, the webserver exits when it starts, and would take the thread that reports it along."""
    folder = tmp_path / "monitor"
    with new_cluster() as cluster, running_platform(cluster, tmp_path) as platform:
        cluster.stop()
        with running_webserver(platform, tmp_path / "dagster", folder) as web:
            wait_for(lambda: "ls4: the platform has stopped: the database does not answer" in web.messages)
            assert web.summary.startswith("CRITICAL: the database does not answer")
            assert web.process.poll() is None and not web.is_up
            cluster.start()
            wait_for(lambda: web.is_up)
            wait_for(lambda: web.summary.startswith("CRITICAL: the daemon has not reported since its installation"))
            cluster.stop()
            wait_for(lambda: web.summary.startswith("CRITICAL: the database does not answer"))
            cluster.start()
            wait_for(lambda: web.summary.startswith("CRITICAL: the daemon has not reported"))
            assert web.process.poll() is None and web.is_up
