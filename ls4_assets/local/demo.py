"""``ls4 demo``: the whole platform on one machine, from the scan dropped into a folder to the map.

What is checked here is what a visitor of the map sees: the front is asked for a picture of each sample
collection, and the picture has to show ground.
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
from ls4_assets.local.sample_data import make_survey, sample_views
from ls4_assets.local.services import Addresses, start_services
from ls4_assets.local.state import CHECKOUT, State, choose_state
from ls4_assets.local.supervisor import Supervisor
from ls4_assets.operations.status import Status, collect
from ls4_assets.settings import load_settings

PATIENCE = 300  # seconds without any progress before the demonstration is called stuck


def run_demo(once: bool, port: int | None = None) -> int:
    """Start everything, drop the sample survey, and stay until Ctrl-C; ``once``: until it is on the map.

    Returns 0, or 1 when the survey does not come onto the map. Whatever was started is stopped. Raises
    Ls4Error for what the operator has to mend before anything can start.
    """
    state, note = choose_state(CHECKOUT)
    if note:
        _say(note)
    os.umask(0o022)  # the map server reads as another user
    state.make()
    with (
        state.lock(),
        _stopped_by_signals(),
        Supervisor(state.logs, state.home / "processes.json", _say) as services,
    ):
        try:
            _say(f"Starting PostgreSQL, MapServer and Dagster (logs in {state.logs}).")
            addresses = start_services(state, services, port)
            _print_addresses(state, addresses)
            fresh = _drop_survey(state)
            served = _await_map(services, addresses, fresh)
            _say("Every sample collection is on the map." if served else "The sample survey is not on the map.")
            if once:
                return 0 if served else 1
            _say_what_next(state, addresses)
            _open_browser(addresses)
            while True:
                services.poll()
                time.sleep(1)
        except KeyboardInterrupt:
            return 1 if once else 0
        finally:
            _say("Stopping.")


def _drop_survey(state: State) -> bool:
    """Put the sample survey into the archive, once: what the operator deletes of it later stays deleted (then False)."""
    record = state.home / "survey.json"
    if record.exists():
        _say("The sample survey was dropped by an earlier start: going on with what is there.")
        return False
    _say("Making a sample survey: 15 photographs, an index sheet and a mosaic.")
    folder = state.home / "survey"
    keys = []
    for key, path in make_survey(folder):
        target = state.archive / key
        target.parent.mkdir(parents=True, exist_ok=True)
        path.replace(target)  # the same file system: nobody sees half a file
        keys.append(key)
    shutil.rmtree(folder)
    record.write_text(json.dumps(keys, indent=1))
    _say(f"Dropped {len(keys)} files into {state.archive}.")
    return True


def _await_map(services: Supervisor, addresses: Addresses, fresh: bool) -> bool:
    """Wait, telling the progress, until every sample collection is on the map; False when one is stuck.

    Unless the survey is `fresh`, collections of which the operator has since deleted every frame are left out.
    """
    settings = load_settings()
    missing = sample_views()
    told: set[str] = set()
    changed = time.monotonic()
    while missing:
        services.poll()
        try:
            status = collect(settings)
        except OperationalError:
            time.sleep(1)  # PostgreSQL is being started again
            continue
        news = [line for line in _progress(status) if line not in told]
        for name in [] if fresh else _withdrawn(status, missing):
            news.append(f"  {name} is left out: its sample frames were deleted")
            del missing[name]
        for name in sorted(missing.keys() & _complete(status)):
            if shows_imagery(get_map(addresses.wms(name), name, missing[name])):
                news.append(f"  {name} is on the map")
                del missing[name]
        for line in news:
            _say(line)
        told.update(news)
        if news:
            changed = time.monotonic()
        elif time.monotonic() - changed > PATIENCE:
            _say(f"No progress for {PATIENCE} seconds, and not on the map: {', '.join(missing)}.")
            _say(f"Look at the failed runs in the Dagster UI, {addresses.dagster_ui}, and at the logs.")
            return False
        time.sleep(1)
    return True


def _complete(status: Status) -> set[str]:
    """The collections that show all they can: no frame waits; one that failed does not keep the others from the map."""
    return {one.name for one in status.collections if one.indexed and not one.waiting and one.indexed >= one.done}


def _withdrawn(status: Status, names: Iterable[str]) -> list[str]:
    there = {one.name for one in status.collections if one.dropped}
    return [name for name in names if name not in there]


def _progress(status: Status) -> Iterator[str]:
    for one in status.collections:
        yield f"  {one.name}: {one.done} of {one.dropped} made, {one.indexed} in the index"
        yield from (f"    failed: {reason}" for reason in one.failed.values())
    yield from (f"  rejected: {reason}" for reason in status.rejected.values())


def _print_addresses(state: State, addresses: Addresses) -> None:
    _say("")
    _say(f"  the Dagster UI      {addresses.dagster_ui}")
    _say(f"  maps       {addresses.front}/")
    for name in sample_views():
        _say(f"  WMS        {addresses.wms(name)}")
    _say(f"  archive    {state.archive}")
    _say("             copy your own tifs to <bw or nc>/<County>/<AGENCY_YYYY>/frames/georef/ in it")
    _say("")


def _say_what_next(state: State, addresses: Addresses) -> None:
    _say("")
    _say(f"  look           {addresses.front}/")
    _say(f"  follow         {addresses.dagster_ui}/locations/ls4/asset-groups/Travis/lineage")
    _say(f"  drop your own  .venv/bin/ls4 ingest FOLDER --collection bw/Travis/USDA_1958/frames; archive {state.archive}")
    _say(f"  what became    .venv/bin/ls4 status; what was rejected: {addresses.front}/staff")
    _say("  stop           Ctrl-C")
    _say("")


def _open_browser(addresses: Addresses) -> None:
    """Show the map page where there is a display; a machine without one is no fault."""
    if os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"):
        with contextlib.suppress(webbrowser.Error, OSError):
            webbrowser.open(addresses.front)


@contextlib.contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """SIGTERM and a closed terminal stop the demonstration as Ctrl-C does; a second one does nothing."""
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def stop(number: int, frame: FrameType | None) -> None:
        for each in signals:
            signal.signal(each, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = {each: signal.signal(each, stop) for each in signals}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def _say(line: str) -> None:
    click.echo(line)
    sys.stdout.flush()  # a pipe or a log shows the progress as it is made
