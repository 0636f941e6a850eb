"""The archive's bucket behind one small port: a plain folder on a laptop, S3 in production.

The port is the intersection of what both can do. State never lives in object metadata: Postgres holds it. Keys are
relative, with "/" between segments; a segment that begins with a dot is never listed.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, order=True)
class StoredObject:
    """`version` differs whenever the bytes do; equal bytes written anew may differ too. `modified` is aware UTC."""

    key: str
    size: int
    version: str
    modified: datetime


class Storage(Protocol):
    """What the platform asks of a bucket. A missing key raises NotFound, except where None is the answer.

    Listing an archive that is not there itself (a disk that is not mounted, a misspelt bucket) raises
    ConfigurationError: it is not an empty one.
    """

    def level(self, folder: str, after: str = "") -> Iterator[StoredObject | str]:
        """One level below `folder` ("" or ending in "/"), in key order: its objects and, as text, its sub-folders ("bw/Travis/").

        Only what comes behind `after` in the order of all keys: a sub-folder that may hold a later key is among it. Raises in
        the middle when the listing breaks off: what was not told of may be there.
        """

    def list(self, prefix: str) -> Iterator[StoredObject]:
        """Every object below `prefix`, sorted by key."""

    def head(self, key: str) -> StoredObject | None: ...

    def read(self, key: str, start: int = 0, length: int | None = None) -> bytes: ...

    def download(self, key: str, path: Path) -> None: ...

    def upload(self, path: Path, key: str, *, intermediate: bool = False, may_link: bool = False) -> StoredObject:
        """Put a file whole: a reader sees the old object or the new one. Intermediates are tagged so as to expire. A `yielded`
        file is the archive's from now on: nobody writes to it any more."""

    def put(self, key: str, data: bytes) -> StoredObject: ...

    def put_new(self, key: str, data: bytes) -> bool:
        """Put only where nothing is; False when there was something."""

    def copy(self, key: str, to: str) -> StoredObject:
        """Put an object under another key too, whole as any; a folder needs no further space for it."""

    def delete(self, key: str) -> None:
        """Idempotent: a missing key is no error."""

    def gdal_path(self, key: str) -> str:
        """Path by which GDAL opens the object (MapServer's TILEITEM)."""

    @property
    def is_folder(self) -> bool:
        """A folder shows files while they are copied, and looks empty when its disk is not mounted; S3 does neither."""

    @property
    def bucket(self) -> str:
        """Name that stands in the legacy `location` column, /vsis3/<bucket>/<key>."""


def end_of(folder: str) -> str:
    """A text that comes behind every key of the folder and before all others: "0" is the next after "/"."""
    return f"{folder[:-1]}0"


def is_listed(key: str) -> bool:
    """Neither a folder marker nor hidden: `._x.tif` of macOS, `.x.tif.Ab12` of rsync."""
    return not key.endswith("/") and not any(part.startswith(".") for part in key.split("/"))
