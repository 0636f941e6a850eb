"""`ls4 status`: the progress and the problems of everything that was dropped."""

import dataclasses
import json

import click

from ls4_assets.cli.configuration import load_command_settings


@click.command()
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with every name and reason.")
def status(name: str | None, as_json: bool) -> None:
    """Report the state of dropped files and their collections.

    NAME is a collection like Adams_USDA_1958_frames. With it, the details of that collection are reported.
    """
    from ls4_assets.operations.status import TERMINAL_LIMIT, collect, format_status

    report = collect(load_command_settings(), name, limit=None if as_json else TERMINAL_LIMIT)
    click.echo(json.dumps(dataclasses.asdict(report), indent=1, default=str) if as_json else "\n".join(format_status(report)))
