"""Public COGs of replaced frames, updated after the map reads the new version. New versions are written in `processing`.

A running map server caches headers and blocks of the COGs that it has opened. Overwriting one of those mixes old and new pixels,
or causes errors. So the COG of a replaced frame gets its own key (`frame.served_key`), and the index switches to it in one
transaction. When the readers of the old version are done, the new one is copied to the public key and older ones are deleted.
"""

from datetime import UTC, datetime
from time import sleep

from sqlalchemy import Connection, func, select, update

from ls4_assets.db import frames as records
from ls4_assets.db import schema
from ls4_assets.domain.names import Collection, Frame
from resources.archive import Archive


def update_public_cogs(archive: Archive, collection: Collection) -> list[Frame]:
    """Update the public COGs of a collection's replaced frames. Returns the frames that were updated."""
    with archive.database.connect() as connection:
        outdated = _outdated_frames(connection, collection)
    if outdated:
        wait_for_readers(archive, collection)
    return [frame for frame in outdated if _update_public_cog(archive, frame)]


def wait_for_readers(archive: Archive, collection: Collection) -> None:
    """Wait for map requests that began before the last index change, at most `reader_grace_seconds`."""
    query = select(schema.collection.c.indexed_at).where(schema.collection.c.name == collection.name)
    with archive.database.connect() as connection:
        indexed_at = connection.scalar(query)
    if indexed_at is not None:
        elapsed_seconds = (datetime.now(UTC) - indexed_at).total_seconds()
        grace_seconds = archive.settings.reader_grace_seconds
        sleep(min(max(0.0, grace_seconds - elapsed_seconds), grace_seconds))


def remove_versions(archive: Archive, frame: Frame) -> None:
    """Delete the COGs of a frame that are not under its public key."""
    for served in list(archive.storage.list(frame.served_folder)):
        archive.storage.delete(served.key)


def _outdated_frames(connection: Connection, collection: Collection) -> list[Frame]:
    """Frames whose public COG is older than the indexed version."""
    columns = schema.frame.c
    version = columns.products["cog"]["version"].astext
    rows = connection.scalars(
        select(columns.partition).where(
            columns.collection == collection.name,
            columns.revision == columns.indexed_revision,
            columns.public_version.is_distinct_from(version),
            columns.served_key.is_not(None),
            ~columns.deleted,
        )
    )
    return [Frame.from_partition(collection.shard, partition) for partition in rows]


def _update_public_cog(archive: Archive, frame: Frame) -> bool:
    """Copy the served COG to the public key. Returns False if the frame was replaced again; the next rebuild handles it."""
    this_frame = schema.frame.c.id == frame.id
    with records.frame_lock(archive.database, frame) as connection:
        row = connection.execute(select(schema.frame).where(this_frame)).first()
        if row is None or row.deleted or row.revision != row.indexed_revision:
            return False
        archive.storage.copy(row.served_key, frame.cog_key)
        for served in list(archive.storage.list(frame.served_folder)):
            if served.key != row.served_key:
                archive.storage.delete(served.key)
        values = {"public_version": row.products["cog"]["version"], "updated_at": func.now()}
        connection.execute(update(schema.frame).where(this_frame).values(values))
    return True
