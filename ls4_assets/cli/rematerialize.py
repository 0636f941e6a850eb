"""`ls4 rematerialize`: options and output. The backfills are launched and followed by ls4_assets.cli.backfill."""

import sys
from typing import TYPE_CHECKING

import click

from ls4_assets.cli.collection_names import COLLECTION_NAME
from ls4_assets.cli.configuration import load_archive_settings
from ls4_assets.cli.terminal import progress
from ls4_assets.domain.products import COLLECTION_STEPS, STEPS

if TYPE_CHECKING:
    from dagster import DagsterInstance

    from ls4_assets.cli.backfill import LaunchedBackfill
    from ls4_assets.settings import Settings


@click.command()
@click.argument("name", required=False, type=COLLECTION_NAME)
@click.option("--stale", is_flag=True, help="Only frames that no active profile made. Without NAME: those of all collections.")
@click.option("--from", "step", type=click.Choice([*STEPS, *COLLECTION_STEPS]), default="deflate", show_default=True)
@click.option("--wait", is_flag=True, help="Print the progress until the end; exit with status 1 if anything failed.")
def rematerialize(name: str | None, stale: bool, step: str, wait: bool) -> None:
    """Rebuild a collection from a step on, as a Dagster backfill.

    NAME is like Adams_USDA_1958_frames. The step is the first to run: a step of the frames, or one of the index and map.
    """
    if not (name or stale):
        raise click.UsageError("Give the name of a collection, like Adams_USDA_1958_frames, or --stale.")
    settings = load_archive_settings()
    from ls4_assets.cli.backfill import launch, launch_stale_backfills
    from ls4_assets.runtime.instance import open_instance

    with open_instance() as instance:
        launched = launch_stale_backfills(instance, settings, name) if stale else [launch(instance, settings, str(name), step)]
        for backfill in launched:
            click.echo(
                f"Launched for {backfill.name}: {backfill.description}. Follow or cancel it in the Dagster UI: {backfill.url}"
            )
        if launched and step in STEPS:
            click.echo("Their index and map follow automatically, when the frames are done.")
        if not launched:
            click.echo("No frame is stale; there is nothing to rebuild.")
        if wait:
            succeeded = [_follow(instance, settings, backfill) for backfill in launched]
            sys.exit(0 if all(succeeded) else 1)


def _follow(instance: "DagsterInstance", settings: "Settings", backfill: "LaunchedBackfill") -> bool:
    """Show a bar on a terminal, and a line for each change elsewhere."""
    from ls4_assets.cli.backfill import follow

    if not sys.stderr.isatty():
        return follow(instance, settings, backfill, click.echo)
    with progress("Rebuilding") as bar:
        return follow(instance, settings, backfill, bar.echo, bar.show)
