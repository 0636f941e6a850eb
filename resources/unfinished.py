"""Objects of a folder archive that are being written: hidden files below `.unfinished/`, which a rename publishes.

Every step is taken from a descriptor of the folder before it and follows no link, so nobody who may write to the archive can
redirect a write by exchanging a folder or file for a link. `.unfinished/` is also closed to other users, so that nobody changes
an object before it is published. Keys, and the checks of folders of products, are in `directory_storage` and `entries`.
"""

import errno
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ls4_assets import logs
from ls4_assets.errors import IrregularEntryError, UnwritableArchiveError
from resources.entries import add_mode, open_folder
from resources.scratch import scratch_folder_at

# The map server runs as another user and must read products, whatever the umask of the process that wrote them.
FILE_MODE = 0o644
# On the same disk as the archive, so that a rename can publish a complete file.
FOLDER_NAME = ".unfinished"
_FOLDER_MODE = 0o700
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
# Another disk; a file system without hard links; a file with too many of them.
_CANNOT_LINK = (errno.EXDEV, errno.EPERM, errno.ENOSYS, errno.ENOTSUP, errno.EMLINK)


@dataclass(frozen=True)
class UnfinishedObject:
    """The object `name` in a folder of its own, which is given as a descriptor. One of the writing methods creates it."""

    folder: int
    name: str

    def write(self, data: bytes) -> None:
        with self._create() as descriptor, os.fdopen(descriptor, "wb", closefd=False) as file:
            file.write(data)

    def copy(self, path: Path) -> None:
        """Copy a local file."""
        with path.open("rb") as source, self._create() as descriptor, os.fdopen(descriptor, "wb", closefd=False) as file:
            shutil.copyfileobj(source, file, 1 << 20)

    def link(self, path: Path) -> bool:
        """Link a local file, which copies no data. Returns False when the disk does not allow it."""
        try:
            os.link(path, self.name, dst_dir_fd=self.folder, follow_symlinks=False)
        except OSError as error:
            if error.errno in _CANNOT_LINK:
                return False
            raise
        with self._open() as descriptor:
            os.fchmod(descriptor, FILE_MODE)
        return True

    def link_from(self, folder: int, name: str) -> None:
        """Link an entry of another folder, whatever it is: examine its status afterwards."""
        os.link(name, self.name, src_dir_fd=folder, dst_dir_fd=self.folder, follow_symlinks=False)

    def status(self) -> os.stat_result:
        return os.stat(self.name, dir_fd=self.folder, follow_symlinks=False)

    def sync(self) -> None:
        """Wait until the content is on the disk."""
        with self._open() as descriptor:
            os.fsync(descriptor)

    def publish(self, folder: int, name: str) -> None:
        """Move the object to its place, atomically; replaces what is there."""
        os.replace(self.name, name, src_dir_fd=self.folder, dst_dir_fd=folder)

    def publish_new(self, folder: int, name: str) -> bool:
        """Put the object in its place unless something is there. Returns whether it was put."""
        try:
            os.link(self.name, name, src_dir_fd=self.folder, dst_dir_fd=folder, follow_symlinks=False)
        except FileExistsError:
            return False
        return True

    @contextmanager
    def _create(self) -> Iterator[int]:
        descriptor = os.open(self.name, _CREATE, FILE_MODE, dir_fd=self.folder)
        try:
            add_mode(descriptor, FILE_MODE)
            yield descriptor
        finally:
            os.close(descriptor)

    @contextmanager
    def _open(self) -> Iterator[int]:
        descriptor = os.open(self.name, _READ, dir_fd=self.folder)
        try:
            yield descriptor
        finally:
            os.close(descriptor)


@contextmanager
def unfinished_object(root: Path, name: str) -> Iterator[UnfinishedObject]:
    """An object to write and publish. What was not published is removed: at the end of the context, or by a later writer after a
    crash.

    Raises UnwritableArchiveError when `.unfinished` in the folder `root` is a link or a file, or belongs to another user.
    """
    with _open_home(root) as home, scratch_folder_at("half-", home) as (_, folder):
        _close_to_others(root / FOLDER_NAME, home, os.fstat(folder).st_uid)
        yield UnfinishedObject(folder, name)


@contextmanager
def _open_home(root: Path) -> Iterator[int]:
    with ExitStack() as stack:
        try:
            home = stack.enter_context(open_folder(root, FOLDER_NAME, create_mode=_FOLDER_MODE))
        except (IrregularEntryError, NotADirectoryError):
            raise UnwritableArchiveError(f"{root / FOLDER_NAME} is not a folder", "delete it") from None
        yield home


def _close_to_others(path: Path, home: int, own_user: int) -> None:
    """Close the folder to other users. `own_user` is the owner that this disk gives to what we create, which on a mount is not
    always our user."""
    status = os.fstat(home)
    if status.st_uid != own_user:
        raise UnwritableArchiveError(
            f"{path} belongs to user {status.st_uid}, who could exchange what ls4 writes",
            f"give it to user {own_user} with chown -R, or run ls4 as its owner",
        )
    if status.st_mode & 0o077:
        with suppress(OSError):
            os.fchmod(home, _FOLDER_MODE)
        if os.fstat(home).st_mode & 0o022:
            _warn_once(path)


@cache
def _warn_once(path: Path) -> None:
    logs.emit("archive_open_to_all", logging.WARNING, folder=str(path))
