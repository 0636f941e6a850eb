"""Everything Dagster loads, merged: the assets of each shard, sensors and schedule, and the archive as their resource."""

import gc
from functools import cache

import dagster as dg

from ls4_assets import logs
from ls4_assets.assets import checks, keys
from ls4_assets.assets.collections import collection_assets
from ls4_assets.assets.exports import compiled_asset
from ls4_assets.assets.frames import frame_assets
from ls4_assets.domain.names import Shards
from ls4_assets.settings import AS_SHIPPED, Profiles, load_settings
from resources.archive import Archive
from sensors.ingest_events import ingest_events_sensor
from sensors.ingest_poll import ingest_poll_sensor
from sensors.notifications import SECONDS, notifications_sensor
from sensors.publish_collections import publish_collections_sensor
from sensors.reconcile import in_step, nightly
from sensors.statewide_exports import statewide_exports_sensor


def build_definitions(
    shards: Shards, archive: Archive, sensor_seconds: int, profiles: Profiles = AS_SHIPPED, *, by_events: bool = False
) -> dg.Definitions:
    """The platform for these shards, with these profiles in force; a test gives an archive of its own. `by_events`: the bucket
    tells of its objects."""
    hears = ingest_events_sensor if by_events else ingest_poll_sensor
    rejected = dg.AssetSpec(
        keys.REJECTED, group_name="archive", description="Files that could not be taken: why, and what to do."
    )
    assets = [asset for shard in shards for asset in (*frame_assets(shard, profiles), *collection_assets(shard))]
    return dg.Definitions(
        assets=[rejected, in_step, compiled_asset(), *assets],
        asset_checks=[checks.archive_counts_match],
        schedules=[checks.archive_audit, nightly()],
        sensors=[
            hears(sensor_seconds),
            publish_collections_sensor(sensor_seconds),
            notifications_sensor(max(SECONDS, sensor_seconds)),
            statewide_exports_sensor(),
        ],
        resources={"archive": archive},
        # A run's frames share a pool of processes; a process more for each step would only cost its start.
        executor=dg.in_process_executor,
    )


@dg.definitions
def defs() -> dg.Definitions:
    return _loaded()


@cache
def _loaded() -> dg.Definitions:
    """Once a process: a run's asks twice. None of these hundreds of thousands of objects is ever garbage, and looking through
    them for some, again and again and once more at the process's end, would take longer than to make them."""
    settings = load_settings()
    logs.configure(settings.log_file)
    by_events = bool(settings.events_queue_url)
    gc.disable()
    try:
        definitions = build_definitions(
            settings.shards, Archive(), settings.sensor_seconds, settings.profiles, by_events=by_events
        )
        # Made now, as Dagster keeps it with the definitions.
        definitions.get_repository_def()
        gc.freeze()
    finally:
        gc.enable()
    return definitions
