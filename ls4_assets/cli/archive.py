"""Commands that compare the whole archive with the database: adopt finished COGs, reconcile differences."""

import dataclasses
import json
import sys

import click

from ls4_assets.cli.collection_names import COLLECTION_NAME, COLLECTION_PATH
from ls4_assets.cli.configuration import load_archive_settings
from ls4_assets.cli.terminal import progress


@click.command()
@click.argument("collection_paths", nargs=-1, type=COLLECTION_PATH)
@click.option("--apply", "apply_", is_flag=True, help="Adopt the COGs. Without it, only print the plan.")
@click.option("--ignore-times", is_flag=True, help="Also adopt a COG that is older than its georef tif.")
def adopt(collection_paths: tuple[str, ...], apply_: bool, ignore_times: bool) -> None:
    """Adopt finished COGs that are already in the archive.

    COLLECTION_PATHS are like bw/Adams/USDA_1958/frames. Without them, the COGs of all collections are adopted.
    """
    settings = load_archive_settings()
    from ls4_assets.operations.adopt.run import run

    with progress("Adopting") as bar:
        has_succeeded = run(settings, collection_paths, bar.echo, apply=apply_, ignore_times=ignore_times, on_progress=bar.show)
    sys.exit(0 if has_succeeded else 1)


@click.command()
@click.argument("names", nargs=-1, type=COLLECTION_NAME)
@click.option("--apply", "apply_", is_flag=True, help="Fix the differences. Without it, only print the plan.")
@click.option("--delete-many", is_flag=True, help="Also delete where an unusually large share would be deleted at once.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON line for each collection that has differences.")
def reconcile(names: tuple[str, ...], apply_: bool, delete_many: bool, as_json: bool) -> None:
    """Compare bucket, database and Dagster, and fix differences.

    NAMES are collections like Adams_USDA_1958_frames. Without them, all collections are compared.
    """
    load_archive_settings()
    from ls4_assets.operations.reconcile.messages import ReconcileSummary
    from ls4_assets.operations.reconcile.run import Reconciler
    from ls4_assets.runtime.instance import open_instance
    from resources.archive import Archive

    summary = ReconcileSummary(apply_)
    with open_instance() as instance:
        reconciler = Reconciler(Archive(), instance, apply_, delete_many)
        with progress("Comparing") as bar:
            for number, report in enumerate(reconciler.run(names), start=1):
                lines = summary.add(report)
                if as_json and not report.is_consistent:
                    bar.echo(json.dumps(dataclasses.asdict(report)))
                elif lines and not as_json:
                    bar.echo("\n".join(lines))
                bar.show(number, reconciler.total)
    if not as_json:
        click.echo("\n".join(summary.final_lines()))
    sys.exit(1 if summary.errors else 0)
