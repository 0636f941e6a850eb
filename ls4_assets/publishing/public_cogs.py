"""Public COGs of replaced frames: they follow once the map reads the new ones.

A warm map server keeps headers and blocks of the COGs it has opened. Whoever writes over one of those gets old and new pixels
mixed, or errors. So a replaced frame's COG lies under a key of its own (`frame.served_key`), to which the index changes over in
one transaction; only when the readers of the old one are done is it copied to the public key, and the older one removed.
"""

from datetime import UTC, datetime
from time import sleep

from sqlalchemy import Connection, func, select, update

from ls4_assets.db import frames as records
from ls4_assets.db.schema import collection, frame
from ls4_assets.domain.names import Collection, Frame
from resources.archive import Archive


def publish_cogs(archive: Archive, of: Collection) -> list[Frame]:
    """Bring the public COGs of a collection's replaced frames up to date. Returns these frames."""
    with archive.database.connect() as connection:
        behind = _behind(connection, of)
    if behind:
        wait_for_readers(archive, of)
    return [replaced for replaced in behind if _follow(archive, replaced)]


def wait_for_readers(archive: Archive, of: Collection) -> None:
    """Until whoever asked for a map before the index last changed has got it."""
    with archive.database.connect() as connection:
        changed = connection.scalar(select(collection.c.indexed_at).where(collection.c.name == of.name))
    if changed is not None:
        past = (datetime.now(UTC) - changed).total_seconds()
        sleep(min(max(0.0, archive.settings.reader_grace_seconds - past), archive.settings.reader_grace_seconds))


def remove_cogs(archive: Archive, gone: Frame) -> None:
    """Remove every COG of a frame that has left the index."""
    archive.storage.delete(gone.cog_key)
    for served in list(archive.storage.list(gone.served_folder)):
        archive.storage.delete(served.key)


def _behind(connection: Connection, of: Collection) -> list[Frame]:
    version = frame.c.products["cog"]["version"].astext
    rows = connection.scalars(
        select(frame.c.partition).where(
            frame.c.collection == of.name,
            frame.c.revision == frame.c.indexed_revision,
            frame.c.public_version.is_distinct_from(version),
            frame.c.served_key.is_not(None),
            ~frame.c.deleted,
        )
    )
    return [Frame.from_partition(of.shard, partition) for partition in rows]


def _follow(archive: Archive, of: Frame) -> bool:
    """False when the frame was replaced again meanwhile: the next rebuild sees to it."""
    with records.frame_lock(archive.database, of) as connection:
        row = connection.execute(select(frame).where(frame.c.id == of.id)).first()
        if row is None or row.deleted or row.revision != row.indexed_revision:
            return False
        archive.storage.copy(row.served_key, of.cog_key)
        for older in list(archive.storage.list(of.served_folder)):
            if older.key != row.served_key:
                archive.storage.delete(older.key)
        now = {"public_version": row.products["cog"]["version"], "updated_at": func.now()}
        connection.execute(update(frame).where(frame.c.id == of.id).values(now))
    return True
