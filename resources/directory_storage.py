"""The bucket as a folder, the default on one machine. GDAL and MapServer read its files directly."""

import errno
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from ls4_assets.domain.storages import FOLDER, Capabilities
from ls4_assets.errors import ConfigurationError, IrregularEntryError, NotFoundError
from resources.entries import find_defect, finish_time, is_folder_link, modification_time, open_file, open_folder
from resources.storage import Defect, IrregularEntry, ListedItem, StorageErrors, StoredObject, folder_end, is_listed, walk
from resources.unfinished import UnfinishedObject, unfinished_object

# The map server runs as another user and must enter the folders of products.
FOLDER_MODE = 0o755


class DirectoryStorage:
    """Objects are files below `root`. Writes go to a hidden file that is then renamed, so readers never see a partial object."""

    def __init__(self, root: Path, bucket: str = "ls4") -> None:
        self.root = root.resolve()
        self._bucket = bucket

    @property
    def capabilities(self) -> Capabilities:
        return FOLDER.capabilities

    @property
    def errors(self) -> StorageErrors:
        return StorageErrors(outage=(OSError,))

    @property
    def bucket(self) -> str:
        return self._bucket

    def list_level(self, folder: str, after: str = "") -> Iterator[ListedItem]:
        with suppress(FileNotFoundError, NotADirectoryError), self._folder(folder) as descriptor:
            with os.scandir(descriptor) as entries:
                entries_by_key = [
                    (f"{folder}{_decode(entry.name)}{'/' if entry.is_dir(follow_symlinks=False) else ''}", entry.name)
                    for entry in entries
                ]
            for key, name in sorted(entries_by_key):
                if not is_listed(key.rstrip("/")):
                    continue
                if key.endswith("/"):
                    if folder_end(key) > after:
                        yield key
                elif key > after and (item := _examine(key, descriptor, name)):
                    yield item

    def list(self, prefix: str) -> Iterator[StoredObject]:
        return walk(self, prefix)

    def head(self, key: str) -> StoredObject | None:
        try:
            with self._parent(key) as (folder, name):
                status = os.stat(name, dir_fd=folder, follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError, IrregularEntryError):
            return None
        return _stored(key, status) if stat.S_ISREG(status.st_mode) else None

    def read(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        with self._open(key) as file:
            file.seek(start)
            return file.read(-1 if length is None else length)

    def download(self, key: str, path: Path) -> None:
        with self._open(key) as source, path.open("wb") as target:
            shutil.copyfileobj(source, target, 1 << 20)

    def upload(self, path: Path, key: str, *, intermediate: bool = False, may_link: bool = False) -> StoredObject:
        with self._unfinished(key) as unfinished:
            if not (may_link and unfinished.link(path)):
                unfinished.copy(path)
            if intermediate:
                return self._publish(unfinished, key)
            # The database survives a power cut, so an object that it records must too. Intermediates can be rebuilt.
            unfinished.sync()
            stored = self._publish(unfinished, key)
            with self._parent(key) as (folder, _):
                os.fsync(folder)
            return stored

    def put(self, key: str, data: bytes) -> StoredObject:
        with self._unfinished(key) as unfinished:
            unfinished.write(data)
            return self._publish(unfinished, key)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        with self._unfinished(key) as unfinished, self._parent(key) as (folder, name):
            unfinished.write(data)
            return unfinished.publish_new(folder, name)

    def copy(self, key: str, to: str) -> StoredObject:
        with self._unfinished(to) as unfinished:
            # Examined after it was linked: what has become of the entry in the meantime no longer matters.
            try:
                with self._parent(key) as (folder, name):
                    unfinished.link_from(folder, name)
            except (FileNotFoundError, NotADirectoryError):
                raise _missing(key) from None
            if defect := find_defect(unfinished.status()):
                raise IrregularEntryError(defect.sentence(key))
            return self._publish(unfinished, to)

    def delete(self, key: str) -> None:
        # An empty folder stays: another process may be publishing to it at this moment.
        with suppress(FileNotFoundError, NotADirectoryError, IsADirectoryError), self._parent(key) as (folder, name):
            os.unlink(name, dir_fd=folder)

    def gdal_path(self, key: str) -> str:
        # No check that the archive is mounted: that is up to the process that opens the path.
        return str(self.root / _inside(key))

    def gdal_options(self) -> dict[str, str]:
        return {}

    @contextmanager
    def _folder(self, folder: str, *, create: bool = False) -> Iterator[int]:
        """Yields a descriptor of a folder of the archive."""
        if not self.root.is_dir():
            # An unmounted disk must not look like an empty archive, which would cause deletions or writes to the mount point.
            raise ConfigurationError(
                f"The archive folder {self.root} does not exist; mount or create it, or correct LS4_STORAGE."
            )
        with open_folder(self.root, _inside(folder), create_mode=FOLDER_MODE if create else None) as descriptor:
            yield descriptor

    @contextmanager
    def _parent(self, key: str) -> Iterator[tuple[int, str]]:
        """Yields a descriptor of the folder of a key, and the key's name in it."""
        folder, _, name = _inside(key).rpartition("/")
        with self._folder(folder) as descriptor:
            yield descriptor, name

    def _open(self, key: str) -> BinaryIO:
        try:
            with self._parent(key) as (folder, name):
                return open_file(folder, name, key)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            raise _missing(key) from None

    @contextmanager
    def _unfinished(self, key: str) -> Iterator[UnfinishedObject]:
        """An object to write, which `_publish` puts in its place."""
        with self._folder(_inside(key).rpartition("/")[0], create=True):
            pass
        with unfinished_object(self.root, PurePosixPath(key).name) as unfinished:
            yield unfinished

    def _publish(self, unfinished: UnfinishedObject, key: str) -> StoredObject:
        stored = _stored(key, unfinished.status())
        try:
            with self._parent(key) as (folder, name):
                unfinished.publish(folder, name)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            problem = f"{(self.root / key).parent} is on another disk than the archive folder {self.root}"
            raise ConfigurationError(f"{problem}, so objects cannot be written in one step; mount one disk for both.") from None
        return stored


def _missing(key: str) -> NotFoundError:
    return NotFoundError(f"{key} is not in the archive; drop it again if it should be.")


def _inside(key: str) -> str:
    if key.startswith("/") or ".." in key.split("/"):
        raise ValueError(f"{key!r} is not a valid key; use a path relative to the root of the archive.")
    return key


def _stored(key: str, status: os.stat_result) -> StoredObject:
    # The inode distinguishes two files renamed into place within one clock tick of the file system.
    version = f"{status.st_mtime_ns:x}-{status.st_size:x}-{status.st_ino:x}"
    return StoredObject(key, status.st_size, version, modification_time(status), finish_time(status))


def _examine(key: str, folder: int, name: str) -> StoredObject | IrregularEntry | None:
    """Returns the item of an entry; None when the entry was deleted since it was listed."""
    try:
        status = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return None
    stored, defect = _stored(key, status), find_defect(status)
    if defect == Defect.LINK and is_folder_link(folder, name):
        defect = Defect.FOLDER_LINK
    return IrregularEntry(key, stored.version, defect) if defect else stored


def _decode(name: str) -> str:
    """Returns a file name as text. One that is not UTF-8 gets replacement characters, so it is rejected by name."""
    return os.fsencode(name).decode(errors="replace")
