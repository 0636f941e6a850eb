"""What lies in the bucket of one collection, from complete listings alone: one that breaks off raises, and nothing follows."""

from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import PurePosixPath

from ls4_assets.domain.names import FILM_TYPES, Collection, FilmType, Frame, is_tif
from ls4_assets.operations.reconcile.model import DOCUMENTS, Listed
from mapserver.sync import DOCUMENTS as FINDINGS
from resources.storage import Storage, StoredObject

_SIDECAR = ".ovr"


def list_collection(storage: Storage, of: Collection, documents: Mapping[str, StoredObject], old: datetime) -> Listed:
    """List it. `documents`: all that lies under mapfiles/, by key; what came after `old` is not called an orphan yet.

    Only what is needed is kept of each object: a collection of 50,000 frames has 300,000.
    """
    listed = Listed()
    for film_type in FILM_TYPES:
        folder = f"{of.folder(film_type)}/"
        for found in storage.list(folder):
            _take(listed, storage, of, film_type, found, found.key[len(folder) :], old)
    for found in storage.list(_derived(of)):
        _take_derived(listed, storage, of, found, old)
    for suffix in DOCUMENTS:
        if document := documents.get(of.map_document_key(suffix)):
            listed.documents[suffix] = document_findings(storage, document)
            _note_age(listed, document, old)
    return listed


def list_documents(storage: Storage) -> dict[str, StoredObject]:
    """Everything under mapfiles/, by key: three small objects a collection."""
    return {found.key: found for found in storage.list("mapfiles/")}


def derived_collections(storage: Storage) -> Iterator[Collection]:
    """Collections that have a folder under derived/."""
    for found in storage.level("derived/"):
        if isinstance(found, str) and (of := Collection.from_name(PurePosixPath(found).name)):
            yield of


def cog_print(storage: Storage, size: int, version: str) -> str:
    """By what a COG is known again. Files that were copied to another disk have other versions, and are what they were."""
    return str(size) if storage.is_folder else f"{size} {version}"


def _take(
    listed: Listed, storage: Storage, of: Collection, film_type: FilmType, found: StoredObject, path: str, old: datetime
) -> None:
    folder, _, name = path.rpartition("/")
    stem, suffix = name.rpartition(".")[0], name.rpartition(".")[2].lower()
    if folder == "georef" and is_tif(name):
        listed.tifs.add(found.key)
    elif folder == "scanned" and is_tif(name):
        # Of x.tif and x.TIF the first that the frame's own work would find.
        if (film_type, stem) not in listed.scans or suffix == name.rpartition(".")[2]:
            listed.scans[film_type, stem] = name
    elif folder == "georef/deflate" and is_tif(name.removesuffix(_SIDECAR)):
        listed.made[found.key] = Frame(of, film_type, name.removesuffix(_SIDECAR).rpartition(".")[0]).id
        _note_age(listed, found, old)
    elif folder == "cog" and is_tif(name):
        listed.cogs[found.key] = cog_print(storage, found.size, found.version)
        _note_age(listed, found, old)
    elif folder == "cog/tile_index" and name.startswith(of.name):
        listed.index_files[found.key] = found.size
        _note_age(listed, found, old)


def _take_derived(listed: Listed, storage: Storage, of: Collection, found: StoredObject, old: datetime) -> None:
    """Of what is derived only what a frame or the map needs; catalogues are others' to keep."""
    parts = found.key.removeprefix(_derived(of)).split("/")
    if parts[0] == "served" and len(parts) == 4 and parts[1] in FILM_TYPES and is_tif(parts[3]):
        listed.cogs[found.key] = cog_print(storage, found.size, found.version)
    elif parts[0] == "thumbnails" and len(parts) == 3 and parts[1] in FILM_TYPES:
        listed.made[found.key] = f"{parts[1]}/{of.shard}/{of.partition}/{PurePosixPath(parts[2]).stem}"
    elif len(parts) == 1 and parts[0].startswith("overview_mosaic-"):
        listed.mosaics[found.key] = found.modified
    else:
        return
    _note_age(listed, found, old)


def _note_age(listed: Listed, found: StoredObject, old: datetime) -> None:
    if found.modified > old:
        listed.young.add(found.key)


def document_findings(storage: Storage, document: StoredObject) -> list[str]:
    """What is wrong with a mapfile or a document beside it; another hand's always has something."""
    try:
        return FINDINGS[PurePosixPath(document.key).suffix](storage.read(document.key).decode())
    except UnicodeDecodeError:
        return ["It is no UTF-8 text."]


def _derived(of: Collection) -> str:
    return f"derived/{of.name}/"
