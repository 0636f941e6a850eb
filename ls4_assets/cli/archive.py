"""Commands that compare the whole archive with the database: adopt finished COGs, reconcile differences."""

import dataclasses
import json
import sys

import click

from ls4_assets.cli.configuration import load_command_settings


@click.command()
@click.argument("collection_paths", nargs=-1)
@click.option("--apply", "apply_", is_flag=True, help="Adopt the COGs. Without it, only print the plan.")
@click.option("--ignore-times", is_flag=True, help="Also adopt a COG that is older than its georef tif.")
def adopt(collection_paths: tuple[str, ...], apply_: bool, ignore_times: bool) -> None:
    """Adopt finished COGs that are already in the archive.

    COLLECTION_PATHS are like bw/Adams/USDA_1958/frames. Without them, the COGs of all collections are adopted.
    """
    from ls4_assets.operations.adopt.run import run

    settings = load_command_settings()
    sys.exit(0 if run(settings, collection_paths, click.echo, apply=apply_, ignore_times=ignore_times) else 1)


@click.command()
@click.argument("names", nargs=-1)
@click.option("--apply", "apply_", is_flag=True, help="Fix the differences. Without it, only print the plan.")
@click.option("--delete-many", is_flag=True, help="Also delete where an unusually large share would be deleted at once.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON line for each collection that has differences.")
def reconcile(names: tuple[str, ...], apply_: bool, delete_many: bool, as_json: bool) -> None:
    """Compare bucket, database and Dagster, and fix differences.

    NAMES are collections like Adams_USDA_1958_frames. Without them, all collections are compared.
    """
    from ls4_assets.operations.reconcile.messages import ReconcileSummary
    from ls4_assets.operations.reconcile.run import Reconciler
    from ls4_assets.runtime.instance import open_instance
    from resources.archive import Archive

    load_command_settings()
    summary = ReconcileSummary(apply_)
    with open_instance() as instance:
        for report in Reconciler(Archive(), instance, apply_, delete_many).run(names):
            lines = summary.add(report)
            if as_json and not report.is_consistent:
                click.echo(json.dumps(dataclasses.asdict(report)))
            elif not as_json:
                click.echo("\n".join(lines), nl=bool(lines))
    if not as_json:
        click.echo("\n".join(summary.final_lines()))
    sys.exit(1 if summary.errors else 0)
