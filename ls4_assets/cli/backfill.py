"""Launch a Dagster backfill that rebuilds a collection, or all stale frames, and follow it to its end.

The backfill is stored the way the Dagster UI stores one; the daemon runs it, and an operator can follow or cancel it in the UI.
How Dagster stores one is in `ls4_assets.runtime.backfills`.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import dagster as dg
from sqlalchemy import Engine, select

from ls4_assets.assets import keys
from ls4_assets.db.frames import count_made_by
from ls4_assets.db.lookup import find_collection
from ls4_assets.db.schema import LIVE_STATES, source
from ls4_assets.db.stale import find_stale_partitions
from ls4_assets.definitions import build_definitions
from ls4_assets.domain.names import Collection
from ls4_assets.domain.products import STEPS
from ls4_assets.errors import ConfigurationError, UnknownCollectionError
from ls4_assets.runtime import backfills
from ls4_assets.runtime.backfill_guard import CONFIRM_TAG
from ls4_assets.runtime.backfills import BackfillProgress, BackfillStatus
from ls4_assets.settings import Settings
from resources.archive import Archive
from resources.open import open_database

POLL_SECONDS = 3.0
# Without a single run after this time, the daemon is probably down, or the queue is very long.
NO_RUN_WARNING_SECONDS = 60.0


@dataclass(frozen=True)
class LaunchedBackfill:
    """A backfill of `assets` for `partitions`, which are frames of one shard or a single collection.

    `name` is the collection, or the shard when the frames belong to several collections. `url` is its page in the Dagster UI.
    """

    id: str
    shard: str
    name: str
    assets: tuple[dg.AssetKey, ...]
    partitions: tuple[str, ...]
    url: str

    @property
    def description(self) -> str:
        """What it rebuilds, such as `cog of 12 frames`."""
        steps = ", ".join(key.path[1] for key in self.assets)
        return f"{steps} of {len(self.partitions)} frames" if self.assets[0].path[1] in STEPS else steps


def launch(instance: dg.DagsterInstance, settings: Settings, name: str, step: str) -> LaunchedBackfill:
    """Launch a rebuild of the collection `name` from `step` on.

    Raises UnknownCollectionError for a collection that does not exist or has no frames.
    """
    engine = open_database(settings.database_url.get_secret_value())
    with engine.connect() as connection:
        collection = find_collection(connection, name)
    partitions = _frame_partitions(engine, collection) if step in STEPS else [collection.partition]
    if not partitions:
        raise UnknownCollectionError(f"{collection.name} has no frames in georef/; drop its tifs first.")
    # Index and map: the tags of the sensor's own rebuilds (one at a time for a collection, ahead of frames in the queue).
    # Frames: the priority of a drop of the same size.
    rebuild_tags = {keys.COLLECTION_TAG: collection.name, **keys.REBUILD_PRIORITY}
    tags = keys.run_priority(len(partitions)) if step in STEPS else rebuild_tags
    return _launch(instance, settings, collection.shard, collection.name, step, partitions, tags)


def launch_stale_backfills(instance: dg.DagsterInstance, settings: Settings, name: str | None = None) -> list[LaunchedBackfill]:
    """Launch one backfill for each shard with stale frames: of the collection `name`, or of all collections.

    A frame is stale when no active profile has its hash. A frame that is up to date when its run starts is left unchanged.
    Raises UnknownCollectionError for a collection that does not exist.
    """
    engine = open_database(settings.database_url.get_secret_value())
    with engine.connect() as connection:
        collection_name = find_collection(connection, name).name if name else None
        stale = find_stale_partitions(connection, settings.profiles, collection_name)
    tags = {keys.ONLY_TAG: keys.STALE, **keys.run_priority(sum(map(len, stale.values())))}
    return [
        _launch(instance, settings, shard, collection_name or shard, STEPS[0], partitions, tags)
        for shard, partitions in stale.items()
    ]


def _launch(
    instance: dg.DagsterInstance,
    settings: Settings,
    shard: str,
    name: str,
    step: str,
    partitions: Sequence[str],
    tags: Mapping[str, str],
) -> LaunchedBackfill:
    definition = keys.frame_partitions(shard) if step in STEPS else keys.collection_partitions(shard)
    # They exist already, unless Dagster's database was lost.
    instance.add_dynamic_partitions(str(definition.name), list(partitions))
    backfill_id = backfills.new_backfill_id()
    url = f"{settings.dagster_url}/runs/b/{backfill_id}"
    launched = LaunchedBackfill(backfill_id, shard, name, tuple(keys.assets_from_step(shard, step)), tuple(partitions), url)
    # Who types the command means all of its frames.
    _store(instance, settings, launched, step, {CONFIRM_TAG: "yes", **tags})
    return launched


def read_progress(instance: dg.DagsterInstance, launched: LaunchedBackfill) -> BackfillProgress:
    """The progress that the daemon stored last. A frame is done when the last of its assets is materialized.

    Raises UnknownCollectionError for a backfill that was deleted.
    """
    progress = backfills.read_progress(instance, launched.id, launched.assets[-1])
    if progress is None:
        raise UnknownCollectionError(f"The backfill {launched.id} was deleted; launch it again.")
    return progress


def follow(
    instance: dg.DagsterInstance,
    settings: Settings,
    launched: LaunchedBackfill,
    echo: Callable[[str], None],
    on_progress: Callable[[int, int], None] | None = None,
) -> bool:
    """Print the progress until the backfill has ended, then each failure with its reason. Returns whether all was rebuilt.

    `on_progress` gets the number of frames that are done or failed, and of all, instead of a line for each change.
    """
    started, last_line, has_warned, total = time.monotonic(), "", False, len(launched.partitions)
    while (progress := read_progress(instance, launched)).final_status is None:
        done = max(progress.done, _count_made(instance, settings, launched))
        failures = f", {len(progress.failed)} failed so far" if progress.failed else ""
        line = f"{done} of {total} done{failures}"
        if on_progress:
            on_progress(min(total, done + len(progress.failed)), total)
        elif line != last_line:
            echo(line)
            last_line = line
        if not (progress.has_started or has_warned) and time.monotonic() - started > NO_RUN_WARNING_SECONDS:
            echo("No run has started yet; check in the Dagster UI, Deployment, that the daemon is running.")
            has_warned = True
        time.sleep(POLL_SECONDS)
    for line in _result_lines(settings, launched, progress):
        echo(line)
    return progress.final_status in backfills.SUCCESSFUL


def _count_made(instance: dg.DagsterInstance, settings: Settings, launched: LaunchedBackfill) -> int:
    """Frames that runs of the backfill have made; the daemon counts them half a minute later."""
    step, runs = launched.assets[-1].path[1], backfills.list_runs(instance, launched.id)
    if not runs or step not in STEPS:
        return 0
    with open_database(settings.database_url.get_secret_value()).connect() as connection:
        return count_made_by(connection, launched.shard, step, runs)


def _result_lines(settings: Settings, launched: LaunchedBackfill, progress: BackfillProgress) -> Iterator[str]:
    yield f"{progress.done} of {len(launched.partitions)} rebuilt, {len(progress.failed)} failed."
    if progress.final_status == BackfillStatus.CANCELED:
        yield "It was canceled in the Dagster UI; launch it again for the rest."
    elif progress.final_status == BackfillStatus.FAILED:
        yield f"Dagster gave up; read the reason at {launched.url}, fix it and launch the command again."
    reasons = _failure_reasons(open_database(settings.database_url.get_secret_value()), launched.shard) if progress.failed else {}
    for partition in progress.failed:
        yield f"failed: {partition}\n    {reasons.get(partition) or f'Read the reason in its run: {launched.url}'}"


def _frame_partitions(engine: Engine, collection: Collection) -> list[str]:
    """Partitions of all frames whose tif is in georef/, sorted as for a new drop."""
    is_present = (source.c.collection == collection.name, source.c.state.in_(LIVE_STATES), source.c.missing_since.is_(None))
    query = select(source.c.partition).where(*is_present).distinct().order_by(source.c.partition)
    with engine.connect() as connection:
        return list(connection.scalars(query))


def _failure_reasons(engine: Engine, shard: str) -> dict[str, str]:
    has_reason = (source.c.shard == shard, source.c.state.in_(LIVE_STATES), source.c.reason.is_not(None))
    with engine.connect() as connection:
        rows = connection.execute(select(source.c.partition, source.c.reason).where(*has_reason))
        return {row.partition: row.reason for row in rows}


def _store(
    instance: dg.DagsterInstance, settings: Settings, launched: LaunchedBackfill, step: str, tags: Mapping[str, str]
) -> None:
    shard = launched.shard
    if shard not in settings.shards:
        raise ConfigurationError(f"{shard} is no longer in the list of shards; add it to the file in LS4_ARCHIVE_FILE.")
    # Definitions of this shard only: loading all shards would take longer than everything else here.
    shards = {shard: settings.shards[shard]}
    graph = build_definitions(shards, Archive(), settings.sensor_seconds, settings.profiles).resolve_asset_graph()
    title = f"{launched.name}: stale frames" if keys.is_stale_only(tags) else f"{launched.name} from {step} on"
    backfills.add_backfill(
        instance,
        launched.id,
        graph,
        launched.assets,
        launched.partitions,
        tags=tags,
        title=title,
        description="ls4 rematerialize",
    )
