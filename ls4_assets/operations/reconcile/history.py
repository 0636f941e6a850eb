"""Materializations of frames that Dagster lost, as after *Wipe materializations* in its UI, restored from Postgres.

No pixel is read: the rows have the versions from which Dagster computes what is stale. `ls4_assets.assets.events` builds the
events of frames that a run has finished.
"""

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import replace

import dagster as dg
from sqlalchemy import Connection, exists, select

from ls4_assets.assets import event_store, keys
from ls4_assets.assets.events import frame_materializations
from ls4_assets.assets.frame_metadata import format_size
from ls4_assets.assets.provenance import Provenance, adopted_data_version
from ls4_assets.db.frames import ADOPTED, Product, SourceRecord, load_frame, load_source
from ls4_assets.db.schema import PENDING_STATES, frame, source
from ls4_assets.domain.chunks import chunks
from ls4_assets.domain.names import Collection, Frame
from ls4_assets.domain.products import COLLECTION_STEPS, STEPS, Step
from ls4_assets.operations.reconcile.check_history import restored_evaluations
from ls4_assets.operations.reconcile.model import Action, ActionKind
from ls4_assets.processing.tasks import FrameOutcome
from ls4_assets.runtime.dagster_names import CODE_VERSION_TAG, DATA_VERSION_TAG
from resources.archive import Archive

GEOREF = "georef"
_CHUNK = 100


def load_materialized(instance: dg.DagsterInstance, shard: str) -> dict[str, Set[str]]:
    """The partitions of each asset of a shard that Dagster has a materialization of."""
    assets = (GEOREF, *STEPS, *COLLECTION_STEPS)
    return {asset: instance.get_materialized_partitions(dg.AssetKey([shard, asset])) for asset in assets}


def find_lost_history(connection: Connection, collection: Collection, materialized: Mapping[str, Set[str]]) -> list[Action]:
    """An action for each frame of which assets have no materialization, with their names as value.

    A frame that is waiting or in progress is left to its run, which records it. The tif of an adopted frame was never dropped.
    """
    live = (source.c.frame == frame.c.id, source.c.state.in_([*PENDING_STATES, "done", "failed"]))
    is_pending = exists().where(source.c.frame == frame.c.id, source.c.state.in_(PENDING_STATES))
    columns = (frame.c.partition, frame.c.products, exists().where(*live).label("has_source"))
    query = select(*columns).where(frame.c.collection == collection.name, ~frame.c.deleted, ~is_pending)
    actions = []
    for row in connection.execute(query.order_by(frame.c.partition)):
        is_adopted = any(product["made_by"] == ADOPTED for product in row.products.values())
        dropped = [GEOREF] if row.has_source and not is_adopted else []
        made = [*dropped, *(step for step in STEPS if step in row.products)]
        if lost := [asset for asset in made if row.partition not in materialized[asset]]:
            reason = f"has no materialization of {', '.join(lost)} in the Dagster UI"
            actions.append(Action(ActionKind.RECORD, row.partition, reason, value=" ".join(lost)))
    return actions


def restore_history(archive: Archive, instance: dg.DagsterInstance, collection: Collection, actions: Sequence[Action]) -> None:
    """Store the materializations that these actions name, and evaluations of their checks, without a run."""
    for chunk in chunks(actions, _CHUNK):
        last_event_id = instance.event_log_storage.get_maximum_record_id()
        with archive.database.connect() as connection:
            events = [event for action in chunk for event in _events(connection, archive, collection, action, last_event_id)]
            evaluations = [each for action in chunk for each in _evaluations(connection, collection, action)]
        event_store.store_asset_events(instance, event_store.RUNLESS_ORIGIN, events)
        # After the materializations: Dagster ignores the evaluation of an earlier one.
        event_store.store_checks(instance, event_store.RUNLESS_ORIGIN, evaluations)


def _evaluations(connection: Connection, collection: Collection, action: Action) -> Iterator[dg.AssetCheckEvaluation]:
    """The wipe of the COG's materializations deleted those of its checks."""
    made = Frame.from_partition(collection.shard, action.target)
    record = load_frame(connection, made)
    if "cog" in str(action.value).split() and record and not record.deleted and "cog" in record.products:
        yield from restored_evaluations(connection, made, record)


def _events(
    connection: Connection, archive: Archive, collection: Collection, action: Action, last_event_id: int | None
) -> Iterator[dg.AssetMaterialization]:
    made = Frame.from_partition(collection.shard, action.target)
    record, dropped, lost = load_frame(connection, made), load_source(connection, made), str(action.value).split()
    if GEOREF in lost and dropped:
        tags = {DATA_VERSION_TAG: dropped.version}
        metadata = {"key": dg.MetadataValue.text(dropped.key), "size": dg.MetadataValue.text(format_size(dropped.size))}
        yield dg.AssetMaterialization(keys.georef(collection.shard), partition=action.target, metadata=metadata, tags=tags)
    if record is None or record.deleted:
        return
    # A version that failed later is not what these products were made from.
    used = replace(dropped or SourceRecord("", "", 0, (), 1), version=record.source_version)
    outcome = FrameOutcome(made, "reused", source=used, content_hash=record.content_hash, products=record.products)
    outcome = replace(outcome, facts=record.facts)
    steps = [step for step in STEPS if step in lost and step in record.products]
    provenance = Provenance(archive.settings.profiles, steps, last_event_id)
    materializations = frame_materializations(outcome, steps, archive.settings, provenance)
    for step, event in zip(steps, materializations, strict=True):
        tags = {**(event.tags or {}), **_recorded_tags(archive, made, step, record.products[step])}
        yield event._replace(tags=tags)


def _recorded_tags(archive: Archive, made: Frame, step: Step, product: Product) -> dict[str, str]:
    """The version tags that differ from those of a product that is made now."""
    if product.profile == ADOPTED:
        return {DATA_VERSION_TAG: adopted_data_version(product)}
    if product.profile != archive.settings.profiles[made.film_type].hash(step):
        # Stale before, and stale again.
        return {CODE_VERSION_TAG: f"{made.film_type}.{product.profile}"}
    return {}
