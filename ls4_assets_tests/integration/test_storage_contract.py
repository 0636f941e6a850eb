"""The storage port, for every implementation: a folder, moto, SeaweedFS as a real S3 server, and Azurite.

Listings are in test_storage_listing.py, properties of one implementation in test_storage_kinds.py.
"""

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import rasterio

from ls4_assets.domain.storages import KINDS
from ls4_assets.errors import NotFoundError
from ls4_assets.settings import load_settings
from ls4_assets_tests.azure_server import azure_server_fixture  # noqa: F401
from ls4_assets_tests.integration.storage_fixtures import ARCHIVES, KEY, keys, settings_of, storage_fixture  # noqa: F401
from ls4_assets_tests.rasters import photograph, write_tif
from ls4_assets_tests.s3_servers import s3_server_fixture  # noqa: F401
from resources.open import open_storage
from resources.storage import Storage, StoredObject


def test_objects_are_read_whole_and_in_ranges(storage: Storage) -> None:
    storage.put(KEY, b"0123456789")
    assert storage.read(KEY) == b"0123456789"
    assert storage.read(KEY, 3) == b"3456789"
    assert storage.read(KEY, 3, 4) == b"3456"
    assert storage.read(KEY, 8, 100) == b"89"
    assert storage.read(KEY, 10) == storage.read(KEY, 99, 5) == storage.read(KEY, 2, 0) == b""


def test_empty_object_exists(storage: Storage) -> None:
    stored = storage.put(KEY, b"")
    assert stored.size == 0
    assert storage.head(KEY) == stored
    assert storage.read(KEY) == b""


def test_files_are_uploaded_and_downloaded(storage: Storage, tmp_path: Path) -> None:
    original, copy = tmp_path / "original.tif", tmp_path / "copy.tif"
    original.write_bytes(os.urandom(70_000))
    assert storage.upload(original, KEY).size == 70_000
    storage.download(KEY, copy)
    assert copy.read_bytes() == original.read_bytes() == storage.read(KEY)


def test_writes_return_the_same_as_head_and_listings(storage: Storage, tmp_path: Path) -> None:
    """Later scans compare with the version that a write returned: any difference would rebuild every product."""
    path = tmp_path / "x.tif"
    path.write_bytes(b"uploaded")
    written = [storage.put("bw/put.tif", b"put"), storage.upload(path, "bw/uploaded.tif")]
    for stored in written:
        head = storage.head(stored.key)
        assert head is not None
        assert (head.key, head.size, head.version) == (stored.key, stored.size, stored.version)
        assert abs(datetime.now(UTC) - head.modified) < timedelta(minutes=5)
    expected = [(stored.key, stored.size, stored.version) for stored in written]
    assert [(stored.key, stored.size, stored.version) for stored in storage.list("bw/")] == expected
    level = list(storage.list_level("bw/"))
    objects = [entry for entry in level if isinstance(entry, StoredObject)]
    assert [(stored.key, stored.size, stored.version) for stored in objects] == expected
    assert len(objects) == len(level)


def test_other_bytes_of_the_same_size_have_another_version(storage: Storage, tmp_path: Path) -> None:
    path = tmp_path / "x.tif"
    path.write_bytes(b"cccc")
    versions = [storage.put(KEY, b"aaaa").version, storage.put(KEY, b"bbbb").version, storage.upload(path, KEY).version]
    assert len(set(versions)) == 3
    stored = storage.head(KEY)
    assert stored and stored.version == versions[-1]


def test_put_if_absent_never_replaces(storage: Storage) -> None:
    assert storage.put_if_absent(KEY, b"first") is True
    assert storage.put_if_absent(KEY, b"second") is False
    assert storage.read(KEY) == b"first"
    storage.delete(KEY)
    assert storage.put_if_absent(KEY, b"third") is True
    assert keys(storage) == [KEY]


def test_one_of_several_concurrent_creations_succeeds(storage: Storage) -> None:
    with ThreadPoolExecutor(4) as pool:
        created = list(pool.map(lambda number: storage.put_if_absent(KEY, str(number).encode()), range(4)))
    assert sum(created) == 1
    assert storage.read(KEY) == str(created.index(True)).encode()


def test_readers_see_the_old_object_or_the_new_one(storage: Storage, tmp_path: Path) -> None:
    """The map server read a partially written mapfile, and the map was down."""
    size = 300_000
    path = tmp_path / "x.tif"
    contents = {letter * size for letter in (b"a", b"b", b"c")}
    storage.put(KEY, b"a" * size)
    done = threading.Event()
    seen: list[bytes] = []

    def read() -> None:
        while not done.is_set():
            seen.append(storage.read(KEY))

    with ThreadPoolExecutor(1) as pool:
        reader = pool.submit(read)
        try:
            for _ in range(15):
                storage.put(KEY, b"b" * size)
                path.write_bytes(b"c" * size)
                storage.upload(path, KEY)
        finally:
            done.set()
        reader.result()
    assert len(seen) > 5
    assert set(seen) <= contents


def test_deleting_is_idempotent(storage: Storage) -> None:
    storage.put(KEY, b"x")
    storage.put("bw/Travis/other.tif", b"x")
    storage.delete(KEY)
    storage.delete(KEY)
    storage.delete("bw/never/existed.tif")
    assert storage.head(KEY) is None
    assert keys(storage) == ["bw/Travis/other.tif"]


def test_missing_key_is_reported_with_advice(storage: Storage, tmp_path: Path) -> None:
    assert storage.head(KEY) is None
    for missing in (
        lambda: storage.read(KEY),
        lambda: storage.read(KEY, 5, 5),
        lambda: storage.download(KEY, tmp_path / "x"),
    ):
        with pytest.raises(NotFoundError) as raised:
            missing()
        assert str(raised.value) == f"{KEY} is not in the archive; drop it again if it should be."
    assert list(tmp_path.glob("x*")) == []


def test_folder_is_not_an_object(storage: Storage) -> None:
    storage.put(KEY, b"x")
    for key in ("bw/Travis", f"{KEY}/below.tif"):
        assert storage.head(key) is None
        with pytest.raises(NotFoundError):
            storage.read(key)
        storage.delete(key)
    assert keys(storage) == [KEY]


def test_setting_selects_the_storage(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"DATABASE_URL": "postgresql://", "PUBLIC_URL": "http://x", "MAP_URL": "http://x"}.items():
        monkeypatch.setenv(f"LS4_{name}", value)
    storage.put(KEY, b"x")
    opened = open_storage(load_settings(**settings_of(storage)))
    assert (type(opened), opened.read(KEY)) == (type(storage), b"x")
    assert opened.gdal_path(KEY) == storage.gdal_path(KEY)
    assert opened.capabilities == storage.capabilities


def test_every_kind_is_in_this_contract() -> None:
    assert set(ARCHIVES) == set(KINDS.values())


def test_gdal_reads_an_object(storage: Storage, tmp_path: Path) -> None:
    """With the options of the port and the credentials of the environment alone."""
    storage.upload(write_tif(tmp_path / "x.tif", photograph(40, 50)), KEY)
    with rasterio.Env(**storage.gdal_options()), rasterio.open(storage.gdal_path(KEY)) as tif:
        assert (tif.height, tif.width) == (40, 50)
        assert tif.read(1).any()


def test_copy_is_the_same_object_under_another_key(storage: Storage) -> None:
    storage.put(KEY, b"pixels")
    copied = storage.copy(KEY, "bw/copy.tif")
    assert (copied.key, copied.size) == ("bw/copy.tif", 6)
    assert storage.head("bw/copy.tif") == copied
    storage.delete(KEY)
    assert storage.read("bw/copy.tif") == b"pixels"
    with pytest.raises(NotFoundError):
        storage.copy(KEY, "bw/copy.tif")
    assert storage.read("bw/copy.tif") == b"pixels"
