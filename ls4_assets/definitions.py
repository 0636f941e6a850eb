"""The code location that Dagster loads: assets of every shard, checks, schedules, sensors and the archive resource.

Only this module puts them together. Assets are in `ls4_assets.assets`, sensors and the reconciliation schedule in `sensors`.
"""

import gc
import logging
from collections.abc import Collection, Sequence
from functools import cache
from itertools import chain

import dagster as dg
from sqlalchemy.exc import SQLAlchemyError

from ls4_assets import logs
from ls4_assets.assets import checks, keys
from ls4_assets.assets.collections import collection_assets
from ls4_assets.assets.details import DEFAULT_DETAILS, AssetDetails
from ls4_assets.assets.exports import compiled_indexes_asset
from ls4_assets.assets.frames import frame_assets
from ls4_assets.db.shards_in_use import load_in_use
from ls4_assets.domain.names import Shards
from ls4_assets.domain.profiles import PROFILES, Profiles
from ls4_assets.publishing.maps import MAP_PUBLISHERS
from ls4_assets.settings import DEFAULT_MAP_PUBLISHERS, MapPublisherName, Settings, load_settings
from resources.archive import Archive
from sensors.collection_pages import collection_page_specs
from sensors.defined_shards import FOLLOW_SECONDS, DefinedShards
from sensors.ingest_events import ingest_events_sensor
from sensors.ingest_poll import ingest_poll_sensor
from sensors.notifications import MIN_INTERVAL_SECONDS, notifications_sensor
from sensors.prune import prune_schedule
from sensors.publish_collections import publish_collections_sensor
from sensors.reconcile import archive_consistency_asset, reconcile_schedule
from sensors.rejected_files import build_rejections_event, nothing_rejected
from sensors.statewide_exports import statewide_exports_sensor


def build_definitions(
    shards: Shards,
    archive: Archive,
    sensor_seconds: int,
    profiles: Profiles = PROFILES,
    *,
    details: AssetDetails = DEFAULT_DETAILS,
    has_events: bool = False,
    follow_seconds: float = 0.0,
    map_publishers: Sequence[MapPublisherName] = DEFAULT_MAP_PUBLISHERS,
    surveys: Collection[str] | None = None,
) -> dg.Definitions:
    """Definitions for these shards, profiles and map publishers.

    `has_events`: the bucket sends events and is not polled. `follow_seconds`: time that the daemon takes to know new definitions.
    `surveys`: those that have a page; None, too, does not wait for others.
    """
    defined = DefinedShards.of(shards, surveys, follow_seconds=follow_seconds)
    ingest_sensor = ingest_events_sensor if has_events else ingest_poll_sensor
    rejected_files = dg.AssetSpec(
        keys.REJECTED_FILES,
        group_name="archive",
        kinds={"report"},
        description="Dropped files that ls4 cannot process, each with the reason and what to do.",
        **details.of(build_rejections_event, "archive"),
    )
    publishers = [MAP_PUBLISHERS[name] for name in map_publishers]
    by_shard = [(*frame_assets(shard, profiles, details), *collection_assets(shard, publishers, details)) for shard in shards]
    statewide: list[dg.AssetsDefinition | dg.AssetSpec] = [
        rejected_files,
        archive_consistency_asset(details),
        compiled_indexes_asset(details),
        *collection_page_specs(surveys or (), details),
    ]
    definitions = dg.Definitions(
        assets=[*statewide, *chain.from_iterable(by_shard)],
        asset_checks=[checks.archive_counts_match, nothing_rejected],
        schedules=[checks.archive_audit, reconcile_schedule(), prune_schedule(lambda: definitions)],
        sensors=[
            ingest_sensor(sensor_seconds, defined),
            # Most rebuilds are submitted by the runs that made the frames; this sensor requests the others.
            publish_collections_sensor(2 * sensor_seconds, defined),
            notifications_sensor(max(MIN_INTERVAL_SECONDS, sensor_seconds), surveys or ()),
            statewide_exports_sensor(),
        ],
        resources={"archive": archive},
        # Frames run in a process pool of their own, so a process per step would only add its start-up time.
        executor=dg.in_process_executor,
    )
    return definitions


@dg.definitions
def defs() -> dg.Definitions:
    return _load()


@cache
def _load() -> dg.Definitions:
    """Definitions from the settings, built once per process because Dagster requests them twice in a run.

    The garbage collector is disabled while they are built, and the objects are frozen afterwards. They number hundreds of
    thousands and none is ever garbage; scanning them repeatedly would take longer than building them.
    """
    settings = load_settings()
    logs.configure(settings.log_file)
    has_events = bool(settings.events_queue_url)
    gc.disable()
    try:
        shards, surveys = _load_in_use(settings)
        definitions = build_definitions(
            shards,
            Archive(),
            settings.sensor_seconds,
            settings.profiles,
            details=AssetDetails.from_settings(settings),
            has_events=has_events,
            follow_seconds=FOLLOW_SECONDS,
            map_publishers=settings.map_publishers,
            surveys=surveys,
        )
        # Build the repository now, so that it is frozen too; Dagster caches it in the definitions.
        definitions.get_repository_def()
        gc.freeze()
    finally:
        gc.enable()
    return definitions


def _load_in_use(settings: Settings) -> tuple[Shards, Collection[str]]:
    """The shards and surveys that hold something; all shards, and no survey, while the database cannot say."""
    try:
        in_use = load_in_use(settings.database_url.get_secret_value())
    except SQLAlchemyError as error:
        logs.emit("definitions", logging.WARNING, state="all shards", reason=str(error).splitlines()[0])
        return settings.shards, ()
    return {shard: kind for shard, kind in settings.shards.items() if shard in in_use.shards}, in_use.surveys


def forget() -> None:
    """Build the definitions again at the next request."""
    gc.unfreeze()
    _load.cache_clear()
