"""`ls4 demo --once` with the real daemon, web server, run queue and map server: from the survey to the pictures, and again."""

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
    # straight under the temporary directory: pytest's own folders are closed to the users that serve
    folder = Path(tempfile.mkdtemp(prefix="ls4-demo-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def demo(state: Path) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).parent / "ls4"), "demo", "--once"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LS4_")}
    environment["LS4_STATE"] = str(state)
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def left_over(state: Path) -> list[psutil.Process]:
    return [process for process in psutil.process_iter(["cmdline"]) if str(state) in " ".join(process.info["cmdline"] or [])]


def test_the_survey_comes_onto_the_map_and_a_second_start_resumes(state: Path) -> None:
    first = demo(state)
    assert first.returncode == 0, first.stdout + first.stderr
    assert "Every sample collection is on the map." in first.stdout
    assert left_over(state) == []
    cogs = {path: path.stat().st_mtime_ns for path in (state / "archive").rglob("cog/*.tif")}
    assert len(cogs) == 17
    second = demo(state)
    assert second.returncode == 0, second.stdout + second.stderr
    assert "dropped by an earlier start" in second.stdout
    assert {path: path.stat().st_mtime_ns for path in cogs} == cogs
