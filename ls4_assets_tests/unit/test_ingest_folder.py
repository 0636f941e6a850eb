"""`ls4 ingest`: copying a folder of tifs into a collection of the archive."""

from pathlib import Path

import pytest

from ls4_assets.domain.archive_file import read_archive_file
from ls4_assets.domain.sidecars import SIDECARS
from ls4_assets.errors import InvalidNameError
from ls4_assets.ingest.folder import ingest_folder
from resources.directory_storage import DirectoryStorage

COLLECTION = "bw/Travis/USDA_1958/frames"
NAMING = read_archive_file(None).naming


@pytest.fixture
def storage(tmp_path: Path) -> DirectoryStorage:
    (tmp_path / "archive").mkdir()
    return DirectoryStorage(tmp_path / "archive")


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    folder = tmp_path / "scans"
    folder.mkdir()
    for name in ("02-08-60_6-107.tif", "02-08-60_6-107.tfw", "02-08-60_6-108.TIF", "scan0001.tif", "scan0001.tfw", "notes.txt"):
        (folder / name).write_bytes(name.encode())
    return folder


def test_tifs_and_sidecars_are_uploaded_and_bad_names_rejected(storage: DirectoryStorage, scans: Path) -> None:
    report = ingest_folder(scans, COLLECTION, storage, NAMING)
    assert [stored.key for stored in storage.list("")] == [
        f"{COLLECTION}/georef/02-08-60_6-107.tfw",
        f"{COLLECTION}/georef/02-08-60_6-107.tif",
        f"{COLLECTION}/georef/02-08-60_6-108.TIF",
    ]
    assert (len(report.uploaded), report.unchanged, report.skipped) == (3, [], ["notes.txt"])
    assert len(report.rejected) == 1 and "scan0001" in report.rejected[0]


def test_unchanged_files_are_not_uploaded_again(storage: DirectoryStorage, scans: Path) -> None:
    ingest_folder(scans, COLLECTION, storage, NAMING)
    before = list(storage.list(""))
    (scans / "02-08-60_6-108.TIF").write_bytes(b"rescanned")
    report = ingest_folder(scans, COLLECTION, storage, NAMING, replace=True)
    assert (report.uploaded, len(report.unchanged)) == (["02-08-60_6-108.TIF"], 2)
    assert [a.key for a, b in zip(before, storage.list(""), strict=True) if a != b] == [f"{COLLECTION}/georef/02-08-60_6-108.TIF"]


def test_wrong_collection_is_rejected_before_any_upload(storage: DirectoryStorage, scans: Path) -> None:
    with pytest.raises(InvalidNameError, match="did you mean Travis"):
        ingest_folder(scans, "bw/Travs/USDA_1958/frames", storage, NAMING)
    assert list(storage.list("")) == []


@pytest.mark.parametrize("content", [b"an old copy", b""])
def test_existing_file_is_not_overwritten_without_replace(storage: DirectoryStorage, scans: Path, content: bytes) -> None:
    """A folder was ingested a second time, and its old, empty file overwrote the one corrected in the archive."""
    ingest_folder(scans, COLLECTION, storage, NAMING)
    (scans / "02-08-60_6-107.tif").write_bytes(content)
    report = ingest_folder(scans, COLLECTION, storage, NAMING)
    assert report.uploaded == []
    assert any("02-08-60_6-107.tif" in message for message in report.rejected)
    assert storage.read(f"{COLLECTION}/georef/02-08-60_6-107.tif") == b"02-08-60_6-107.tif"


def test_sidecars_alone_are_copied_beside_the_tifs_of_the_archive(storage: DirectoryStorage, scans: Path, tmp_path: Path) -> None:
    """`ls4 ingest --replace` of a folder with only corrected world files copied nothing, and exited without an error."""
    ingest_folder(scans, COLLECTION, storage, NAMING)
    corrections = tmp_path / "corrections"
    corrections.mkdir()
    for name in ("02-08-60_6-107.tfw", "02-08-60_6-108.prj", "02-08-60_6-999.tfw"):
        (corrections / name).write_bytes(b"corrected")
    report = ingest_folder(corrections, COLLECTION, storage, NAMING)
    assert report.uploaded == ["02-08-60_6-108.prj"]
    assert [("--replace" in reason, "put 02-08-60_6-999.tif beside it" in reason) for reason in report.rejected] == [
        (False, True),
        (True, False),
    ]
    (corrections / "02-08-60_6-999.tfw").unlink()
    # The second time the content is the same: staff say again that it is right.
    for _ in range(2):
        before = {stored.key: stored.version for stored in storage.list("")}
        report = ingest_folder(corrections, COLLECTION, storage, NAMING, replace=True)
        assert (report.uploaded, report.rejected) == (["02-08-60_6-107.tfw", "02-08-60_6-108.prj"], [])
        changed = {stored.key for stored in storage.list("") if before[stored.key] != stored.version}
        assert changed == {f"{COLLECTION}/georef/{name}" for name in report.uploaded}
    assert storage.read(f"{COLLECTION}/georef/02-08-60_6-107.tfw") == b"corrected"


def test_every_kind_of_sidecar_is_copied(storage: DirectoryStorage, tmp_path: Path) -> None:
    folder = tmp_path / "all"
    folder.mkdir()
    names = ["02-08-60_6-107.tif", *(f"02-08-60_6-107{kind.suffix}" for kind in SIDECARS)]
    for name in names:
        (folder / name).write_bytes(b"x")
    assert sorted(ingest_folder(folder, COLLECTION, storage, NAMING).uploaded) == sorted(names)
