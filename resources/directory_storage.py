"""The bucket as a folder, the default on one machine. GDAL and MapServer read its files directly."""

import errno
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from operator import itemgetter
from pathlib import Path
from typing import BinaryIO

from ls4_assets.domain.storages import FOLDER, Capabilities
from ls4_assets.errors import ConfigurationError, NotFoundError
from resources.scratch import scratch_folder
from resources.storage import StorageErrors, StoredObject, folder_end, is_listed, walk

# The map server runs as another user and must read products, whatever the umask of the process that wrote them.
FILE_MODE = 0o644
FOLDER_MODE = 0o755
# On the same disk as the archive, so that a rename can publish a complete file.
_TMP_DIR = ".unfinished"


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

    def list_level(self, folder: str, after: str = "") -> Iterator[StoredObject | str]:
        entries_by_key: list[tuple[str, os.DirEntry[str]]] = []
        with suppress(FileNotFoundError, NotADirectoryError), os.scandir(self._path(folder)) as entries:
            entries_by_key = [(f"{folder}{_decode(entry.name)}{'/' if entry.is_dir() else ''}", entry) for entry in entries]
        for key, entry in sorted(entries_by_key, key=itemgetter(0)):
            if not is_listed(key.rstrip("/")):
                continue
            if key.endswith("/"):
                if folder_end(key) > after:
                    yield key
            elif key > after:
                # A file deleted between listing and stat is not in the listing.
                with suppress(FileNotFoundError):
                    yield _stored(key, entry.stat())

    def list(self, prefix: str) -> Iterator[StoredObject]:
        return walk(self, prefix)

    def head(self, key: str) -> StoredObject | None:
        try:
            status = self._path(key).stat()
        except (FileNotFoundError, NotADirectoryError):
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
        with self._temp_object(key) as temp:
            if not (may_link and _link(path, temp)):
                shutil.copyfile(path, temp)
            if intermediate:
                return self._publish(temp, key)
            # The database survives a power cut, so an object that it records must too. Intermediates can be rebuilt.
            _fsync(temp)
            stored = self._publish(temp, key)
            _fsync(self._path(key).parent)
            return stored

    def put(self, key: str, data: bytes) -> StoredObject:
        with self._temp_object(key) as temp:
            temp.write_bytes(data)
            return self._publish(temp, key)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        with self._temp_object(key) as temp:
            temp.write_bytes(data)
            try:
                self._path(key).hardlink_to(temp)
            except FileExistsError:
                return False
        return True

    def copy(self, key: str, to: str) -> StoredObject:
        with self._temp_object(to) as temp:
            temp.unlink()
            try:
                temp.hardlink_to(self._path(key))
            except FileNotFoundError:
                raise NotFoundError(f"{key} is not in the archive; drop it again if it should be.") from None
            return self._publish(temp, to)

    def delete(self, key: str) -> None:
        # An empty folder stays: another process may be publishing to it at this moment.
        with suppress(FileNotFoundError, NotADirectoryError, IsADirectoryError):
            self._path(key).unlink()

    def gdal_path(self, key: str) -> str:
        # No check that the archive is mounted: that is up to the process that opens the path.
        return str(self.root / _inside(key))

    def gdal_options(self) -> dict[str, str]:
        return {}

    def _path(self, key: str) -> Path:
        if not self.root.is_dir():
            # An unmounted disk must not look like an empty archive, which would cause deletions or writes to the mount point.
            raise ConfigurationError(
                f"The archive folder {self.root} does not exist; mount or create it, or correct LS4_STORAGE."
            )
        return self.root / _inside(key)

    def _open(self, key: str) -> BinaryIO:
        try:
            return self._path(key).open("rb")
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            raise NotFoundError(f"{key} is not in the archive; drop it again if it should be.") from None

    @contextmanager
    def _temp_object(self, key: str) -> Iterator[Path]:
        """A hidden file to write to, which `_publish` turns into the object. Otherwise it is removed: at the end of the context,
        or by a later writer after a crash."""
        target = self._path(key)
        _make_folder(target.parent)
        _make_folder(self.root / _TMP_DIR)
        with scratch_folder("half-", self.root / _TMP_DIR) as folder:
            temp = folder / target.name
            temp.touch()
            temp.chmod(FILE_MODE)
            yield temp

    def _publish(self, temp: Path, key: str) -> StoredObject:
        stored = _stored(key, temp.stat())
        try:
            temp.replace(self._path(key))
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            problem = f"{self._path(key).parent} is on another disk than the archive folder {self.root}"
            raise ConfigurationError(f"{problem}, so objects cannot be written in one step; mount one disk for both.") from None
        return stored


def _link(path: Path, target: Path) -> bool:
    """Replace `target` with a hard link to `path`, which copies no data. Returns False when the disk does not allow it."""
    link = target.with_name(f"{target.name}.link")
    try:
        link.hardlink_to(path)
    except OSError as error:
        if error.errno in (errno.EXDEV, errno.EPERM, errno.EMLINK):
            return False
        raise
    link.chmod(FILE_MODE)
    link.replace(target)
    return True


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _inside(key: str) -> str:
    if key.startswith("/") or ".." in key.split("/"):
        raise ValueError(f"{key!r} is not a valid key; use a path relative to the root of the archive.")
    return key


def _stored(key: str, status: os.stat_result) -> StoredObject:
    # The inode distinguishes two files renamed into place within one clock tick of the file system.
    version = f"{status.st_mtime_ns:x}-{status.st_size:x}-{status.st_ino:x}"
    return StoredObject(key, status.st_size, version, datetime.fromtimestamp(status.st_mtime, UTC))


def _make_folder(folder: Path) -> None:
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    with suppress(FileExistsError):
        folder.mkdir()
        folder.chmod(folder.stat().st_mode | FOLDER_MODE)


def _decode(name: str) -> str:
    """Returns a file name as text. One that is not UTF-8 gets replacement characters, so it is rejected by name."""
    return os.fsencode(name).decode(errors="replace")
