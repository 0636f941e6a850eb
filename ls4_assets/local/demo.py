"""``ls4 demo``: the whole platform on one machine, from a scan dropped into a folder to the map.

Belongs here: the sequence of the demonstration and what it prints. The services are in ``services.py``, the sample data in
``sample_data.py``. The demonstration checks what a visitor of the map sees: it requests a picture of each sample collection from
the web front end, and the picture must show imagery.
"""

import contextlib
import json
import os
import shutil
import signal
import sys
import time
import webbrowser
from collections.abc import Iterable, Iterator
from types import FrameType

import click
from sqlalchemy.exc import OperationalError

from ls4_assets.local.map_check import get_map, shows_imagery
from ls4_assets.local.sample_data import sample_views, write_sample_data
from ls4_assets.local.services import ServiceUrls, start_services
from ls4_assets.local.state import CHECKOUT, StateDirectory, choose_state_directory, explain_state_access
from ls4_assets.local.supervisor import ServiceSupervisor
from ls4_assets.operations.status import Status, collect
from ls4_assets.settings import load_settings

STALL_SECONDS = 300  # without any progress, after which the demonstration fails


def run_demo(once: bool, port: int | None = None) -> int:
    """Start all services, drop the sample data, and run until Ctrl-C, or with ``once`` until the sample data is on the map.

    Returns 0, or 1 when the sample data does not reach the map. All services are stopped at the end. Raises Ls4Error, with the
    fix in its message, when something prevents the start.
    """
    state, note = choose_state_directory(CHECKOUT)
    if note:
        _echo(note)
    os.umask(0o022)  # the map server reads as another user
    with explain_state_access(state.home):
        state.create()
        return _run_services(state, once, port)


def _run_services(state: StateDirectory, once: bool, port: int | None) -> int:
    with (
        state.lock(),
        _interrupted_by_signals(),
        ServiceSupervisor(state.logs, state.home / "processes.json", _echo) as supervisor,
    ):
        try:
            _echo(f"Starting PostgreSQL, MapServer and Dagster. Logs: {state.logs}")
            urls = start_services(state, supervisor, port)
            _print_addresses(state, urls)
            is_first_start = _drop_sample_data(state)
            is_on_map = _wait_for_map(supervisor, urls, is_first_start)
            _echo("Every sample collection is on the map." if is_on_map else "The sample data did not reach the map.")
            if once:
                return 0 if is_on_map else 1
            _print_next_steps(state, urls)
            _open_browser(urls)
            while True:
                supervisor.poll()
                time.sleep(1)
        except KeyboardInterrupt:
            return 1 if once else 0
        finally:
            _echo("Stopping all services.")


def _drop_sample_data(state: StateDirectory) -> bool:
    """Copy the sample data into the archive at the first start; returns whether this is the first start.

    Later starts leave the archive alone, so sample files that the operator deleted stay deleted.
    """
    record = state.home / "sample_data.json"
    if record.exists():
        _echo("The sample data was dropped by an earlier start; the archive is used as it is.")
        return False
    _echo("Creating sample data: 15 photographs, an index sheet and a mosaic.")
    folder = state.home / "sample_data"
    keys = []
    for key, path in write_sample_data(folder):
        target = state.archive / key
        target.parent.mkdir(parents=True, exist_ok=True)
        path.replace(target)  # on the same file system: no reader sees a partial file
        keys.append(key)
    shutil.rmtree(folder)
    record.write_text(json.dumps(keys, indent=1))
    _echo(f"Dropped {len(keys)} files into the archive. Processing takes a few minutes:")
    return True


def _wait_for_map(supervisor: ServiceSupervisor, urls: ServiceUrls, is_first_start: bool) -> bool:
    """Print the progress until every sample collection is on the map; returns False after STALL_SECONDS without progress.

    After the first start, collections whose frames the operator has deleted are skipped.
    """
    settings = load_settings()
    missing = sample_views()
    printed: set[str] = set()
    last_progress = time.monotonic()
    while missing:
        supervisor.poll()
        try:
            status = collect(settings)
        except OperationalError:
            time.sleep(1)  # PostgreSQL is restarting
            continue
        new_lines = [line for line in _progress(status) if line not in printed]
        for name in [] if is_first_start else _withdrawn(status, missing):
            new_lines.append(f"  {name}: skipped, its sample frames were deleted")
            del missing[name]
        for name in sorted(missing.keys() & _complete(status)):
            if shows_imagery(get_map(urls.wms(name), name, missing[name])):
                new_lines.append(f"  {name}: on the map")
                del missing[name]
        for line in new_lines:
            _echo(line)
        printed.update(new_lines)
        if new_lines:
            last_progress = time.monotonic()
        elif time.monotonic() - last_progress > STALL_SECONDS:
            _echo(f"No progress for {STALL_SECONDS} seconds. Not on the map: {', '.join(missing)}.")
            _echo(f"Check the failed runs in the Dagster UI, {urls.dagster_ui}, and the logs.")
            return False
        time.sleep(1)
    return True


def _complete(status: Status) -> set[str]:
    """The collections without waiting frames whose processed frames are all indexed; failed frames do not hold up the rest."""
    return {
        collection.name
        for collection in status.collections
        if collection.indexed and not collection.waiting and collection.indexed >= collection.done
    }


def _withdrawn(status: Status, names: Iterable[str]) -> list[str]:
    present = {collection.name for collection in status.collections if collection.dropped}
    return [name for name in names if name not in present]


def _progress(status: Status) -> Iterator[str]:
    for collection in status.collections:
        counts = f"{collection.done} of {collection.dropped} processed, {collection.indexed} in the tile index"
        yield f"  {collection.name}: {counts}"
        yield from (f"    failed: {reason}" for reason in collection.failed.values())
    yield from (f"  rejected: {reason}" for reason in status.rejected.values())


def _print_addresses(state: StateDirectory, urls: ServiceUrls) -> None:
    _echo("")
    _echo(f"  Map page    {urls.maps}/")
    _echo(f"  Dagster UI  {urls.dagster_ui}")
    _echo(f"  Archive     {state.archive}")
    _echo("")


def _print_next_steps(state: StateDirectory, urls: ServiceUrls) -> None:
    _echo("")
    _echo("What to do next:")
    _echo(f"  See the maps          {urls.maps}/")
    _echo(f"  Use them in QGIS      {urls.wms(next(iter(sample_views())))} (WMS)")
    _echo(f"  Watch the pipeline    {urls.dagster_ui}/locations/ls4/asset-groups/Travis/lineage")
    _echo("  Add your own scans    .venv/bin/ls4 ingest FOLDER --collection bw/Travis/USDA_1958/frames")
    _echo(f"                        or copy them to {state.archive}/bw/Travis/USDA_1958/frames/georef/")
    _echo("  Check the status      .venv/bin/ls4 status")
    _echo(f"  List rejected files   {urls.maps}/staff")
    _echo("  Stop                  Ctrl-C")
    _echo("")


def _open_browser(urls: ServiceUrls) -> None:
    """Open the map page if the machine has a display; a failure is not an error."""
    if os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"):
        with contextlib.suppress(webbrowser.Error, OSError):
            webbrowser.open(urls.maps)


@contextlib.contextmanager
def _interrupted_by_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP raise KeyboardInterrupt, as Ctrl-C does; a second signal is ignored."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def interrupt(number: int, frame: FrameType | None) -> None:
        for each in numbers:
            signal.signal(each, signal.SIG_IGN)
        raise KeyboardInterrupt

    previous = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _echo(line: str) -> None:
    click.echo(line)
    sys.stdout.flush()  # so that a pipe or a log shows the progress immediately
