"""The bucket as a plain folder: the laptop's default, where GDAL and MapServer read real paths."""

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

from ls4_assets.errors import ConfigurationError, NotFoundError
from resources.scratch import scratch_folder
from resources.storage import StoredObject, end_of, is_listed

# Products are read by the map server's own user, whatever the umask of the process that made them.
FILE_MODE = 0o644
FOLDER_MODE = 0o755
# On the archive's own disk, so that a rename brings a finished file into its place.
_HALVES = ".unfinished"


class DirectoryStorage:
    """Objects are files below `root`. Writes go to a hidden file first and are renamed, so nobody sees half of one."""

    def __init__(self, root: Path, bucket: str = "ls4") -> None:
        self.root = root.resolve()
        self._bucket = bucket

    @property
    def is_folder(self) -> bool:
        return True

    @property
    def bucket(self) -> str:
        return self._bucket

    def level(self, folder: str, after: str = "") -> Iterator[StoredObject | str]:
        found: list[tuple[str, os.DirEntry[str]]] = []
        with suppress(FileNotFoundError, NotADirectoryError), os.scandir(self._path(folder)) as entries:
            found = [(f"{folder}{_text(entry.name)}{'/' if entry.is_dir() else ''}", entry) for entry in entries]
        for key, entry in sorted(found, key=itemgetter(0)):
            if not is_listed(key.rstrip("/")):
                continue
            if key.endswith("/"):
                if end_of(key) > after:
                    yield key
            elif key > after:
                # A file that goes between listing and stat is simply not there.
                with suppress(FileNotFoundError):
                    yield _stored(key, entry.stat())

    def list(self, prefix: str) -> Iterator[StoredObject]:
        parent = prefix.rpartition("/")[0]
        yield from self._walk(f"{parent}/" if parent else "", prefix)

    def head(self, key: str) -> StoredObject | None:
        try:
            found = self._path(key).stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        return _stored(key, found) if stat.S_ISREG(found.st_mode) else None

    def read(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        with self._open(key) as file:
            file.seek(start)
            return file.read(-1 if length is None else length)

    def download(self, key: str, path: Path) -> None:
        with self._open(key) as source, path.open("wb") as target:
            shutil.copyfileobj(source, target, 1 << 20)

    def upload(self, path: Path, key: str, *, intermediate: bool = False, may_link: bool = False) -> StoredObject:
        with self._half(key) as half:
            if not (may_link and _linked(path, half)):
                shutil.copyfile(path, half)
            if intermediate:
                return self._publish(half, key)
            # Named done in a database that survives a power cut, it has to survive that too; what can be remade need not.
            _to_disk(half)
            stored = self._publish(half, key)
            _to_disk(self._path(key).parent)
            return stored

    def put(self, key: str, data: bytes) -> StoredObject:
        with self._half(key) as half:
            half.write_bytes(data)
            return self._publish(half, key)

    def put_new(self, key: str, data: bytes) -> bool:
        with self._half(key) as half:
            half.write_bytes(data)
            try:
                self._path(key).hardlink_to(half)
            except FileExistsError:
                return False
        return True

    def copy(self, key: str, to: str) -> StoredObject:
        with self._half(to) as half:
            half.unlink()
            try:
                half.hardlink_to(self._path(key))
            except FileNotFoundError:
                raise NotFoundError(f"{key} is not in the archive; drop it again if it should be.") from None
            return self._publish(half, to)

    def delete(self, key: str) -> None:
        # Its folder stays, even when it is empty now: another frame may be publishing there at this moment.
        with suppress(FileNotFoundError, NotADirectoryError, IsADirectoryError):
            self._path(key).unlink()

    def gdal_path(self, key: str) -> str:
        # Only a name: whether the archive is there is asked by who opens it.
        return str(self.root / _inside(key))

    def _path(self, key: str) -> Path:
        if not self.root.is_dir():
            # A disk that is not mounted is not an empty archive: neither deletions nor new files may follow from it.
            raise ConfigurationError(f"The archive's folder {self.root} is not there; mount or make it, or correct LS4_STORAGE.")
        return self.root / _inside(key)

    def _open(self, key: str) -> BinaryIO:
        try:
            return self._path(key).open("rb")
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            raise NotFoundError(f"{key} is not in the archive; drop it again if it should be.") from None

    @contextmanager
    def _half(self, key: str) -> Iterator[Path]:
        """A hidden file to write to, which may become the object; removed when it did not, by a later writer if need be."""
        target = self._path(key)
        _make_folder(target.parent)
        _make_folder(self.root / _HALVES)
        with scratch_folder("half-", self.root / _HALVES) as folder:
            half = folder / target.name
            half.touch()
            half.chmod(FILE_MODE)
            yield half

    def _publish(self, half: Path, key: str) -> StoredObject:
        written = _stored(key, half.stat())
        try:
            half.replace(self._path(key))
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            where = f"{self._path(key).parent} lies on another disk than the archive's folder {self.root}"
            raise ConfigurationError(f"{where}, so nothing can be put there in one step; mount one disk for all of it.") from None
        return written

    def _walk(self, folder: str, prefix: str) -> Iterator[StoredObject]:
        for found in self.level(folder):
            if isinstance(found, StoredObject):
                if found.key.startswith(prefix):
                    yield found
            elif found.startswith(prefix) or prefix.startswith(found):
                yield from self._walk(found, prefix)


def _linked(path: Path, half: Path) -> bool:
    """Make the one file the other, which costs nothing; False where the disk is another."""
    linked = half.with_name(f"{half.name}.link")
    try:
        linked.hardlink_to(path)
    except OSError as error:
        if error.errno in (errno.EXDEV, errno.EPERM, errno.EMLINK):
            return False
        raise
    linked.chmod(FILE_MODE)
    linked.replace(half)
    return True


def _to_disk(path: Path) -> None:
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def _inside(key: str) -> str:
    if key.startswith("/") or ".." in key.split("/"):
        raise ValueError(f"{key!r} is no key of the archive; give a path relative to its root.")
    return key


def _stored(key: str, found: os.stat_result) -> StoredObject:
    # The inode tells apart two files renamed into place within one clock tick of the file system.
    version = f"{found.st_mtime_ns:x}-{found.st_size:x}-{found.st_ino:x}"
    return StoredObject(key, found.st_size, version, datetime.fromtimestamp(found.st_mtime, UTC))


def _make_folder(folder: Path) -> None:
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    with suppress(FileExistsError):
        folder.mkdir()
        folder.chmod(folder.stat().st_mode | FOLDER_MODE)


def _text(name: str) -> str:
    """A file name as a key. One that is not UTF-8 cannot be stored; shown like this, it is rejected by name."""
    return os.fsencode(name).decode(errors="replace")
