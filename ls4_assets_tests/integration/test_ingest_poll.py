"""State transitions of dropped tifs in the source table: on a folder, on S3, and when listings fail."""

import os
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from ls4_assets.db.frames import load_source
from ls4_assets.domain.key_parser import parse_georef_key
from ls4_assets.ingest.scan import RANGE_KEYS, check_keys, settle_recent
from ls4_assets.local.postgres import Cluster
from ls4_assets_tests.integration.ingest_fixtures import FOLDER, FakeListing, Ingest, ingest_fixture, open_ingest, tif  # noqa: F401
from ls4_assets_tests.s3_servers import REGION, S3Server, s3_server_fixture  # noqa: F401
from resources.directory_storage import DirectoryStorage
from resources.s3_storage import S3Storage
from resources.storage import ListedItem, StoredObject

ONE, TWO = tif(1), tif(2)


@pytest.fixture
def bucket(s3_server: Callable[[str], S3Server], cluster: Cluster, tmp_path: Path) -> Iterator[Ingest]:
    """On S3 (moto)."""
    server = s3_server("moto")
    storage = f"s3://{server.new_bucket().bucket}"
    with open_ingest(cluster, tmp_path, storage, s3_endpoint_url=server.endpoint_url, s3_region=REGION) as ingest:
        yield ingest


def test_file_in_a_folder_goes_through_all_states(ingest: Ingest) -> None:
    ingest.drop(ONE)
    ingest.scan()
    assert ingest.states() == {ONE: "settling"}
    ingest.scan()
    assert ingest.states() == {ONE: "queued"}
    assert ingest.claim() == [[ONE]]
    assert ingest.states() == {ONE: "requested"}
    ingest.finish()
    assert ingest.scan().counts.total() == 0  # unchanged files cause no work
    ingest.drop(ONE, data=b"other")
    ingest.scan(2)
    assert ingest.states() == {ONE: "queued"}
    ingest.finish()
    ingest.delete(ONE)
    assert ingest.scan().counts["missing"] == 1
    assert ingest.states() == {ONE: "done"}
    assert ingest.scan().counts["gone"] == 1
    assert ingest.states() == {ONE: "deleted"}
    assert ingest.scan(2).counts.total() == 0
    ingest.drop(ONE)
    ingest.scan(2)
    assert ingest.states() == {ONE: "queued"}


def test_object_on_s3_goes_through_all_states(bucket: Ingest) -> None:
    bucket.drop(ONE)
    bucket.scan()
    assert bucket.states() == {ONE: "queued"}
    bucket.finish()
    bucket.drop(ONE)  # the same bytes have the same ETag
    assert bucket.scan().counts.total() == 0
    bucket.drop(ONE, data=b"other")
    bucket.scan()
    assert bucket.states() == {ONE: "queued"}
    bucket.finish()
    bucket.delete(ONE)
    bucket.scan(2)
    assert bucket.states() == {ONE: "deleted"}
    bucket.drop(ONE)
    bucket.scan()
    assert bucket.states() == {ONE: "queued"}


def test_rejection_is_resolved_by_deleting_the_file(ingest: Ingest) -> None:
    bad = f"{FOLDER}/scan0001.tif"
    ingest.drop(bad)
    assert ingest.scan().counts["rejected"] == 1
    assert ingest.states() == {bad: "rejected"}
    assert ingest.scan().counts["rejected"] == 0
    ingest.delete(bad)
    ingest.drop(ONE)
    ingest.scan(2)
    assert ingest.states() == {ONE: "queued", bad: "deleted"}


def test_rejected_picture_is_deleted_with_its_file(ingest: Ingest) -> None:
    ingest.drop(f"{FOLDER}/picture.jpg")
    ingest.scan()
    assert list(ingest.states().values()) == ["rejected"]
    ingest.delete(f"{FOLDER}/picture.jpg")
    ingest.scan(2)
    assert list(ingest.states().values()) == ["deleted"]


def test_file_is_not_queued_while_it_is_copied(cluster: Cluster, tmp_path: Path) -> None:
    with open_ingest(cluster, tmp_path, settle_seconds="0.3") as ingest:
        path = Path(ingest.archive.settings.storage) / ONE
        path.parent.mkdir(parents=True)
        with path.open("wb") as partial:
            for _ in range(4):
                partial.write(b"x" * 1000)
                partial.flush()
                ingest.scan()
                assert ingest.states() == {ONE: "settling"}
        ingest.write("UPDATE ls4.source SET changed_at = changed_at - interval '1 second'")
        ingest.scan()
        assert ingest.states() == {ONE: "queued"}


def test_few_files_settle_within_one_tick(cluster: Cluster, tmp_path: Path) -> None:
    """A copied, replaced or deleted file was decided by the tick after the one that found it, five seconds later."""
    with open_ingest(cluster, tmp_path, settle_seconds="0.3") as ingest:
        path = Path(ingest.archive.settings.storage) / tif(1)
        path.parent.mkdir(parents=True)
        for state in ("queued", "queued", "deleted"):
            if state == "deleted":
                path.unlink()
            else:
                with path.open("ab") as file:
                    file.write(b"another scan")
            before = datetime.now(UTC)
            ingest.scan()
            assert ingest.states() != {tif(1): state}
            settle_recent(ingest.archive, before)
            assert ingest.states() == {tif(1): state}


def test_large_copy_delays_no_tick(cluster: Cluster, tmp_path: Path) -> None:
    with open_ingest(cluster, tmp_path, settle_seconds="60") as ingest:
        before = datetime.now(UTC)
        ingest.drop(tif(0))
        for number in range(60):
            (Path(ingest.archive.settings.storage) / tif(number)).write_bytes(b"not complete")
        ingest.scan()
        started = time.monotonic()
        settle_recent(ingest.archive, before)
        assert time.monotonic() - started < 30
        assert set(ingest.states().values()) == {"settling"}


def test_replacement_with_the_same_time_and_size_is_detected(ingest: Ingest) -> None:
    root = Path(ingest.archive.settings.storage)
    ingest.drop(ONE, TWO)
    timestamp = datetime(2026, 1, 1, tzinfo=UTC).timestamp()
    for key in (ONE, TWO):
        os.utime(root / key, (timestamp, timestamp))
    ingest.scan(2)
    ingest.finish()
    new = root / "new.part"
    new.write_bytes(b"y")
    os.utime(new, (timestamp, timestamp))
    new.rename(root / ONE)  # same time, same size: only the inode differs
    ingest.scan(2)
    assert ingest.states() == {ONE: "queued", TWO: "done"}


def test_unfinished_multipart_upload_is_ignored(bucket: Ingest) -> None:
    storage = bucket.storage
    assert isinstance(storage, S3Storage)
    upload_id = storage.client.create_multipart_upload(Bucket=storage.bucket, Key=ONE)["UploadId"]
    tag = storage.client.upload_part(Bucket=storage.bucket, Key=ONE, UploadId=upload_id, PartNumber=1, Body=b"x")["ETag"]
    bucket.scan(2)
    assert bucket.states() == {}
    storage.client.complete_multipart_upload(
        Bucket=storage.bucket, Key=ONE, UploadId=upload_id, MultipartUpload={"Parts": [{"ETag": tag, "PartNumber": 1}]}
    )
    bucket.scan()
    assert bucket.states() == {ONE: "queued"}


def test_empty_object_waits_for_its_content_and_is_queued_in_the_end(bucket: Ingest) -> None:
    """s3fs puts an empty object, uploads, and replaces it: staff got a message about an empty file during the copy."""
    bucket.drop(ONE, TWO, data=b"")
    bucket.scan(3)
    assert bucket.states() == {ONE: "settling", TWO: "settling"}
    bucket.drop(ONE, data=b"content")
    bucket.scan()
    assert bucket.states() == {ONE: "queued", TWO: "settling"}
    bucket.write("UPDATE ls4.source SET changed_at = changed_at - interval '21 minutes'")
    bucket.scan()
    assert bucket.states() == {ONE: "queued", TWO: "queued"}  # its run reports that it is empty


def test_interrupted_listing_deletes_nothing(bucket: Ingest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second page of a listing failed, and its keys counted as deleted."""
    storage, other = bucket.storage, "bw/Bastrop/USDA_1958/frames/georef/02-08-60_6-1.tif"
    assert isinstance(storage, S3Storage)
    bucket.drop(*(tif(number) for number in range(30)), other)
    bucket.scan()
    bucket.finish()
    bucket.delete(other, tif(3), tif(20))
    with monkeypatch.context() as patch:
        pages = S3Storage._pages

        def broken(self: S3Storage, **arguments: str) -> Iterator[object]:
            first = next(pages(self, MaxKeys=10, **arguments))
            yield first
            if first["IsTruncated"]:
                raise OSError("the second page did not come")

        patch.setattr(S3Storage, "_pages", broken)
        report = bucket.scan(2)
    assert [error for error in report.errors if FOLDER in error and "the second page did not come" in error]
    assert bucket.count() == {"done": 30, "deleted": 1}
    assert bucket.states()[other] == "deleted"
    bucket.scan(2)
    assert bucket.count() == {"done": 28, "deleted": 3}


def test_failed_listing_in_the_second_scan_deletes_nothing(ingest: Ingest, monkeypatch: pytest.MonkeyPatch) -> None:
    ingest.drop(ONE, TWO)
    ingest.scan(2)
    ingest.finish()
    ingest.delete(ONE)
    ingest.scan()
    level = DirectoryStorage.list_level

    def broken(self: DirectoryStorage, folder: str, after: str = "") -> Iterator[ListedItem]:
        if folder.endswith("georef/"):
            raise OSError("input/output error")
        return level(self, folder, after)

    with monkeypatch.context() as patch:
        patch.setattr(DirectoryStorage, "list_level", broken)
        assert any("input/output error" in error for error in ingest.scan(2).errors)
    assert ingest.states() == {ONE: "done", TWO: "done"}


def test_disk_unmounted_during_a_scan_deletes_nothing(ingest: Ingest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mount point was empty when the missing files were checked again, and they counted as deleted."""
    ingest.drop(ONE)
    ingest.scan(2)
    ingest.finish()
    ingest.delete(ONE)
    ingest.scan()
    level, calls = DirectoryStorage.list_level, iter(range(100))

    def unmounted(self: DirectoryStorage, folder: str, after: str = "") -> Iterator[ListedItem]:
        return level(self, folder, after) if next(calls) < 1 else iter(())

    with monkeypatch.context() as patch:
        patch.setattr(DirectoryStorage, "list_level", unmounted)
        ingest.scan()
    assert ingest.states() == {ONE: "done"}


def test_folders_created_in_an_unmounted_mount_point_are_not_an_archive(ingest: Ingest) -> None:
    """The machine started without the archive's disk. The web front end created folders in the mount point, so it was not empty,
    and photographs left the map."""
    ingest.drop(ONE)
    ingest.scan(2)
    ingest.finish()
    folder = Path(ingest.archive.settings.storage)
    folder.rename(folder.with_name("disk"))
    (folder / "mapfiles").mkdir(parents=True)
    (folder / "derived").mkdir()
    (folder / "derived" / "collections.json").write_text('{"collections": []}')
    report = ingest.scan(3)
    check_keys(ingest.archive, [ONE])
    assert ingest.states() == {ONE: "done"} and ingest.count("missing_since IS NOT NULL") == {}
    assert "contains no bw/, nc/" in report.errors[0]


def test_archive_with_only_misplaced_files_is_scanned(ingest: Ingest) -> None:
    wrong = "BW/Travis/USDA_1958/frames/georef/02-08-60_6-1.tif"
    ingest.drop(wrong)
    ingest.scan(2)
    ingest.delete(wrong)
    assert ingest.scan(3).errors == [] and ingest.states() == {wrong: "deleted"}


def test_removed_folder_is_detected(ingest: Ingest) -> None:
    other = "bw/Bastrop/USDA_1958/frames/georef/02-08-60_6-1.tif"
    ingest.drop(ONE, other)
    ingest.scan(2)
    ingest.finish()
    (Path(ingest.archive.settings.storage) / "bw/Travis").rename(Path(ingest.archive.settings.storage) / ".away")
    ingest.scan(2)
    assert ingest.states() == {ONE: "deleted", other: "done"}


def test_scan_resumes_where_the_last_one_stopped(ingest: Ingest) -> None:
    keys = [tif(number) for number in range(10)] + [f"nc/Bastrop/USDA_1958/frames/georef/02-08-60_6-{n}.tif" for n in range(3)]
    ingest.drop(*keys)
    ticks = 0
    while len(ingest.states()) < len(keys):
        before = len(ingest.states())
        ingest.scan(keys=4)
        ticks += 1
        assert len(ingest.states()) - before <= 4
        assert ticks < 12
    assert ticks >= 4


def test_scans_without_any_time_still_reach_the_end(ingest: Ingest) -> None:
    ingest.drop(ONE, "nc/Travis/USDA_1958/frames/georef/02-08-60_6-1.tif")
    ingest.scan(20, seconds=0.0)
    assert len(ingest.states()) == 2


@pytest.mark.parametrize(("before", "after"), [("tif", "TIF"), ("TIF", "tif")])
def test_frame_is_made_from_the_existing_file(ingest: Ingest, before: str, after: str) -> None:
    """A renamed file was "no longer under georef/": its frame was still made from the old name until that counted as gone."""
    old, new = (ONE.replace(".tif", f".{suffix}") for suffix in (before, after))
    ingest.drop(old)
    ingest.scan(2)
    ingest.finish()
    ingest.delete(old)
    ingest.drop(new)
    # Already missing, but not yet gone.
    ingest.write("UPDATE ls4.source SET missing_since = now() + interval '30 seconds' WHERE key = :old", old=old)
    ingest.scan()
    assert ingest.states() == {old: "done", new: "settling"}
    with ingest.archive.database.connect() as connection:
        record = load_source(connection, parse_georef_key(new, ingest.archive.settings.naming))
    assert record and record.key == new


def test_only_the_keys_of_an_event_are_checked(bucket: Ingest) -> None:
    bucket.drop(ONE, TWO, ONE.replace(".tif", ".tfw"))
    check_keys(bucket.archive, [ONE.replace(".tif", ".tfw"), f"{FOLDER}/deflate/02-08-60_6-00001.tif", "mapfiles/x.map"])
    assert bucket.states() == {ONE: "queued"}
    bucket.scan()
    assert bucket.states() == {ONE: "queued", TWO: "queued"}
    bucket.finish()
    bucket.delete(TWO)
    assert check_keys(bucket.archive, [TWO]).counts["missing"] == 1
    assert check_keys(bucket.archive, [TWO]).counts["gone"] == 1
    assert bucket.scan().counts.total() == 0


@pytest.mark.parametrize("count", [12_000, pytest.param(101_000, marks=pytest.mark.slow)])
def test_collection_with_very_many_keys(ingest: Ingest, count: int) -> None:
    """Planner and source table, with a listing as large as the largest drop of a county."""
    stored = [StoredObject(tif(number), 5, "v1", datetime.now(UTC)) for number in range(count)]
    limit = 4 * count // 10
    ingest.archive.__dict__["storage"] = FakeListing({f"{FOLDER}/": stored})
    reports = [ingest.scan(keys=limit, seconds=300) for _ in range(3)]
    assert max(report.counts["queued"] for report in reports) < limit + RANGE_KEYS
    assert ingest.count() == {"queued": count}
    ingest.finish()
    assert ingest.scan(3, keys=limit, seconds=300).counts.total() == 0
    replaced = StoredObject(tif(count - 1), 6, "v2", datetime.now(UTC))
    ingest.archive.__dict__["storage"] = FakeListing({f"{FOLDER}/": [*stored[:-3], replaced]})
    ingest.scan(2, keys=2 * count, seconds=300)
    assert ingest.count() == {"done": count - 3, "deleted": 2, "queued": 1}
    # All gone at once, more rows than are held in memory: they are marked in parts, and held.
    other = "bw/Zavala/USDA_1958/frames/georef"
    ingest.archive.__dict__["storage"] = FakeListing({f"{other}/": [StoredObject(tif(1, other), 5, "v1", datetime.now(UTC))]})
    ingest.scan(4, keys=2 * count, seconds=300)
    missing = ingest.count("deletion_held_at is null and missing_since is not null and state <> 'deleted'").total()
    assert missing == max(0, count - 2 - 3 * RANGE_KEYS)
