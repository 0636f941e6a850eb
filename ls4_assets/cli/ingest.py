"""Commands about dropped files: put them into the archive, retry failed frames, confirm deletions, find missed changes."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ls4_assets.cli.collection_names import COLLECTION_NAME, COLLECTION_PATH
from ls4_assets.cli.configuration import load_archive_settings, load_command_settings
from ls4_assets.cli.terminal import echo, progress

if TYPE_CHECKING:
    from datetime import datetime

    from ls4_assets.ingest.folder import IngestReport
    from ls4_assets.settings import Settings


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--collection",
    "collection_path",
    required=True,
    type=COLLECTION_PATH,
    help="Target collection, like bw/Adams/USDA_1958/frames.",
)
@click.option("--replace", is_flag=True, help="Overwrite files that are already there with other content.")
@click.option("--wait", is_flag=True, help="Wait until they are on the map; exit with status 1 if a file was rejected or failed.")
def ingest(folder: Path, collection_path: str, replace: bool, wait: bool) -> None:
    """Copy the tifs of FOLDER, with their sidecars, to a collection.

    Sidecars without a tif in FOLDER go beside their tif in the archive.
    """
    from ls4_assets.domain.printable import printable
    from ls4_assets.ingest.folder import ingest_folder
    from resources.open import open_storage

    settings = load_archive_settings() if wait else load_command_settings()
    since = _read_clock(settings) if wait else None
    with progress("Copying") as bar:
        report = ingest_folder(
            folder, collection_path, open_storage(settings), settings.naming, replace=replace, on_progress=bar.show
        )
    for name in report.uploaded:
        click.echo(f"uploaded: {name}")
    for message in report.rejected:
        echo(f"rejected: {printable(message)}")
    if report.skipped:
        names = printable(", ".join(report.skipped))
        click.echo(f"skipped, because they are not tifs or sidecars directly in the folder: {names}")
    click.echo(f"{len(report.uploaded)} files uploaded, {len(report.unchanged)} already there, {len(report.rejected)} rejected.")
    if since and report.tif_keys:
        sys.exit(0 if _wait(settings, collection_path, report, since) and not report.rejected else 1)
    if report.uploaded:
        click.echo("Run `ls4 status` to see when they are on the map.")
    sys.exit(1 if report.rejected or not (report.uploaded or report.unchanged) else 0)


def _read_clock(settings: "Settings") -> "datetime":
    from ls4_assets.operations.ingest_wait import read_clock

    return read_clock(settings)


def _wait(settings: "Settings", collection_path: str, report: "IngestReport", since: "datetime") -> bool:
    """Wait for the tifs, print what is on the map, and return whether all of them are."""
    from ls4_assets.domain.key_parser import parse_collection_path
    from ls4_assets.domain.printable import printable
    from ls4_assets.operations.ingest_wait import wait_for_map

    collection = parse_collection_path(collection_path, settings.naming)[0]
    with progress("Processing") as bar:
        result = wait_for_map(settings, collection, report.tif_keys, since, report.changed_keys, bar.show)
    for sentence in result.failed:
        echo(f"rejected: {printable(sentence)}")
    count = f"{result.on_map} of {len(report.tif_keys)} photographs"
    click.echo(f"On the map: {count} of {collection.name}, {settings.map_url}/#{collection.table}")
    if result.error:
        echo(f"ERROR: {printable(result.error)}")
    return result.on_map == len(report.tif_keys)


@click.command()
@click.option("--collection", "name", type=COLLECTION_NAME, help="Only this collection, like Adams_USDA_1958_frames.")
def retry(name: str | None) -> None:
    """Queue failed frames again. First fix what made them fail."""
    from ls4_assets.db.lookup import find_collection
    from ls4_assets.db.schema import SourceState
    from ls4_assets.ingest.sources import requeue
    from resources.open import open_database

    engine = open_database(load_archive_settings().database_url.get_secret_value())
    if name:
        with engine.connect() as connection:
            name = find_collection(connection, name).name
    count = requeue(engine, [SourceState.FAILED], name)
    queued = f"{count} frames are queued again; run `ls4 status` to follow them."
    click.echo(queued if count else f"No failed frames in {name or 'the archive'}; see `ls4 status`.")


@click.command("confirm-deletion")
@click.argument("name", type=COLLECTION_NAME)
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
def confirm_deletion(name: str, yes: bool) -> None:
    """Confirm the held deletions of a collection.

    Deletions are held when an unusually large share of a collection is deleted at once. NAME is like Adams_USDA_1958_frames.
    """
    load_archive_settings()
    from ls4_assets.ingest.confirm import confirm_deletion as confirm
    from resources.archive import Archive

    sys.exit(0 if confirm(Archive(), name, click.echo, lambda question: yes or click.confirm(question)) else 1)


@click.command("scan-inventory")
@click.argument("manifest")
def scan_inventory(manifest: str) -> None:
    """Find missed changes with an S3 Inventory report.

    Keys that differ from the database are queued; the sensor checks them.

    MANIFEST is like s3://reports/county-photographs/daily/2026-11-23T01-00Z/manifest.json. The report must be in CSV format with
    size, last modified date and ETag.
    """
    load_archive_settings()
    from ls4_assets.ingest.inventory import enqueue_differences
    from resources.archive import Archive

    click.echo(enqueue_differences(Archive(), manifest))
