"""Raw scans that arrive after their frame was made: found in scanned/, recorded in the frame's row, linked by the next rebuild.

The scan of the bucket (`scan`) never enters scanned/, which holds most of an archive's bytes. Instead, the folders of
collections that lack raw scans are listed in turn, a few in each tick and each again after some minutes. The raw scan's file
name is matched in `ls4_assets.processing.raw_scans`.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import PurePosixPath

from sqlalchemy import Engine, bindparam, exists, func, nulls_first, or_, select, text, update
from sqlalchemy.exc import OperationalError

from ls4_assets.db import schema
from ls4_assets.db.schema import SCANLESS
from ls4_assets.domain.names import Collection, Frame
from ls4_assets.processing.raw_scans import match_raw_scans
from resources.storage import Storage, StoredObject

CHECK_INTERVAL = timedelta(minutes=5)
# Limits of one tick: collections whose folders are listed, and frames reported to Dagster.
MAX_COLLECTIONS = 5
MAX_FRAMES = 200


@dataclass
class LateRawScans:
    """`frames`: frames whose raw scan arrived since they were made. `errors`: a sentence for each folder not listed."""

    frames: list[Frame] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


def find_late_raw_scans(engine: Engine, storage: Storage, interval: timedelta = CHECK_INTERVAL) -> LateRawScans:
    """List the folders that are due and record the raw scans found, which makes the index of their frames due."""
    late = LateRawScans()
    for collection in _load_due_collections(engine, interval):
        try:
            late.frames += _check_collection(engine, storage, collection, MAX_FRAMES - len(late.frames))
        except OperationalError:
            raise
        except Exception as error:  # noqa: BLE001  # each storage raises its own errors; the other folders must be checked
            late.errors.append(
                f"scanned/ of {collection.name} cannot be listed ({error}); its raw scans are linked as soon as it can be."
            )
            _mark_checked(engine, collection)
        if len(late.frames) >= MAX_FRAMES:
            break
    return late


def _load_due_collections(engine: Engine, interval: timedelta) -> list[Collection]:
    columns = schema.collection.c
    lacks_scans = exists().where(schema.frame.c.collection == columns.name, text(SCANLESS))
    checked_at = columns.raw_scans_checked_at
    is_due = or_(checked_at.is_(None), checked_at < func.now() - interval)
    query = select(columns.shard, columns.partition).where(lacks_scans, is_due)
    with engine.connect() as connection:
        rows = connection.execute(query.order_by(nulls_first(checked_at)).limit(MAX_COLLECTIONS))
        return [Collection.from_partition(row.shard, row.partition) for row in rows]


def _check_collection(engine: Engine, storage: Storage, collection: Collection, limit: int) -> list[Frame]:
    """Record up to `limit` late raw scans of a collection, which stays due when there are more."""
    table = schema.frame
    with engine.connect() as connection:
        lacking = select(table.c.partition).where(table.c.collection == collection.name, text(SCANLESS))
        frames = [Frame.from_partition(collection.shard, partition) for partition in connection.scalars(lacking)]
    arrived: list[tuple[Frame, str]] = []
    for folder, frames_in_folder in _group_by_folder(frames).items():
        items = storage.list_level(folder)
        files = [PurePosixPath(item.key).name for item in items if isinstance(item, StoredObject) and item.size]
        arrived += match_raw_scans(frames_in_folder, files).items()
    recorded = arrived[:limit]
    if recorded:
        statement = update(table).where(table.c.id == bindparam("frame"), table.c.scan_file.is_(None), ~table.c.deleted)
        values = {"scan_file": bindparam("file"), "revision": table.c.revision + 1, "updated_at": func.now()}
        with engine.begin() as connection:
            connection.execute(statement.values(values), [{"frame": frame.id, "file": file} for frame, file in recorded])
    if len(recorded) == len(arrived):
        _mark_checked(engine, collection)
    return [frame for frame, _ in recorded]


def _mark_checked(engine: Engine, collection: Collection) -> None:
    table = schema.collection
    with engine.begin() as connection:
        connection.execute(update(table).where(table.c.name == collection.name).values(raw_scans_checked_at=func.now()))


def _group_by_folder(frames: Sequence[Frame]) -> dict[str, list[Frame]]:
    folders: dict[str, list[Frame]] = defaultdict(list)
    for frame in frames:
        folders[f"{frame.folder}/scanned/"].append(frame)
    return folders
