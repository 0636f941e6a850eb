"""`ls4 monitor`: the process that notices when the platform has stopped."""

from pathlib import Path

import click

from ls4_assets.cli.configuration import load_command_settings


@click.command()
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
def monitor(folder: Path) -> None:
    """Judge the platform every 10 s: send a message when it has stopped, and write health.json and metrics.txt to FOLDER.

    The web front end serves them to staff (`python -m mapserver --monitor FOLDER`). `ls4 demo` and compose.yaml start it.
    """
    from ls4_assets.operations.health.monitor import run_monitor

    run_monitor(load_command_settings(), folder)
