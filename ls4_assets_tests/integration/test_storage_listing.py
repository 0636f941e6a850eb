"""Listings of the storage port, for every implementation. Scans and deletions depend on them."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest

from ls4_assets.errors import ConfigurationError
from ls4_assets_tests.azure_server import azure_server_fixture  # noqa: F401
from ls4_assets_tests.integration.storage_fixtures import keys, level_keys, missing_archive, put_raw, storage_fixture  # noqa: F401
from ls4_assets_tests.s3_servers import s3_server_fixture  # noqa: F401
from resources.s3_storage import S3Storage
from resources.storage import Storage, StoredObject


def test_level_is_listed_with_its_subfolders(storage: Storage) -> None:
    for key in (
        "top.tif",
        "bw/Travis/a.tif",
        "bw/Travis/deep/er/b.tif",
        "bw/TravisX/c.tif",
        "bw/Bastrop/d.tif",
        "bw/e.tif",
    ):
        storage.put(key, b"x")
    assert level_keys(storage, "") == ["bw/", "top.tif"]
    assert level_keys(storage, "bw/") == ["bw/Bastrop/", "bw/Travis/", "bw/TravisX/", "bw/e.tif"]
    assert level_keys(storage, "bw/Travis/") == ["bw/Travis/a.tif", "bw/Travis/deep/"]
    (stored,) = (item for item in storage.list_level("bw/Travis/") if isinstance(item, StoredObject))
    assert stored == storage.head("bw/Travis/a.tif")


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        ("bw", ["bw/A/", "bw/B/", "bw/a.tif", "bw/b.tif"]),
        ("bw/A/", ["bw/A/", "bw/B/", "bw/a.tif", "bw/b.tif"]),
        ("bw/A/deep/x.tif", ["bw/A/", "bw/B/", "bw/a.tif", "bw/b.tif"]),
        ("bw/A0", ["bw/B/", "bw/a.tif", "bw/b.tif"]),
        ("bw/B/y.tif", ["bw/B/", "bw/a.tif", "bw/b.tif"]),
        ("bw/a", ["bw/a.tif", "bw/b.tif"]),
        ("bw/a.tif", ["bw/b.tif"]),
        ("bw/b.tif", []),
        ("bw0", []),
        ("nc/x.tif", []),
    ],
)
def test_level_is_listed_after_any_key(storage: Storage, after: str, expected: list[str]) -> None:
    """A scan resumes where the last one stopped. A subfolder that may hold later keys is still listed."""
    for key in ("bw/A/deep/x.tif", "bw/B/y.tif", "bw/a.tif", "bw/b.tif", "nc/z.tif"):
        storage.put(key, b"x")
    assert level_keys(storage, "bw/", after) == expected


def test_missing_folder_is_listed_as_empty(storage: Storage) -> None:
    storage.put("bw/a.tif", b"x")
    for prefix in ("nc/", "bw/Travis/", "bw/a.tif/"):
        assert (level_keys(storage, prefix), keys(storage, prefix)) == ([], [])


def test_list_accepts_any_prefix(storage: Storage) -> None:
    expected = ["bw/Travis/USDA_1958/a.tif", "bw/Travis/a.tif", "bw/TravisX/a.tif"]
    for key in (*expected, "bw/Bastrop/a.tif", "nc/Travis/a.tif"):
        storage.put(key, b"x")
    assert keys(storage, "bw/Tr") == expected
    assert keys(storage, "bw/Travis/") == expected[:2]
    assert keys(storage, "bw/Travis/U") == expected[:1]
    assert len(keys(storage)) == 5


# SeaweedFS lists folder by folder instead of in key order.
@pytest.mark.parametrize("storage", ["directory", "moto", "azurite"], indirect=True)
def test_lists_are_in_key_order(storage: Storage) -> None:
    """A folder sorts with its slash: "a-b/x" and "a.tif" come before "a/x"."""
    expected = ["B/x.tif", "a-b/x.tif", "a.tif", "a/x.tif", "a0/x.tif", "b/x.tif", "é/x.tif"]
    for key in reversed(expected):
        storage.put(key, b"x")
    assert keys(storage) == expected == sorted(expected)
    assert level_keys(storage, "") == ["B/", "a-b/", "a.tif", "a/", "a0/", "b/", "é/"]


def test_more_than_a_thousand_objects_are_listed(storage: Storage) -> None:
    """A page of S3 has at most a thousand keys."""
    expected = [f"bw/Travis/USDA_1958/frames/georef/02-08-60_6-{number}.tif" for number in range(1005)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: put_raw(storage, key), expected))
    assert keys(storage) == sorted(expected)
    folder = "bw/Travis/USDA_1958/frames/georef/"
    assert level_keys(storage, folder) == sorted(expected)
    assert level_keys(storage, folder, sorted(expected)[2]) == sorted(expected)[3:]


def test_hidden_files_and_folder_markers_are_not_listed(storage: Storage) -> None:
    """`._x.tif` of macOS and `.x.tif.Ab12` of rsync are not frames."""
    hidden = ("bw/._x.tif", "bw/.x.tif.Ab12", "bw/.DS_Store", ".trash/x.tif", "bw/.cache/deep/x.tif")
    for key in (*hidden, "bw/x.tif", "bw/empty/", "nc/"):
        put_raw(storage, key)
    assert keys(storage) == keys(storage, "bw/") == ["bw/x.tif"]
    assert level_keys(storage, "bw/") == ["bw/empty/", "bw/x.tif"]
    assert level_keys(storage, "bw/empty/") == []
    assert level_keys(storage, "") == ["bw/", "nc/"]
    for prefix in (".trash/", "bw/.cache/", "bw/.cache/deep/", "bw/.x"):
        assert keys(storage, prefix) == []
    for prefix in (".trash/", "bw/.cache/", "bw/.cache/deep/"):
        assert level_keys(storage, prefix) == []


@pytest.mark.parametrize(
    "name", ["with spaces.tif", "Ärger & 50%+#1?.tif", "фото_1958.tif", "a'b\"c;d.tif", "%2e%2e%2fx.tif", "😀.tif"]
)
def test_any_name_is_preserved(storage: Storage, tmp_path: Path, name: str) -> None:
    key = f"bw/Travis County/USDA_1958/{name}"
    stored = storage.put(key, b"unchanged")
    assert storage.head(key) == stored
    assert storage.read(key, 2, 3) == b"cha"
    assert keys(storage, "bw/Travis County/") == [key]
    storage.download(key, tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == b"unchanged"
    storage.delete(key)
    assert storage.head(key) is None


def test_failed_listing_is_not_an_empty_archive(storage: Storage) -> None:
    """An unmounted disk looked like an archive from which everything was deleted."""
    missing = missing_archive(storage)
    for call in (lambda: list(missing.list_level("")), lambda: list(missing.list("bw/"))):
        with pytest.raises(ConfigurationError, match=r"correct LS4_STORAGE\.$"):
            call()


@pytest.mark.parametrize("storage", ["moto"], indirect=True)
def test_bucket_that_lists_out_of_order_is_rejected(storage: S3Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scans compare key ranges with the database: out of order, existing frames would count as deleted."""
    pages = [{"Contents": [entry(key)]} for key in ("bw/b.tif", "bw/a.tif")]
    monkeypatch.setattr(storage, "_pages", lambda **_: iter(pages))
    with pytest.raises(ConfigurationError, match=r"lists bw/a.tif after bw/b.tif.*use a bucket that lists in key order"):
        list(storage.list_level("bw/"))


def entry(key: str) -> dict[str, object]:
    return {"Key": key, "Size": 1, "ETag": '"1"', "LastModified": datetime(2026, 1, 1, tzinfo=UTC)}
