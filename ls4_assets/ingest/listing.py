"""Reading the drop folders: which tifs lie where staff put them, each with its sidecars.

The archive is walked in key order, and the walk can begin behind any key, so that a look is bounded whatever the archive holds.
Product folders are never entered: they hold most of the objects and none of the drops. A folder that cannot be listed is told
of, not raised: nothing is known of it, and it keeps nobody from the others.
"""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

from ls4_assets.domain.names import FILM_TYPES, frame_stem, is_tif
from resources.storage import Storage, StoredObject, end_of, is_listed

GEOREF = "georef"
PRODUCT_FOLDERS = frozenset({"scanned", "cog"})
TOP_PRODUCTS = frozenset({"mapfiles", "derived", "geojson", "staff"})
# Dropped in the hope of a map: worth a word of advice. Anything else in georef/ (notes, Thumbs.db) is left alone.
FOREIGN_IMAGES = frozenset({".jpg", ".jpeg", ".png", ".jp2", ".img", ".sid", ".ecw", ".pdf", ".bmp", ".zip"})
# Behind every key.
END = "\U0010ffff"
# Up to so many stems of one folder are asked for one by one; more are read off its listing.
_FEW = 8


@dataclass(frozen=True)
class Dropped:
    """A tif in the bucket. `version` covers its sidecars too: a corrected world file is a new version.

    `empty`: it, or one of its sidecars, has no bytes (yet).
    """

    key: str
    version: str
    size: int
    sidecars: tuple[str, ...] = ()
    empty: bool = False


@dataclass(frozen=True)
class Unlisted:
    """A folder that could not be listed, or not to its end."""

    folder: str
    error: Exception


@dataclass(frozen=True)
class KeyRange:
    """Every object with a key behind `after` and up to `upto`; then, maybe, a folder that could not be seen and is passed over.

    Objects that belong together, a tif and its sidecars, x.tif and x.TIF, are never in two pieces.
    """

    after: str
    upto: str
    objects: tuple[StoredObject, ...]
    unlisted: Unlisted | None = None

    @property
    def next(self) -> str:
        """Where the piece that follows begins."""
        return max(self.upto, end_of(self.unlisted.folder)) if self.unlisted and self.unlisted.folder else self.upto


def key_ranges(storage: Storage, after: str, most: int, deadline_passed: Callable[[], bool]) -> Iterator[KeyRange]:
    """The archive behind `after`, in pieces of about `most` objects, smaller ones when there is `hurry`."""
    objects: list[StoredObject] = []
    together: list[str] = []
    for item in _walk(storage, "", after):
        if isinstance(item, Unlisted):
            # What was listed of the folder may lack a sidecar: none of it is believed.
            seen = tuple(found for found in objects if not found.key.startswith(item.folder))
            piece = KeyRange(after, max(after, item.folder), seen, item)
            yield piece
            if not item.folder:
                return
            after, objects, together = piece.next, [], []
            continue
        key = item if isinstance(item, str) else item.key
        together = [stem for stem in together if key.startswith(f"{stem}.")]
        if (objects or isinstance(item, str)) and not together and (len(objects) >= most or deadline_passed()):
            upto = key if isinstance(item, str) else objects[-1].key
            yield KeyRange(after, upto, tuple(objects))
            after, objects = upto, []
        if isinstance(item, StoredObject):
            objects.append(item)
            together += [stem for stem in [frame_stem(key)] if stem]
    yield KeyRange(after, END, tuple(objects))


def is_unmounted(storage: Storage) -> bool:
    """Has the archive's folder none of the folders that hold photographs, as when its disk is not mounted? Others prove nothing:
    the map front makes some wherever it starts. A bucket on S3 may be bare."""
    return {f"{film_type}/" for film_type in FILM_TYPES}.isdisjoint(storage.level("")) and storage.is_folder


def beside(storage: Storage, folder: str, keys: Iterable[str]) -> Iterator[StoredObject]:
    """Drops of `folder` that have the path and stem of one of the keys. Raises what the storage raises."""
    stems = sorted({_stem(key) for key in keys})
    is_georef = _is_georef(folder)
    for run in [stems] if len(stems) > _FEW else [[stem] for stem in stems]:
        among, last = set(run), f"{run[-1]}."
        for found in storage.level(folder, run[0]):
            key = found if isinstance(found, str) else found.key
            if key > last and not key.startswith(last):
                break
            if isinstance(found, StoredObject) and _stem(key) in among and _is_drop(key, is_georef):
                yield found


def is_looked_at(key: str) -> bool:
    """Whether an object of this key may be a drop, or belong to one: what lies elsewhere, our own products first of all, is not
    looked at whoever tells of it."""
    folder = key[: key.rfind("/") + 1]
    return is_listed(key) and _is_entered(folder) and _is_drop(key, _is_georef(folder))


def by_folder(keys: Iterable[str]) -> dict[str, list[str]]:
    """Those of the keys that lie where drops are looked for, by folder."""
    folders: dict[str, list[str]] = defaultdict(list)
    for key in keys:
        folder = key[: key.rfind("/") + 1]
        if key != folder and _is_entered(folder):
            folders[folder].append(key)
    return folders


def pair_sidecars(objects: Iterable[StoredObject]) -> list[Dropped]:
    """Join each tif with the sidecars of the same path and stem; sidecars without a tif wait for it."""
    tifs: list[StoredObject] = []
    sidecars: dict[str, list[StoredObject]] = defaultdict(list)
    for found in objects:
        if is_tif(found.key) or (stem := frame_stem(found.key)) is None:
            tifs.append(found)
        else:
            sidecars[stem].append(found)
    return [_dropped(tif, sidecars.get(_stem(tif.key), [])) for tif in tifs]


def combined_version(tif: StoredObject, sidecars: Iterable[StoredObject]) -> str:
    """The tif's own version, with a short hash of its sidecars' behind it when it has any."""
    parts = [f"{sidecar.key}={sidecar.version}" for sidecar in sorted(sidecars)]
    if not parts:
        return tif.version
    return f"{tif.version}+{hashlib.sha256('|'.join(parts).encode()).hexdigest()[:12]}"


def _dropped(tif: StoredObject, sidecars: list[StoredObject]) -> Dropped:
    keys = tuple(sidecar.key for sidecar in sorted(sidecars))
    empty = not all(found.size for found in (tif, *sidecars))
    return Dropped(tif.key, combined_version(tif, sidecars), tif.size, keys, empty)


def _walk(storage: Storage, folder: str, after: str) -> Iterator[StoredObject | str | Unlisted]:
    """Drops behind `after` in key order; as text, how far the walk has come where it meets none."""
    is_georef = _is_georef(folder)
    try:
        for found in storage.level(folder, after):
            if isinstance(found, StoredObject):
                yield found if _is_drop(found.key, is_georef) else found.key
            elif _is_entered(found):
                yield from _walk(storage, found, after)
    except Exception as error:  # noqa: BLE001  # each storage has errors of its own; whichever it is, the rest is unknown
        yield Unlisted(folder, error)
        return
    if folder:
        yield end_of(folder)


def _is_entered(folder: str) -> bool:
    """Never below georef/: deflate/ is ours, and taking it for a drop would feed the platform its own output."""
    segments = folder.rstrip("/").split("/")
    return segments[0] not in TOP_PRODUCTS and PRODUCT_FOLDERS.isdisjoint(segments) and GEOREF not in segments[:-1]


def _is_georef(folder: str) -> bool:
    return PurePosixPath(folder).name == GEOREF


def _is_drop(key: str, is_georef: bool) -> bool:
    if is_tif(key) or (is_georef and frame_stem(key)):
        return True
    return PurePosixPath(key).suffix.lower() in FOREIGN_IMAGES


def _stem(key: str) -> str:
    return frame_stem(key) or str(PurePosixPath(key).with_suffix(""))
