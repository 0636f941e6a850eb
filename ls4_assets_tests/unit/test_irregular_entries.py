"""Links, FIFOs, devices and odd times in a folder as the archive: only regular files are read, and nothing hides its folder."""

import os
import stat
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest

from ls4_assets.errors import IrregularEntryError, NotFoundError
from ls4_assets.ingest import listing
from resources.directory_storage import DirectoryStorage
from resources.entries import modification_time
from resources.storage import Defect, IrregularEntry, StoredObject

FOLDER = "bw/Travis/USDA_1958/frames/georef/"
GOOD, BAD = f"{FOLDER}02-08-60_6-1.tif", f"{FOLDER}02-08-60_6-2.tif"
SECRET = b"a file outside the archive"


@pytest.fixture
def storage(tmp_path: Path) -> DirectoryStorage:
    root = tmp_path / "archive"
    root.mkdir()
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "02-08-60_6-2.tif").write_bytes(SECRET)
    storage = DirectoryStorage(root)
    storage.put(GOOD, b"good")
    return storage


def link_file(path: Path) -> None:
    path.symlink_to(path.parents[6] / "outside" / "02-08-60_6-2.tif")


def link_itself(path: Path) -> None:
    path.symlink_to(path.name)


def make_device(path: Path) -> None:
    if os.geteuid():
        pytest.skip("only root may create a device")
    os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 5))


ENTRIES: dict[str, tuple[Callable[[Path], object], Defect]] = {
    "link": (link_file, Defect.LINK),
    "dangling link": (lambda path: path.symlink_to("/nowhere.tif"), Defect.LINK),
    "link to itself": (link_itself, Defect.LINK),
    "fifo": (os.mkfifo, Defect.SPECIAL),
    "device": (make_device, Defect.SPECIAL),
}


@pytest.mark.parametrize("name", ENTRIES)
def test_only_regular_files_are_read(storage: DirectoryStorage, tmp_path: Path, name: str) -> None:
    """A link to a private file, dropped under a valid name, was processed and published; a FIFO held up its reader."""
    make, defect = ENTRIES[name]
    make(storage.root / BAD)
    good, bad = list(storage.list_level(FOLDER))
    assert isinstance(good, StoredObject) and good.key == GOOD
    assert isinstance(bad, IrregularEntry) and (bad.key, bad.defect) == (BAD, defect)
    assert storage.head(BAD) is None
    assert [stored.key for stored in storage.list(FOLDER)] == [GOOD]
    for read in (
        lambda: storage.read(BAD),
        lambda: storage.download(BAD, tmp_path / "copy"),
        lambda: storage.copy(BAD, f"{FOLDER}copy.tif"),
    ):
        with pytest.raises(IrregularEntryError, match=defect.problem):
            read()
    assert storage.head(f"{FOLDER}copy.tif") is None and not (tmp_path / "copy").exists()


def test_entry_that_is_replaced_by_a_link_after_its_check_is_not_read(storage: DirectoryStorage) -> None:
    """Between the check of a path and its use there was time to replace the file."""
    assert storage.head(GOOD)
    (storage.root / GOOD).unlink()
    link_file(storage.root / GOOD)
    with pytest.raises(IrregularEntryError, match="symbolic link"):
        storage.read(GOOD)


def test_folder_that_is_a_link_is_neither_entered_nor_written_to(storage: DirectoryStorage, tmp_path: Path) -> None:
    """As root, the platform wrote products to wherever a link in a collection's folder led."""
    folder = f"{FOLDER}deflate"
    (storage.root / folder).symlink_to(tmp_path / "outside")
    key = f"{folder}/02-08-60_6-2.tif"
    assert [type(item) for item in storage.list_level(FOLDER)] == [StoredObject, IrregularEntry]
    assert storage.head(key) is None
    for access in (
        lambda: storage.read(key),
        lambda: storage.put(key, b"x"),
        lambda: storage.delete(key),
        lambda: storage.copy(GOOD, key),
        lambda: list(storage.list_level(f"{folder}/")),
    ):
        with pytest.raises(IrregularEntryError, match=f"^{folder} is a symbolic link to a folder"):
            access()
    assert (tmp_path / "outside" / "02-08-60_6-2.tif").read_bytes() == SECRET


def test_root_of_the_archive_may_be_a_link(storage: DirectoryStorage, tmp_path: Path) -> None:
    """The operator sets the root, and operators do point it to a disk."""
    (tmp_path / "linked").symlink_to(storage.root)
    assert DirectoryStorage(tmp_path / "linked").read(GOOD) == b"good"


def test_links_that_lead_upwards_do_not_multiply_the_walk(storage: DirectoryStorage) -> None:
    """Two links to the folder above made a walk without an end: all folders behind them waited."""
    for name in ("l1", "l2"):
        (storage.root / "bw" / "Travis" / name).symlink_to("..")
    (key_range,) = listing.walk_key_ranges(storage, "", 1000, lambda: False)
    assert [entry.key for entry in key_range.objects] == [GOOD, "bw/Travis/l1", "bw/Travis/l2"]
    assert {entry.defect for entry in key_range.objects if isinstance(entry, IrregularEntry)} == {Defect.FOLDER_LINK}


@pytest.mark.parametrize("seconds", [260_000_000_000, 1e300, -1, -70_000_000_000, -1e300])
def test_any_time_of_a_file_is_accepted(seconds: float) -> None:
    """A file with a time after the year 9999 hid its folder: nothing of it was processed."""
    status = os.stat_result((stat.S_IFREG, 0, 0, 1, 0, 0, 0, 0, seconds, 0))
    assert isinstance(modification_time(status), datetime)


def test_file_that_must_not_be_read_says_so(storage: DirectoryStorage) -> None:
    """A file with the mode 600 of another user failed its frame as a defect of the platform."""
    (storage.root / GOOD).chmod(0o600)
    if os.geteuid():
        pytest.skip("only root may become another user")
    for folder in (storage.root, *storage.root.parents):
        if not folder.stat().st_mode & 0o001:
            folder.chmod(folder.stat().st_mode | 0o711)
    os.seteuid(65534)
    try:
        with pytest.raises(IrregularEntryError, match="chmod a.r"):
            storage.read(GOOD)
    finally:
        os.seteuid(0)


def test_missing_folders_are_created_readable(storage: DirectoryStorage) -> None:
    previous = os.umask(0o077)
    try:
        storage.put("nc/Travis/x.tif", b"x")
    finally:
        os.umask(previous)
    assert [stat.S_IMODE((storage.root / folder).stat().st_mode) for folder in ("nc", "nc/Travis")] == [0o755, 0o755]
    with pytest.raises(NotFoundError):
        storage.read("nc/Travis/x.tif/y")


def test_failed_creation_of_a_folder_leaves_no_descriptor_open(
    storage: DirectoryStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a mount without chmod, each failed write left a descriptor open until the process had no more."""

    def forbid(descriptor: int, mode: int) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "fchmod", forbid)
    before, umask = len(list(Path("/proc/self/fd").iterdir())), os.umask(0o077)
    try:
        for folder in ("nc", "cir", "maps"):
            with pytest.raises(PermissionError):
                storage.put(f"{folder}/x.tif", b"x")
    finally:
        os.umask(umask)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
