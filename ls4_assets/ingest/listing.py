"""Listing the drop folders: which tifs staff put where, each with its sidecars.

The archive is walked in key order and a walk can resume after any key, so a scan is bounded whatever the size of the archive.
Product folders are never entered: they hold most of the objects and no drops. A folder that cannot be listed is returned as
such instead of raised, so that the others are still scanned. The comparison with the source table is in `planner`.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import PurePosixPath

from ls4_assets.domain.film_types import FILM_TYPES
from ls4_assets.domain.products import GEOREF, product_folders
from ls4_assets.domain.sidecars import frame_stem, is_tif
from resources.storage import Defect, IrregularEntry, Storage, StoredObject, combined_version, folder_end, is_listed

PRODUCT_FOLDERS = frozenset({"scanned", *(folder.partition("/")[0] for folder in product_folders())} - {GEOREF})
BELOW_GEOREF = frozenset(folder.removeprefix(f"{GEOREF}/") for folder in product_folders() if folder.startswith(f"{GEOREF}/"))
TOP_PRODUCTS = frozenset({"mapfiles", "derived", "geojson", "staff"})
# Images that staff expect on the map: rejected with advice. Any other file in georef/ (notes, Thumbs.db) is ignored.
FOREIGN_IMAGES = frozenset({".jpg", ".jpeg", ".png", ".jp2", ".img", ".sid", ".ecw", ".pdf", ".bmp", ".zip"})
# Sorts after every key.
END = "\U0010ffff"
# Up to this many stems of a folder are listed one by one, where a listing can start at a key; else the folder's listing is read.
_FEW_STEMS = 8


Entry = StoredObject | IrregularEntry


@dataclass(frozen=True)
class DroppedFile:
    """A tif in the bucket. `version` covers its sidecars too: a corrected world file is a new version.

    `size` is in bytes. `empty`: the tif or one of its sidecars has no bytes (yet). `irregular`: the tif or a sidecar, if it is a
    link or a device; also a link to a folder, wherever a folder may be. `finished_at`: when the last of its files was finished
    (`StoredObject.finished_at`); None if that is unknown of one of them. `parts`: the tif and its sidecars, as they are listed.
    """

    key: str
    version: str
    size: int
    sidecars: tuple[str, ...] = ()
    empty: bool = False
    irregular: IrregularEntry | None = None
    finished_at: datetime | None = None
    parts: tuple[Entry, ...] = ()


@dataclass(frozen=True)
class UnlistedFolder:
    """A folder that could not be listed, or not to its end."""

    folder: str
    error: Exception


@dataclass(frozen=True)
class KeyRange:
    """The drops with `start` < key <= `end`; `unlisted`: a folder after them that could not be listed and is skipped.

    Objects that belong together (a tif and its sidecars, x.tif and x.TIF) are always in the same range.
    """

    start: str
    end: str
    objects: tuple[Entry, ...]
    unlisted: UnlistedFolder | None = None

    @property
    def next_start(self) -> str:
        """The `start` of the range that follows."""
        return max(self.end, folder_end(self.unlisted.folder)) if self.unlisted and self.unlisted.folder else self.end


def walk_key_ranges(storage: Storage, start: str, limit: int, deadline_passed: Callable[[], bool]) -> Iterator[KeyRange]:
    """The archive after the key `start`, in ranges of about `limit` objects, or fewer once `deadline_passed`."""
    objects: list[Entry] = []
    open_stems: list[str] = []
    for item in _walk(storage, "", start):
        if isinstance(item, UnlistedFolder):
            # The part of the folder that was listed may lack a sidecar, so none of it is used.
            complete = tuple(stored for stored in objects if not stored.key.startswith(item.folder))
            key_range = KeyRange(start, max(start, item.folder), complete, item)
            yield key_range
            if not item.folder:
                return
            start, objects, open_stems = key_range.next_start, [], []
            continue
        key = item if isinstance(item, str) else item.key
        open_stems = [stem for stem in open_stems if key.startswith(f"{stem}.")]
        if (objects or isinstance(item, str)) and not open_stems and (len(objects) >= limit or deadline_passed()):
            end = key if isinstance(item, str) else objects[-1].key
            yield KeyRange(start, end, tuple(objects))
            start, objects = end, []
        if not isinstance(item, str):
            objects.append(item)
            open_stems += [stem for stem in [frame_stem(key)] if stem]
    yield KeyRange(start, END, tuple(objects))


def is_unmounted(storage: Storage) -> bool:
    """Whether the archive's folder has no folder of a film type, as when its disk is not mounted; never true in the cloud.

    Other folders prove nothing: the web front end creates some wherever it starts.
    """
    is_empty = {f"{film_type}/" for film_type in FILM_TYPES}.isdisjoint(storage.list_level(""))
    return is_empty and storage.capabilities.can_be_unmounted


def list_siblings(storage: Storage, folder: str, keys: Iterable[str]) -> Iterator[Entry]:
    """Drops of `folder` with the path and stem of one of the keys. Raises the storage's errors."""
    stems = sorted({_stem(key) for key in keys})
    is_georef = _is_georef(folder)
    is_one_by_one = storage.capabilities.lists_after_key and len(stems) <= _FEW_STEMS
    for chunk in [[stem] for stem in stems] if is_one_by_one else [stems]:
        requested, last = set(chunk), f"{chunk[-1]}."
        for item in storage.list_level(folder, chunk[0]):
            key = item if isinstance(item, str) else item.key
            if key > last and not key.startswith(last):
                break
            if not isinstance(item, str) and _stem(key) in requested and _is_dropped(item, is_georef):
                yield item


def is_drop_key(key: str) -> bool:
    """Whether an object with this key may be a drop or its sidecar. Events of all other keys, our products first, are ignored."""
    folder = key[: key.rfind("/") + 1]
    return is_listed(key) and _is_entered(folder) and _is_drop(key, _is_georef(folder))


def group_by_folder(keys: Iterable[str]) -> dict[str, list[str]]:
    """By folder, the keys that are in folders where drops may be."""
    folders: dict[str, list[str]] = defaultdict(list)
    for key in keys:
        folder = key[: key.rfind("/") + 1]
        if key != folder and _is_entered(folder):
            folders[folder].append(key)
    return folders


def pair_sidecars(objects: Iterable[Entry]) -> list[DroppedFile]:
    """Join each tif with the sidecars of the same path and stem; sidecars without a tif are left out until it comes."""
    tifs: list[Entry] = []
    sidecars: dict[str, list[Entry]] = defaultdict(list)
    for stored in objects:
        if is_tif(stored.key) or (stem := frame_stem(stored.key)) is None:
            tifs.append(stored)
        else:
            sidecars[stem].append(stored)
    return [_join(tif, sidecars.get(_stem(tif.key), [])) for tif in tifs]


def _join(tif: Entry, sidecars: list[Entry]) -> DroppedFile:
    keys, parts = tuple(sorted(sidecar.key for sidecar in sidecars)), (tif, *sidecars)
    empty = not all(part.size for part in parts if isinstance(part, StoredObject))
    irregular = next((part for part in parts if isinstance(part, IrregularEntry)), None)
    size = tif.size if isinstance(tif, StoredObject) else 0
    finish_times = [part.finished_at if isinstance(part, StoredObject) else None for part in parts]
    known = [time for time in finish_times if time]
    finished_at = max(known) if len(known) == len(parts) else None
    return DroppedFile(tif.key, combined_version(tif, sidecars), size, keys, empty, irregular, finished_at, parts)


def _walk(storage: Storage, folder: str, start: str) -> Iterator[Entry | str | UnlistedFolder]:
    """Drops after `start` in key order; where there are none, the key that the walk has reached, as a string."""
    is_georef = _is_georef(folder)
    try:
        for item in storage.list_level(folder, start):
            if not isinstance(item, str):
                yield item if _is_dropped(item, is_georef) else item.key
            elif _is_entered(item):
                yield from _walk(storage, item, start)
    except Exception as error:  # noqa: BLE001  # each storage raises its own errors; after any, the rest is unknown
        yield UnlistedFolder(folder, error)
        return
    if folder:
        yield folder_end(folder)


def _is_entered(folder: str) -> bool:
    """Never a folder of products: taking them for drops would feed the platform its own output. What lies in any other folder
    below georef/ is listed to be rejected by its name.
    """
    segments = folder.rstrip("/").split("/")
    if segments[0] in TOP_PRODUCTS or not PRODUCT_FOLDERS.isdisjoint(segments):
        return False
    below = segments[segments.index(GEOREF) + 1 :] if GEOREF in segments else []
    return not below or below[0] not in BELOW_GEOREF


def _is_georef(folder: str) -> bool:
    return PurePosixPath(folder).name == GEOREF


def _is_dropped(item: Entry, is_georef: bool) -> bool:
    is_folder_link = isinstance(item, IrregularEntry) and item.defect == Defect.FOLDER_LINK
    return is_folder_link or _is_drop(item.key, is_georef)


def _is_drop(key: str, is_georef: bool) -> bool:
    if is_tif(key) or (is_georef and frame_stem(key)):
        return True
    return PurePosixPath(key).suffix.lower() in FOREIGN_IMAGES


def _stem(key: str) -> str:
    return frame_stem(key) or str(PurePosixPath(key).with_suffix(""))
