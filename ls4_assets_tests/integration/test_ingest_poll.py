"""What becomes of a dropped tif in the source table: each transition, on a folder, on S3, and where listings fail."""

import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from ls4_assets.db.frames import source_of
from ls4_assets.domain.names import parse_georef_key
from ls4_assets.ingest.scan import PIECE, check_keys
from ls4_assets.local.postgres import Cluster
from ls4_assets_tests.integration.ingest_fixtures import FOLDER, Intake, Listed, intake_fixture, opened, tif  # noqa: F401
from ls4_assets_tests.s3_servers import REGION, S3Server, s3_server_fixture  # noqa: F401
from resources.directory_storage import DirectoryStorage
from resources.s3_storage import S3Storage
from resources.storage import StoredObject

ONE, TWO = tif(1), tif(2)


@pytest.fixture
def bucket(s3_server: Callable[[str], S3Server], cluster: Cluster, tmp_path: Path) -> Iterator[Intake]:
    """On S3 (moto)."""
    server = s3_server("moto")
    storage = f"s3://{server.new_bucket().bucket}"
    with opened(cluster, tmp_path, storage, s3_endpoint_url=server.endpoint_url, s3_region=REGION) as intake:
        yield intake


def test_the_life_of_a_file_in_a_folder(intake: Intake) -> None:
    intake.drop(ONE)
    intake.look()
    assert intake.states() == {ONE: "settling"}
    intake.look()
    assert intake.states() == {ONE: "queued"}
    assert intake.claim() == [[ONE]]
    assert intake.states() == {ONE: "requested"}
    intake.finish()
    assert intake.look().counts.total() == 0  # the same bytes, not touched: no work
    intake.drop(ONE, data=b"other")
    intake.look(2)
    assert intake.states() == {ONE: "queued"}
    intake.finish()
    intake.delete(ONE)
    assert intake.look().counts["missing"] == 1
    assert intake.states() == {ONE: "done"}
    assert intake.look().counts["gone"] == 1
    assert intake.states() == {ONE: "deleted"}
    assert intake.look(2).counts.total() == 0
    intake.drop(ONE)
    intake.look(2)
    assert intake.states() == {ONE: "queued"}


def test_the_life_of_an_object_on_s3(bucket: Intake) -> None:
    bucket.drop(ONE)
    bucket.look()
    assert bucket.states() == {ONE: "queued"}
    bucket.finish()
    bucket.drop(ONE)  # the same bytes have the same ETag
    assert bucket.look().counts.total() == 0
    bucket.drop(ONE, data=b"other")
    bucket.look()
    assert bucket.states() == {ONE: "queued"}
    bucket.finish()
    bucket.delete(ONE)
    bucket.look(2)
    assert bucket.states() == {ONE: "deleted"}
    bucket.drop(ONE)
    bucket.look()
    assert bucket.states() == {ONE: "queued"}


def test_a_rejection_and_what_resolves_it(intake: Intake) -> None:
    bad = f"{FOLDER}/scan0001.tif"
    intake.drop(bad)
    assert intake.look().counts["rejected"] == 1
    assert intake.states() == {bad: "rejected"}
    assert intake.look().counts["rejected"] == 0
    intake.delete(bad)
    intake.drop(ONE)
    intake.look(2)
    assert intake.states() == {ONE: "queued", bad: "deleted"}


def test_a_picture_that_is_no_tif_leaves_the_list_of_rejected_with_its_file(intake: Intake) -> None:
    intake.drop(f"{FOLDER}/picture.jpg")
    intake.look()
    assert list(intake.states().values()) == ["rejected"]
    intake.delete(f"{FOLDER}/picture.jpg")
    intake.look(2)
    assert list(intake.states().values()) == ["deleted"]


def test_a_file_that_is_still_being_copied_is_not_taken(cluster: Cluster, tmp_path: Path) -> None:
    with opened(cluster, tmp_path, settle_seconds="0.3") as intake:
        path = Path(intake.archive.settings.storage) / ONE
        path.parent.mkdir(parents=True)
        with path.open("wb") as half:
            for _ in range(4):
                half.write(b"x" * 1000)
                half.flush()
                intake.look()
                assert intake.states() == {ONE: "settling"}
        intake.write("UPDATE ls4.source SET changed_at = changed_at - interval '1 second'")
        intake.look()
        assert intake.states() == {ONE: "queued"}


def test_files_that_land_within_one_second_are_all_taken(intake: Intake) -> None:
    root = Path(intake.archive.settings.storage)
    intake.drop(ONE, TWO)
    when = datetime(2026, 1, 1, tzinfo=UTC).timestamp()
    for key in (ONE, TWO):
        os.utime(root / key, (when, when))
    intake.look(2)
    intake.finish()
    new = root / "new.part"
    new.write_bytes(b"y")
    os.utime(new, (when, when))
    new.rename(root / ONE)  # same time, same size: only the inode tells
    intake.look(2)
    assert intake.states() == {ONE: "queued", TWO: "done"}


def test_an_unfinished_upload_in_parts_is_not_taken(bucket: Intake) -> None:
    storage = bucket.storage
    assert isinstance(storage, S3Storage)
    upload = storage.client.create_multipart_upload(Bucket=storage.bucket, Key=ONE)["UploadId"]
    part = {"Bucket": storage.bucket, "Key": ONE, "UploadId": upload}
    tag = storage.client.upload_part(**part, PartNumber=1, Body=b"x")["ETag"]
    bucket.look(2)
    assert bucket.states() == {}
    storage.client.complete_multipart_upload(**part, MultipartUpload={"Parts": [{"ETag": tag, "PartNumber": 1}]})
    bucket.look()
    assert bucket.states() == {ONE: "queued"}


def test_an_empty_first_object_waits_for_its_content_and_is_told_of_after_a_while(bucket: Intake) -> None:
    """s3fs makes an empty object, uploads, and replaces it: staff were told of an empty file while the copy was under way."""
    bucket.drop(ONE, TWO, data=b"")
    bucket.look(3)
    assert bucket.states() == {ONE: "settling", TWO: "settling"}
    bucket.drop(ONE, data=b"content")
    bucket.look()
    assert bucket.states() == {ONE: "queued", TWO: "settling"}
    bucket.write("UPDATE ls4.source SET changed_at = changed_at - interval '21 minutes'")
    bucket.look()
    assert bucket.states() == {ONE: "queued", TWO: "queued"}  # its run says that it is empty


def test_a_listing_that_breaks_off_deletes_nothing(bucket: Intake, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first keys came, the second page did not, and what was on it counted as deleted."""
    storage, other = bucket.storage, "bw/Bastrop/USDA_1958/frames/georef/02-08-60_6-1.tif"
    assert isinstance(storage, S3Storage)
    bucket.drop(*(tif(number) for number in range(30)), other)
    bucket.look()
    bucket.finish()
    bucket.delete(other, tif(3), tif(20))
    with monkeypatch.context() as patch:
        pages = S3Storage._pages

        def broken(self: S3Storage, **what: str) -> Iterator[object]:
            first = next(pages(self, MaxKeys=10, **what))
            yield first
            if first["IsTruncated"]:
                raise OSError("the second page did not come")

        patch.setattr(S3Storage, "_pages", broken)
        look = bucket.look(2)
    assert [error for error in look.errors if FOLDER in error and "the second page did not come" in error]
    assert bucket.count() == {"done": 30, "deleted": 1}
    assert bucket.states()[other] == "deleted"
    bucket.look(2)
    assert bucket.count() == {"done": 28, "deleted": 3}


def test_a_listing_that_fails_at_the_second_look_deletes_nothing(intake: Intake, monkeypatch: pytest.MonkeyPatch) -> None:
    intake.drop(ONE, TWO)
    intake.look(2)
    intake.finish()
    intake.delete(ONE)
    intake.look()
    level = DirectoryStorage.level

    def broken(self: DirectoryStorage, folder: str, after: str = "") -> Iterator[StoredObject | str]:
        if folder.endswith("georef/"):
            raise OSError("input/output error")
        return level(self, folder, after)

    with monkeypatch.context() as patch:
        patch.setattr(DirectoryStorage, "level", broken)
        assert any("input/output error" in error for error in intake.look(2).errors)
    assert intake.states() == {ONE: "done", TWO: "done"}


def test_a_disk_that_goes_away_during_a_look_deletes_nothing(intake: Intake, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mount point lay there empty when the missing files were looked at again."""
    intake.drop(ONE)
    intake.look(2)
    intake.finish()
    intake.delete(ONE)
    intake.look()
    level, calls = DirectoryStorage.level, iter(range(100))

    def unmounted(self: DirectoryStorage, folder: str, after: str = "") -> Iterator[StoredObject | str]:
        return level(self, folder, after) if next(calls) < 1 else iter(())

    with monkeypatch.context() as patch:
        patch.setattr(DirectoryStorage, "level", unmounted)
        intake.look()
    assert intake.states() == {ONE: "done"}


def test_what_others_make_in_a_bare_mount_point_is_no_archive(intake: Intake) -> None:
    """The machine had started without the archive's disk: the map front made its folders in the mount point, which was not empty
    any more, and photographs left the map."""
    intake.drop(ONE)
    intake.look(2)
    intake.finish()
    folder = Path(intake.archive.settings.storage)
    folder.rename(folder.with_name("disk"))
    (folder / "mapfiles").mkdir(parents=True)
    (folder / "derived").mkdir()
    (folder / "derived" / "collections.json").write_text('{"collections": []}')
    look = intake.look(3)
    check_keys(intake.archive, [ONE])
    assert intake.states() == {ONE: "done"} and intake.count("missing_since IS NOT NULL") == {}
    assert "neither bw/ nor nc/" in look.errors[0]


def test_an_archive_of_files_in_the_wrong_place_alone_is_looked_at(intake: Intake) -> None:
    wrong = "BW/Travis/USDA_1958/frames/georef/02-08-60_6-1.tif"
    intake.drop(wrong)
    intake.look(2)
    intake.delete(wrong)
    assert intake.look(3).errors == [] and intake.states() == {wrong: "deleted"}


def test_a_folder_that_is_gone_altogether_is_seen(intake: Intake) -> None:
    other = "bw/Bastrop/USDA_1958/frames/georef/02-08-60_6-1.tif"
    intake.drop(ONE, other)
    intake.look(2)
    intake.finish()
    (Path(intake.archive.settings.storage) / "bw/Travis").rename(Path(intake.archive.settings.storage) / ".away")
    intake.look(2)
    assert intake.states() == {ONE: "deleted", other: "done"}


def test_a_look_goes_on_where_the_last_one_stopped(intake: Intake) -> None:
    keys = [tif(number) for number in range(10)] + [f"nc/Bastrop/USDA_1958/frames/georef/02-08-60_6-{n}.tif" for n in range(3)]
    intake.drop(*keys)
    ticks = 0
    while len(intake.states()) < len(keys):
        before = len(intake.states())
        intake.look(keys=4)
        ticks += 1
        assert len(intake.states()) - before <= 4
        assert ticks < 12
    assert ticks >= 4


def test_looks_without_any_time_come_round_all_the_same(intake: Intake) -> None:
    intake.drop(ONE, "nc/Travis/USDA_1958/frames/georef/02-08-60_6-1.tif")
    intake.look(20, seconds=0.0)
    assert len(intake.states()) == 2


@pytest.mark.parametrize(("before", "after"), [("tif", "TIF"), ("TIF", "tif")])
def test_a_frame_is_made_of_the_file_that_is_there(intake: Intake, before: str, after: str) -> None:
    """A renamed file was "no longer under georef/": its frame was still asked of the old name, until that was believed gone."""
    old, new = (ONE.replace(".tif", f".{suffix}") for suffix in (before, after))
    intake.drop(old)
    intake.look(2)
    intake.finish()
    intake.delete(old)
    intake.drop(new)
    # Missed already, and not believed gone yet.
    intake.write("UPDATE ls4.source SET missing_since = now() + interval '1 hour' WHERE key = :old", old=old)
    intake.look()
    assert intake.states() == {old: "done", new: "settling"}
    with intake.archive.database.connect() as connection:
        found = source_of(connection, parse_georef_key(new, intake.archive.settings.shards))
    assert found and found.key == new


def test_keys_of_an_event_are_looked_at_alone(bucket: Intake) -> None:
    bucket.drop(ONE, TWO, ONE.replace(".tif", ".tfw"))
    check_keys(bucket.archive, [ONE.replace(".tif", ".tfw"), f"{FOLDER}/deflate/02-08-60_6-00001.tif", "mapfiles/x.map"])
    assert bucket.states() == {ONE: "queued"}
    bucket.look()
    assert bucket.states() == {ONE: "queued", TWO: "queued"}
    bucket.finish()
    bucket.delete(TWO)
    assert check_keys(bucket.archive, [TWO]).counts["missing"] == 1
    assert check_keys(bucket.archive, [TWO]).counts["gone"] == 1
    assert bucket.look().counts.total() == 0


@pytest.mark.parametrize("count", [12_000, pytest.param(101_000, marks=pytest.mark.slow)])
def test_a_collection_of_very_many_keys(intake: Intake, count: int) -> None:
    """Planner and source table, over a listing that is as large as one county's largest drop."""
    found = [StoredObject(tif(number), 5, "v1", datetime.now(UTC)) for number in range(count)]
    bound = 4 * count // 10
    intake.archive.__dict__["storage"] = Listed({f"{FOLDER}/": found})
    looks = [intake.look(keys=bound, seconds=300) for _ in range(3)]
    assert max(look.counts["queued"] for look in looks) < bound + PIECE
    assert intake.count() == {"queued": count}
    intake.finish()
    assert intake.look(3, keys=bound, seconds=300).counts.total() == 0
    replaced = StoredObject(tif(count - 1), 6, "v2", datetime.now(UTC))
    intake.archive.__dict__["storage"] = Listed({f"{FOLDER}/": [*found[:-3], replaced]})
    intake.look(2, keys=2 * count, seconds=300)
    assert intake.count() == {"done": count - 3, "deleted": 2, "queued": 1}
    # All of it gone at once, more rows than are held in memory: marked in parts, and held.
    other = "bw/Zavala/USDA_1958/frames/georef"
    intake.archive.__dict__["storage"] = Listed({f"{other}/": [StoredObject(tif(1, other), 5, "v1", datetime.now(UTC))]})
    intake.look(4, keys=2 * count, seconds=300)
    waiting = intake.count("deletion_held_at is null and missing_since is not null and state <> 'deleted'").total()
    assert waiting == max(0, count - 2 - 3 * PIECE)
