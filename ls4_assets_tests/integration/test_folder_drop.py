"""Staff who drop into a folder that is a bucket: what file managers, rsync and slow copies do through an s3fs mount.

First the sequences of requests that such a mount makes, then a real mount, by the recipe of docs/dropping.md.
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
from ls4_assets_tests.integration.ingest_fixtures import FOLDER, Intake, opened, tif
from ls4_assets_tests.integration.test_s3fs import mounted
from ls4_assets_tests.platform import CHECKOUT
from ls4_assets_tests.s3_servers import REGION, S3Server, s3_server_fixture  # noqa: F401
from resources.s3_storage import S3Storage

TIF = b"II*\x00 as good as a photograph"


@pytest.fixture
def server(s3_server: Callable[[str], S3Server]) -> S3Server:
    return s3_server("moto")


@pytest.fixture
def bucket(server: S3Server) -> S3Storage:
    return server.new_bucket()


@pytest.fixture
def intake(server: S3Server, bucket: S3Storage, cluster: Cluster, tmp_path: Path) -> Iterator[Intake]:
    place = {"s3_endpoint_url": server.endpoint_url, "s3_region": REGION}
    with opened(cluster, tmp_path, f"s3://{bucket.bucket}", **place) as intake:
        yield intake


def versions(intake: Intake) -> dict[str, tuple[str, str]]:
    with intake.archive.database.connect() as connection:
        rows = connection.execute(text("SELECT key, state, version FROM ls4.source WHERE state <> 'deleted'"))
        return {row.key: (row.state, row.version) for row in rows}


def etag(bucket: S3Storage, key: str) -> str:
    found = bucket.head(key)
    assert found
    return found.version


def wait(intake: Intake, minutes: float) -> None:
    """As if so much time had passed."""
    intake.write("UPDATE ls4.source SET changed_at = changed_at - :m * interval '1 minute'", m=minutes)


def test_an_empty_object_is_not_taken_until_its_content_comes(intake: Intake, bucket: S3Storage) -> None:
    """A mount puts an empty object when a file is made, the content when it is closed, minutes later for a large one."""
    bucket.put(tif(1), b"")
    intake.look()
    wait(intake, EMPTY_WAIT.total_seconds() / 60 - 1)
    intake.look()
    assert (intake.states(), intake.claim()) == ({tif(1): "settling"}, [])
    bucket.put(tif(1), TIF)
    intake.look()
    assert versions(intake) == {tif(1): ("queued", etag(bucket, tif(1)))}


def test_a_copy_that_takes_a_quarter_of_an_hour_is_not_rejected() -> None:
    """12 GB, the largest frame, over a line of 15 MB/s."""
    assert EMPTY_WAIT.total_seconds() > 12_000 / 15


def test_a_file_that_stays_empty_is_told_of_in_the_end(intake: Intake, bucket: S3Storage) -> None:
    bucket.put(tif(1), b"")
    intake.look()
    wait(intake, EMPTY_WAIT.total_seconds() / 60 + 1)
    intake.look()
    assert intake.claim() == [[tif(1)]]


def test_markers_of_folders_and_hidden_files_are_nothing(intake: Intake, bucket: S3Storage) -> None:
    for key in ("bw/", "bw/Travis/", f"{FOLDER}/", f"{FOLDER}/deflate/", "bw/Travis/USDA_1958/frames/georef_$folder$"):
        bucket.put(key, b"")
    for name in ("._02-08-60_6-1.tif", ".DS_Store", ".02-08-60_6-1.tif.Ab12Cd", "Thumbs.db", "desktop.ini", ".fuse_hidden0001"):
        bucket.put(f"{FOLDER}/{name}", TIF)
    look = intake.look()
    assert (intake.states(), look.errors) == ({}, [])


def test_a_rename_is_a_copy_and_a_deletion(intake: Intake, bucket: S3Storage) -> None:
    """A wrong name corrected: the notice goes with the file, the frame comes; and rsync's hidden name becomes the real one."""
    wrong = f"{FOLDER}/scan 1.tif"
    bucket.put(wrong, TIF)
    intake.look()
    assert intake.states() == {wrong: "rejected"}
    bucket.copy(wrong, tif(1))
    bucket.delete(wrong)
    intake.look(3)
    assert intake.states() == {wrong: "deleted", tif(1): "queued"}

    hidden = f"{FOLDER}/.02-08-60_6-000002.tif.Ab12Cd"
    bucket.put(hidden, b"")
    bucket.put(hidden, TIF)
    intake.look()
    bucket.copy(hidden, tif(2))
    bucket.delete(hidden)
    intake.look(2)
    assert intake.states() == {wrong: "deleted", tif(1): "queued", tif(2): "queued"}


def test_times_and_rights_that_are_set_afterwards_are_no_new_version(intake: Intake, bucket: S3Storage) -> None:
    """`cp -p` copies the object onto itself with other metadata."""
    bucket.put(tif(1), TIF)
    intake.look()
    intake.finish()
    source = {"Bucket": bucket.bucket, "Key": tif(1)}
    copied = {"Metadata": {"mtime": "1", "mode": "33204"}, "MetadataDirective": "REPLACE"}
    bucket.client.copy_object(Bucket=bucket.bucket, Key=tif(1), CopySource=source, **copied)  # type: ignore[arg-type]
    intake.look()
    assert intake.states() == {tif(1): "done"}


def recipe() -> list[str]:
    """The options that docs/dropping.md gives staff, as they stand in its line for /etc/fstab."""
    (line,) = re.findall(r"^s3fs#\S+ \S+ fuse (\S+) 0 0$", (CHECKOUT / "docs" / "dropping.md").read_text(), re.MULTILINE)
    ours = {"_netdev", "allow_other", "uid=scan", "gid=scan"}  # of a machine with that user, at its start
    return [option for option in line.split(",") if option not in ours and not option.startswith(("passwd_file", "endpoint"))]


@pytest.fixture
def mount(server: S3Server, bucket: S3Storage) -> Iterator[Path]:
    if shutil.which("s3fs") is None:
        pytest.skip("s3fs is not installed here: `apt-get install s3fs`")
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        pytest.skip("this machine has no /dev/fuse that may be used")
    with (
        tempfile.TemporaryDirectory(prefix="ls4-drop-") as home,
        mounted(server, bucket.bucket, Path(home), *recipe(), part="") as at,
    ):
        yield at


def slowly(path: Path, data: bytes) -> None:
    """A copy in parts, which an editor or a scanner's program would make."""
    with path.open("wb") as file:
        for start in range(0, len(data), len(data) // 8):
            file.write(data[start : start + len(data) // 8])
            file.flush()
            time.sleep(0.15)


def test_a_real_mount(intake: Intake, bucket: S3Storage, mount: Path, tmp_path: Path) -> None:
    """Looked at all the while: nothing is ever rejected, and nothing queued but what is whole."""
    scan = tmp_path / "scan.tif"
    scan.write_bytes(TIF * 40_000)
    seen: set[tuple[str, str, str]] = set()
    done = threading.Event()

    def watch() -> None:
        while not done.is_set():
            intake.look()
            seen.update((key, state, version) for key, (state, version) in versions(intake).items())
            time.sleep(0.02)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        folder = mount / FOLDER
        folder.mkdir(parents=True)
        slowly(folder / "02-08-60_6-000001.tif", scan.read_bytes())
        subprocess.run(["cp", "-p", scan, folder / "02-08-60_6-000002.tif"], check=True)
        (folder / "._02-08-60_6-000003.tif").write_bytes(b"Mac OS X")
        slowly(folder / ".02-08-60_6-000003.tif.Ab12Cd", scan.read_bytes())
        (folder / ".02-08-60_6-000003.tif.Ab12Cd").rename(folder / "02-08-60_6-000003.tif")
        shutil.copyfile(scan, tmp_path / "02-08-60_6-000004.tif")
        shutil.move(tmp_path / "02-08-60_6-000004.tif", folder / "02-08-60_6-000004.tif")
        time.sleep(1)
    finally:
        done.set()
        watcher.join()
    intake.look(2)
    whole = {tif(number): ("queued", etag(bucket, tif(number))) for number in range(1, 5)}
    assert versions(intake) == whole
    assert {bucket.read(key) for key in whole} == {scan.read_bytes()}
    assert {state for _, state, _ in seen} <= {"settling", "queued"}
    # While it was half copied it was empty, and nothing else.
    assert {version for _, state, version in seen if state == "queued"} == {version for _, version in whole.values()}
