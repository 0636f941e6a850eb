"""Scratch folders of one process. Creating one removes the folders that killed processes left behind.

The owner of a folder holds a lock on it, which the kernel releases when the process ends in any way. Unlike a process id or an
age, the lock shows exactly whether the owner is running, also across containers that share a disk.
"""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def scratch_folder(prefix: str, parent: Path | None = None) -> Iterator[Path]:
    """A new folder below `parent` (None: the system's temporary folder), removed with its content at the end.

    First removes the folders of the same prefix whose owner has exited.
    """
    home = parent or Path(tempfile.gettempdir())
    _remove_orphans(prefix, home)
    path, lock = _create(prefix, home)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(lock)


def _create(prefix: str, home: Path) -> tuple[Path, int]:
    while True:
        path = Path(tempfile.mkdtemp(prefix=prefix, dir=home))
        lock = -1
        with suppress(FileNotFoundError):
            lock = os.open(path, os.O_RDONLY)
            # A file system without locks is usable too, but folders left behind on it are not removed.
            with suppress(OSError):
                fcntl.flock(lock, fcntl.LOCK_EX)
            if os.path.samestat(os.fstat(lock), path.stat()):
                return path, lock
        # Another process removed the folder between its creation and its lock.
        if lock >= 0:
            os.close(lock)


def _remove_orphans(prefix: str, home: Path) -> None:
    with os.scandir(home) as entries:
        paths = [Path(entry.path) for entry in entries if entry.name.startswith(prefix) and entry.is_dir(follow_symlinks=False)]
    for path in paths:
        # OSError: the folder is locked by a running owner, belongs to another user, or is already removed.
        with suppress(OSError):
            lock = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
            try:
                if os.fstat(lock).st_uid == os.geteuid():
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(lock)
