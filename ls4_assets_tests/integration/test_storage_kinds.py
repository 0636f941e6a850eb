"""Properties of one kind of storage: races and paths of a file system; tags, multipart uploads and signatures of S3.

Those of Azure Blob Storage are in test_storage_azure.py.
"""

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import botocore.exceptions
import pytest
from botocore.awsrequest import AWSPreparedRequest

from ls4_assets_tests.azure_server import azure_server_fixture  # noqa: F401
from ls4_assets_tests.integration.storage_fixtures import (  # noqa: F401
    KEY,
    MEGABYTE,
    folder_only,
    keys,
    put_raw,
    s3_only,
    storage_fixture,
)
from ls4_assets_tests.s3_servers import REGION, s3_server_fixture  # noqa: F401
from resources.directory_storage import DirectoryStorage
from resources.s3_storage import S3Storage


@folder_only
@pytest.mark.parametrize("key", ["../x.tif", "bw/../../x.tif", "/etc/passwd", "bw/.."])
def test_keys_outside_the_archive_are_rejected(storage: DirectoryStorage, key: str) -> None:
    for use in (storage.head, storage.read, storage.delete, storage.gdal_path, lambda key: storage.put(key, b"x")):
        with pytest.raises(ValueError, match="use a path relative to the root of the archive"):
            use(key)


@folder_only
def test_products_are_world_readable_under_any_umask(storage: DirectoryStorage, tmp_path: Path) -> None:
    """Under umask 077 the user of the map server could not enter the folders."""
    (tmp_path / "x.tif").write_bytes(b"x")
    before = os.umask(0o077)
    try:
        storage.put("bw/put/deep/x.tif", b"x")
        storage.put_if_absent("bw/new/x.tif", b"x")
        storage.upload(tmp_path / "x.tif", "bw/up/x.tif")
    finally:
        os.umask(before)
    for path in (storage.root / "bw").rglob("*"):
        assert oct(path.stat().st_mode & 0o777) == oct(0o755 if path.is_dir() else 0o644), path


@folder_only
def test_cog_is_synced_to_disk_before_it_is_visible(
    storage: DirectoryStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a power cut frames were done in PostgreSQL while their COGs were empty files. Intermediates are not synced."""
    path = tmp_path / "x.tif"
    path.write_bytes(b"pixels")
    synced: list[str] = []
    monkeypatch.setattr(
        os, "fsync", lambda file: synced.append("folder" if storage.head(KEY) else f"{os.fstat(file).st_size} bytes")
    )
    storage.upload(path, KEY, intermediate=True)
    storage.delete(KEY)
    assert synced == []
    storage.upload(path, KEY)
    storage.delete(KEY)
    storage.upload(path, KEY, may_link=True)
    assert synced == ["6 bytes", "folder"] * 2


@folder_only
def test_failed_write_keeps_the_old_object_and_leaves_no_files(storage: DirectoryStorage, tmp_path: Path) -> None:
    storage.put(KEY, b"old")
    with pytest.raises(FileNotFoundError):
        storage.upload(tmp_path / "missing.tif", KEY)
    assert storage.read(KEY) == b"old"
    assert [path.name for path in (storage.root / KEY).parent.iterdir()] == [Path(KEY).name]


@folder_only
def test_delete_keeps_a_folder_that_another_writer_uses(storage: DirectoryStorage) -> None:
    """Deleting the last product of a folder removed the folder while another frame was being published to it."""
    done = threading.Event()

    def write_and_delete() -> None:
        while not done.is_set():
            storage.put("bw/cog/last.tif", b"x")
            storage.delete("bw/cog/last.tif")

    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(write_and_delete)
        try:
            for number in range(200):
                storage.put(f"bw/cog/{number}.tif", b"x")
                storage.delete(f"bw/cog/{number}.tif")
        finally:
            done.set()
        other.result()


@folder_only
def test_file_name_that_is_not_utf8_is_listed(storage: DirectoryStorage) -> None:
    """A file named on an old Windows share stopped the scan of its whole unit, because its name cannot be stored."""
    put_raw(storage, "bw/good.tif")
    Path(os.fsdecode(bytes(storage.root / "bw") + b"/caf\xe9.tif")).touch()
    assert keys(storage) == ["bw/caf�.tif", "bw/good.tif"]


@s3_only
def test_only_intermediates_are_tagged(storage: S3Storage, tmp_path: Path) -> None:
    """The lifecycle rule that expires deflate tifs filters on this tag."""
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
def test_large_file_is_uploaded_in_parts(storage: S3Storage, tmp_path: Path) -> None:
    path, copy = tmp_path / "large.tif", tmp_path / "copy.tif"
    path.write_bytes(os.urandom(9 * MEGABYTE))
    stored = storage.upload(path, KEY)
    assert (stored.size, stored.version.rpartition("-")[2]) == (9 * MEGABYTE, "2")
    assert list(storage.list_level(f"{KEY.rpartition('/')[0]}/")) == [stored]
    assert storage.read(KEY, 8 * MEGABYTE - 2, 4) == path.read_bytes()[8 * MEGABYTE - 2 : 8 * MEGABYTE + 2]
    storage.download(KEY, copy)
    assert copy.read_bytes() == path.read_bytes()


@s3_only
def test_no_acl_is_sent(storage: S3Storage, tmp_path: Path) -> None:
    """New buckets reject a request with an ACL."""
    sent: list[AWSPreparedRequest] = []
    storage.client.meta.events.register("before-send.s3", lambda request, **_: sent.append(request))
    path = tmp_path / "large.tif"
    path.write_bytes(bytes(9 * MEGABYTE))
    storage.put("mapfiles/x.map", b"MAP END")
    storage.put_if_absent("derived/new.json", b"{}")
    storage.upload(path, "cog/x.tif")
    assert len([request for request in sent if request.method in ("PUT", "POST")]) >= 6
    for request in sent:
        assert not [name for name in request.headers if name.lower().startswith(("x-amz-acl", "x-amz-grant"))]
        assert "acl" not in str(request.url).partition("?")[2]


@s3_only
def test_objects_have_the_content_type_that_browsers_need(storage: S3Storage, tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"x")
    for key, content_type in {
        "cog/x.tif": "image/tiff",
        "derived/x.webp": "image/webp",
        "cog/x.zip": "application/zip",
    }.items():
        storage.upload(path, key)
        storage.put(f"put/{key}", b"x")
        for written in (key, f"put/{key}"):
            assert storage.client.head_object(Bucket=storage.bucket, Key=written)["ContentType"] == content_type


@s3_only
def test_outage_is_raised_before_the_tick_times_out(storage: S3Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dagster stops a sensor after 60 s and loses the work of its tick. An outage must not look like a missing object either."""
    unreachable = S3Storage(storage.bucket, "http://127.0.0.1:9", REGION)
    for call in (
        lambda: unreachable.head(KEY),
        lambda: unreachable.read(KEY),
        lambda: list(unreachable.list_level("")),
    ):
        waits: list[float] = []
        monkeypatch.setattr("botocore.endpoint.time.sleep", waits.append)
        with pytest.raises(botocore.exceptions.EndpointConnectionError):
            call()
        assert len(waits) >= 3
        assert sum(waits) + (len(waits) + 1) * unreachable.client.meta.config.connect_timeout < 60  # type: ignore[attr-defined]


@pytest.mark.parametrize("storage", ["seaweedfs"], indirect=True)
def test_wrong_secret_is_rejected(storage: S3Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without configured credentials SeaweedFS accepts every request, and the other tests would prove nothing."""
    monkeypatch.setattr("boto3.DEFAULT_SESSION", None)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    stranger = S3Storage(storage.bucket, storage.client.meta.endpoint_url, REGION)
    storage.put(KEY, b"x")
    for use in (lambda: stranger.read(KEY), lambda: stranger.head(KEY), lambda: stranger.put(KEY, b"y")):
        with pytest.raises(botocore.exceptions.ClientError, match=r"403|SignatureDoesNotMatch"):
            use()
