"""What ``ls4 demo`` does once, in child processes (``child.py``): it needs libraries that a supervisor does not."""

import json
import shutil
import time
from collections.abc import Iterable, Iterator

import click
from dagster import DagsterInstance, DagsterRunStatus, RunsFilter
from sqlalchemy.exc import OperationalError

from ls4_assets.db.bootstrap import bootstrap
from ls4_assets.db.relocation import relocate_archive
from ls4_assets.db.roles import ROLES
from ls4_assets.db.tile_index import served_root
from ls4_assets.local.map_check import get_map, shows_imagery
from ls4_assets.local.sample_data import sample_views, write_sample_data
from ls4_assets.local.services import ServiceUrls
from ls4_assets.local.state import StateDirectory
from ls4_assets.operations.status import Status, collect
from ls4_assets.runtime.local_launcher import ProcessState, process_state
from ls4_assets.settings import load_settings
from resources.open import open_database, open_storage

STALL_SECONDS = 300  # without any progress, after which the demonstration fails


def prepare_database(admin_url: str, passwords: dict[str, str]) -> None:
    """Create roles and databases, and migrate the schema."""
    bootstrap(admin_url, {role: passwords[role] for role in ROLES})


def relocate_archive_of_settings() -> None:
    """Serve the maps of a state directory that was moved or copied since the last start."""
    settings = load_settings()
    with open_database(settings.database_url.get_secret_value()).begin() as connection:
        relocate_archive(connection, served_root(open_storage(settings)))


def fail_interrupted_runs() -> None:
    """Report the runs that the last stop interrupted as failed, so that their frames are queued again.

    The daemon would find them too (``ls4_assets.runtime.local_launcher``), but later, and much later for runs that had not
    started. Call this before the daemon starts: nothing launches a run at that moment, so a run without a process is lost.
    """
    in_progress = [DagsterRunStatus.STARTING, DagsterRunStatus.STARTED, DagsterRunStatus.CANCELING]
    with DagsterInstance.get() as instance:
        for run in instance.get_runs(RunsFilter(statuses=in_progress)):
            if process_state(instance, run) is not ProcessState.ALIVE:
                instance.report_run_failed(run, "The machine's services stopped during this run.")


def drop_sample_data(state: StateDirectory) -> bool:
    """Copy the sample data into the archive at the first start; returns whether this is the first start.

    Later starts leave the archive alone, so sample files that the operator deleted stay deleted.
    """
    record = state.home / "sample_data.json"
    if record.exists():
        click.echo("The sample data was dropped by an earlier start; the archive is used as it is.")
        return False
    click.echo("Creating sample data: 15 photographs, an index sheet and a mosaic.")
    folder = state.home / "sample_data"
    keys = []
    for key, path in write_sample_data(folder):
        target = state.archive / key
        target.parent.mkdir(parents=True, exist_ok=True)
        path.replace(target)  # on the same file system: no reader sees a partial file
        keys.append(key)
    shutil.rmtree(folder)
    record.write_text(json.dumps(keys, indent=1))
    click.echo(f"Dropped {len(keys)} files into the archive. Processing takes a few minutes:")
    return True


def wait_for_map(urls: ServiceUrls, is_first_start: bool) -> bool:
    """Print the progress until every sample collection is on the map; returns False after STALL_SECONDS without progress.

    After the first start, collections whose frames the operator has deleted are skipped.
    """
    settings = load_settings()
    missing = sample_views()
    printed: set[str] = set()
    last_progress = time.monotonic()
    while missing:
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
            click.echo(line)
        printed.update(new_lines)
        if new_lines:
            last_progress = time.monotonic()
        elif time.monotonic() - last_progress > STALL_SECONDS:
            click.echo(f"No progress for {STALL_SECONDS} seconds. Not on the map: {', '.join(missing)}.")
            click.echo(f"Check the failed runs in the Dagster UI, {urls.dagster_ui}, and the logs.")
            return False
        time.sleep(1)
    return True


def first_sample() -> str:
    """The name of a sample collection."""
    return next(iter(sample_views()))


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
