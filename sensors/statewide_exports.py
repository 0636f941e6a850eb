"""The sensor that requests builds of the statewide files. The files are built in `ls4_assets.publishing.statewide`.

It waits between builds (`StatewideBuild.waits_until`), so that a large drop does not start one build per change.
"""

from datetime import UTC, datetime
from uuid import uuid4

import dagster as dg
from dagster import DagsterInstance, RunsFilter

from ls4_assets.assets import keys
from ls4_assets.db.export_state import count_exported_frames, load_statewide_build
from ls4_assets.runtime.dagster_names import UNFINISHED_STATUSES
from ls4_assets.runtime.run_line import KIND_TAG, STATEWIDE_KIND
from resources.archive import Archive
from sensors import minimum_interval

_INTERVAL_SECONDS = 30


def statewide_exports_sensor() -> dg.SensorDefinition:
    """The sensor `statewide_exports`."""

    @dg.sensor(
        name="statewide_exports",
        asset_selection=dg.AssetSelection.assets(keys.COMPILED_INDEXES),
        minimum_interval_seconds=minimum_interval(_INTERVAL_SECONDS),
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Rebuilds the statewide footprint files after collections change, less often while frames are processed, and "
        "otherwise once a day.",
    )
    def statewide_exports(context: dg.SensorEvaluationContext, archive: Archive) -> dg.SensorResult | dg.SkipReason:
        with archive.database.connect() as connection:
            build, frames = load_statewide_build(connection), count_exported_frames(connection)
        now = datetime.now(UTC)
        if not build.is_due(now):
            return dg.SkipReason("The statewide files are up to date.")
        if (due := build.waits_until()) and now < due:
            return dg.SkipReason(f"The statewide files are due at {due:%H:%M:%S} UTC.")
        if _has_active_run(context.instance):
            return dg.SkipReason("A run is building the statewide files.")
        tags = {**keys.size_tags(STATEWIDE_KIND, frames), **keys.NO_RETRIES}
        return dg.SensorResult(run_requests=[dg.RunRequest(uuid4().hex, tags=tags)])

    return statewide_exports


def _has_active_run(instance: DagsterInstance) -> bool:
    return bool(instance.get_runs(RunsFilter(statuses=UNFINISHED_STATUSES, tags={KIND_TAG: STATEWIDE_KIND}), limit=1))
