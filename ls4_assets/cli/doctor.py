"""`ls4 doctor`: what the installation lacks."""

import dataclasses
import json
import sys

import click

from ls4_assets.cli.configuration import load_archive_settings


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with every coordinate system.")
def doctor(as_json: bool) -> None:
    """List the PROJ grids that the archive's region needs and that are missing.

    Exits with status 1 when a needed grid is missing, or when frames were made without one or may have been.
    """
    settings = load_archive_settings()
    from ls4_assets.operations.doctor import format_report, inspect_grids
    from resources.open import open_database

    with open_database(settings.database_url.get_secret_value()).connect() as connection:
        report = inspect_grids(settings, connection)
    click.echo(json.dumps(dataclasses.asdict(report), indent=1) if as_json else "\n".join(format_report(report)))
    sys.exit(0 if report.is_complete else 1)
