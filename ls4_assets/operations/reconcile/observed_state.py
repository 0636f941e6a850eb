"""Read what the bucket holds of one collection. What the databases record is in `recorded_state`.

Listings are complete: one that breaks off raises an error, so that no plan follows from it.
"""

from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import PurePosixPath

from ls4_assets.domain.film_types import FILM_TYPES, FilmType
from ls4_assets.domain.key_parser import parse_product_key
from ls4_assets.domain.names import Collection, Frame
from ls4_assets.domain.products import COG, FrameProduct
from ls4_assets.domain.sidecars import is_tif
from ls4_assets.operations.reconcile.model import ObservedState
from ls4_assets.publishing.map_publisher import MapPublisher
from ls4_assets.publishing.maps import MAP_PUBLISHERS
from resources.storage import IrregularEntry, Storage, StoredObject


def list_collection(
    storage: Storage, collection: Collection, documents: Mapping[str, StoredObject], cutoff: datetime
) -> ObservedState:
    """Return the collection's state.

    `documents`: all objects under mapfiles/ by key. Objects modified after `cutoff` do not count as orphans yet. Only the needed
    fields of an object are kept: a collection of 50,000 frames has 300,000 objects.
    """
    observed = ObservedState()
    map_keys = {key for publisher in MAP_PUBLISHERS.values() for key in publisher.document_keys(collection)}
    for film_type in FILM_TYPES:
        folder = f"{collection.folder(film_type)}/"
        for stored in storage.list(folder):
            _add_object(observed, storage, collection, film_type, stored, stored.key[len(folder) :], cutoff)
        if storage.capabilities.has_local_paths:
            # The ingest sensor rejects them, so they are recorded too.
            irregular = (item for item in storage.list_level(f"{folder}georef/") if isinstance(item, IrregularEntry))
            observed.tifs |= {item.key for item in irregular if is_tif(item.key)}
    derived = {}
    for stored in storage.list(_derived_folder(collection)):
        if stored.key in map_keys:
            derived[stored.key] = stored
        _add_derived(observed, storage, collection, stored, cutoff)
    for publisher in MAP_PUBLISHERS.values():
        for key in publisher.document_keys(collection):
            if document := documents.get(key) or derived.get(key):
                observed.documents[key] = check_document(storage, publisher, key)
                _record_age(observed, document, cutoff)
    return observed


def list_documents(storage: Storage) -> dict[str, StoredObject]:
    """Return all objects under mapfiles/ by key: three small ones for each collection."""
    return {stored.key: stored for stored in storage.list("mapfiles/")}


def list_derived_collections(storage: Storage) -> Iterator[Collection]:
    """Yield the collections that have a folder under derived/."""
    for item in storage.list_level("derived/"):
        if isinstance(item, str) and (collection := Collection.from_name(PurePosixPath(item).name)):
            yield collection


def fingerprint_cog(storage: Storage, size: int, version: str) -> str:
    """Return what identifies a COG's content: only the size where the archive gets new versions when it is copied elsewhere."""
    return f"{size} {version}" if storage.capabilities.keeps_versions else str(size)


def check_document(storage: Storage, publisher: MapPublisher, key: str) -> list[str]:
    """Return the problems of a map document. One that ls4 did not make always has some."""
    return publisher.validate({key: storage.read(key)})


def _add_object(
    observed: ObservedState,
    storage: Storage,
    collection: Collection,
    film_type: FilmType,
    stored: StoredObject,
    path: str,
    cutoff: datetime,
) -> None:
    folder, _, name = path.rpartition("/")
    stem, suffix = name.rpartition(".")[0], name.rpartition(".")[2].lower()
    if product := parse_product_key(stored.key, collection):
        _add_product(observed, storage, stored, *product, cutoff)
    elif folder == "georef" and is_tif(name):
        observed.tifs.add(stored.key)
    elif folder == "scanned" and is_tif(name):
        # Of x.tif and x.TIF the first wins, as when a frame is processed.
        if (film_type, stem) not in observed.scans or suffix == name.rpartition(".")[2]:
            observed.scans[film_type, stem] = name
    elif folder == "cog/tile_index" and name.startswith(collection.name):
        observed.index_files[stored.key] = stored.size
        _record_age(observed, stored, cutoff)


def _add_derived(
    observed: ObservedState, storage: Storage, collection: Collection, stored: StoredObject, cutoff: datetime
) -> None:
    """Add only objects that a frame or the map needs. The exports belong to `ls4_assets.publishing`."""
    if product := parse_product_key(stored.key, collection):
        _add_product(observed, storage, stored, *product, cutoff)
    elif stored.key.removeprefix(_derived_folder(collection)).startswith("overview_mosaic-"):
        observed.mosaics[stored.key] = stored.modified
        _record_age(observed, stored, cutoff)


def _add_product(
    observed: ObservedState, storage: Storage, stored: StoredObject, product: FrameProduct, frame: Frame, cutoff: datetime
) -> None:
    if product is COG:
        observed.cogs[stored.key] = fingerprint_cog(storage, stored.size, stored.version)
    else:
        observed.frame_files[stored.key] = frame.id
    _record_age(observed, stored, cutoff)


def _record_age(observed: ObservedState, stored: StoredObject, cutoff: datetime) -> None:
    if stored.modified > cutoff:
        observed.recent.add(stored.key)


def _derived_folder(collection: Collection) -> str:
    return f"derived/{collection.name}/"
