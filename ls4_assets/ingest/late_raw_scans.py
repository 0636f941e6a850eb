"""Raw scans that arrive after their frame: found in scanned/, noted in the frame's row, and linked by the next index.

The look at the bucket does not enter scanned/, where an archive keeps most of its bytes. So the folders of collections that lack
scans are looked through in turn: one listing for all frames of a folder, a few folders at a time, each again after some minutes.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import PurePosixPath

from sqlalchemy import Engine, bindparam, exists, func, nulls_first, or_, select, text, update
from sqlalchemy.exc import OperationalError

from ls4_assets.db.schema import SCANLESS, collection, frame
from ls4_assets.domain.names import Collection, Frame
from ls4_assets.processing.raw_scans import match_scans
from resources.storage import Storage, StoredObject

AGAIN = timedelta(minutes=5)
# Collections of a tick, and frames that one tick tells Dagster of.
COLLECTIONS = 5
FRAMES = 200


@dataclass
class LateScans:
    """`found`: frames whose raw scan has come since they were made. `errors`, sentences: folders that could not be listed."""

    found: list[Frame] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


def find_late_scans(engine: Engine, storage: Storage, again: timedelta = AGAIN) -> LateScans:
    """Look through the folders whose turn it is. What is found is written down, and the index of the frame is due."""
    late = LateScans()
    for of in _due(engine, again):
        try:
            late.found += _look_through(engine, storage, of, FRAMES - len(late.found))
        except OperationalError:
            raise
        except Exception as error:  # noqa: BLE001  # each storage has errors of its own; the other folders must be seen
            late.errors.append(f"scanned/ of {of.name} cannot be listed ({error}); its raw scans are linked once it can be.")
            _note_looked_at(engine, of)
        if len(late.found) >= FRAMES:
            break
    return late


def _due(engine: Engine, again: timedelta) -> list[Collection]:
    lacks = exists().where(frame.c.collection == collection.c.name, text(SCANLESS))
    seen = collection.c.raw_scans_checked_at
    query = select(collection.c.shard, collection.c.partition).where(lacks, or_(seen.is_(None), seen < func.now() - again))
    with engine.connect() as connection:
        rows = connection.execute(query.order_by(nulls_first(seen)).limit(COLLECTIONS))
        return [Collection.from_partition(row.shard, row.partition) for row in rows]


def _look_through(engine: Engine, storage: Storage, of: Collection, most: int) -> list[Frame]:
    """One collection. It stays due where there is more than is told of at once."""
    with engine.connect() as connection:
        lacking = select(frame.c.partition).where(frame.c.collection == of.name, text(SCANLESS))
        frames = [Frame.from_partition(of.shard, partition) for partition in connection.scalars(lacking)]
    arrived: list[tuple[Frame, str]] = []
    for folder, some in _by_folder(frames).items():
        files = [PurePosixPath(item.key).name for item in storage.level(folder) if isinstance(item, StoredObject) and item.size]
        arrived += match_scans(some, files).items()
    taken = arrived[:most]
    if taken:
        note = update(frame).where(frame.c.id == bindparam("frame"), frame.c.scan_file.is_(None), ~frame.c.deleted)
        values = {"scan_file": bindparam("file"), "revision": frame.c.revision + 1, "updated_at": func.now()}
        with engine.begin() as connection:
            connection.execute(note.values(values), [{"frame": one.id, "file": file} for one, file in taken])
    if len(taken) == len(arrived):
        _note_looked_at(engine, of)
    return [one for one, _ in taken]


def _note_looked_at(engine: Engine, of: Collection) -> None:
    with engine.begin() as connection:
        connection.execute(update(collection).where(collection.c.name == of.name).values(raw_scans_checked_at=func.now()))


def _by_folder(frames: Sequence[Frame]) -> dict[str, list[Frame]]:
    folders: dict[str, list[Frame]] = defaultdict(list)
    for one in frames:
        folders[f"{one.folder}/scanned/"].append(one)
    return folders
