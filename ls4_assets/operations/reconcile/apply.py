"""Carry out the plan of one collection. Products are not made here: frames are queued, and rebuilds marked as pending."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from dagster import DagsterInstance
from sqlalchemy import Connection, delete, func, select, update

from ls4_assets.assets import keys
from ls4_assets.db import overview_mosaics, schema, tile_index
from ls4_assets.db.schema import SourceState, frame, source
from ls4_assets.db.tile_index import collection_lock
from ls4_assets.domain.chunks import chunks
from ls4_assets.domain.names import Collection
from ls4_assets.ingest.scan import check_keys
from ls4_assets.operations.adopt import history, records
from ls4_assets.operations.reconcile.collection_history import restore_collection_history
from ls4_assets.operations.reconcile.history import restore_history
from ls4_assets.operations.reconcile.model import Action, ActionKind
from resources.archive import Archive

_ROW_CHUNK, _PARTITION_CHUNK = 500, 2000


def apply_plan(
    archive: Archive, instance: DagsterInstance, collection: Collection, actions: Sequence[Action], cutoff: datetime
) -> list[str]:
    """Carry out the actions. Return the errors of the scan that RESCAN actions start.

    The database comes first, in one transaction, so that no removed object is still served. Objects modified after `cutoff` stay:
    they were written since the plan was made.
    """
    by_kind: dict[ActionKind, list[Action]] = {kind: [] for kind in ActionKind}
    for action in actions:
        by_kind[action.kind].append(action)
    with collection_lock(archive.database, collection):
        with archive.database.begin() as connection:
            withdrawn = _write(connection, collection, by_kind)
        for action in by_kind[ActionKind.REMOVE]:
            stored = archive.storage.head(action.target)
            if stored and stored.modified <= cutoff:
                archive.storage.delete(action.target)
    _update_partitions(instance, collection, by_kind, withdrawn)
    lost = by_kind[ActionKind.RECORD]
    restore_history(archive, instance, collection, [action for action in lost if action.target != collection.partition])
    for action in lost:
        if action.target == collection.partition:
            restore_collection_history(archive, instance, collection, action)
    rescanned = _targets(by_kind[ActionKind.RESCAN])
    return check_keys(archive, rescanned).errors if rescanned else []


def _write(connection: Connection, collection: Collection, by_kind: Mapping[ActionKind, Sequence[Action]]) -> list[str]:
    """Return the partitions of the frames that are withdrawn."""
    for ids in chunks(_targets(by_kind[ActionKind.REQUEUE]), _ROW_CHUNK):
        idle = (source.c.frame.in_(ids), source.c.state.in_([SourceState.DONE, SourceState.FAILED]))
        queued = {"state": SourceState.QUEUED, "attempts": 0, "retry_after": None, "changed_at": func.now()}
        connection.execute(update(source).where(*idle).values(queued))
    for action in by_kind[ActionKind.RELINK]:
        linked = {"scan_file": action.value, "revision": frame.c.revision + 1, "updated_at": func.now()}
        connection.execute(update(frame).where(frame.c.id == action.target).values(linked))
    for ids in chunks(_targets(by_kind[ActionKind.REPUBLISH]), _ROW_CHUNK):
        connection.execute(update(frame).where(frame.c.id.in_(ids)).values(public_version=None))
    if by_kind[ActionKind.INDEX]:
        _invalidate_index(connection, collection)
    if by_kind[ActionKind.MOSAIC]:
        overview_mosaics.unpublish(connection, collection)
        overview_mosaics.update_state(connection, collection, key=None, format_version=None, zoom=None, revision=0, attempts=0)
    if by_kind[ActionKind.DROP]:
        tile_index.drop_table(connection, collection)
    pending = {"files_revision": 0} if by_kind[ActionKind.FILES] else {}
    pending |= {"map_revision": 0} if by_kind[ActionKind.MAP] or by_kind[ActionKind.REPUBLISH] else {}
    if pending:
        _mark_pending(connection, collection, pending)
    ids = _targets(by_kind[ActionKind.WITHDRAW])
    served = list(connection.scalars(select(frame.c.served_key).where(frame.c.id.in_(ids)))) if ids else []
    return records.withdraw_frames(connection, served) if served else []


def _invalidate_index(connection: Connection, collection: Collection) -> None:
    """Have the next rebuild write every row, and delete rows without a frame now."""
    if tile_index.has_table(connection, collection):
        table = schema.tile_index(collection)
        own_keys = select(tile_index.cog_key_expression(frame.c.id)).where(frame.c.collection == collection.name)
        is_orphan = tile_index.location_key_expression(table.c.location).not_in(own_keys)
        connection.execute(delete(table).where(is_orphan, table.c.profile_hash != tile_index.LEGACY))
    tile_index.mark_rebuild_pending(connection, collection.name)


def _mark_pending(connection: Connection, collection: Collection, values: Mapping[str, int]) -> None:
    row = update(schema.collection).where(schema.collection.c.name == collection.name)
    connection.execute(row.values({"attempts": 0, **values}))


def _update_partitions(
    instance: DagsterInstance, collection: Collection, by_kind: Mapping[ActionKind, Sequence[Action]], withdrawn: Iterable[str]
) -> None:
    sets = {
        True: str(keys.collection_partitions(collection.shard).name),
        False: str(keys.frame_partitions(collection.shard).name),
    }
    for is_collection, name in sets.items():
        added = [key for key in _targets(by_kind[ActionKind.ADD_PARTITION]) if (key == collection.partition) is is_collection]
        for chunk in chunks(added, _PARTITION_CHUNK):
            instance.add_dynamic_partitions(name, chunk)
        for key in _targets(by_kind[ActionKind.REMOVE_PARTITION]):
            if (key == collection.partition) is is_collection:
                instance.delete_dynamic_partition(name, key)
    history.remove_partitions(instance, collection.shard, list(withdrawn))


def _targets(actions: Iterable[Action]) -> list[str]:
    return [action.target for action in actions]
