"""`ls4` as a user to whom the state directory, or a part of it, does not belong: one sentence with the fix, and no traceback."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ls4_assets_tests.platform import CHECKOUT

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")

NOBODY = 65534
# Imported before the user changes, who may not read root's Python.
COMMAND = """
import os, sys
from ls4_assets.cli.main import main
import ls4_assets.cli.configuration, ls4_assets.local.demo, ls4_assets.local.preparation
os.setgroups([]); os.setgid(65534); os.setuid(65534)
main(sys.argv[1:])
"""


@pytest.fixture
def state() -> Iterator[Path]:
    """Directly below the temporary directory, which other users can enter."""
    folder = Path(tempfile.mkdtemp(prefix="ls4-state-"))
    yield folder
    shutil.rmtree(folder)


def closed_folder(state: Path) -> None:
    state.chmod(0o700)


def readable_folder(state: Path) -> None:
    state.chmod(0o755)


def owned_folder_with(name: str) -> Callable[[Path], None]:
    """The folder belongs to the user, and a file in it to root."""

    def create(state: Path) -> None:
        os.chown(state, NOBODY, NOBODY)
        (state / name).touch(mode=0o600)

    return create


def folder_of_logs(state: Path) -> None:
    os.chown(state, NOBODY, NOBODY)
    (state / "logs").mkdir(mode=0o755)


def run_as_nobody(state: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "LS4_STATE": str(state), "PYTHONPATH": str(CHECKOUT)}
    command = [sys.executable, "-c", COMMAND, *arguments]
    return subprocess.run(command, env=environment, cwd="/", capture_output=True, text=True, check=False, timeout=120)


CASES = {
    "closed folder": (closed_folder, ""),
    "readable folder": (readable_folder, ""),
    "lock of another user": (owned_folder_with("lock"), "lock"),
    "ports of another user": (owned_folder_with("ports.json"), "ports.json"),
    "logs of another user": (folder_of_logs, "logs"),
}


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=[] if case == "closed folder" else pytest.mark.slow) for case in CASES]
)
def test_state_of_another_user_is_reported_with_the_fix(state: Path, case: str) -> None:
    """The start ended with a traceback of `PermissionError: [Errno 13]`."""
    create, name = CASES[case]
    create(state)
    demo = run_as_nobody(state, "demo", "--once")
    assert demo.returncode == 1, demo.stdout + demo.stderr
    (message,) = [line for line in demo.stderr.splitlines() if line.startswith("Error: ")]
    assert message.startswith(f"Error: {state / name}"), message
    assert f"`chown -R nobody {state}`" in message and message.endswith("name another folder in LS4_STATE.")
    assert "Traceback" not in demo.stderr
    # The advice helps: this user may use the folder now, and other commands find that nothing runs.
    for path in (state, *state.rglob("*")):
        os.chown(path, NOBODY, NOBODY)
    status = run_as_nobody(state, "status")
    assert "no demo was ever started with its state in" in status.stderr, status.stderr


def test_environment_of_another_user_is_reported_with_the_fix(state: Path) -> None:
    state.chmod(0o755)
    owned_folder_with("environment.json")(state)
    status = run_as_nobody(state, "status")
    assert status.returncode == 1
    assert status.stderr.startswith(f"Error: {state}/environment.json, which is part of the state of ls4, cannot be used by")
    assert len(status.stderr.splitlines()) == 1
