"""The sensor `notifications`: send the notifications that are due, publish the list of rejected files, update `collections`.

The list goes to the Dagster UI and to the quarantine page. The cursor has only the time up to which runs were read and the stamp
of the list written last; what was sent is recorded in Postgres. What to send is decided in ls4_assets/notifications.
"""

import json
from collections.abc import Collection
from datetime import UTC, datetime

import dagster as dg

from ls4_assets.assets import keys
from ls4_assets.domain.export_keys import STAFF_KEY
from ls4_assets.ingest import sources
from ls4_assets.ingest.listing import is_unmounted
from ls4_assets.notifications.dispatch import dispatch_notifications
from ls4_assets.notifications.failed_runs import record_finished_runs
from ls4_assets.notifications.rejections import (
    count_rejections,
    list_rejections,
    render_staff_json,
)
from resources.archive import Archive
from resources.locks import try_lock
from sensors import minimum_interval
from sensors.collection_pages import CollectionPages
from sensors.rejected_files import build_rejections_event, evaluate_rejections

# Short enough for messages to people; each change of the list adds an event in the Dagster UI.
MIN_INTERVAL_SECONDS = 20


def notifications_sensor(seconds: int, surveys: Collection[str] = ()) -> dg.SensorDefinition:
    """The sensor, evaluated every `seconds`. `surveys`: those that have a page."""
    pages = CollectionPages(surveys)

    @dg.sensor(
        name="notifications",
        asset_selection=dg.AssetSelection.assets(keys.REJECTED_FILES),
        minimum_interval_seconds=minimum_interval(seconds),
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Notifies people when an incident opens, grows or is resolved, and updates the list of rejected "
        "files and the pages of the collections.",
    )
    def notifications(context: dg.SensorEvaluationContext, archive: Archive) -> dg.SensorResult | dg.SkipReason:
        with try_lock(archive.database, "notifications") as acquired:
            if not acquired:
                return dg.SkipReason("The previous tick is still running.")
            result = dispatch(context, archive)
            # Last, so that messages never wait for it.
            pages.update_if_due(context.instance, archive)
            return result

    return notifications


def dispatch(context: dg.SensorEvaluationContext, archive: Archive) -> dg.SensorResult | dg.SkipReason:
    """One tick. Notifications are sent first, so that they do not depend on the storage that the list is written to."""
    now, cursor = datetime.now(UTC), json.loads(context.cursor or "{}")
    since = datetime.fromisoformat(cursor["runs"]) if "runs" in cursor else None
    runs_read_until = record_finished_runs(context.instance, archive.database, since, now)
    report = dispatch_notifications(archive, now)
    with archive.database.connect() as connection:
        counts = count_rejections(connection)
        has_changed = counts.stamp != cursor.get("list") and is_mounted(archive)
        rejections = list_rejections(connection) if has_changed else []
    if has_changed:
        archive.storage.put(STAFF_KEY, render_staff_json(counts, rejections, now, archive.settings.public_url))
    next_cursor = json.dumps({"runs": runs_read_until.isoformat(), "list": counts.stamp if has_changed else cursor.get("list")})
    if has_changed:
        event, evaluation = build_rejections_event(counts, rejections, archive.settings), evaluate_rejections(counts, rejections)
        return dg.SensorResult(asset_events=[event, evaluation], cursor=next_cursor)
    context.update_cursor(next_cursor)
    return dg.SkipReason(f"{report.incidents} incidents; {report.sent} notifications sent, {report.unsent} still due.")


def is_mounted(archive: Archive) -> bool:
    """False for an empty folder of an archive that has photographs: its disk is not mounted.

    A file written there would be hidden by the disk once it is mounted. A storage in the cloud is always mounted.
    """
    if not (archive.storage.capabilities.can_be_unmounted and is_unmounted(archive.storage)):
        return True
    with archive.database.connect() as connection:
        return not sources.has_photographs(connection)
