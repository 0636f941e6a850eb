"""Carrying out the plan of one collection. Nothing is made here: what is missing is queued or called due."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from dagster import DagsterInstance
from sqlalchemy import Connection, delete, func, select, update

from ls4_assets.assets import keys
from ls4_assets.db import overview_mosaics, schema, tile_index
from ls4_assets.db.chunks import chunks
from ls4_assets.db.schema import SourceState, frame, source
from ls4_assets.db.tile_index import collection_lock
from ls4_assets.domain.names import Collection
from ls4_assets.ingest.scan import check_keys
from ls4_assets.operations.adopt import history, records
from ls4_assets.operations.reconcile.model import Action, Kind
from resources.archive import Archive

_ROWS = 500


def act(archive: Archive, instance: DagsterInstance, of: Collection, actions: Sequence[Action], old: datetime) -> list[str]:
    """Do it. Database first, in one transaction, so that what is removed then is served by nobody. Returns what a look says.

    What came after `old` is not removed: it was put since the plan was made.
    """
    by_kind: dict[Kind, list[Action]] = {kind: [] for kind in Kind}
    for action in actions:
        by_kind[action.kind].append(action)
    with collection_lock(archive.database, of):
        with archive.database.begin() as connection:
            gone = _write(connection, of, by_kind)
        for removed in by_kind[Kind.REMOVE]:
            found = archive.storage.head(removed.target)
            if found and found.modified <= old:
                archive.storage.delete(removed.target)
    _keep_partitions(instance, of, by_kind, gone)
    looked_at = [action.target for action in by_kind[Kind.LOOK]]
    return check_keys(archive, looked_at).errors if looked_at else []


def _write(connection: Connection, of: Collection, by_kind: Mapping[Kind, Sequence[Action]]) -> list[str]:
    """Returns partitions of frames that leave for good."""
    for some in chunks(_targets(by_kind[Kind.REQUEUE]), _ROWS):
        idle = (source.c.frame.in_(some), source.c.state.in_([SourceState.DONE, SourceState.FAILED]))
        again = {"state": SourceState.QUEUED, "attempts": 0, "retry_after": None, "changed_at": func.now()}
        connection.execute(update(source).where(*idle).values(again))
    for relinked in by_kind[Kind.RELINK]:
        linked = {"scan_file": relinked.value, "revision": frame.c.revision + 1, "updated_at": func.now()}
        connection.execute(update(frame).where(frame.c.id == relinked.target).values(linked))
    for some in chunks(_targets(by_kind[Kind.REPUBLISH]), _ROWS):
        connection.execute(update(frame).where(frame.c.id.in_(some)).values(public_version=None))
    if by_kind[Kind.INDEX]:
        _renew_index(connection, of)
    if by_kind[Kind.MOSAIC]:
        overview_mosaics.take_off(connection, of)
        overview_mosaics.note(connection, of, key=None, format_version=None, zoom=None, revision=0, attempts=0)
    if by_kind[Kind.DROP]:
        tile_index.drop(connection, of)
    due = {"files_revision": 0} if by_kind[Kind.FILES] else {}
    due |= {"map_revision": 0} if by_kind[Kind.MAP] or by_kind[Kind.REPUBLISH] else {}
    if due:
        _call_due(connection, of, due)
    ids = _targets(by_kind[Kind.WITHDRAW])
    served = list(connection.scalars(select(frame.c.served_key).where(frame.c.id.in_(ids)))) if ids else []
    return records.withdraw(connection, served) if served else []


def _renew_index(connection: Connection, of: Collection) -> None:
    """Have the next rebuild write every row; rows of no frame go at once."""
    if tile_index.exists(connection, of):
        table = schema.tile_index(of)
        made = select(tile_index.cog_key_of(frame.c.id)).where(frame.c.collection == of.name)
        of_none = tile_index.key_in(table.c.location).not_in(made)
        connection.execute(delete(table).where(of_none, table.c.profile_hash != tile_index.LEGACY))
    mine = update(frame).where(frame.c.collection == of.name)
    connection.execute(mine.values(revision=frame.c.revision + 1, updated_at=func.now()))
    _call_due(connection, of, {})


def _call_due(connection: Connection, of: Collection, values: Mapping[str, int]) -> None:
    mine = update(schema.collection).where(schema.collection.c.name == of.name)
    connection.execute(mine.values({"attempts": 0, **values}))


def _keep_partitions(
    instance: DagsterInstance, of: Collection, by_kind: Mapping[Kind, Sequence[Action]], gone: Iterable[str]
) -> None:
    sets = {True: str(keys.collection_partitions(of.shard).name), False: str(keys.frame_partitions(of.shard).name)}
    for name_of_collection, name in sets.items():
        added = [key for key in _targets(by_kind[Kind.ADD_PARTITION]) if (key == of.partition) is name_of_collection]
        for some in chunks(added, 2000):
            instance.add_dynamic_partitions(name, some)
        for key in _targets(by_kind[Kind.REMOVE_PARTITION]):
            if (key == of.partition) is name_of_collection:
                instance.delete_dynamic_partition(name, key)
    history.remove_partitions(instance, of.shard, list(gone))


def _targets(actions: Iterable[Action]) -> list[str]:
    return [action.target for action in actions]
