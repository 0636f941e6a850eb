"""Folders that belong to one process, and go with it: what a killed process left is found and removed by the next that makes one.

A folder's owner holds a lock on it, which the kernel drops when the process ends, however it ends. So nobody has to guess from
a process id or an age whether the owner is alive, and it works across containers that share a disk.
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
    """A new folder below `parent` (None: the system's temporary folder), removed at the end with all that is in it.

    Before, those of the same prefix are removed whose owner is dead.
    """
    home = parent or Path(tempfile.gettempdir())
    _sweep(prefix, home)
    path, lock = _own(prefix, home)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(lock)


def _own(prefix: str, home: Path) -> tuple[Path, int]:
    while True:
        path = Path(tempfile.mkdtemp(prefix=prefix, dir=home))
        lock = -1
        with suppress(FileNotFoundError):
            lock = os.open(path, os.O_RDONLY)
            # A disk without locks still serves to write on; what is left behind there is nobody's to sweep.
            with suppress(OSError):
                fcntl.flock(lock, fcntl.LOCK_EX)
            if os.path.samestat(os.fstat(lock), path.stat()):
                return path, lock
        # Swept in the moment between its making and its locking.
        if lock >= 0:
            os.close(lock)


def _sweep(prefix: str, home: Path) -> None:
    with os.scandir(home) as entries:
        found = [Path(entry.path) for entry in entries if entry.name.startswith(prefix) and entry.is_dir(follow_symlinks=False)]
    for path in found:
        # Locked: its owner is alive. Not to be opened: somebody else's, or gone.
        with suppress(OSError):
            lock = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
            try:
                if os.fstat(lock).st_uid == os.geteuid():
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(lock)
