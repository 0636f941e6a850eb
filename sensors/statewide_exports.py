"""The sensor that has the statewide files compiled: when exports changed, but not at each change of a large drop."""

from datetime import UTC, datetime
from uuid import uuid4

import dagster as dg
from dagster import DagsterInstance, RunsFilter
from dagster._core.storage.dagster_run import NOT_FINISHED_STATUSES

from ls4_assets.assets import keys
from ls4_assets.db.export_state import compilation_status
from resources.archive import Archive

KIND = "statewide"
_SECONDS = 30


def statewide_exports_sensor() -> dg.SensorDefinition:
    """The sensor. How long it waits is told by `Compilation.waits_until`."""

    @dg.sensor(
        name="statewide_exports",
        asset_selection=dg.AssetSelection.assets(keys.COMPILED),
        minimum_interval_seconds=_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Compiles the statewide footprints when the collections have changed and the archive is quiet.",
    )
    def statewide(context: dg.SensorEvaluationContext, archive: Archive) -> dg.SensorResult | dg.SkipReason:
        with archive.database.connect() as connection:
            now = compilation_status(connection)
        if not now.changed:
            return dg.SkipReason("The statewide files show every collection as it is.")
        if (due := now.waits_until()) and datetime.now(UTC) < due:
            return dg.SkipReason(f"The statewide files are due at {due:%H:%M:%S} UTC.")
        if _is_under_way(context.instance):
            return dg.SkipReason("The statewide files are being compiled.")
        return dg.SensorResult(run_requests=[dg.RunRequest(uuid4().hex, tags={keys.KIND_TAG: KIND, **keys.NO_RETRIES})])

    return statewide


def _is_under_way(instance: DagsterInstance) -> bool:
    return bool(instance.get_runs(RunsFilter(statuses=NOT_FINISHED_STATUSES, tags={keys.KIND_TAG: KIND}), limit=1))
