"""The storage port: the interface of the archive's bucket, which is a folder on one machine and a cloud storage in production.

The port has what all kinds can do; `capabilities` says what differs. State is in Postgres and never in object metadata. Keys are
relative paths with "/" between segments; a segment that begins with a dot is never listed.
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import Protocol

from ls4_assets.domain.storages import Capabilities

CONTENT_TYPES = {
    ".tif": "image/tiff",
    ".webp": "image/webp",
    ".json": "application/json",
    ".geojson": "application/geo+json",
    ".parquet": "application/vnd.apache.parquet",
    ".gpkg": "application/geopackage+sqlite3",
    ".zip": "application/zip",
}
"""What browsers need to know of an object, by suffix."""


@dataclass(frozen=True, order=True)
class StoredObject:
    """An object. `size` is in bytes; `version` differs when the bytes do, and may differ after equal bytes were written again.

    Times are timezone-aware UTC. `finished_at`: when the file got its name or its attributes after its last write, which copy
    programs do at the end; None when its last change was a write, and in a storage that lists only complete objects.
    """

    key: str
    size: int
    version: str
    modified: datetime
    finished_at: datetime | None = field(default=None, compare=False)


class Defect(Enum):
    """What keeps an entry of the archive from being an object: the problem, and what to do about it."""

    LINK = ("is a symbolic link, which ls4 never follows", "copy the file itself to that place")
    FOLDER_LINK = (
        "is a symbolic link to a folder, which ls4 never follows",
        "replace the link with a folder and copy the files into it",
    )
    SPECIAL = ("is a device, a FIFO or a socket instead of a file", "delete it and copy the file itself to that place")
    UNREADABLE = ("must not be read by ls4", "give everyone read permission with chmod a+r, then run `ls4 retry`")

    @property
    def problem(self) -> str:
        return self.value[0]

    @property
    def advice(self) -> str:
        return self.value[1]

    def sentence(self, key: str) -> str:
        """Returns the message about the entry `key`."""
        return f"{key} {self.problem}; {self.advice}."


@dataclass(frozen=True, order=True)
class IrregularEntry:
    """An entry that is neither an object nor a folder. It cannot be read, and `version` differs when something replaces it."""

    key: str
    version: str
    defect: Defect


ListedItem = StoredObject | IrregularEntry | str
"""An item of one level: an object, an entry that cannot be one, or a subfolder ("bw/Adams/")."""


def combined_version(tif: StoredObject | IrregularEntry, sidecars: Iterable[StoredObject | IrregularEntry]) -> str:
    """The tif's own version; with sidecars, a short hash of their keys and versions is appended."""
    parts = [f"{sidecar.key}={sidecar.version}" for sidecar in sorted(sidecars, key=lambda sidecar: sidecar.key)]
    if not parts:
        return tif.version
    return f"{tif.version}+{hashlib.sha256('|'.join(parts).encode()).hexdigest()[:12]}"


@dataclass(frozen=True)
class StorageErrors:
    """The exceptions of a storage's client library. outage: of any request that failed, without an answer too. rejected: of a
    request that was answered with an error, which may concern only its object."""

    outage: tuple[type[Exception], ...] = ()
    rejected: tuple[type[Exception], ...] = ()


class Storage(Protocol):
    """The interface of a bucket. A missing key raises NotFoundError, except in `head` and `delete`; one that is a link or a
    device raises IrregularEntryError, except in `head`.

    Listing an archive that does not exist (an unmounted disk, a misspelled bucket) raises ConfigurationError, so it never looks
    like an empty archive.
    """

    def list_level(self, folder: str, after: str = "") -> Iterator[ListedItem]:
        """Yields one level below `folder` ("" or ending in "/") in key order: objects, and subfolders as text ("bw/Adams/").

        One bad entry must not hide the others: a link or a device is an IrregularEntry, which no method reads.

        With `after`, only objects with a greater key and subfolders that may have one. Raises midway when the listing fails,
        because keys that were not listed may exist.
        """

    def list(self, prefix: str) -> Iterator[StoredObject]:
        """Yields every object below `prefix` in key order."""

    def head(self, key: str) -> StoredObject | None: ...

    def read(self, key: str, start: int = 0, length: int | None = None) -> bytes: ...

    def download(self, key: str, path: Path) -> None: ...

    def upload(self, path: Path, key: str, *, intermediate: bool = False, may_link: bool = False) -> StoredObject:
        """Write a file atomically: a reader sees the old object or the new one. An `intermediate` is tagged to expire.
        `may_link` allows a hard link to the file, which the caller must not change afterwards."""

    def put(self, key: str, data: bytes) -> StoredObject: ...

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """Write an object only if the key does not exist. Returns whether it was written."""

    def copy(self, key: str, to: str) -> StoredObject:
        """Copy an object to another key atomically. In a folder the copy is a hard link and takes no space."""

    def delete(self, key: str) -> None:
        """Delete an object if it exists."""

    def gdal_path(self, key: str) -> str:
        """Returns the path by which GDAL opens the object (MapServer's TILEITEM). Of a storage with local paths, the key "" gives
        the folder."""

    def gdal_options(self) -> dict[str, str]:
        """Returns GDAL's options to open such a path, without credentials: GDAL finds these as the storage's client does."""

    @property
    def capabilities(self) -> Capabilities: ...

    @property
    def errors(self) -> StorageErrors: ...

    @property
    def bucket(self) -> str:
        """The bucket in the legacy column `location`."""


def walk(storage: Storage, prefix: str) -> Iterator[StoredObject]:
    """Yields every object below `prefix` in key order, level by level: `list` of a storage that cannot list below a prefix."""
    parent = prefix.rpartition("/")[0]
    yield from _walk(storage, f"{parent}/" if parent else "", prefix)


def _walk(storage: Storage, folder: str, prefix: str) -> Iterator[StoredObject]:
    for item in storage.list_level(folder):
        if isinstance(item, StoredObject):
            if item.key.startswith(prefix):
                yield item
        elif isinstance(item, str) and (item.startswith(prefix) or prefix.startswith(item)):
            yield from _walk(storage, item, prefix)


def content_type(key: str) -> str:
    return CONTENT_TYPES.get(Path(key).suffix, "application/octet-stream")


def folder_end(folder: str) -> str:
    """Returns a text that sorts after every key of the folder and before all later keys: "0" is the character after "/"."""
    return f"{folder[:-1]}0"


def is_listed(key: str) -> bool:
    """False for folder markers and hidden files, such as `._x.tif` of macOS and `.x.tif.Ab12` of rsync."""
    return not key.endswith("/") and not any(part.startswith(".") for part in key.split("/"))
