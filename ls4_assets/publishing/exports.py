"""Bringing the exports of one collection up to date in the bucket, or taking them out of it.

Files are written whole; items only of frames that changed. What is named by another document is there before that document, and
goes after it.
"""

import json
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from ls4_assets.db import export_state
from ls4_assets.db import overview_mosaics as mosaics
from ls4_assets.db.tile_index import collection_lock, exists
from ls4_assets.domain import export_keys
from ls4_assets.domain.names import FILM_TYPES, Collection
from ls4_assets.publishing import collection_list, stac
from ls4_assets.publishing.footprints import write_geojson, write_parquet
from ls4_assets.publishing.mosaic_index import write_mosaic_index
from ls4_assets.publishing.rows import Shown, read_shown
from ls4_assets.settings import Settings
from resources.archive import Archive
from resources.locks import lock_until_commit
from resources.scratch import scratch_folder

# Raised when items or files of the same frames come out otherwise.
FORMAT_VERSION = 1
# Requests to the bucket at the same time: items are many and small.
_REQUESTS = 8


@dataclass(frozen=True)
class Published:
    """What one update did. No frames: there are no exports any more."""

    frames: int
    items_written: int
    keys: tuple[str, ...]


def format_version(settings: Settings) -> str:
    """What every document holds besides the frames: when it changes, all are written anew."""
    return f"{FORMAT_VERSION} {settings.public_url} {settings.map_url}"


def publish_exports(archive: Archive, of: Collection, *, force: bool = False) -> Published:
    """Bring them up to date with index and frames; `anew`: the items of unchanged frames too."""
    settings, storage = archive.settings, archive.storage
    with collection_lock(archive.database, of):
        with archive.database.begin() as connection:
            state = export_state.state(connection, of)
            indexed = state is not None and exists(connection, of)
            frames = read_shown(connection, of, storage.bucket) if indexed else []
            overview = mosaics.key_on_map(connection, of)
        if state is None:
            return Published(0, 0, ())
        if not frames:
            _withdraw(archive, of, state)
            return Published(0, 0, ())
        host = settings.contact.organisation if settings.contact else None
        at = stac.Addresses(settings.public_url, settings.map_url, host)
        items = {shown.frame.id: stac.item(shown, json.loads(shown.geojson), at) for shown in frames}
        same = state.format_version == format_version(settings) and not force
        changed = [shown for shown in frames if not (same and shown.exported == shown.revision)]
        whole = stac.collection(of, frames, overview, at)
        keys = _put_files(archive, of, frames, list(items.values()), whole)
        _put_items(archive, changed, items)
        storage.put(export_keys.stac_collection_key(of), _json(whole))
        with archive.database.begin() as connection:
            # The COG of a frame that was just replaced follows its row: its item is written again with its size and hash.
            export_state.note_items(connection, ((one.frame, one.revision) for one in changed if not one.cog or one.cog.current))
            values = {
                "revision": state.revision,
                "frames": len(frames),
                "format_version": format_version(settings),
                "attempts": 0,
            }
            export_state.note(connection, of, **values)
        publish_lists(archive)
    return Published(len(frames), len(changed), (*keys, export_keys.stac_collection_key(of)))


def publish_lists(archive: Archive) -> None:
    """The list of collections that the map page reads, and the root of the STAC catalog: both of all collections."""
    settings = archive.settings
    with archive.database.begin() as connection:
        # One at a time: of two rebuilds that end together, the older list must not be written last.
        lock_until_commit(connection, "exports")
        listed = collection_list.collections_json(connection, settings.map_url, settings.public_url, settings.shards)
        archive.storage.put(collection_list.COLLECTIONS_KEY, listed)
        at = stac.Addresses(settings.public_url, settings.map_url)
        archive.storage.put(export_keys.ROOT_CATALOG_KEY, _json(stac.root(export_state.exported(connection), at)))


def _put_items(archive: Archive, changed: Sequence[Shown], items: dict[str, stac.Document]) -> None:
    put = archive.storage.put
    with ThreadPoolExecutor(_REQUESTS) as pool:
        documents = ((export_keys.stac_item_key(shown.frame), _json(items[shown.frame.id])) for shown in changed)
        for written in pool.map(lambda document: put(*document), documents):
            assert written.size


def _put_files(
    archive: Archive, of: Collection, frames: Sequence[Shown], items: list[stac.Document], whole: stac.Document
) -> list[str]:
    """Returns the keys."""
    url = archive.settings.public_url
    with scratch_folder("ls4-exports-", archive.settings.work_dir) as folder:
        files = {
            export_keys.footprints_key(of, ".geojson"): folder / "footprints.geojson",
            export_keys.footprints_key(of, ".parquet"): folder / "footprints.parquet",
            export_keys.stac_parquet_key(of): folder / "items.parquet",
        }
        geojson, parquet, stac_parquet = files.values()
        write_geojson(of, frames, url, geojson)
        write_parquet(of, frames, url, parquet)
        _write_stac_parquet(items, whole, stac_parquet)
        for film_type in FILM_TYPES:
            key, path = export_keys.mosaic_index_key(of, film_type), folder / f"{film_type}.gti.gpkg"
            if write_mosaic_index(of, film_type, frames, url, path):
                files[key] = path
            else:
                archive.storage.delete(key)
        for key, path in files.items():
            archive.storage.upload(path, key)
    return list(files)


def _write_stac_parquet(items: list[stac.Document], whole: stac.Document, path: Path) -> None:
    from stac_geoparquet.arrow import parse_stac_items_to_arrow, to_parquet

    # Without its ten thousand links to items, which are the rows.
    told = whole | {"links": [link for link in whole["links"] if link["rel"] != "item"]}
    to_parquet(parse_stac_items_to_arrow(items), path, collections={whole["id"]: told}, compression="zstd")


def _withdraw(archive: Archive, of: Collection, state: export_state.State) -> None:
    """The lists first, then what they led to; the row last, so that whatever dies in between is made good."""
    with archive.database.begin() as connection:
        export_state.note(connection, of, frames=0)
    if state.published:
        publish_lists(archive)
    for key in _export_keys(archive, of):
        archive.storage.delete(key)
    with archive.database.begin() as connection:
        if state.withdrawn:
            export_state.forget(connection, of)
        else:
            export_state.note(
                connection, of, revision=state.revision, format_version=format_version(archive.settings), attempts=0
            )


def _export_keys(archive: Archive, of: Collection) -> Iterable[str]:
    files = [export_keys.footprints_key(of, suffix) for suffix in (".geojson", ".parquet")]
    stored = list(archive.storage.list(export_keys.stac_folder(of)))
    return chain(
        files, (export_keys.mosaic_index_key(of, film_type) for film_type in FILM_TYPES), (found.key for found in stored)
    )


def _json(document: stac.Document) -> bytes:
    return json.dumps(document, indent=1).encode()
