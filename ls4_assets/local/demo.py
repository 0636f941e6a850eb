"""``ls4 demo``: the whole platform on one machine, from a scan dropped into a folder to the map.

Belongs here: the sequence of the demonstration and what it prints. The services are in ``services.py``, the sample data in
``sample_data.py``. The demonstration checks what a visitor of the map sees: it requests a picture of each sample collection from
the web front end, and the picture must show imagery.
"""

import contextlib
import os
import signal
import sys
import time
import webbrowser
from collections.abc import Iterator
from types import FrameType

import click

from ls4_assets.local.child import call_in_child
from ls4_assets.local.services import PREPARATION, ServiceUrls, start_services
from ls4_assets.local.state import CHECKOUT, StateDirectory, choose_state_directory, explain_state_access
from ls4_assets.local.supervisor import ServiceSupervisor
from ls4_assets.runtime.request_guard import READ_ONLY_PATH


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
            is_first_start = call_in_child(f"{PREPARATION}:drop_sample_data", state, while_waiting=supervisor.poll)
            is_on_map = call_in_child(f"{PREPARATION}:wait_for_map", urls, is_first_start, while_waiting=supervisor.poll)
            sample = call_in_child(f"{PREPARATION}:first_sample")
            _echo("Every sample collection is on the map." if is_on_map else "The sample data did not reach the map.")
            if once:
                return 0 if is_on_map else 1
            _print_next_steps(state, urls, sample)
            _open_browser(urls)
            while True:
                supervisor.poll()
                time.sleep(1)
        except KeyboardInterrupt:
            return 1 if once else 0
        finally:
            _echo("Stopping all services.")


def _print_addresses(state: StateDirectory, urls: ServiceUrls) -> None:
    _echo("")
    _echo(f"  Map page    {urls.maps}/")
    _echo(f"  Dagster UI  {urls.dagster_ui}")
    _echo(f"  Read-only   {urls.dagster_ui}{READ_ONLY_PATH}")
    _echo(f"  Archive     {state.archive}")
    _echo("")


def _print_next_steps(state: StateDirectory, urls: ServiceUrls, sample: str) -> None:
    _echo("")
    _echo("What to do next:")
    _echo(f"  See the maps          {urls.maps}/")
    _echo(f"  Use them in QGIS      {urls.wms(sample)} (WMS)")
    _echo(f"  Watch the pipeline    {urls.dagster_ui}/locations/ls4/asset-groups/Travis/lineage")
    _echo("  Add your own scans    .venv/bin/ls4 ingest FOLDER --collection bw/Travis/USDA_1958/frames")
    _echo(f"                        or copy them to {state.archive}/bw/Travis/USDA_1958/frames/georef/")
    _echo("  Check the status      .venv/bin/ls4 status")
    _echo(f"  Monitor it            {urls.maps}/metrics (Prometheus)")
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
