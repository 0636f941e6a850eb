"""List what the bucket holds of an archive to adopt: its collections, and the COGs of each with their tifs and raw scans.

Only listings are read here; headers are read in `cog_header`. Every COG is reported, as a candidate or with the sentence that
explains why it cannot be one. The inventory reports of S3 are in `ls4_assets.ingest.inventory`.
"""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import PurePosixPath

from ls4_assets.domain.film_types import FILM_TYPES, FilmType
from ls4_assets.domain.key_parser import parse_collection_path
from ls4_assets.domain.names import FRAME_TYPES, Collection, Frame, Naming, check_file_name
from ls4_assets.domain.sidecars import frame_stem, is_tif
from ls4_assets.errors import InvalidNameError
from ls4_assets.ingest.listing import DroppedFile, pair_sidecars
from resources.storage import Storage, StoredObject

# Listing over the network is mostly waiting.
_LISTING_THREADS = 16


@dataclass(frozen=True)
class Candidate:
    """A COG with a valid name.

    `source`: its georef tif, if there is one. `newer_source`: that tif was dropped after the COG was made. `scan_file`: file name
    of the raw scan.
    """

    frame: Frame
    cog: StoredObject
    source: DroppedFile | None = None
    newer_source: bool = False
    scan_file: str | None = None


@dataclass
class CollectionInventory:
    """The COGs of one collection. `problems`: a sentence by key for each COG that cannot be a candidate. `source_count`: tifs
    under georef/."""

    candidates: list[Candidate] = field(default_factory=list)
    problems: dict[str, str] = field(default_factory=dict)
    source_count: int = 0

    @property
    def keys(self) -> set[str]:
        """Keys of all COGs, adoptable or not."""
        return {candidate.cog.key for candidate in self.candidates} | self.problems.keys()


def find_collections(storage: Storage, naming: Naming) -> tuple[list[Collection], list[str]]:
    """Return every collection that has a folder, sorted, and a sentence for each folder with an invalid name."""
    with ThreadPoolExecutor(_LISTING_THREADS) as threads:
        folders = [f"{film_type}/" for film_type in FILM_TYPES]
        for _ in ("shard", "survey", "type"):
            folders = [child for children in threads.map(lambda folder: _folders(storage, folder), folders) for child in children]
    collections, invalid = set(), []
    for folder in folders:
        if PurePosixPath(folder).name not in FRAME_TYPES:
            continue
        try:
            collections.add(parse_collection_path(folder, naming)[0])
        except InvalidNameError as error:
            invalid.append(str(error))
    return sorted(collections), invalid


def take_inventory(storage: Storage, collection: Collection, naming: Naming) -> CollectionInventory:
    """List all COGs of a collection, of all film types, sorted by partition."""
    inventory = CollectionInventory()
    for film_type in FILM_TYPES:
        _add_film_type(storage, collection, film_type, naming, inventory)
    inventory.candidates.sort(key=lambda candidate: candidate.frame.partition)
    return inventory


def _add_film_type(
    storage: Storage, collection: Collection, film_type: FilmType, naming: Naming, inventory: CollectionInventory
) -> None:
    folder = collection.folder(film_type)
    dropped = [stored for stored in _objects(storage, f"{folder}/georef/") if frame_stem(stored.key)]
    times = {stored.key: stored.modified for stored in dropped}
    sources_by_stem: dict[str, list[DroppedFile]] = {}
    for tif in pair_sidecars(dropped):
        sources_by_stem.setdefault(PurePosixPath(tif.key).stem, []).append(tif)
    inventory.source_count += sum(len(sources) for sources in sources_by_stem.values())
    cogs = [stored for stored in _objects(storage, collection.cog_folder(film_type)) if is_tif(stored.key)]
    scan_files = _scan_files(_objects(storage, f"{folder}/scanned/")) if cogs else {}
    for cog in cogs:
        frame = Frame(collection, film_type, PurePosixPath(cog.key).stem)
        sources = sources_by_stem.get(frame.stem, [])
        if problem := _find_problem(frame, cog.key, sources, naming):
            inventory.problems[cog.key] = problem
            continue
        source = sources[0] if sources else None
        is_newer = source is not None and _last_modified(source, times) > cog.modified
        inventory.candidates.append(Candidate(frame, cog, source, is_newer, scan_files.get(frame.scan_stem or "")))


def _find_problem(frame: Frame, key: str, sources: Sequence[DroppedFile], naming: Naming) -> str | None:
    name = PurePosixPath(key).name
    try:
        check_file_name(frame, naming)
    except InvalidNameError as error:
        return f"{key}: {error}"
    if key != frame.cog_key:
        return f"{key} would be published as {frame.stem}.tif; rename it to that, and adopt again."
    if len(sources) > 1:
        both = " and ".join(PurePosixPath(source.key).name for source in sources)
        return f"{key}: both {both} are under georef/, but {name} was made from one of them; remove the other, and adopt again."
    return None


def _folders(storage: Storage, folder: str) -> list[str]:
    return [item for item in storage.list_level(folder) if isinstance(item, str)]


def _objects(storage: Storage, folder: str) -> list[StoredObject]:
    return [item for item in storage.list_level(folder) if isinstance(item, StoredObject)]


def _last_modified(source: DroppedFile, times: dict[str, datetime]) -> datetime:
    return max(times[key] for key in (source.key, *source.sidecars))


def _scan_files(objects: Iterable[StoredObject]) -> dict[str, str]:
    """Return file names by stem. Of x.tif and x.TIF the first wins, as when a frame is processed."""
    paths: Iterator[PurePosixPath] = (PurePosixPath(stored.key) for stored in objects if is_tif(stored.key))
    return {path.stem: path.name for path in sorted(paths, key=lambda path: path.suffix.islower())}
