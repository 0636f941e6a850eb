"""The port of the bucket, kept by all that stand behind it: a plain folder, moto, and SeaweedFS, a real S3 server.

What only one of them has (a file system's races, S3's tags and multipart uploads) stands at the end.
"""

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import botocore.exceptions
import pytest
from botocore.awsrequest import AWSPreparedRequest

from ls4_assets.errors import ConfigurationError, NotFound
from ls4_assets.settings import load_settings
from ls4_assets_tests.s3_servers import REGION, SERVERS, S3Server, s3_server_fixture  # noqa: F401
from resources.directory_storage import DirectoryStorage
from resources.open import open_storage
from resources.s3_storage import S3Storage
from resources.storage import Storage

KEY = "bw/Travis/USDA_1958/frames/georef/02-08-60_6-107.tif"
MEGABYTE = 1 << 20


folder_only = pytest.mark.parametrize("storage", ["directory"], indirect=True)
s3_only = pytest.mark.parametrize("storage", list(SERVERS), indirect=True)


@pytest.fixture(params=["directory", *SERVERS])
def storage(request: pytest.FixtureRequest, s3_server: Callable[[str], S3Server], tmp_path: Path) -> Storage:
    """An empty archive."""
    if request.param != "directory":
        return s3_server(request.param).new_bucket()
    (tmp_path / "archive").mkdir()
    return DirectoryStorage(tmp_path / "archive")


def put_raw(storage: Storage, key: str, data: bytes = b"x") -> None:
    """Put an object as somebody else would: past the port."""
    if isinstance(storage, S3Storage):
        storage.client.put_object(Bucket=storage.bucket, Key=key, Body=data)
    elif isinstance(storage, DirectoryStorage) and key.endswith("/"):
        (storage.root / key).mkdir(parents=True, exist_ok=True)
    elif isinstance(storage, DirectoryStorage):
        (storage.root / key).parent.mkdir(parents=True, exist_ok=True)
        (storage.root / key).write_bytes(data)


def keys(storage: Storage, prefix: str = "") -> list[str]:
    return [found.key for found in storage.list(prefix)]


# Reading and writing


def test_what_is_put_is_read_back_whole_and_in_ranges(storage: Storage) -> None:
    storage.put(KEY, b"0123456789")
    assert storage.read(KEY) == b"0123456789"
    assert storage.read(KEY, 3) == b"3456789"
    assert storage.read(KEY, 3, 4) == b"3456"
    assert storage.read(KEY, 8, 100) == b"89"
    assert storage.read(KEY, 10) == storage.read(KEY, 99, 5) == storage.read(KEY, 2, 0) == b""


def test_an_empty_object_is_an_object(storage: Storage) -> None:
    stored = storage.put(KEY, b"")
    assert stored.size == 0
    assert storage.head(KEY) == stored
    assert storage.read(KEY) == b""


def test_files_go_up_and_come_down(storage: Storage, tmp_path: Path) -> None:
    there, back = tmp_path / "there.tif", tmp_path / "back.tif"
    there.write_bytes(os.urandom(70_000))
    assert storage.upload(there, KEY).size == 70_000
    storage.download(KEY, back)
    assert back.read_bytes() == there.read_bytes() == storage.read(KEY)


def test_writing_tells_what_head_and_listings_tell(storage: Storage, tmp_path: Path) -> None:
    """The version that a write returns is compared with later looks: any difference would make every product anew."""
    path = tmp_path / "x.tif"
    path.write_bytes(b"uploaded")
    written = [storage.put("bw/put.tif", b"put"), storage.upload(path, "bw/uploaded.tif")]
    for stored in written:
        head = storage.head(stored.key)
        assert head is not None
        assert (head.key, head.size, head.version) == (stored.key, stored.size, stored.version)
        assert abs(datetime.now(UTC) - head.modified) < timedelta(minutes=5)
    expected = [(stored.key, stored.size, stored.version) for stored in written]
    assert [(found.key, found.size, found.version) for found in storage.list("bw/")] == expected
    assert [(found.key, found.size, found.version) for found in storage.scan("bw/").objects] == expected


def test_other_bytes_of_the_same_size_are_another_version(storage: Storage, tmp_path: Path) -> None:
    path = tmp_path / "x.tif"
    path.write_bytes(b"cccc")
    versions = [storage.put(KEY, b"aaaa").version, storage.put(KEY, b"bbbb").version, storage.upload(path, KEY).version]
    assert len(set(versions)) == 3
    stored = storage.head(KEY)
    assert stored and stored.version == versions[-1]


def test_create_only_puts_once(storage: Storage) -> None:
    assert storage.put_new(KEY, b"first") is True
    assert storage.put_new(KEY, b"second") is False
    assert storage.read(KEY) == b"first"
    storage.delete(KEY)
    assert storage.put_new(KEY, b"third") is True
    assert keys(storage) == [KEY]


def test_of_many_who_create_one_wins(storage: Storage) -> None:
    with ThreadPoolExecutor(4) as pool:
        won = list(pool.map(lambda number: storage.put_new(KEY, str(number).encode()), range(4)))
    assert sum(won) == 1
    assert storage.read(KEY) == str(won.index(True)).encode()


def test_a_reader_sees_the_old_object_or_the_new_one(storage: Storage, tmp_path: Path) -> None:
    """A half-written mapfile took a map down."""
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
    storage.delete("bw/never/was.tif")
    assert storage.head(KEY) is None
    assert keys(storage) == ["bw/Travis/other.tif"]


def test_a_key_that_is_not_there_is_told_with_advice(storage: Storage, tmp_path: Path) -> None:
    assert storage.head(KEY) is None
    for missing in (
        lambda: storage.read(KEY),
        lambda: storage.read(KEY, 5, 5),
        lambda: storage.download(KEY, tmp_path / "x"),
    ):
        with pytest.raises(NotFound) as raised:
            missing()
        assert str(raised.value) == f"{KEY} is not in the archive; drop it again if it should be."
    assert list(tmp_path.glob("x*")) == []


def test_a_folder_is_no_object(storage: Storage) -> None:
    storage.put(KEY, b"x")
    for key in ("bw/Travis", f"{KEY}/below.tif"):
        assert storage.head(key) is None
        with pytest.raises(NotFound):
            storage.read(key)
        storage.delete(key)
    assert keys(storage) == [KEY]


# Listing


def test_a_scan_shows_one_level(storage: Storage) -> None:
    for key in (
        "top.tif",
        "bw/Travis/a.tif",
        "bw/Travis/deep/er/b.tif",
        "bw/TravisX/c.tif",
        "bw/Bastrop/d.tif",
        "bw/e.tif",
    ):
        storage.put(key, b"x")
    top, bw, travis = storage.scan(""), storage.scan("bw/"), storage.scan("bw/Travis/")
    assert ([found.key for found in top.objects], top.folders) == (["top.tif"], ("bw/",))
    assert [found.key for found in bw.objects] == ["bw/e.tif"]
    assert bw.folders == ("bw/Bastrop/", "bw/Travis/", "bw/TravisX/")
    assert ([found.key for found in travis.objects], travis.folders) == (["bw/Travis/a.tif"], ("bw/Travis/deep/",))


def test_what_is_not_there_is_listed_as_empty(storage: Storage) -> None:
    storage.put("bw/a.tif", b"x")
    for prefix in ("nc/", "bw/Travis/", "bw/a.tif/"):
        level = storage.scan(prefix)
        assert (level.objects, level.folders, keys(storage, prefix)) == ((), (), [])


def test_a_list_takes_any_prefix(storage: Storage) -> None:
    wanted = ["bw/Travis/USDA_1958/a.tif", "bw/Travis/a.tif", "bw/TravisX/a.tif"]
    for key in (*wanted, "bw/Bastrop/a.tif", "nc/Travis/a.tif"):
        storage.put(key, b"x")
    assert keys(storage, "bw/Tr") == wanted
    assert keys(storage, "bw/Travis/") == wanted[:2]
    assert keys(storage, "bw/Travis/U") == wanted[:1]
    assert len(keys(storage)) == 5


# SeaweedFS lists folder by folder, not in key order as S3 does.
@pytest.mark.parametrize("storage", ["directory", "moto"], indirect=True)
def test_lists_are_in_key_order(storage: Storage) -> None:
    """A folder sorts by its slash: "a-b/x" and "a.tif" come before "a/x"."""
    wanted = ["B/x.tif", "a-b/x.tif", "a.tif", "a/x.tif", "a0/x.tif", "b/x.tif", "é/x.tif"]
    for key in reversed(wanted):
        storage.put(key, b"x")
    assert keys(storage) == wanted == sorted(wanted)
    assert [found.key for found in storage.scan("").objects] == ["a.tif"]
    assert list(storage.scan("").folders) == ["B/", "a-b/", "a/", "a0/", "b/", "é/"]


def test_more_than_a_thousand_objects_are_listed(storage: Storage) -> None:
    """One page of S3 holds a thousand keys."""
    wanted = [f"bw/Travis/USDA_1958/frames/georef/02-08-60_6-{number}.tif" for number in range(1005)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: put_raw(storage, key), wanted))
    assert keys(storage) == sorted(wanted)
    assert [found.key for found in storage.scan("bw/Travis/USDA_1958/frames/georef/").objects] == sorted(wanted)


def test_hidden_files_and_folder_markers_are_not_listed(storage: Storage) -> None:
    """`._x.tif` of macOS and `.x.tif.Ab12` of rsync are no frames."""
    hidden = ("bw/._x.tif", "bw/.x.tif.Ab12", "bw/.DS_Store", ".trash/x.tif", "bw/.cache/deep/x.tif")
    for key in (*hidden, "bw/x.tif", "bw/empty/", "nc/"):
        put_raw(storage, key)
    assert keys(storage) == keys(storage, "bw/") == ["bw/x.tif"]
    assert [found.key for found in storage.scan("bw/").objects] == ["bw/x.tif"]
    assert [found.key for found in storage.scan("bw/empty/").objects] == []
    assert storage.scan("bw/").folders == ("bw/empty/",)
    assert storage.scan("").folders == ("bw/", "nc/")
    for prefix in (".trash/", "bw/.cache/", "bw/.cache/deep/", "bw/.x"):
        assert keys(storage, prefix) == []
    for prefix in (".trash/", "bw/.cache/", "bw/.cache/deep/"):
        assert (storage.scan(prefix).objects, storage.scan(prefix).folders) == ((), ())


@pytest.mark.parametrize(
    "name", ["with spaces.tif", "Ärger & 50%+#1?.tif", "фото_1958.tif", "a'b\"c;d.tif", "%2e%2e%2fx.tif", "😀.tif"]
)
def test_any_name_is_kept_as_it_is(storage: Storage, tmp_path: Path, name: str) -> None:
    key = f"bw/Travis County/USDA_1958/{name}"
    stored = storage.put(key, b"unchanged")
    assert storage.head(key) == stored
    assert storage.read(key, 2, 3) == b"cha"
    assert keys(storage, "bw/Travis County/") == [key]
    storage.download(key, tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == b"unchanged"
    storage.delete(key)
    assert storage.head(key) is None


def test_a_failed_listing_is_not_an_empty_archive(storage: Storage) -> None:
    """A disk that was not mounted looked like an archive from which everything was deleted."""
    gone: Storage
    if isinstance(storage, S3Storage):
        gone = S3Storage("ls4-never-made", storage.client.meta.endpoint_url, REGION)
    else:
        gone = DirectoryStorage(Path("/never/mounted"))
    for look in (lambda: gone.scan(""), lambda: list(gone.list("bw/"))):
        with pytest.raises(ConfigurationError, match=r"correct LS4_STORAGE\.$"):
            look()


# The configuration


def test_the_setting_chooses_the_storage(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"DATABASE_URL": "postgresql://", "PUBLIC_URL": "http://x", "MAP_URL": "http://x"}.items():
        monkeypatch.setenv(f"LS4_{name}", value)
    if isinstance(storage, S3Storage):
        chosen = {
            "storage": f"s3://{storage.bucket}",
            "s3_endpoint_url": storage.client.meta.endpoint_url,
            "s3_region": REGION,
        }
    else:
        chosen = {"storage": storage.gdal_path("")}
    storage.put(KEY, b"x")
    opened = open_storage(load_settings(**chosen))
    assert (type(opened), opened.read(KEY)) == (type(storage), b"x")
    assert opened.gdal_path(KEY) == storage.gdal_path(KEY)


# A folder only


@folder_only
@pytest.mark.parametrize("key", ["../x.tif", "bw/../../x.tif", "/etc/passwd", "bw/.."])
def test_no_key_leads_out_of_the_archive(storage: DirectoryStorage, key: str) -> None:
    for use in (storage.head, storage.read, storage.delete, storage.gdal_path, lambda key: storage.put(key, b"x")):
        with pytest.raises(ValueError, match="give a path relative to its root"):
            use(key)


@folder_only
def test_products_are_readable_to_all_whatever_the_umask(storage: DirectoryStorage, tmp_path: Path) -> None:
    """Under umask 077 the map server's own user could not enter the folders."""
    (tmp_path / "x.tif").write_bytes(b"x")
    before = os.umask(0o077)
    try:
        storage.put("bw/put/deep/x.tif", b"x")
        storage.put_new("bw/new/x.tif", b"x")
        storage.upload(tmp_path / "x.tif", "bw/up/x.tif")
    finally:
        os.umask(before)
    for path in (storage.root / "bw").rglob("*"):
        assert oct(path.stat().st_mode & 0o777) == oct(0o755 if path.is_dir() else 0o644), path


@folder_only
def test_a_failed_write_leaves_the_old_object_and_no_litter(storage: DirectoryStorage, tmp_path: Path) -> None:
    storage.put(KEY, b"old")
    with pytest.raises(FileNotFoundError):
        storage.upload(tmp_path / "missing.tif", KEY)
    assert storage.read(KEY) == b"old"
    assert [path.name for path in (storage.root / KEY).parent.iterdir()] == [Path(KEY).name]


@folder_only
def test_deleting_leaves_the_folder_to_those_who_write_there(storage: DirectoryStorage) -> None:
    """The last product of a folder took the folder with it, under another frame that was just being published."""
    done = threading.Event()

    def come_and_go() -> None:
        while not done.is_set():
            storage.put("bw/cog/last.tif", b"x")
            storage.delete("bw/cog/last.tif")

    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(come_and_go)
        try:
            for number in range(200):
                storage.put(f"bw/cog/{number}.tif", b"x")
                storage.delete(f"bw/cog/{number}.tif")
        finally:
            done.set()
        other.result()


@folder_only
def test_a_name_that_is_not_utf8_can_be_told(storage: DirectoryStorage) -> None:
    """One file named on an old Windows share kept the whole unit from being looked at: its name cannot be stored."""
    put_raw(storage, "bw/good.tif")
    Path(os.fsdecode(bytes(storage.root / "bw") + b"/caf\xe9.tif")).touch()
    assert keys(storage) == ["bw/caf�.tif", "bw/good.tif"]


# S3 only


@s3_only
def test_only_intermediates_are_tagged(storage: S3Storage, tmp_path: Path) -> None:
    """The lifecycle rule that lets deflate tifs expire finds them by this tag."""
    small, large = tmp_path / "small.tif", tmp_path / "large.tif"
    small.write_bytes(b"x")
    large.write_bytes(bytes(9 * MEGABYTE))
    storage.upload(small, "deflate/small.tif", intermediate=True)
    storage.upload(large, "deflate/large.tif", intermediate=True)
    storage.upload(small, "cog/small.tif")
    storage.put("mapfiles/x.map", b"MAP END")
    tags = {key: storage.client.get_object_tagging(Bucket=storage.bucket, Key=key)["TagSet"] for key in keys(storage)}
    tagged = [{"Key": "ls4", "Value": "intermediate"}]
    assert tags == {"cog/small.tif": [], "deflate/large.tif": tagged, "deflate/small.tif": tagged, "mapfiles/x.map": []}


@s3_only
def test_a_large_file_goes_up_in_parts(storage: S3Storage, tmp_path: Path) -> None:
    path, back = tmp_path / "large.tif", tmp_path / "back.tif"
    path.write_bytes(os.urandom(9 * MEGABYTE))
    stored = storage.upload(path, KEY)
    assert (stored.size, stored.version.rpartition("-")[2]) == (9 * MEGABYTE, "2")
    listed = storage.scan(f"{KEY.rpartition('/')[0]}/").objects
    assert [found.version for found in listed] == [stored.version]
    assert storage.read(KEY, 8 * MEGABYTE - 2, 4) == path.read_bytes()[8 * MEGABYTE - 2 : 8 * MEGABYTE + 2]
    storage.download(KEY, back)
    assert back.read_bytes() == path.read_bytes()


@s3_only
def test_no_acl_is_sent(storage: S3Storage, tmp_path: Path) -> None:
    """New buckets refuse a request that has one."""
    sent: list[AWSPreparedRequest] = []
    storage.client.meta.events.register("before-send.s3", lambda request, **_: sent.append(request))
    path = tmp_path / "large.tif"
    path.write_bytes(bytes(9 * MEGABYTE))
    storage.put("mapfiles/x.map", b"MAP END")
    storage.put_new("derived/new.json", b"{}")
    storage.upload(path, "cog/x.tif")
    assert len([request for request in sent if request.method in ("PUT", "POST")]) >= 6
    for request in sent:
        assert not [name for name in request.headers if name.lower().startswith(("x-amz-acl", "x-amz-grant"))]
        assert "acl" not in str(request.url).partition("?")[2]


@s3_only
def test_downloads_have_the_type_that_browsers_need(storage: S3Storage, tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"x")
    for key, kind in {
        "cog/x.tif": "image/tiff",
        "derived/x.webp": "image/webp",
        "cog/x.zip": "application/zip",
    }.items():
        storage.upload(path, key)
        storage.put(f"put/{key}", b"x")
        for written in (key, f"put/{key}"):
            assert storage.client.head_object(Bucket=storage.bucket, Key=written)["ContentType"] == kind


@s3_only
def test_an_outage_is_told_before_dagster_stops_the_sensor(storage: S3Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dagster stops a sensor after 60 s, and what it had seen until then is lost; nor is an outage a missing object."""
    nobody = S3Storage(storage.bucket, "http://127.0.0.1:9", REGION)
    for ask in (lambda: nobody.head(KEY), lambda: nobody.read(KEY), lambda: nobody.scan("")):
        waits: list[float] = []
        monkeypatch.setattr("botocore.endpoint.time.sleep", waits.append)
        with pytest.raises(botocore.exceptions.EndpointConnectionError):
            ask()
        assert len(waits) >= 3
        assert sum(waits) + (len(waits) + 1) * nobody.client.meta.config.connect_timeout < 60  # type: ignore[attr-defined]


@pytest.mark.parametrize("storage", ["seaweedfs"], indirect=True)
def test_a_wrong_secret_is_refused(storage: S3Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    """SeaweedFS lets everybody in when it has no credentials, and the tests would show less than they say."""
    monkeypatch.setattr("boto3.DEFAULT_SESSION", None)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    stranger = S3Storage(storage.bucket, storage.client.meta.endpoint_url, REGION)
    storage.put(KEY, b"x")
    for use in (lambda: stranger.read(KEY), lambda: stranger.head(KEY), lambda: stranger.put(KEY, b"y")):
        with pytest.raises(botocore.exceptions.ClientError, match=r"403|SignatureDoesNotMatch"):
            use()
