"""The platform that the drop benchmark measures: `ls4 demo` without its sample data, in a state directory of its own."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import dagster as dg
import psutil
from sqlalchemy import func, or_, select

from benchmarks.drop_pixels import Maps, Photograph
from ls4_assets.db.schema import PENDING_STATES, SourceState, source
from ls4_assets.db.tile_index import served_root
from ls4_assets.local.state import StateDirectory
from ls4_assets.publishing.exports import format_version
from ls4_assets.publishing.maps import map_format
from ls4_assets.publishing.rebuilds import pending_rebuilds
from ls4_assets.runtime.dagster_names import UNFINISHED_STATUSES
from ls4_assets.runtime.instance import open_instance
from resources.archive import Archive

_IS_RUNNING = "What to do next:"
_START_SECONDS = 180.0
_STOP_SECONDS = 120.0
# Nothing that is measured takes this long, except on a machine that is too busy to measure anything.
_PATIENCE_SECONDS = 900.0
LogLine = dict[str, Any]


@dataclass(frozen=True)
class RunningDemo:
    """`process`: `ls4 demo`, the parent of all services. `instance` and `archive`: its Dagster instance and databases."""

    state: StateDirectory
    process: psutil.Process
    maps: Maps
    instance: dg.DagsterInstance
    archive: Archive

    def drop(self, photographs: list[Photograph], seed: int) -> float:
        """Write photographs beside the archive, rename them into it, and return the time of the first rename."""
        targets = [self.state.archive / item.key for item in photographs]
        written = [
            item.write(self.state.home / "to_drop" / Path(item.key).name, seed + number)
            for number, item in enumerate(photographs)
        ]
        for path, target in zip(written, targets, strict=True):
            target.parent.mkdir(parents=True, exist_ok=True)
            # As in an archive, the raw scan is there first; without it the frame would have a failed check.
            scan = target.parent.with_name("scanned") / target.name
            scan.parent.mkdir(exist_ok=True)
            shutil.copyfile(path, scan)
        # No program renames a file within the same clock tick of the file system (4 ms) in which it wrote it.
        time.sleep(0.05)
        started = time.time()
        for path, target in zip(written, targets, strict=True):
            path.replace(target)
        return started

    def delete(self, photograph: Photograph) -> float:
        """Delete a photograph from the archive, and return the time."""
        started = time.time()
        (self.state.archive / photograph.key).unlink()
        return started

    def log_lines(self, since: float) -> list[LogLine]:
        """The events that the platform logged after the time `since`; `time` is in seconds since 1970."""
        lines = []
        for text in (self.state.logs / "ls4.jsonl").read_text().splitlines():
            line = json.loads(text)
            line["time"] = datetime.fromisoformat(line["time"]).timestamp()
            if line["time"] >= since:
                lines.append(line)
        return lines

    def wait_until_quiet(self) -> None:
        """Wait until nothing is left to do: no pending or missing tif, no run, no collection whose map or exports are behind."""
        wait_until(self._is_quiet, "The platform did not become quiet", poll_seconds=0.5)

    def _is_quiet(self) -> bool:
        is_missing = source.c.missing_since.is_not(None) & (source.c.state != SourceState.DELETED)
        with self.archive.database.connect() as connection:
            pending = select(func.count()).select_from(source).where(or_(source.c.state.in_(PENDING_STATES), is_missing))
            if connection.scalar(pending):
                return False
        settings, root = self.archive.settings, served_root(self.archive.storage)
        formats = format_version(settings), map_format(settings)
        if pending_rebuilds(self.archive.database, settings.public_url, root, *formats):
            return False
        return self.instance.get_runs_count(dg.RunsFilter(statuses=UNFINISHED_STATUSES)) == 0


def wait_until(condition: Callable[[], bool], failure: str, poll_seconds: float) -> float:
    """The time at which a condition was first true. Ends the benchmark when it never is."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit(f"{failure} within {_PATIENCE_SECONDS:.0f} s; start the benchmark again on a quiet machine.")
        time.sleep(poll_seconds)
    return time.time()


@contextmanager
def running_demo() -> Iterator[RunningDemo]:
    """Start `ls4 demo` with an empty archive; stop it and remove its files at the end."""
    with ExitStack() as stack:
        # Directly under the temporary folder, which the OS users of the services can enter.
        home = Path(tempfile.mkdtemp(prefix="ls4-drop-"))
        home.chmod(0o755)
        stack.callback(shutil.rmtree, home, ignore_errors=True)
        state = StateDirectory(home)
        # The demonstration drops its sample data unless this file lists what an earlier start dropped.
        (home / "sample_data.json").write_text("[]")
        process = stack.enter_context(_demo_process(state))
        os.environ.update(state.load_environment())
        archive = Archive()
        maps = Maps(archive.settings.map_url)
        stack.callback(maps.close)
        stack.callback(archive.database.dispose)
        instance = stack.enter_context(open_instance())
        yield RunningDemo(state, process, maps, instance, archive)


@contextmanager
def _demo_process(state: StateDirectory) -> Iterator[psutil.Process]:
    for name in [name for name in os.environ if name.startswith(("LS4_", "DAGSTER_", "PYTHONDONTWRITEBYTECODE"))]:
        del os.environ[name]
    output = state.home / "demo.txt"
    with output.open("wb") as file:
        command = [str(Path(sys.executable).parent / "ls4"), "demo"]
        environment = os.environ | {"LS4_STATE": str(state.home)}
        # In a session of its own, Ctrl-C reaches only the benchmark, which stops the demonstration at its end.
        process = psutil.Popen(command, env=environment, stdout=file, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        deadline = time.monotonic() + _START_SECONDS
        while _IS_RUNNING not in output.read_text():
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"`ls4 demo` did not start; fix the error and start the benchmark again:\n{output.read_text()}")
            time.sleep(0.2)
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(_STOP_SECONDS)
