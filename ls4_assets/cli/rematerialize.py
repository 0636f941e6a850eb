"""`ls4 rematerialize`: options and output. The backfills are launched and followed by ls4_assets.cli.backfill."""

import sys

import click

from ls4_assets.cli.collection_names import COLLECTION_NAME
from ls4_assets.cli.configuration import load_archive_settings
from ls4_assets.domain.products import COLLECTION_STEPS, STEPS


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
    from ls4_assets.cli.backfill import follow, launch, launch_stale_backfills
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
            succeeded = [follow(instance, settings, backfill, click.echo) for backfill in launched]
            sys.exit(0 if all(succeeded) else 1)
