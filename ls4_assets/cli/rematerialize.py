"""`ls4 rematerialize`: the products of a collection, or what is stale, made anew, as a backfill that an operator follows, or
stops, in the Dagster UI.

The backfill is stored as the Dagster UI stores one, and the daemon does the rest. Dagster has no public call for this: what is imported
from its inside stands in this module alone, and test_rematerialize.py fails if a new version takes it differently.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import dagster as dg
from dagster._core.execution.backfill import BULK_ACTION_TERMINAL_STATUSES, BulkActionStatus, PartitionBackfill
from dagster._core.utils import make_new_backfill_id
from sqlalchemy import Engine, select

from ls4_assets.assets import keys
from ls4_assets.db.lookup import find_collection
from ls4_assets.db.schema import LIVE, source
from ls4_assets.db.stale import stale_partitions
from ls4_assets.definitions import build_definitions
from ls4_assets.domain.names import STEPS, Collection
from ls4_assets.errors import ConfigurationError, UnknownCollectionError
from ls4_assets.settings import Settings
from resources.archive import Archive
from resources.open import open_database

POLL_SECONDS = 3.0
# After this long without a single run something is wrong with the daemon, or the queue is very long.
QUIET_SECONDS = 60.0


@dataclass(frozen=True)
class Rematerialization:
    """A backfill that was launched: `assets` of `partitions`, which are frames of a shard, or a collection. `name` is the
    collection's, or the shard's where the frames are those of several."""

    id: str
    shard: str
    name: str
    assets: tuple[dg.AssetKey, ...]
    partitions: tuple[str, ...]
    address: str

    @property
    def what(self) -> str:
        """Words for what is made anew."""
        made = ", ".join(key.path[1] for key in self.assets)
        return f"{made} of {len(self.partitions)} frames" if self.assets[0].path[1] in STEPS else made


@dataclass(frozen=True)
class Progress:
    """How far it is. `failed` are partitions; `begun`: some run was asked for; `ended`: why nothing more comes, None before."""

    done: int
    failed: tuple[str, ...]
    begun: bool
    ended: BulkActionStatus | None


def launch(instance: dg.DagsterInstance, settings: Settings, name: str, step: str) -> Rematerialization:
    """Have everything from `step` on made anew. Raises UnknownName for a collection that is not there or has no frames."""
    engine = open_database(settings.database_url.get_secret_value())
    with engine.connect() as connection:
        of = find_collection(connection, name)
    partitions = _frames(engine, of) if step in STEPS else [of.partition]
    if not partitions:
        raise UnknownCollectionError(f"No frame of {of.name} lies under georef/; drop its tifs first.")
    # A rebuild as the sensor's, one at a time for a collection and ahead of the frames in the queue; frames as a drop of so many.
    rebuild = {keys.COLLECTION_TAG: of.name, **keys.REBUILD_PRIORITY}
    tags = keys.run_priority(len(partitions)) if step in STEPS else rebuild
    return _launch(instance, settings, of.shard, of.name, step, partitions, tags)


def launch_stale(instance: dg.DagsterInstance, settings: Settings, name: str | None = None) -> list[Rematerialization]:
    """Have the frames made anew whose profile is not in force any more, of one collection or of all: a backfill for each shard
    that has some. A frame that is right when its turn comes is left as it is. Raises UnknownName for a collection that is not
    there."""
    engine = open_database(settings.database_url.get_secret_value())
    with engine.connect() as connection:
        of = find_collection(connection, name) if name else None
        stale = stale_partitions(connection, settings.profiles, of.name if of else None)
    tags = {keys.ONLY_TAG: keys.STALE, **keys.run_priority(sum(map(len, stale.values())))}
    called = of.name if of else None
    return [_launch(instance, settings, shard, called or shard, STEPS[0], frames, tags) for shard, frames in stale.items()]


def _launch(
    instance: dg.DagsterInstance,
    settings: Settings,
    shard: str,
    name: str,
    step: str,
    partitions: Sequence[str],
    tags: Mapping[str, str],
) -> Rematerialization:
    known = keys.frame_partitions(shard) if step in STEPS else keys.collection_partitions(shard)
    # Known already, unless Dagster's history was lost.
    instance.add_dynamic_partitions(str(known.name), list(partitions))
    id_ = make_new_backfill_id()
    address = f"{settings.dagster_url}/runs/b/{id_}"
    launched = Rematerialization(id_, shard, name, tuple(keys.from_step_on(shard, step)), tuple(partitions), address)
    instance.add_backfill(_backfill(instance, settings, launched, step, tags))
    return launched


def progress(instance: dg.DagsterInstance, launched: Rematerialization) -> Progress:
    """As the daemon wrote it down last. A frame is done when the last of its assets is."""
    backfill = instance.get_backfill(launched.id)
    if backfill is None or backfill.asset_backfill_data is None:
        raise UnknownCollectionError(f"The backfill {launched.id} was deleted; launch it again.")
    data = backfill.asset_backfill_data
    done = [made for made in data.materialized_subset.iterate_asset_partitions() if made.asset_key == launched.assets[-1]]
    failed = {str(one.partition_key) for one in data.failed_and_downstream_subset.iterate_asset_partitions()}
    ended = backfill.status if backfill.status in BULK_ACTION_TERMINAL_STATUSES else None
    return Progress(len(done), tuple(sorted(failed)), not data.requested_subset.is_empty, ended)


def follow(instance: dg.DagsterInstance, settings: Settings, launched: Rematerialization, say: Callable[[str], None]) -> bool:
    """Tell the progress until it has ended, then what failed and why. Returns whether all was made."""
    started, told, warned = time.monotonic(), "", False
    while (now := progress(instance, launched)).ended is None:
        line = f"{now.done} of {len(launched.partitions)} made" + (f", {len(now.failed)} failed so far" if now.failed else "")
        if line != told:
            say(line)
            told = line
        if not (now.begun or warned) and time.monotonic() - started > QUIET_SECONDS:
            say("No run has begun yet; look in the Dagster UI, Deployment, whether the daemon runs.")
            warned = True
        time.sleep(POLL_SECONDS)
    for line in _verdict(settings, launched, now):
        say(line)
    return now.ended in (BulkActionStatus.COMPLETED_SUCCESS, BulkActionStatus.COMPLETED)


def _verdict(settings: Settings, launched: Rematerialization, end: Progress) -> Iterator[str]:
    yield f"{end.done} of {len(launched.partitions)} made anew, {len(end.failed)} failed."
    if end.ended == BulkActionStatus.CANCELED:
        yield "It was cancelled in the Dagster UI; launch it again for the rest."
    elif end.ended == BulkActionStatus.FAILED:
        yield f"Dagster gave it up; read why at {launched.address}, mend that and launch it again."
    reasons = _reasons(open_database(settings.database_url.get_secret_value()), launched.shard) if end.failed else {}
    for partition in end.failed:
        yield f"failed: {partition}\n    {reasons.get(partition) or f'Its run says why: {launched.address}'}"


def _frames(engine: Engine, of: Collection) -> list[str]:
    """Partitions of all frames whose tif lies in georef/, in Dagster's order of a new drop."""
    there = (source.c.collection == of.name, source.c.state.in_(LIVE), source.c.missing_since.is_(None))
    with engine.connect() as connection:
        return list(connection.scalars(select(source.c.partition).where(*there).distinct().order_by(source.c.partition)))


def _reasons(engine: Engine, shard: str) -> dict[str, str]:
    told = (source.c.shard == shard, source.c.state.in_(LIVE), source.c.reason.is_not(None))
    with engine.connect() as connection:
        rows = connection.execute(select(source.c.partition, source.c.reason).where(*told))
        return {row.partition: row.reason for row in rows}


def _backfill(
    instance: dg.DagsterInstance, settings: Settings, launched: Rematerialization, step: str, tags: Mapping[str, str]
) -> PartitionBackfill:
    shard = launched.shard
    if shard not in settings.shards:
        raise ConfigurationError(f"{shard} is in the archive's list of shards no more; put it back (LS4_SHARDS_FILE).")
    # The definitions of one shard: loading those of all would take longer than everything else here.
    only = {shard: settings.shards[shard]}
    graph = build_definitions(only, Archive(), settings.sensor_seconds, settings.profiles).resolve_asset_graph()
    return PartitionBackfill.from_asset_partitions(
        backfill_id=launched.id,
        asset_graph=graph,
        partition_names=launched.partitions,
        asset_selection=launched.assets,
        backfill_timestamp=time.time(),
        tags=dict(tags),
        dynamic_partitions_store=instance,
        all_partitions=False,
        title=f"{launched.name}: what is stale" if keys.is_for_stale(tags) else f"{launched.name} from {step} on",
        description="ls4 rematerialize",
        run_config=None,
    )
