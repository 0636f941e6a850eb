"""Access to the entries of a folder without following a link: a link that staff place in it redirects no read.

Each step of a path is opened below the folder before it, and a file is examined after it was opened. A check of the path alone
would leave time to replace an entry between the check and its use.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from ls4_assets.errors import IrregularEntryError
from resources.storage import Defect

_LAST_TIME = datetime.max.replace(tzinfo=UTC)
# O_NONBLOCK: a FIFO opens at once, instead of when a writer comes.
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_FOLDER = os.O_RDONLY | os.O_NOFOLLOW | os.O_DIRECTORY | os.O_CLOEXEC


@contextmanager
def open_folder(root: Path, folder: str, *, create_mode: int | None = None) -> Iterator[int]:
    """Yields a file descriptor of `folder` below `root`. With `create_mode`, missing folders are created with that mode.

    `root` itself may be a link. Raises IrregularEntryError when a step is a link, NotADirectoryError when it is a file.
    """
    descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        steps = [step for step in folder.split("/") if step]
        for number, step in enumerate(steps, start=1):
            child = _open_step(descriptor, step, "/".join(steps[:number]), create_mode)
            os.close(descriptor)
            descriptor = child
        yield descriptor
    finally:
        os.close(descriptor)


def open_file(folder: int, name: str, key: str) -> BinaryIO:
    """Opens the regular file `name` in the folder with this descriptor for reading; `key` is for messages.

    Raises IrregularEntryError when it is anything else or must not be read, FileNotFoundError when it is missing or a folder.
    """
    try:
        descriptor = os.open(name, _READ, dir_fd=folder)
    except PermissionError:
        raise IrregularEntryError(Defect.UNREADABLE.sentence(key)) from None
    except OSError:
        # The open of a link fails, as that of a socket; which one it is only matters for the message.
        if defect := find_defect(os.stat(name, dir_fd=folder, follow_symlinks=False)):
            raise IrregularEntryError(defect.sentence(key)) from None
        raise
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    if stat.S_ISDIR(mode):
        raise FileNotFoundError(key)
    raise IrregularEntryError(Defect.SPECIAL.sentence(key))


def add_mode(descriptor: int, mode: int) -> None:
    """Give a new file or folder these permissions, whatever the umask. A mount without chmod often has them already."""
    current = stat.S_IMODE(os.fstat(descriptor).st_mode)
    if current & mode != mode:
        os.fchmod(descriptor, current | mode)


def find_defect(status: os.stat_result) -> Defect | None:
    """Returns what keeps an entry with this status from being read; None for a regular file or a folder."""
    if stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode):
        return None
    return Defect.LINK if stat.S_ISLNK(status.st_mode) else Defect.SPECIAL


def is_folder_link(folder: int, name: str) -> bool:
    """Whether a link leads to a folder. Nothing of the folder is read."""
    with suppress(OSError):
        return stat.S_ISDIR(os.stat(name, dir_fd=folder).st_mode)
    return False


def finish_time(status: os.stat_result) -> datetime | None:
    """Returns when the file was renamed or got its attributes, if that was after its last write; else None.

    A write sets the times of modification and of change to the same value, to the nanosecond (inode(7)). A later time of change
    comes from a rename (rsync, `mv`), or from attributes that a program sets when it has copied the content (`cp -p`, SFTP, SMB).
    """
    if status.st_ctime_ns <= status.st_mtime_ns:
        return None
    return datetime.fromtimestamp(status.st_ctime, UTC)


def modification_time(status: os.stat_result) -> datetime:
    """Returns the time as Python can represent it: some disks carry times before the year 1 and after 9999."""
    try:
        return datetime.fromtimestamp(status.st_mtime, UTC)
    except (ValueError, OverflowError, OSError):
        return _LAST_TIME if status.st_mtime > 0 else datetime.min.replace(tzinfo=UTC)


def _open_step(parent: int, step: str, path: str, create_mode: int | None) -> int:
    try:
        return os.open(step, _FOLDER, dir_fd=parent)
    except FileNotFoundError:
        if create_mode is None:
            raise
        with suppress(FileExistsError):
            os.mkdir(step, dir_fd=parent)
        descriptor = os.open(step, _FOLDER, dir_fd=parent)
        try:
            add_mode(descriptor, create_mode)
        except OSError:
            os.close(descriptor)
            raise
        return descriptor
    except OSError:
        with suppress(FileNotFoundError):
            if stat.S_ISLNK(os.stat(step, dir_fd=parent, follow_symlinks=False).st_mode):
                raise IrregularEntryError(Defect.FOLDER_LINK.sentence(path)) from None
        raise
