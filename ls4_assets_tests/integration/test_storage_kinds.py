"""What only one kind of bucket has: a file system's races and paths, S3's tags, parts and signatures."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import botocore.exceptions
import pytest
from botocore.awsrequest import AWSPreparedRequest

from ls4_assets_tests.integration.storage_fixtures import KEY, MEGABYTE, folder_only, keys, put_raw, s3_only, storage_fixture  # noqa: F401
from ls4_assets_tests.s3_servers import REGION, s3_server_fixture  # noqa: F401
from resources.directory_storage import DirectoryStorage
from resources.s3_storage import S3Storage


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
def test_a_cog_is_on_the_disk_before_it_is_there(
    storage: DirectoryStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a power cut PostgreSQL called frames done whose COGs were empty files. What can be remade is not waited for."""
    made = tmp_path / "made.tif"
    made.write_bytes(b"pixels")
    synced: list[str] = []
    monkeypatch.setattr(
        os, "fsync", lambda file: synced.append("folder" if storage.head(KEY) else f"{os.fstat(file).st_size} bytes")
    )
    storage.upload(made, KEY, intermediate=True)
    storage.delete(KEY)
    assert synced == []
    storage.upload(made, KEY)
    storage.delete(KEY)
    storage.upload(made, KEY, may_link=True)
    assert synced == ["6 bytes", "folder"] * 2


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
    assert list(storage.level(f"{KEY.rpartition('/')[0]}/")) == [stored]
    assert storage.read(KEY, 8 * MEGABYTE - 2, 4) == path.read_bytes()[8 * MEGABYTE - 2 : 8 * MEGABYTE + 2]
    storage.download(KEY, back)
    assert back.read_bytes() == path.read_bytes()


@s3_only
def test_no_acl_is_sent(storage: S3Storage, tmp_path: Path) -> None:
    """New buckets reject a request that has one."""
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
    for ask in (lambda: nobody.head(KEY), lambda: nobody.read(KEY), lambda: list(nobody.level(""))):
        waits: list[float] = []
        monkeypatch.setattr("botocore.endpoint.time.sleep", waits.append)
        with pytest.raises(botocore.exceptions.EndpointConnectionError):
            ask()
        assert len(waits) >= 3
        assert sum(waits) + (len(waits) + 1) * nobody.client.meta.config.connect_timeout < 60  # type: ignore[attr-defined]


@pytest.mark.parametrize("storage", ["seaweedfs"], indirect=True)
def test_a_wrong_secret_is_rejected(storage: S3Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    """SeaweedFS lets everybody in when it has no credentials, and the tests would show less than they say."""
    monkeypatch.setattr("boto3.DEFAULT_SESSION", None)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    stranger = S3Storage(storage.bucket, storage.client.meta.endpoint_url, REGION)
    storage.put(KEY, b"x")
    for use in (lambda: stranger.read(KEY), lambda: stranger.head(KEY), lambda: stranger.put(KEY, b"y")):
        with pytest.raises(botocore.exceptions.ClientError, match=r"403|SignatureDoesNotMatch"):
            use()
