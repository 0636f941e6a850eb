"""The nightly reconciliation: an asset that compares bucket, database and Dagster, and its schedule.

It only reports; operators fix inconsistencies with `ls4 reconcile --apply`. The comparison is in `operations.reconcile`.
"""

import logging
import time
from collections.abc import Mapping

import dagster as dg

from ls4_assets import logs
from ls4_assets.assets import keys
from ls4_assets.assets.details import DAILY, AssetDetails
from resources.archive import Archive

# At night the load is low, and people can read the result in the morning.
NIGHTLY = "0 3 * * *"
# Collections listed in the metadata.
MAX_LISTED = 200


def archive_consistency_asset(details: AssetDetails) -> dg.AssetsDefinition:
    """The asset, which exists once."""

    @dg.asset(
        key=keys.ARCHIVE_CONSISTENCY,
        group_name="archive",
        kinds={"report"},
        description="Inconsistencies between bucket, database and Dagster, by collection. Fix them with `ls4 reconcile --apply`.",
        freshness_policy=DAILY,
        **details.of(compare_archive, "archive"),
    )
    def archive_consistency(context: dg.AssetExecutionContext, archive: Archive) -> dg.MaterializeResult[None]:
        return compare_archive(archive, context.instance)

    return archive_consistency


def compare_archive(archive: Archive, instance: dg.DagsterInstance) -> dg.MaterializeResult[None]:
    """Compare everything. Returns the counts of inconsistencies, and a table of them."""
    from ls4_assets.operations.reconcile.messages import format_table
    from ls4_assets.operations.reconcile.model import ActionKind, count_by_kind
    from ls4_assets.operations.reconcile.run import Reconciler

    started, collections = time.monotonic(), 0
    errors: list[str] = []
    totals: dict[ActionKind, int] = {}
    inconsistent: list[tuple[str, Mapping[ActionKind, int]]] = []
    for report in Reconciler(archive, instance).run():
        collections += bool(report.name)
        if report.error:
            errors.append(f"{report.name} {report.error}")
        counts = count_by_kind([*report.actions, *report.held])
        if counts and len(inconsistent) < MAX_LISTED:
            inconsistent.append((report.name, counts))
        for kind, count in counts.items():
            totals[kind] = totals.get(kind, 0) + count
    seconds = round(time.monotonic() - started, 1)
    fields = {"inconsistencies": totals or None, "not_compared": len(errors) or None, "seconds": seconds}
    logs.emit("reconciliation", logging.WARNING if totals else logging.INFO, collections=collections, **fields)
    metadata: dict[str, dg.MetadataValue] = {
        "collections": dg.MetadataValue.int(collections),
        "inconsistencies": dg.MetadataValue.int(sum(totals.values())),
        "by_collection": dg.MetadataValue.md(format_table(inconsistent)),
        "not_compared": dg.MetadataValue.md("\n\n".join(errors[:MAX_LISTED]) or "none"),
        "seconds": dg.MetadataValue.float(seconds),
    }
    return dg.MaterializeResult(metadata=metadata | {str(kind): dg.MetadataValue.int(count) for kind, count in totals.items()})


def reconcile_schedule() -> dg.ScheduleDefinition:
    """The schedule `reconcile`. Its time is UTC unless the Dagster instance is configured otherwise."""
    return dg.ScheduleDefinition(
        name="reconcile",
        target=dg.AssetSelection.assets(keys.ARCHIVE_CONSISTENCY),
        cron_schedule=NIGHTLY,
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="Compares bucket, database and Dagster every night and reports inconsistencies; changes nothing.",
    )
