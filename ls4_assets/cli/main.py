"""The `ls4` command: what scanning staff and the operator type.

Each command is a few lines around functions that live elsewhere, and imports them only when it is called.
"""

import dataclasses
import json
import os
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import ParamSpec, TypeVar

import click
from sqlalchemy.exc import OperationalError

from ls4_assets.domain.names import COLLECTION_STEPS, STEPS
from ls4_assets.errors import ConfigurationError, Ls4Error
from ls4_assets.settings import Settings, load_settings

P = ParamSpec("P")
R = TypeVar("R")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Scanned aerial photographs, dropped in a folder, become maps."""


def _plain_errors(command: Callable[P, R]) -> Callable[P, R]:
    """A wrong input or setting ends the command with its sentence, without a traceback."""

    @wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except Ls4Error as error:
            raise click.ClickException(str(error)) from None
        except OperationalError as error:
            reason = str(error.orig).strip().splitlines()[0]
            raise click.ClickException(
                f"The database does not answer ({reason}); is `make demo` running, or LS4_DATABASE_URL wrong?"
            ) from None

    return wrapped


@main.command()
@click.option("--once", is_flag=True, help="Check the maps, stop everything and exit 0 or 1.")
@click.option("--port", type=int, help="Port of the map front; default: a free one, remembered.")
@_plain_errors
def demo(once: bool, port: int | None) -> None:
    """Start everything on this machine with a sample survey, and stay up until Ctrl-C."""
    from ls4_assets.local.demo import run_demo

    sys.exit(run_demo(once=once, port=port))


@main.command()
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="For programs, with every name and reason.")
@_plain_errors
def status(name: str | None, as_json: bool) -> None:
    """Say what became of everything that was dropped, or more of the collection NAME, like Travis_USDA_1958_frames."""
    from ls4_assets.operations.status import LISTED, collect, lines

    found = collect(_settings(), name, listed=None if as_json else LISTED)
    click.echo(json.dumps(dataclasses.asdict(found), indent=1, default=str) if as_json else "\n".join(lines(found)))


@main.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--collection", "collection_path", required=True, help="Where they belong, like bw/Travis/USDA_1958/frames.")
@click.option("--replace", is_flag=True, help="Files that are there already with other content give way.")
@_plain_errors
def ingest(folder: Path, collection_path: str, replace: bool) -> None:
    """Put the tifs of FOLDER, with their sidecars, under the collection's georef/."""
    from ls4_assets.ingest.folder import ingest_folder
    from resources.open import open_storage

    settings = _settings()
    report = ingest_folder(folder, collection_path, open_storage(settings), settings.shards, replace=replace)
    for name in report.put:
        click.echo(f"put: {name}")
    for sentence in report.rejected:
        click.echo(f"rejected: {sentence}")
    if report.skipped:
        click.echo(f"skipped, as no tif or sidecar lying directly in the folder: {', '.join(report.skipped)}")
    click.echo(f"{len(report.put)} files put, {len(report.unchanged)} were there already, {len(report.rejected)} rejected.")
    if report.put:
        click.echo("`ls4 status` tells when they are on the map.")
    sys.exit(1 if report.rejected or not (report.put or report.unchanged) else 0)


@main.command()
@click.option("--collection", "name", help="Only this collection, like Travis_USDA_1958_frames.")
@_plain_errors
def retry(name: str | None) -> None:
    """Queue the failed frames anew, after what made them fail was mended."""
    from ls4_assets.db.lookup import find_collection
    from ls4_assets.db.schema import SourceState
    from ls4_assets.ingest.sources import requeue
    from resources.open import open_database

    engine = open_database(_settings().database_url.get_secret_value())
    if name:
        with engine.connect() as connection:
            name = find_collection(connection, name).name
    count = requeue(engine, [SourceState.FAILED], name)
    queued = f"{count} frames are queued again; `ls4 status` tells what becomes of them."
    click.echo(queued if count else f"No failed frame in {name or 'the archive'}; see `ls4 status`.")


@main.command()
@click.argument("name", required=False)
@click.option(
    "--stale", is_flag=True, help="Only frames whose profile is not in force any more; without NAME of all collections."
)
@click.option("--from", "step", type=click.Choice([*STEPS, *COLLECTION_STEPS]), default="deflate", show_default=True)
@click.option("--wait", is_flag=True, help="Tell the progress until it is done; exit status 1 when some of it failed.")
@_plain_errors
def rematerialize(name: str | None, stale: bool, step: str, wait: bool) -> None:
    """Make the collection NAME, like Travis_USDA_1958_frames, anew from a step on: its frames, or only its index and map."""
    from ls4_assets.cli.rematerialize import follow, launch, launch_stale
    from ls4_assets.runtime.instance import open_instance

    if not (name or stale):
        raise click.UsageError("Name a collection, like Travis_USDA_1958_frames, or say --stale.")
    settings = _settings()
    with open_instance() as instance:
        launched = launch_stale(instance, settings, name) if stale else [launch(instance, settings, str(name), step)]
        for one in launched:
            click.echo(f"Launched for {one.name}: {one.what}. Follow it, or stop it, in the Dagster UI: {one.address}")
        if not launched:
            click.echo("Every frame is of the profile in force; there is nothing to make anew.")
        if wait:
            ended_well = [follow(instance, settings, one, click.echo) for one in launched]
            sys.exit(0 if all(ended_well) else 1)


@main.command()
@click.argument("collection_paths", nargs=-1)
@click.option("--apply", "apply_", is_flag=True, help="Adopt; without it the plan is told only.")
@click.option("--ignore-times", is_flag=True, help="Take a COG that is older than its georef tif for made of it all the same.")
@_plain_errors
def adopt(collection_paths: tuple[str, ...], apply_: bool, ignore_times: bool) -> None:
    """Take over finished COGs that lie in the archive: all of them, or those of collections like bw/Travis/USDA_1958/frames."""
    from ls4_assets.operations.adopt.run import run

    sys.exit(0 if run(_settings(), collection_paths, click.echo, apply=apply_, ignore_times=ignore_times) else 1)


@main.command()
@click.option("--apply", "apply_", is_flag=True, help="Restore; without it the plan is told only.")
@_plain_errors
def rebuild(apply_: bool) -> None:
    """Restore an index database that was lost, and is empty, from what lies in the bucket."""
    from ls4_assets.operations.adopt.restore import rebuild as restore
    from resources.archive import Archive

    _settings()
    sys.exit(0 if restore(Archive(), click.echo, apply=apply_) else 1)


@main.command()
@click.argument("names", nargs=-1)
@click.option("--apply", "apply_", is_flag=True, help="Mend it; without it the plan is told only.")
@click.option("--delete-many", is_flag=True, help="Delete also where much would go at once.")
@click.option("--json", "as_json", is_flag=True, help="For programs: a line a collection that is out of step.")
@_plain_errors
def reconcile(names: tuple[str, ...], apply_: bool, delete_many: bool, as_json: bool) -> None:
    """Compare bucket, database and Dagster both ways: all collections, or those of NAMES like Travis_USDA_1958_frames."""
    from ls4_assets.operations.reconcile.messages import Told
    from ls4_assets.operations.reconcile.run import Reconciler
    from ls4_assets.runtime.instance import open_instance
    from resources.archive import Archive

    _settings()
    told = Told(apply_)
    with open_instance() as instance:
        for report in Reconciler(Archive(), instance, apply_, delete_many).run(names):
            lines = list(told.of(report))
            if as_json and not report.in_step:
                click.echo(json.dumps(dataclasses.asdict(report)))
            elif not as_json:
                click.echo("\n".join(lines), nl=bool(lines))
    if not as_json:
        click.echo("\n".join(told.end()))
    sys.exit(1 if told.rejected else 0)


@main.command("confirm-deletion")
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
@_plain_errors
def confirm_deletion(name: str, yes: bool) -> None:
    """Let frames of the collection NAME go that were deleted in such numbers that they are held back."""
    from ls4_assets.ingest.confirm import confirm_deletion as confirm
    from resources.archive import Archive

    _settings()
    sys.exit(0 if confirm(Archive(), name, click.echo, lambda question: yes or click.confirm(question)) else 1)


@main.command()
@click.argument("manifest")
@_plain_errors
def inventory(manifest: str) -> None:
    """Compare a report of S3 Inventory with what is known, and have the sensor look where they differ.

    MANIFEST is like s3://reports/county-photographs/daily/2026-11-23T01-00Z/manifest.json, of a report as CSV with size, date and
    ETag.
    """
    from ls4_assets.ingest.inventory import note_differences
    from resources.archive import Archive

    _settings()
    click.echo(note_differences(Archive(), manifest))


@main.group()
def db() -> None:
    """The index database: made once by its administrator, brought up to date with each new version."""


@db.command("init")
@_plain_errors
def db_init() -> None:
    """Make roles, databases, PostGIS, grants and tables, or set changed passwords. May be run again at any time.

    As the administrator that LS4_ADMIN_DATABASE_URL names, or libpq's own PGHOST, PGUSER, PGPASSWORD; the passwords of the
    roles are read from LS4_PASSWORD_DAGSTER, LS4_PASSWORD_LS4 and LS4_PASSWORD_MAPSERVER.
    """
    from ls4_assets.db.bootstrap import ROLES, bootstrap

    names = {role: f"LS4_PASSWORD_{role.upper()}" for role in ROLES}
    if missing := [name for name in names.values() if not os.environ.get(name)]:
        raise ConfigurationError(f"The databases' roles need passwords: set {', '.join(missing)}.")
    admin = os.environ.get("LS4_ADMIN_DATABASE_URL", "postgresql+psycopg2:///postgres")
    click.echo(bootstrap(admin, {role: os.environ[name] for role, name in names.items()}))


@db.command("upgrade")
@_plain_errors
def db_upgrade() -> None:
    """Bring the tables of the index database to this version of ls4: to be run before its services start."""
    from ls4_assets.db.migrate import upgrade
    from resources.open import open_database

    with open_database(_settings().database_url.get_secret_value()).begin() as connection:
        click.echo(upgrade(connection))


def _settings() -> Settings:
    """The configuration of this process or, on a laptop, that of the demonstration which runs from this checkout."""
    if "LS4_DATABASE_URL" in os.environ or "LS4_CONFIG" in os.environ:
        return load_settings()
    from ls4_assets.local.state import CHECKOUT, choose_state

    state, _ = choose_state(CHECKOUT)
    environment = state.environment()
    if not environment:
        raise ConfigurationError("No archive is configured and none runs here: start `make demo`, or set LS4_CONFIG.")
    os.environ.update(environment)
    return load_settings()
