"""Scratch folders of one process. Creating one removes the folders that killed processes left behind.

The owner of a folder holds a lock on it, which the kernel releases when the process ends in any way. Unlike a process id or an
age, the lock shows exactly whether the owner is running, also across containers that share a disk.
"""

import fcntl
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@contextmanager
def scratch_folder(prefix: str, parent: Path | None = None) -> Iterator[Path]:
    """A new folder below `parent` (None: the system's temporary folder), removed with its content at the end.

    First removes the folders of the same prefix whose owner has exited.
    """
    path = parent or Path(tempfile.gettempdir())
    home = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with scratch_folder_at(prefix, home) as (name, _):
            yield path / name
    finally:
        os.close(home)


@contextmanager
def scratch_folder_at(prefix: str, home: int) -> Iterator[tuple[str, int]]:
    """The same below the folder with the descriptor `home`, whose path does not matter: yields name and descriptor."""
    _remove_orphans(prefix, home)
    name, lock = _create(prefix, home)
    try:
        yield name, lock
    finally:
        shutil.rmtree(name, ignore_errors=True, dir_fd=home)
        os.close(lock)


def _create(prefix: str, home: int) -> tuple[str, int]:
    while True:
        name = f"{prefix}{secrets.token_hex(6)}"
        os.mkdir(name, 0o700, dir_fd=home)
        lock = -1
        with suppress(FileNotFoundError):
            lock = os.open(name, _FOLDER, dir_fd=home)
            # A file system without locks is usable too, but folders left behind on it are not removed.
            with suppress(OSError):
                fcntl.flock(lock, fcntl.LOCK_EX)
            if os.path.samestat(os.fstat(lock), os.stat(name, dir_fd=home, follow_symlinks=False)):
                return name, lock
        # Another process removed the folder between its creation and its lock.
        if lock >= 0:
            os.close(lock)


def _remove_orphans(prefix: str, home: int) -> None:
    with os.scandir(home) as entries:
        names = [entry.name for entry in entries if entry.name.startswith(prefix) and entry.is_dir(follow_symlinks=False)]
    for name in names:
        # OSError: the folder is locked by a running owner, belongs to another user, or is already removed.
        with suppress(OSError):
            lock = os.open(name, _FOLDER, dir_fd=home)
            try:
                if os.fstat(lock).st_uid == os.geteuid():
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(name, ignore_errors=True, dir_fd=home)
            finally:
                os.close(lock)
