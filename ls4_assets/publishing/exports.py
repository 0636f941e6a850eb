"""Writing the exports of one collection to the bucket, or deleting them. The statewide files are in `statewide`.

Each file is rewritten completely (`export_files`); STAC items only for frames that changed. A document is written after
everything that it links to, and deleted before it. The documents themselves are built in `stac`.
"""

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from ls4_assets.db import export_state
from ls4_assets.db import overview_mosaics as mosaics
from ls4_assets.db.tile_index import collection_lock, has_table
from ls4_assets.domain import export_keys
from ls4_assets.domain.exports import export_keys_of
from ls4_assets.domain.names import Collection
from ls4_assets.publishing import collection_list, stac
from ls4_assets.publishing.export_files import ExportContent, put_files
from ls4_assets.publishing.maps import map_links
from ls4_assets.publishing.rows import IndexedFrame, read_indexed_frames
from ls4_assets.settings import Settings
from resources.archive import Archive
from resources.locks import lock_until_commit

# Increment it when a code change alters the items or files of unchanged frames.
FORMAT_VERSION = 2
# Concurrent uploads to the bucket, because STAC items are many and small.
_UPLOAD_THREADS = 8


@dataclass(frozen=True)
class ExportResult:
    """Result of one update. If `frames` is 0, the collection has no exports."""

    frames: int
    items_written: int
    keys: tuple[str, ...]


def format_version(settings: Settings) -> str:
    """Version of everything but frames that exports depend on. When it changes, all exports are rewritten."""
    description = settings.archive_description
    texts = [text for text in (description.organization, description.rights.digest()) if text]
    return " ".join([str(FORMAT_VERSION), settings.public_url, settings.map_url, *texts])


def publish_exports(archive: Archive, collection: Collection, *, force: bool = False) -> ExportResult:
    """Update the exports to the tile index and the frames. `force` also rewrites the STAC items of unchanged frames."""
    settings, storage = archive.settings, archive.storage
    with collection_lock(archive.database, collection):
        with archive.database.begin() as connection:
            state = export_state.load_state(connection, collection)
            is_indexed = state is not None and has_table(connection, collection)
            frames = read_indexed_frames(connection, collection, storage.bucket) if is_indexed else []
            overview_key = mosaics.load_key_on_map(connection, collection)
        if state is None:
            return ExportResult(0, 0, ())
        if not frames:
            _withdraw(archive, collection, state)
            return ExportResult(0, 0, ())
        description = settings.archive_description
        rights = description.rights.of(collection)
        urls = stac.BaseUrls(settings.public_url, description.organization, rights)
        items = {indexed.frame.id: stac.build_item(indexed, json.loads(indexed.geojson), urls) for indexed in frames}
        keeps_items = state.format_version == format_version(settings) and not force
        changed = [indexed for indexed in frames if not (keeps_items and indexed.exported_revision == indexed.revision)]
        document = stac.build_collection(collection, frames, overview_key, urls, map_links(collection, settings).stac)
        keys = put_files(archive, ExportContent(collection, frames, list(items.values()), document, settings.public_url, rights))
        _put_items(archive, changed, items)
        storage.put(export_keys.stac_collection_key(collection), _json(document))
        with archive.database.begin() as connection:
            # Until the public COG of a replaced frame is updated, its item stays due, so that it gets the new size and hash.
            exported = ((indexed.frame, indexed.revision) for indexed in changed if not indexed.cog or indexed.cog.is_current)
            export_state.record_exported_items(connection, exported)
            values = {
                "revision": state.revision,
                "frames": len(frames),
                "format_version": format_version(settings),
                "attempts": 0,
            }
            export_state.update_state(connection, collection, **values)
        publish_collection_lists(archive)
    return ExportResult(len(frames), len(changed), (*keys, export_keys.stac_collection_key(collection)))


def publish_collection_lists(archive: Archive) -> None:
    """Write the documents that list all collections: the map page's list and the root of the STAC catalog."""
    settings = archive.settings
    with archive.database.begin() as connection:
        # Without the lock, one of two concurrent rebuilds could overwrite the newer list with its older one.
        lock_until_commit(connection, "exports")
        content = collection_list.collections_json(connection, settings)
        archive.storage.put(export_keys.COLLECTIONS_KEY, content)
        urls = stac.BaseUrls(settings.public_url)
        catalog = stac.build_root_catalog(export_state.list_exported(connection), urls)
        archive.storage.put(export_keys.ROOT_CATALOG_KEY, _json(catalog))


def _put_items(archive: Archive, changed: Sequence[IndexedFrame], items: dict[str, stac.Document]) -> None:
    put = archive.storage.put
    with ThreadPoolExecutor(_UPLOAD_THREADS) as pool:
        documents = ((export_keys.stac_item_key(indexed.frame), _json(items[indexed.frame.id])) for indexed in changed)
        for stored in pool.map(lambda document: put(*document), documents):
            assert stored.size


def _withdraw(archive: Archive, collection: Collection, state: export_state.ExportState) -> None:
    """Update the lists, then delete the files, then the row. A crash in between leaves the row, so the next run continues."""
    with archive.database.begin() as connection:
        export_state.update_state(connection, collection, frames=0)
    if state.published:
        publish_collection_lists(archive)
    stac_documents = [stored.key for stored in archive.storage.list(export_keys.stac_folder(collection))]
    for key in (*stac_documents, *export_keys_of(collection)):
        archive.storage.delete(key)
    with archive.database.begin() as connection:
        if state.withdrawn:
            export_state.delete_state(connection, collection)
        else:
            export_state.update_state(
                connection, collection, revision=state.revision, format_version=format_version(archive.settings), attempts=0
            )


def _json(document: stac.Document) -> bytes:
    return json.dumps(document, indent=1).encode()
