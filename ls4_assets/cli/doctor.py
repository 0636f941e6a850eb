"""`ls4 doctor`: whether each part of the installation works, and what it lacks."""

import dataclasses
import json
import sys

import click

from ls4_assets.cli.configuration import load_archive_settings
from ls4_assets.cli.terminal import echo


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with every coordinate system.")
def doctor(as_json: bool) -> None:
    """Try database, storage, maps and services, and list the PROJ grids that the archive's region needs and that are missing.

    Exits with status 1 when a part does not work, a needed grid is missing, or frames were made without one or may have been.
    `ls4 status` reports on the archive.
    """
    settings = load_archive_settings()
    from ls4_assets.domain.printable import printable
    from ls4_assets.operations.doctor import format_report, inspect_grids
    from ls4_assets.operations.installation import check_parts, format_parts
    from resources.open import open_database

    with open_database(settings.database_url.get_secret_value()).connect() as connection:
        parts, report = check_parts(settings, connection), inspect_grids(settings, connection)
    if as_json:
        fields = {"parts": [dataclasses.asdict(part) for part in parts]} | dataclasses.asdict(report)
        click.echo(json.dumps(fields, indent=1))
    else:
        echo("\n".join(map(printable, [*format_parts(parts), *format_report(report)])))
    sys.exit(0 if report.is_complete and all(part.is_right for part in parts) else 1)
