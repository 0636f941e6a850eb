"""The sensor that tells people: of rejected files, failed runs and collections that do not go on, and when that is over.

It also keeps the list of rejected files, in the Dagster UI and for the staff page, as it is in Postgres. The cursor only says where the
runs were read up to and which list was written last; what was told stands in Postgres.
"""

import json
from collections.abc import Sequence
from datetime import UTC, datetime

import dagster as dg

from ls4_assets.assets import keys
from ls4_assets.assets.markdown import table
from ls4_assets.ingest import sources
from ls4_assets.ingest.listing import is_unmounted
from ls4_assets.notifications.dispatch import dispatch_notifications
from ls4_assets.notifications.failed_runs import note_finished_runs
from ls4_assets.notifications.rejections import STAFF_KEY, Counts, Rejection, counts, listed, staff_json
from ls4_assets.settings import Settings
from resources.archive import Archive
from resources.locks import try_lock

# A message is read by people: there is no hurry, and a list in the Dagster UI is an event each time.
SECONDS = 20
# Of the list so many are shown in the Dagster UI; the staff page has more.
SHOWN = 200


def notifications_sensor(seconds: int) -> dg.SensorDefinition:
    """The sensor, looking every `seconds`."""

    @dg.sensor(
        name="notifications",
        asset_selection=dg.AssetSelection.assets(keys.REJECTED),
        minimum_interval_seconds=seconds,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Tells people what goes wrong and when it is over, and keeps the list of rejected files.",
    )
    def notices(context: dg.SensorEvaluationContext, archive: Archive) -> dg.SensorResult | dg.SkipReason:
        with try_lock(archive.database, "tell people") as alone:
            if not alone:
                return dg.SkipReason("An earlier look is not finished yet.")
            return dispatch(context, archive)

    return notices


def dispatch(context: dg.SensorEvaluationContext, archive: Archive) -> dg.SensorResult | dg.SkipReason:
    """One tick. The messages come first: the list waits when the storage is away, they do not."""
    now, seen = datetime.now(UTC), json.loads(context.cursor or "{}")
    since = datetime.fromisoformat(seen["runs"]) if "runs" in seen else None
    runs = note_finished_runs(context.instance, archive.database, since, now)
    telling = dispatch_notifications(archive, now)
    with archive.database.connect() as connection:
        counted = counts(connection)
        changed = counted.stamp != seen.get("list") and is_mounted(archive)
        found = listed(connection) if changed else []
    if changed:
        archive.storage.put(STAFF_KEY, staff_json(counted, found, now))
    cursor = json.dumps({"runs": runs.isoformat(), "list": counted.stamp if changed else seen.get("list")})
    if changed:
        return dg.SensorResult(asset_events=[rejected_event(counted, found, archive.settings)], cursor=cursor)
    context.update_cursor(cursor)
    return dg.SkipReason(f"{telling.troubles} troubles; {telling.sent} messages sent, {telling.unsent} stay due.")


def is_mounted(archive: Archive) -> bool:
    """False for a folder that lies bare although photographs are known, as when its disk is not mounted: what is written there
    would come to lie under the disk."""
    # Of a bucket on S3 nothing is asked: it may be bare, and a request at each tick would tell nothing.
    if not (archive.storage.is_folder and is_unmounted(archive.storage)):
        return True
    with archive.database.connect() as connection:
        return not sources.anything_in_place(connection)


def rejected_event(counted: Counts, found: Sequence[Rejection], settings: Settings) -> dg.AssetMaterialization:
    """The list of rejected files, as the newest state of one asset."""
    headings = ["file", "what is wrong", "what to do", "first", "last", "state"]
    metadata: dict[str, dg.MetadataValue] = {
        "rejected": dg.MetadataValue.int(counted.open),
        "resolved": dg.MetadataValue.int(counted.resolved),
        "files": dg.MetadataValue.md(table(headings, map(_cells, found[:SHOWN])) if found else "none"),
    }
    if rest := counted.open + counted.resolved - len(found[:SHOWN]):
        metadata["not_shown"] = dg.MetadataValue.int(rest)
    if settings.staff_url:
        metadata["list"] = dg.MetadataValue.url(settings.staff_url)
    return dg.AssetMaterialization(keys.REJECTED, metadata=metadata, description=f"{counted.open} files are rejected or failed")


def _cells(one: Rejection) -> tuple[str, ...]:
    return one.key, one.reason, one.advice, f"{one.first_seen:%Y-%m-%d %H:%M}", f"{one.last_seen:%Y-%m-%d %H:%M}", one.state
