"""Writes to a folder archive while somebody exchanges its folders for links, and the folder of unfinished objects."""

import os
import shutil
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from ls4_assets import logs
from ls4_assets.errors import Ls4Error, UnwritableArchiveError
from resources.directory_storage import DirectoryStorage
from resources.unfinished import FOLDER_NAME

FOLDER = "bw/Travis/cog"
KEY, SOURCE = f"{FOLDER}/x.tif", f"{FOLDER}/source.tif"
NEW = b"a product of ls4"

WRITES: dict[str, Callable[[DirectoryStorage, Path], object]] = {
    "put": lambda storage, _: storage.put(KEY, NEW),
    "put_if_absent": lambda storage, _: storage.put_if_absent(KEY, NEW),
    "upload": lambda storage, path: storage.upload(path, KEY),
    "upload by a link": lambda storage, path: storage.upload(path, KEY, may_link=True),
    "copy": lambda storage, _: storage.copy(SOURCE, KEY),
    "delete": lambda storage, _: storage.delete(KEY),
}
# "half-*" stands for the folder of one unfinished object.
COMPONENTS = ["bw", "bw/Travis", FOLDER, KEY, FOLDER_NAME, f"{FOLDER_NAME}/half-*", f"{FOLDER_NAME}/half-*/x.tif"]

# Audit hooks cannot be removed, so there is one, which calls this before each system call on a path.
_before_step: list[Callable[[], None]] = []
_STEPS = {"open", "os.mkdir", "os.link", "os.rename", "os.chmod", "os.remove", "os.rmdir", "os.scandir", "shutil.rmtree"}
sys.addaudithook(lambda event, _: [step() for step in _before_step] and None if event in _STEPS else None)


@contextmanager
def before_step(action: Callable[[], None]) -> Iterator[None]:
    """Call `action` before each system call, except those that it makes."""

    def act() -> None:
        _before_step.clear()
        action()
        _before_step.append(act)

    _before_step.append(act)
    try:
        yield
    finally:
        _before_step.clear()


def prepare(home: Path) -> DirectoryStorage:
    """An archive, and beside it a folder that looks like any of its folders."""
    shutil.rmtree(home, ignore_errors=True)
    outside = home / "outside"
    for folder in ("bw/Travis/cog", "Travis/cog", "cog", "half-decoy"):
        (outside / folder).mkdir(parents=True)
        (outside / folder / "x.tif").write_bytes(b"outside")
    (outside / "x.tif").write_bytes(b"outside")
    for path in outside.rglob("*.tif"):
        path.chmod(0o600)
    (home / "archive").mkdir()
    (home / "new.tif").write_bytes(NEW)
    storage = DirectoryStorage(home / "archive")
    storage.put(SOURCE, NEW)
    return storage


def exchange(root: Path, component: str) -> bool:
    """Put a link in place of a component. Returns False while it does not exist."""
    for path in list(root.glob(component)):
        with suppress(FileNotFoundError):
            path.rename(root / "moved")
            path.symlink_to(root.parent / "outside" / ("x.tif" if component.endswith(".tif") else ""))
            return True
    return False


def snapshot(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    def describe(path: Path) -> tuple[int, int, bytes]:
        status = path.lstat()
        return status.st_mode, status.st_nlink, b"" if path.is_dir() else path.read_bytes()

    return {str(path.relative_to(folder)): describe(path) for path in sorted(folder.rglob("*"))}


@pytest.mark.parametrize("component", COMPONENTS)
@pytest.mark.parametrize("write", WRITES)
def test_link_that_appears_during_a_write_is_not_followed(tmp_path: Path, write: str, component: str) -> None:
    """A user with write access to the top folder exchanged `.unfinished` for a link, and ls4 wrote to where it led."""
    home, exchanged_before, is_exchanged = tmp_path / "home", list[int](), True
    while is_exchanged:
        storage = prepare(home)
        if write != "put_if_absent":
            storage.put(KEY, b"old")
        expected, step, is_exchanged = snapshot(home / "outside"), 0, False
        earliest = exchanged_before[-1] + 1 if exchanged_before else 1

        def act() -> None:
            nonlocal step, is_exchanged
            step += 1
            if step >= earliest and not is_exchanged and exchange(home / "archive", component):  # noqa: B023  # called in this pass
                is_exchanged = True
                exchanged_before.append(step)

        with suppress(Ls4Error, OSError), before_step(act):
            WRITES[write](storage, home / "new.tif")
        assert snapshot(home / "outside") == expected, f"exchanged before step {step}"
        assert storage.head(KEY) is None or storage.read(KEY) in (b"old", NEW)
    assert exchanged_before or (write == "delete" and component.startswith(f"{FOLDER_NAME}/"))


def test_folder_of_unfinished_objects_is_closed_to_others(tmp_path: Path) -> None:
    """Also the one that an earlier version created for everyone to read."""
    (tmp_path / FOLDER_NAME).mkdir(mode=0o777)
    (tmp_path / FOLDER_NAME).chmod(0o777)
    DirectoryStorage(tmp_path).put(KEY, NEW)
    assert stat.S_IMODE((tmp_path / FOLDER_NAME).stat().st_mode) == 0o700
    assert list((tmp_path / FOLDER_NAME).iterdir()) == []


def make_link(path: Path) -> None:
    path.symlink_to(path.parent / "elsewhere")


@pytest.mark.parametrize("make", [make_link, Path.touch])
def test_entry_in_place_of_the_folder_of_unfinished_objects_is_reported(tmp_path: Path, make: Callable[[Path], None]) -> None:
    (tmp_path / "elsewhere").mkdir()
    make(tmp_path / FOLDER_NAME)
    with pytest.raises(UnwritableArchiveError, match=r"\.unfinished is not a folder; delete it\.$"):
        DirectoryStorage(tmp_path).put(KEY, NEW)
    (tmp_path / FOLDER_NAME).unlink()
    DirectoryStorage(tmp_path).put(KEY, NEW)
    assert list((tmp_path / "elsewhere").iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a folder to another user")
def test_folder_of_unfinished_objects_of_another_user_is_not_used(tmp_path: Path) -> None:
    """Its owner could exchange a product before it is published."""
    storage = DirectoryStorage(tmp_path)
    storage.put(KEY, b"old")
    os.chown(tmp_path / FOLDER_NAME, 65534, 65534)
    with pytest.raises(UnwritableArchiveError, match=r"belongs to user 65534, .*; give it to user 0 with chown -R, or run"):
        storage.put(KEY, NEW)
    assert storage.read(KEY) == b"old"
    os.chown(tmp_path / FOLDER_NAME, 0, 0)
    storage.put(KEY, NEW)


def test_mount_without_chmod_is_written_to_with_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such a mount gives everything the same owner and mode, so a product is as protected as the rest of the archive."""
    (tmp_path / FOLDER_NAME).mkdir()
    (tmp_path / FOLDER_NAME).chmod(0o777)

    def forbid(descriptor: int, mode: int) -> None:
        raise PermissionError(1, "Operation not permitted")

    events: list[str] = []
    monkeypatch.setattr(os, "fchmod", forbid)
    monkeypatch.setattr(logs, "emit", lambda event, *_, **__: events.append(event))
    storage = DirectoryStorage(tmp_path)
    storage.put(KEY, NEW)
    storage.put(KEY, NEW)
    assert storage.read(KEY) == NEW
    assert events == ["archive_open_to_all"]
