"""Every night: is all of the archive in step? A run that only tells; mending is an operator's word (`ls4 reconcile --apply`)."""

import logging
import time
from collections.abc import Mapping

import dagster as dg

from ls4_assets import logs
from ls4_assets.assets import keys
from resources.archive import Archive

# When scanners and map users sleep, and before people come to read it.
NIGHTLY = "0 3 * * *"
# So many collections are listed in the Dagster UI.
LISTED = 200


@dg.asset(
    key=keys.ARCHIVE_CONSISTENCY,
    group_name="archive",
    description="What is out of step between bucket, database and Dagster, by collection; `ls4 reconcile` mends it.",
)
def in_step(context: dg.AssetExecutionContext, archive: Archive) -> dg.MaterializeResult[None]:
    """Compare everything, and count."""
    from ls4_assets.operations.reconcile.messages import table
    from ls4_assets.operations.reconcile.model import Kind, count
    from ls4_assets.operations.reconcile.run import Reconciler

    started, collections, rejected = time.monotonic(), 0, []
    counts: dict[Kind, int] = {}
    out: list[tuple[str, Mapping[Kind, int]]] = []
    for report in Reconciler(archive, context.instance).run():
        collections += bool(report.name)
        if report.rejected:
            rejected.append(f"{report.name} {report.rejected}")
        found = count([*report.actions, *report.held])
        if found and len(out) < LISTED:
            out.append((report.name, found))
        for kind, many in found.items():
            counts[kind] = counts.get(kind, 0) + many
    seconds = round(time.monotonic() - started, 1)
    told = {"collections": collections, "out_of_step": counts or None, "passed_over": len(rejected) or None, "seconds": seconds}
    logs.event("reconcile", logging.WARNING if counts else logging.INFO, **told)
    metadata: dict[str, dg.MetadataValue] = {
        "collections": dg.MetadataValue.int(collections),
        "out_of_step": dg.MetadataValue.int(sum(counts.values())),
        "by_collection": dg.MetadataValue.md(table(out)),
        "passed_over": dg.MetadataValue.md("\n\n".join(rejected[:LISTED]) or "none"),
        "seconds": dg.MetadataValue.float(seconds),
    }
    return dg.MaterializeResult(metadata=metadata | {str(kind): dg.MetadataValue.int(many) for kind, many in counts.items()})


def nightly() -> dg.ScheduleDefinition:
    """The schedule; its times are UTC unless the instance says otherwise."""
    return dg.ScheduleDefinition(
        name="reconcile",
        target=dg.AssetSelection.assets(keys.ARCHIVE_CONSISTENCY),
        cron_schedule=NIGHTLY,
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="Tells every night whether bucket, database and Dagster are in step; changes nothing.",
    )
