"""Odd entries of the archive's folder, and odd states of its disk and clock, through the sensors: each concerns only itself."""

import os
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner
from sqlalchemy import text

from ls4_assets.cli.main import main
from ls4_assets.domain.sidecars import MAX_TEXT_BYTES
from ls4_assets.ingest import scan
from ls4_assets.ingest.scan import scan_bucket
from ls4_assets.local.postgres import Cluster
from ls4_assets.operations.status import collect
from ls4_assets.operations.status_text import format_status
from ls4_assets_tests.integration.ingest_fixtures import FOLDER, Ingest, ingest_fixture, open_ingest, tif  # noqa: F401
from ls4_assets_tests.platform import Platform, running_platform
from ls4_assets_tests.rasters import photograph, write_tif
from resources.directory_storage import DirectoryStorage
from resources.storage import ListedItem

GOOD, BAD = tif(1), tif(2)
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")


def root_of(platform: Platform) -> Path:
    return Path(platform.settings.storage)


def test_links_and_sidecars_that_are_none_fail_alone_and_the_advice_helps(platform: Platform, good: Path, tmp_path: Path) -> None:
    """A link to itself hid its folder, a link to a private file was published, and a sidecar that is a link to a device was
    processed again and again without a reason."""
    root, linked = root_of(platform), tif(3)
    for key in (GOOD, BAD, linked):
        platform.drop(key, good)
    (root / BAD).unlink()
    (root / BAD).symlink_to(Path(BAD).name)
    prj = (root / linked).with_suffix(".prj")
    prj.symlink_to("/dev/zero")
    (root / "bw/Travis/disk").symlink_to("..")
    platform.settle()
    assert platform.state(GOOD)[0] == "done"
    assert [row["location"] for row in platform.rows("SELECT location FROM travis_usda_1958_frames")]
    assert platform.state(BAD) == (
        "rejected",
        f"{BAD}: it is a symbolic link, which ls4 never follows; copy the file itself to that place.",
    )
    assert platform.state(linked) == (
        "rejected",
        f"{linked}: {prj.name} is a symbolic link, which ls4 never follows; copy the file itself to that place.",
    )
    state, reason = platform.state("bw/Travis/disk")
    assert state == "rejected" and reason and "replace the link with a folder and copy the files into it" in reason
    assert sum("symbolic link" in line for line in format_status(collect(platform.settings))) == 3
    # Staff follow the advice.
    (root / BAD).unlink()
    platform.drop(BAD, good)
    prj.unlink()
    prj.write_text("EPSG:3857 is in the tif already")
    (root / "bw/Travis/disk").unlink()
    (root / "bw/Travis/disk").mkdir()
    platform.settle()
    assert [platform.state(key)[0] for key in (GOOD, BAD, linked)] == ["done"] * 3
    assert not any("symbolic link" in line for line in format_status(collect(platform.settings)))


def test_good_frame_that_becomes_a_link_stays_on_the_map(platform: Platform, good: Path) -> None:
    platform.drop(GOOD, good)
    platform.settle()
    (root_of(platform) / GOOD).unlink()
    (root_of(platform) / GOOD).symlink_to(good)
    platform.settle()
    assert platform.state(GOOD)[0] == "rejected"
    assert len(platform.rows("SELECT 1 FROM travis_usda_1958_frames")) == 1


def test_oversized_sidecar_is_rejected_before_it_is_read_and_the_advice_helps(platform: Platform, good: Path) -> None:
    """A sidecar of 2 MB occupied a worker for an hour."""
    platform.drop(GOOD, good)
    platform.drop(BAD, good)
    sidecar = f"{BAD}.aux.xml"
    platform.drop(sidecar, b"<PAMDataset>" + b"<SRS>" * (MAX_TEXT_BYTES // 5))
    started = time.monotonic()
    platform.settle()
    assert time.monotonic() - started < 60
    state, reason = platform.state(BAD)
    assert platform.state(GOOD)[0] == "done"
    assert state == "failed" and reason and "the limit is 1,000,000; delete the sidecar" in reason
    platform.storage.delete(sidecar)
    platform.settle()
    assert platform.state(BAD) == ("done", None)


def test_folder_that_cannot_be_listed_is_reported_until_it_can(
    cluster: Cluster, tmp_path: Path, good: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of a folder was processed, `ls4 status` had no such collection, and no notification came."""
    file = tmp_path / "notifications.txt"
    other = "bw/Bastrop/USDA_1958/frames/georef/02-08-60_6-1.tif"
    with running_platform(cluster, tmp_path, notify_file=str(file)) as platform:
        platform.drop(GOOD, good)
        platform.drop(other, good)
        with monkeypatch.context() as patch:
            patch.setattr(DirectoryStorage, "list_level", fail_in("bw/Travis/USDA_1958/frames/georef/"))
            platform.settle()
            platform.tick("notifications")
            assert not file.exists(), "a scan that failed for seconds is no incident"
            age_unlisted(platform)
            platform.tick("notifications")
        assert platform.state(other)[0] == "done"
        assert "ls4: new photographs in bw/Travis/USDA_1958/frames/georef/ are not processed" in file.read_text()
        assert "input/output error" in file.read_text()
        assert any("input/output error" in line for line in format_status(collect(platform.settings)))
        platform.settle()
        platform.tick("notifications")
        assert "resolved: scans of bw/Travis/USDA_1958/frames/georef/" in file.read_text()
        assert platform.state(GOOD)[0] == "done"
        assert not any("input/output error" in line for line in format_status(collect(platform.settings)))


def test_archive_that_cannot_be_listed_is_reported(ingest: Ingest) -> None:
    ingest.drop(GOOD)
    ingest.scan(2)
    root = Path(ingest.archive.settings.storage)
    root.rename(root.with_name("unmounted"))
    ingest.scan()
    assert collect(ingest.archive.settings).unlisted[0].folder == ""
    root.mkdir()
    ingest.scan()
    assert "mounted" in collect(ingest.archive.settings).unlisted[0].reason
    root.rmdir()
    root.with_name("unmounted").rename(root)
    ingest.scan()
    assert collect(ingest.archive.settings).unlisted == ()


FAIL_ON_ONE_KEY = """
CREATE FUNCTION ls4.fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'this row fails'; END $$;
CREATE TRIGGER fail BEFORE INSERT OR UPDATE ON ls4.source FOR EACH ROW WHEN (NEW.key = '{key}') EXECUTE FUNCTION ls4.fail();
"""


# With few keys a folder takes several scans.
@pytest.mark.parametrize(("keys", "failing"), [(None, 2), (None, 5), (None, 8), (3, 2), (3, 5), (3, 8), (2, 3)])
def test_folder_that_fails_in_one_of_its_ranges_stays_reported(
    ingest: Ingest, monkeypatch: pytest.MonkeyPatch, keys: int | None, failing: int
) -> None:
    """A folder larger than one range never became an incident: each scan of its other ranges began the wait again."""
    monkeypatch.setattr(scan, "RANGE_KEYS", 3)
    ingest.drop(*(tif(number) for number in range(1, 9)), tif(1, "bw/Zavala/USDA_1958/frames/georef"))
    ingest.write(FAIL_ON_ONE_KEY.format(key=tif(failing)))
    try:
        ingest.scan(4, keys=keys)
        (first,) = collect(ingest.archive.settings).unlisted
        assert first.folder == f"{FOLDER}/" and "this row fails" in first.reason
        for _ in range(6):
            ingest.scan(keys=keys)
            (again,) = collect(ingest.archive.settings).unlisted
            assert again.since == first.since
    finally:
        ingest.write("DROP FUNCTION ls4.fail CASCADE")
    ingest.scan(5, keys=keys)
    assert collect(ingest.archive.settings).unlisted == ()


@pytest.mark.parametrize("keys", [None, 2])
def test_archive_is_listed_again_although_one_of_its_folders_is_not(
    ingest: Ingest, monkeypatch: pytest.MonkeyPatch, keys: int | None
) -> None:
    other = [tif(number, "bw/Zavala/USDA_1958/frames/georef") for number in range(3)]
    ingest.drop(GOOD, tif(1, "bw/Bastrop/USDA_1958/frames/georef"), *other)
    root = Path(ingest.archive.settings.storage)
    root.rename(root.with_name("unmounted"))
    ingest.scan(keys=keys)
    root.with_name("unmounted").rename(root)
    with monkeypatch.context() as patch:
        patch.setattr(DirectoryStorage, "list_level", fail_in(f"{FOLDER}/"))
        ingest.scan(6, keys=keys)
        assert [record.folder for record in collect(ingest.archive.settings).unlisted] == [f"{FOLDER}/"]
    ingest.scan(6, keys=keys)
    assert collect(ingest.archive.settings).unlisted == ()


def fail_in(bad_folder: str):  # type: ignore[no-untyped-def]
    level = DirectoryStorage.list_level

    def list_level(self: DirectoryStorage, folder: str, after: str = "") -> Iterator[ListedItem]:
        if folder == bad_folder:
            raise OSError("input/output error")
        return level(self, folder, after)

    return list_level


def age_unlisted(platform: Platform) -> None:
    with platform.database.begin() as connection:
        connection.execute(text("UPDATE ls4.unlisted_folder SET since = since - interval '2 minutes'"))


@pytest.mark.parametrize("jump", ["-1 hour", "-400 days", "1 day"])
def test_clock_that_is_set_to_another_time_delays_nothing(cluster: Cluster, tmp_path: Path, jump: str) -> None:
    """After the clock had been set back, files stayed settling, and deleted ones missing, until it had caught up."""
    with open_ingest(cluster, tmp_path, settle_seconds="5") as ingest:
        ingest.drop(GOOD, BAD)
        ingest.scan()
        ingest.finish(BAD)
        ingest.delete(BAD)
        ingest.scan()
        assert ingest.states() == {GOOD: "settling", BAD: "done"}
        # What was recorded before the clock jumped by `jump`.
        for column in ("changed_at", "missing_since"):
            ingest.write(f"UPDATE ls4.source SET {column} = {column} - interval '{jump}'")
        ingest.scan(2)
        assert ingest.states() == {GOOD: "queued", BAD: "deleted"}


def test_small_differences_of_clocks_shorten_no_wait(cluster: Cluster, tmp_path: Path) -> None:
    with open_ingest(cluster, tmp_path, settle_seconds="600") as ingest:
        ingest.drop(GOOD)
        ingest.scan()
        ingest.write("UPDATE ls4.source SET changed_at = now() + interval '20 seconds'")
        ingest.scan(2)
        assert ingest.states() == {GOOD: "settling"}


@as_root
def test_read_only_archive_makes_frames_wait(cluster: Cluster, tmp_path: Path, good: Path) -> None:
    """Frames failed with `unexpected OSError: [Errno 30]` and used up their attempts while the archive was mounted read-only."""
    archive = tmp_path / "disk"
    with mounted_disk(archive), running_platform(cluster, tmp_path, str(archive)) as platform:
        platform.drop(GOOD, good)
        result = platform.tick("ingest_poll")
        subprocess.run(["mount", "-o", "remount,ro", archive], check=True)
        platform.execute(result)
        state, reason = platform.state(GOOD)
        assert state == "queued" and reason and "which is read-only or belongs to another user; mount it writable" in reason
        assert platform.rows("SELECT attempts FROM ls4.source") == [{"attempts": 0}]
        assert any("read-only" in line for line in format_status(collect(platform.settings)))
        subprocess.run(["mount", "-o", "remount,rw", archive], check=True)
        platform.skip_waits()
        platform.settle()
        assert platform.state(GOOD) == ("done", None)


@contextmanager
def mounted_disk(folder: Path) -> Iterator[None]:
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100m", "tmpfs", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def test_file_that_is_replaced_while_it_is_read_ends_in_its_last_version(platform: Platform, tmp_path: Path, good: Path) -> None:
    """Each replacement makes a new version, and no mixture of two is published."""
    versions = [write_tif(tmp_path / f"{seed}.tif", photograph(900, 900, seed=seed)).read_bytes() for seed in range(2)]
    platform.drop(BAD, good)
    platform.drop(GOOD, versions[0])
    stop = threading.Event()

    def replace_continuously() -> None:
        for number in range(10_000):
            if stop.wait(0.15):
                return
            # In place, as a file manager does: the reader may see the start of one version and the end of the other.
            (root_of(platform) / GOOD).write_bytes(versions[number % 2])

    writer = threading.Thread(target=replace_continuously)
    writer.start()
    try:
        platform.settle()
    finally:
        stop.set()
        writer.join()
    assert platform.state(BAD)[0] == "done"
    (root_of(platform) / GOOD).write_bytes(versions[1])
    for _ in range(2):
        platform.skip_waits()
        platform.settle()
    assert platform.state(GOOD) == ("done", None)
    (row,) = platform.rows("SELECT source_version FROM ls4.frame WHERE source_key = :key", key=GOOD)
    stored = platform.storage.head(GOOD)
    assert stored and row["source_version"] == stored.version


def test_hostile_name_is_escaped_in_the_terminal(ingest: Ingest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line break and U+202E in a name went raw into the terminal."""
    name = "a\n\x1b[31mok\u202e.tif"
    ingest.drop(f"{FOLDER}/{name}")
    scan_bucket(ingest.archive)
    (tmp_path / "drops").mkdir()
    (tmp_path / "drops" / name).write_bytes(b"x")
    (tmp_path / "drops" / f"{name}.txt").write_bytes(b"x")
    for setting, value in ingest.archive.overrides.items():
        monkeypatch.setenv(f"LS4_{setting.upper()}", value)
    path = "bw/Travis/USDA_1958/frames"
    for command in (["status"], ["ingest", str(tmp_path / "drops"), "--collection", path], ["reconcile"]):
        output = CliRunner().invoke(main, command).output
        assert not {"\x1b", "\u202e"} & set(output), command
        assert "\nok" not in output
