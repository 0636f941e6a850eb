"""Objects that the map no longer reads: products of removed frames, and old versions of replaced COGs.

A running map server caches headers and blocks of the COGs that it has opened. Overwriting one of those mixes old and new pixels,
or causes errors. So the COG of a replaced frame gets its own key (`frame.served_key`), and the index switches to it in one
transaction. When the readers of the old version are done, the new one is copied to the public key and older ones are deleted.
The products of a removed frame are deleted at the same time.
"""

from datetime import UTC, datetime
from time import sleep

from sqlalchemy import Connection, exists, func, select, update

from ls4_assets.db import frames as records
from ls4_assets.db import schema
from ls4_assets.domain.export_keys import stac_item_key
from ls4_assets.domain.names import Collection, Frame
from ls4_assets.domain.products import PRODUCTS
from resources.archive import Archive

_POLL_SECONDS = 1.0


def remove_obsolete(archive: Archive, collection: Collection) -> list[Frame]:
    """Update the public COGs of replaced frames, and delete the products of frames that left the index, after their last readers.

    Returns the replaced frames. If frames of the collection changed meanwhile, nothing is removed, so that the rebuild that puts
    them on the map need not wait; it removes these objects as well.
    """
    with archive.database.connect() as connection:
        outdated, removed = _outdated_frames(connection, collection), _removed_frames(connection, collection)
    if not (outdated or removed) or not _wait_for_readers(archive, collection):
        return []
    for frame in removed:
        _delete_products(archive, frame)
    return [frame for frame in outdated if _update_public_cog(archive, frame)]


def _wait_for_readers(archive: Archive, collection: Collection) -> bool:
    """Wait for map requests that began before the last index change, at most `reader_grace_seconds`.

    Returns False as soon as frames of the collection changed again.
    """
    query = select(schema.collection.c.indexed_at).where(schema.collection.c.name == collection.name)
    with archive.database.connect() as connection:
        indexed_at = connection.scalar(query)
    if indexed_at is None:
        return True
    elapsed_seconds = max(0.0, (datetime.now(UTC) - indexed_at).total_seconds())
    remaining = archive.settings.reader_grace_seconds - elapsed_seconds
    while remaining > 0:
        if _has_changes(archive, collection):
            return False
        sleep(min(_POLL_SECONDS, remaining))
        remaining -= _POLL_SECONDS
    return True


def _has_changes(archive: Archive, collection: Collection) -> bool:
    frame = schema.frame.c
    changed = exists().where(frame.collection == collection.name, frame.revision != frame.indexed_revision)
    with archive.database.connect() as connection:
        return bool(connection.scalar(select(changed)))


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


def _removed_frames(connection: Connection, collection: Collection) -> list[Frame]:
    """Deleted frames that have left the index."""
    columns = schema.frame.c
    has_left = (columns.deleted, columns.revision == columns.indexed_revision)
    rows = connection.scalars(select(columns.partition).where(columns.collection == collection.name, *has_left))
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


def _delete_products(archive: Archive, frame: Frame) -> None:
    """Delete the products of a frame that left the index, unless it has been dropped again since."""
    with records.frame_lock(archive.database, frame) as connection:
        record = records.load_frame(connection, frame)
        if record is None or not record.deleted:
            return
        for product in reversed(PRODUCTS):
            archive.storage.delete(frame.product_key(product.name))
        for served in list(archive.storage.list(frame.served_folder)):
            archive.storage.delete(served.key)
        archive.storage.delete(stac_item_key(frame))
        records.delete_frame(connection, frame)
