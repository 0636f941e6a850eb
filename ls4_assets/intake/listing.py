"""Reading the drop folders: which tifs lie where staff put them, each with its sidecars.

The archive is read one unit at a time (`bw/Travis/`), so that a look is bounded whatever the archive holds. Product folders are
never entered: they hold most of the objects and none of the drops.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

from ls4_assets.names import BANDS, frame_stem, is_tif
from resources.storage import Storage, StoredObject

GEOREF = "georef"
PRODUCT_FOLDERS = frozenset({"scanned", "cog"})
TOP_PRODUCTS = frozenset({"mapfiles", "derived", "geojson"})
# Objects above the units: the root's own and those beside the counties.
LOOSE = ""
# Dropped in the hope of a map: worth a word of advice. Anything else in georef/ (notes, Thumbs.db) is left alone.
FOREIGN_IMAGES = frozenset({".jpg", ".jpeg", ".png", ".jp2", ".img", ".sid", ".ecw", ".pdf", ".bmp", ".zip"})


@dataclass(frozen=True)
class Dropped:
    """A tif in the bucket. `version` covers its sidecars too: a corrected world file is a new version."""

    key: str
    version: str
    size: int
    sidecars: tuple[str, ...] = ()


def units(storage: Storage) -> list[str]:
    """Prefixes that are listed one by one, sorted; LOOSE comes first. A top folder that is no band is a unit of its own."""
    tops = [folder for folder in storage.scan("").folders if folder.rstrip("/") not in TOP_PRODUCTS]
    return [LOOSE, *(unit for top in tops for unit in (storage.scan(top).folders if top.rstrip("/") in BANDS else (top,)))]


def dropped_in(storage: Storage, unit: str) -> list[Dropped]:
    """All that was dropped below `unit`. Raises whatever the storage raises: a failed listing is not an empty folder."""
    return pair_sidecars(_loose(storage) if unit == LOOSE else _walk(storage, unit))


def pair_sidecars(objects: Iterable[StoredObject]) -> list[Dropped]:
    """Join each tif with the sidecars of the same path and stem; sidecars without a tif wait for it."""
    tifs: list[StoredObject] = []
    sidecars: dict[str, list[StoredObject]] = defaultdict(list)
    for found in objects:
        stem = frame_stem(found.key)
        if is_tif(found.key) or stem is None:
            tifs.append(found)
        else:
            sidecars[stem].append(found)
    return [_dropped(tif, sidecars.get(frame_stem(tif.key) or "", [])) for tif in tifs]


def combined_version(tif: StoredObject, sidecars: Iterable[StoredObject]) -> str:
    """The tif's own version, with a short hash of its sidecars' behind it when it has any."""
    parts = [f"{sidecar.key}={sidecar.version}" for sidecar in sorted(sidecars)]
    if not parts:
        return tif.version
    return f"{tif.version}+{hashlib.sha256('|'.join(parts).encode()).hexdigest()[:12]}"


def _dropped(tif: StoredObject, sidecars: list[StoredObject]) -> Dropped:
    keys = tuple(sidecar.key for sidecar in sorted(sidecars))
    return Dropped(tif.key, combined_version(tif, sidecars), tif.size, keys)


def _loose(storage: Storage) -> Iterator[StoredObject]:
    root = storage.scan("")
    yield from filter(_tif_or_image, root.objects)
    for top in root.folders:
        if top.rstrip("/") in BANDS:
            yield from filter(_tif_or_image, storage.scan(top).objects)


def _walk(storage: Storage, folder: str) -> Iterator[StoredObject]:
    name = PurePosixPath(folder).name
    if name in PRODUCT_FOLDERS:
        return
    level = storage.scan(folder)
    if name == GEOREF:
        # Never below it: deflate/ is ours, and taking it for a drop would feed the platform its own output.
        yield from (found for found in level.objects if _tif_or_image(found) or frame_stem(found.key))
        return
    yield from filter(_tif_or_image, level.objects)
    for below in level.folders:
        yield from _walk(storage, below)


def _tif_or_image(found: StoredObject) -> bool:
    return is_tif(found.key) or PurePosixPath(found.key).suffix.lower() in FOREIGN_IMAGES
