"""`ls4 demo --once` with the real daemon, web server, run queue and map server, twice."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


@pytest.fixture
def state() -> Iterator[Path]:
    # directly under the temporary directory: the users of the services cannot enter pytest's own folders
    folder = Path(tempfile.mkdtemp(prefix="ls4-demo-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def run_demo(state: Path) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).parent / "ls4"), "demo", "--once"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LS4_")}
    environment["LS4_STATE"] = str(state)
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def remaining_processes(state: Path) -> list[psutil.Process]:
    return [process for process in psutil.process_iter(["cmdline"]) if str(state) in " ".join(process.info["cmdline"] or [])]


def test_sample_data_reaches_the_map_and_second_start_keeps_it(state: Path) -> None:
    first = run_demo(state)
    assert first.returncode == 0, first.stdout + first.stderr
    assert "Every sample collection is on the map." in first.stdout
    assert remaining_processes(state) == []
    cogs = {path: path.stat().st_mtime_ns for path in (state / "archive").rglob("cog/*.tif")}
    assert len(cogs) == 17
    second = run_demo(state)
    assert second.returncode == 0, second.stdout + second.stderr
    assert "dropped by an earlier start" in second.stdout
    assert {path: path.stat().st_mtime_ns for path in cogs} == cogs
