"""`ls4 check`: check scans on this disk, without an archive."""

import dataclasses
import json
import sys
from pathlib import Path

import click


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--collection", "collection_path", help="Target collection, like bw/Adams/USDA_1958/frames.")
@click.option("--before-georeferencing", is_flag=True, help="Do not reject scans because they have no georeference.")
@click.option("--preview", type=click.Path(file_okay=False, path_type=Path), help="Write a small picture of each file here.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON line for each file.")
def check(
    files: tuple[Path, ...], collection_path: str | None, before_georeferencing: bool, preview: Path | None, as_json: bool
) -> None:
    """Check tifs as the archive would, without an archive.

    FILES are tifs, or folders that are searched for tifs; sidecars beside them are used. In the pictures the collar is red and
    the outline of the photograph yellow. Exits with status 1 when the archive would reject a file.
    """
    from ls4_assets.operations.file_check import check_files, find_tifs
    from ls4_assets.operations.file_report import format_report
    from ls4_assets.settings import load_file_check_settings

    if not (tifs := find_tifs(files)):
        raise click.UsageError("There are no tifs in these folders; name files, or folders that contain .tif files.")
    rejected = 0
    reports = check_files(
        tifs,
        load_file_check_settings(),
        collection_path=collection_path,
        is_georeference_required=not before_georeferencing,
        previews=preview,
    )
    for number, report in enumerate(reports, start=1):
        rejected += not report.is_accepted
        click.echo(json.dumps(dataclasses.asdict(report)) if as_json else "\n".join(format_report(report)))
        if len(tifs) > 1 and sys.stderr.isatty():
            click.echo(f"{number} of {len(tifs)} checked, {rejected} rejected", err=True)
    if not as_json:
        click.echo(f"{len(tifs)} files checked, {rejected} rejected.")
    sys.exit(1 if rejected else 0)
