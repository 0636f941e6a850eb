"""Drops through an s3fs mount of the bucket: what file managers, rsync and slow copies do.

First the request sequences of such a mount, then a real mount with the options of docs/how-to/drop-photographs.md.
"""

import os
import re
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from ls4_assets.ingest.scan import EMPTY_WAIT
from ls4_assets.local.postgres import Cluster
from ls4_assets_tests.integration.ingest_fixtures import FOLDER, Ingest, open_ingest, tif
from ls4_assets_tests.integration.test_s3fs import mounted
from ls4_assets_tests.platform import CHECKOUT
from ls4_assets_tests.s3_servers import REGION, S3Server, s3_server_fixture  # noqa: F401
from resources.s3_storage import S3Storage

TIF = b"II*\x00 stands for a photograph"


@pytest.fixture
def server(s3_server: Callable[[str], S3Server]) -> S3Server:
    return s3_server("moto")


@pytest.fixture
def bucket(server: S3Server) -> S3Storage:
    return server.new_bucket()


@pytest.fixture
def ingest(server: S3Server, bucket: S3Storage, cluster: Cluster, tmp_path: Path) -> Iterator[Ingest]:
    s3_settings = {"s3_endpoint_url": server.endpoint_url, "s3_region": REGION}
    with open_ingest(cluster, tmp_path, f"s3://{bucket.bucket}", **s3_settings) as ingest:
        yield ingest


def versions(ingest: Ingest) -> dict[str, tuple[str, str]]:
    with ingest.archive.database.connect() as connection:
        rows = connection.execute(text("SELECT key, state, version FROM ls4.source WHERE state <> 'deleted'"))
        return {row.key: (row.state, row.version) for row in rows}


def etag(bucket: S3Storage, key: str) -> str:
    stored = bucket.head(key)
    assert stored
    return stored.version


def wait(ingest: Ingest, minutes: float) -> None:
    """Move all changes this many minutes into the past."""
    ingest.write("UPDATE ls4.source SET changed_at = changed_at - :m * interval '1 minute'", m=minutes)


def test_empty_object_is_not_queued_before_its_content_arrives(ingest: Ingest, bucket: S3Storage) -> None:
    """A mount puts an empty object when a file is created, and the content when it is closed: minutes later for a large one."""
    bucket.put(tif(1), b"")
    ingest.scan()
    wait(ingest, EMPTY_WAIT.total_seconds() / 60 - 1)
    ingest.scan()
    assert (ingest.states(), ingest.claim()) == ({tif(1): "settling"}, [])
    bucket.put(tif(1), TIF)
    ingest.scan()
    assert versions(ingest) == {tif(1): ("queued", etag(bucket, tif(1)))}


def test_copy_of_the_largest_frame_is_not_rejected() -> None:
    """12 GB over a 15 MB/s line takes 13 minutes."""
    assert EMPTY_WAIT.total_seconds() > 12_000 / 15


def test_file_that_stays_empty_is_claimed_in_the_end(ingest: Ingest, bucket: S3Storage) -> None:
    bucket.put(tif(1), b"")
    ingest.scan()
    wait(ingest, EMPTY_WAIT.total_seconds() / 60 + 1)
    ingest.scan()
    assert ingest.claim() == [[tif(1)]]


def test_folder_markers_and_hidden_files_are_ignored(ingest: Ingest, bucket: S3Storage) -> None:
    for key in ("bw/", "bw/Travis/", f"{FOLDER}/", f"{FOLDER}/deflate/", "bw/Travis/USDA_1958/frames/georef_$folder$"):
        bucket.put(key, b"")
    for name in ("._02-08-60_6-1.tif", ".DS_Store", ".02-08-60_6-1.tif.Ab12Cd", "Thumbs.db", "desktop.ini", ".fuse_hidden0001"):
        bucket.put(f"{FOLDER}/{name}", TIF)
    report = ingest.scan()
    assert (ingest.states(), report.errors) == ({}, [])


def test_rename_is_seen_as_copy_and_deletion(ingest: Ingest, bucket: S3Storage) -> None:
    """A corrected name resolves the rejection and queues the frame; so does the rename of rsync's hidden file."""
    wrong = f"{FOLDER}/scan 1.tif"
    bucket.put(wrong, TIF)
    ingest.scan()
    assert ingest.states() == {wrong: "rejected"}
    bucket.copy(wrong, tif(1))
    bucket.delete(wrong)
    ingest.scan(3)
    assert ingest.states() == {wrong: "deleted", tif(1): "queued"}

    hidden = f"{FOLDER}/.02-08-60_6-000002.tif.Ab12Cd"
    bucket.put(hidden, b"")
    bucket.put(hidden, TIF)
    ingest.scan()
    bucket.copy(hidden, tif(2))
    bucket.delete(hidden)
    ingest.scan(2)
    assert ingest.states() == {wrong: "deleted", tif(1): "queued", tif(2): "queued"}


def test_metadata_set_after_the_upload_is_not_a_new_version(ingest: Ingest, bucket: S3Storage) -> None:
    """`cp -p` copies the object onto itself with other metadata."""
    bucket.put(tif(1), TIF)
    ingest.scan()
    ingest.finish()
    source = {"Bucket": bucket.bucket, "Key": tif(1)}
    copied = {"Metadata": {"mtime": "1", "mode": "33204"}, "MetadataDirective": "REPLACE"}
    bucket.client.copy_object(Bucket=bucket.bucket, Key=tif(1), CopySource=source, **copied)  # type: ignore[arg-type]
    ingest.scan()
    assert ingest.states() == {tif(1): "done"}


def recipe() -> list[str]:
    """The mount options in the /etc/fstab line of docs/how-to/drop-photographs.md."""
    (line,) = re.findall(
        r"^s3fs#\S+ \S+ fuse (\S+) 0 0$", (CHECKOUT / "docs" / "how-to" / "drop-photographs.md").read_text(), re.MULTILINE
    )
    host_options = {"_netdev", "allow_other", "uid=scan", "gid=scan"}  # need that user, or apply only at boot
    return [
        option for option in line.split(",") if option not in host_options and not option.startswith(("passwd_file", "endpoint"))
    ]


@pytest.fixture
def mount(server: S3Server, bucket: S3Storage) -> Iterator[Path]:
    if shutil.which("s3fs") is None:
        pytest.skip("s3fs is not installed here: `apt-get install s3fs`")
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        pytest.skip("/dev/fuse is not usable on this machine")
    with (
        tempfile.TemporaryDirectory(prefix="ls4-drop-") as home,
        mounted(server, bucket.bucket, Path(home), *recipe(), path="") as at,
    ):
        yield at


def write_slowly(path: Path, data: bytes) -> None:
    """Write in parts, as an editor or scanner software does."""
    with path.open("wb") as file:
        for start in range(0, len(data), len(data) // 8):
            file.write(data[start : start + len(data) // 8])
            file.flush()
            time.sleep(0.15)


def test_real_mount_queues_only_complete_files(ingest: Ingest, bucket: S3Storage, mount: Path, tmp_path: Path) -> None:
    """Scanned continuously during the drops: nothing is rejected, and only complete files are queued."""
    scan = tmp_path / "scan.tif"
    scan.write_bytes(TIF * 40_000)
    seen: set[tuple[str, str, str]] = set()
    done = threading.Event()

    def watch() -> None:
        while not done.is_set():
            ingest.scan()
            seen.update((key, state, version) for key, (state, version) in versions(ingest).items())
            time.sleep(0.02)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        folder = mount / FOLDER
        folder.mkdir(parents=True)
        write_slowly(folder / "02-08-60_6-000001.tif", scan.read_bytes())
        subprocess.run(["cp", "-p", scan, folder / "02-08-60_6-000002.tif"], check=True)
        (folder / "._02-08-60_6-000003.tif").write_bytes(b"Mac OS X")
        write_slowly(folder / ".02-08-60_6-000003.tif.Ab12Cd", scan.read_bytes())
        (folder / ".02-08-60_6-000003.tif.Ab12Cd").rename(folder / "02-08-60_6-000003.tif")
        shutil.copyfile(scan, tmp_path / "02-08-60_6-000004.tif")
        shutil.move(tmp_path / "02-08-60_6-000004.tif", folder / "02-08-60_6-000004.tif")
        time.sleep(1)
    finally:
        done.set()
        watcher.join()
    ingest.scan(2)
    complete = {tif(number): ("queued", etag(bucket, tif(number))) for number in range(1, 5)}
    assert versions(ingest) == complete
    assert {bucket.read(key) for key in complete} == {scan.read_bytes()}
    assert {state for _, state, _ in seen} <= {"settling", "queued"}
    # A partly copied file was only ever seen empty.
    assert {version for _, state, version in seen if state == "queued"} == {version for _, version in complete.values()}
