"""The checks of frames and collections in the Dagster UI, over a real instance: what blocks, what warns, and what resolves by itself."""

import re
import threading
from collections.abc import Iterator, Mapping
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import dagster as dg
import pytest
from affine import Affine
from dagster._core.storage.event_log.base import PartitionKeyFilter
from sqlalchemy import text

from ls4_assets.assets import checks, frame_checks
from ls4_assets.db.audit import audit_archive, audit_collection
from ls4_assets.ingest.late_raw_scans import find_late_scans
from ls4_assets.local.postgres import Cluster
from ls4_assets_tests.platform import Platform, frame_of, running_platform
from ls4_assets_tests.rasters import photograph, write_tif
from mapserver.config import MAPSERV

FOLDER = "bw/Travis/USDA_1958/frames"
KEYS = [f"{FOLDER}/georef/02-08-60_6-10{number}.tif" for number in range(3)]
FAR = Affine(1, 0, -10_880_000.0, 0, -1, 4_600_000.0)
COLLECTION = frame_of(KEYS[0]).collection

needs_mapserv = pytest.mark.skipif(not MAPSERV.exists(), reason="no mapserv on this machine")


@pytest.fixture(scope="module")
def platform(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """Three frames, for all tests here: the second lies nowhere near its county, and the last alone has a raw scan."""
    folder = tmp_path_factory.mktemp("platform")
    with running_platform(cluster, folder) as running:
        running.drop(f"{FOLDER}/scanned/02-08-60_6-102.tif", b"raw")
        for number, key in enumerate(KEYS):
            running.drop(key, scan(folder, number, FAR if number == 1 else None))
        running.settle()
        yield running


def scan(folder: Path, seed: int, place: Affine | None = None) -> Path:
    here = place or Affine(1, 0, -10_880_000.0 + 200 * seed, 0, -1, 3_540_000.0)
    return write_tif(folder / f"{seed}.tif", photograph(200, 220, 1, seed), transform=here)


def evaluation(platform: Platform, asset: str, name: str, partition: str | None) -> dg.AssetCheckEvaluation | None:
    """The latest of one partition."""
    key = dg.AssetCheckKey(dg.AssetKey(["Travis", asset]), name)
    wanted = PartitionKeyFilter(key=partition)
    found = platform.instance.event_log_storage.get_latest_asset_check_execution_by_key([key], wanted).get(key)
    if found is None or found.event is None or found.event.dagster_event is None:
        return None
    return found.event.dagster_event.asset_check_evaluation_data


def of_frame(platform: Platform, key: str, name: str = frame_checks.FRAME) -> dg.AssetCheckEvaluation | None:
    return evaluation(platform, "cog", name, frame_of(key).partition)


def told(found: dg.AssetCheckEvaluation | None) -> Mapping[str, object]:
    assert found is not None
    return {name: value.value for name, value in found.metadata.items()}


def test_one_red_frame_among_green_siblings(platform: Platform) -> None:
    shown = [of_frame(platform, key) for key in KEYS]
    assert [one and one.passed for one in shown] == [True, False, True]
    good, bad = told(shown[0]), told(shown[1])
    assert good["pixels"] == "1 of 1 blocks compared are equal to the scan's" and "overviews 2" in str(good["layout"])
    assert bad["wrong"] == "place" and "km from Travis" in str(bad["place"]) and bad["pixels"] == good["pixels"]
    state, reason = platform.state(KEYS[1])
    assert state == "failed" and reason and "check its georeference and its folder, and drop it again." in reason
    assert platform.partitions("Travis", "cog")[frame_of(KEYS[1]).partition] == "FAILED"
    assert platform.storage.head(frame_of(KEYS[1]).cog_key) is None, "what is blocked is not published"
    assert len(platform.rows("SELECT 1 FROM travis_usda_1958_frames")) == 2


# Collections


def of_collection(platform: Platform, asset: str, name: str) -> dg.AssetCheckEvaluation:
    found = evaluation(platform, asset, name, COLLECTION.partition)
    assert found is not None
    return found


def test_the_index_adds_up_with_what_was_dropped_and_what_lies_in_the_bucket(platform: Platform) -> None:
    found = of_collection(platform, "tile_index", checks.INDEX)
    assert found.passed, found.description
    assert told(found) == {
        "dropped": 3, "done": 2, "failed": 1, "waiting": 0, "frames": 2, "rows": 2, "legacy_rows": 0, "cogs": 2,
    }  # fmt: skip


SPOILT = {
    "DELETE FROM travis_usda_1958_frames WHERE oid = 1": "the index has 1 rows and 2 frames are made",
    "DELETE FROM ls4.frame WHERE id LIKE '%100'": "1 tifs count as done and have no frame",
    "UPDATE ls4.frame SET id = replace(id, '100', '999'), revision = 9": "1 COGs in the bucket are no frame's: bw/Travis/USDA",
    "UPDATE ls4.frame SET id = replace(id, '100', '999')": "1 COGs are not in the bucket: bw/Travis/USDA_1958/frames/cog/",
    # Frames that are not indexed yet are no error.
    "UPDATE ls4.frame SET revision = revision + 1": "",
}


@pytest.mark.parametrize("statement", SPOILT)
def test_what_does_not_add_up_is_named(platform: Platform, statement: str) -> None:
    with platform.database.connect() as connection:
        connection.execute(text(statement))
        wrong = "; ".join(audit_collection(connection, platform.storage, COLLECTION).wrong)
    assert SPOILT[statement] in wrong and bool(wrong) == bool(SPOILT[statement]), wrong


def test_the_whole_archive_adds_up_or_says_where_not(platform: Platform) -> None:
    with platform.database.connect() as connection:
        assert audit_archive(connection, platform.settings.profiles).wrong == []
        connection.execute(text("UPDATE ls4.collection SET frames = 7"))
        assert audit_archive(connection, platform.settings.profiles).wrong == [
            "the indexes have 7 rows in all and 2 frames are made"
        ]


def test_the_check_of_the_archive_runs_by_its_schedule(platform: Platform) -> None:
    schedule = platform.definitions.get_schedule_def("archive_audit")
    assert schedule.default_status == dg.DefaultScheduleStatus.RUNNING
    done = platform.definitions.resolve_job_def(schedule.job_name).execute_in_process(instance=platform.instance)
    (found,) = done.get_asset_check_evaluations()
    assert (found.check_name, found.passed) == (checks.ARCHIVE, True)
    assert told(found)["failed"] == 1


@needs_mapserv
def test_a_real_mapserv_draws_the_published_map(platform: Platform) -> None:
    found = of_collection(platform, "mapfile", checks.DRAWN)
    assert found.passed, found.description
    assert told(found)["drawn by"] == str(MAPSERV)


@needs_mapserv
@pytest.mark.parametrize(
    ("right", "wrong", "said"),
    [
        ("service=ls4", "service=none", "is not drawn: .*onnect"),
        (f'"{COLLECTION.name}_index"', '"other"', f"layer {COLLECTION.name}_index is not drawn"),
        ('TILEITEM "served_location"', 'TILEITEM "dl_index"', "is not drawn|is empty where a photograph should be"),
        ("MAP", "PAM", "is not drawn"),
    ],
)
def test_a_map_that_shows_no_photograph_is_told(platform: Platform, right: str, wrong: str, said: str) -> None:
    mapfile = platform.storage.read(COLLECTION.map_key)
    assert right.encode() in mapfile
    platform.storage.put(COLLECTION.map_key, mapfile.replace(right.encode(), wrong.encode()))
    drawn = checks.drawn_map(platform.archive, COLLECTION)
    platform.storage.put(COLLECTION.map_key, mapfile)
    assert not drawn.passed and drawn.severity == dg.AssetCheckSeverity.ERROR
    assert re.search(said, str(drawn.description)), drawn.description


def test_where_nothing_can_draw_it_the_check_warns(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mapserver.smoke_test.MAPSERV", Path("/nowhere/mapserv"))
    drawn = checks.drawn_map(platform.archive, COLLECTION)
    assert not drawn.passed and drawn.severity == dg.AssetCheckSeverity.WARN
    assert "the map front does not answer" in str(drawn.description)


def test_the_front_is_asked_by_the_address_that_runs_reach(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where runs have no way to the public address, each rebuild waited for it in vain, and warned."""
    monkeypatch.setattr("mapserver.smoke_test.MAPSERV", Path("/nowhere/mapserv"))
    monkeypatch.setattr("mapserver.smoke_test._PATIENCE", 0.5)
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as front:
        threading.Thread(target=front.serve_forever, daemon=True).start()
        inside = f"http://127.0.0.1:{front.server_port}"
        drawn = checks.drawn_map(platform.with_settings(map_internal_url=inside).archive, COLLECTION)
        front.shutdown()
    assert str(drawn.metadata["drawn by"].value).startswith(inside), drawn.description


# From here on frames change


def test_a_missing_scan_warns_and_resolves_by_itself_when_it_arrives(platform: Platform) -> None:
    """It was linked as .tif until somebody made the frame anew, whatever the scanner had called it."""
    warned = of_frame(platform, KEYS[0], frame_checks.SCAN)
    assert warned and not warned.passed and warned.severity == dg.AssetCheckSeverity.WARN
    assert "scanned/02-08-60_6-100.tif" in str(warned.description)
    assert of_frame(platform, KEYS[2], frame_checks.SCAN) is None, "there from the start: no event is spent on it"
    made = platform.rows("SELECT products FROM ls4.frame ORDER BY id")
    platform.drop(f"{FOLDER}/scanned/02-08-60_6-100.TIF", b"raw")
    platform.skip_waits()
    platform.settle()
    resolved = of_frame(platform, KEYS[0], frame_checks.SCAN)
    assert resolved and resolved.passed
    links = platform.rows("SELECT dl_orig FROM travis_usda_1958_frames ORDER BY location")
    assert [str(row["dl_orig"]).rpartition("/")[2] for row in links] == ["02-08-60_6-100.TIF", "02-08-60_6-102.tif"]
    assert platform.rows("SELECT products FROM ls4.frame ORDER BY id") == made, "no frame was made anew"


def test_scanned_is_looked_through_again_only_after_a_while_and_while_a_scan_is_missing(platform: Platform) -> None:
    with platform.database.begin() as connection:
        connection.execute(text("UPDATE ls4.frame SET scan_file = NULL WHERE id LIKE '%102'"))
        connection.execute(text("UPDATE ls4.collection SET raw_scans_checked_at = now()"))
    assert find_late_scans(platform.database, platform.storage).found == []
    assert find_late_scans(platform.database, platform.storage, timedelta(0)).found == [frame_of(KEYS[2])]
    assert find_late_scans(platform.database, platform.storage, timedelta(0)).found == []


def test_a_blocked_version_leaves_the_last_good_one_on_the_map_and_the_next_good_one_resolves_it(
    platform: Platform, tmp_path: Path
) -> None:
    platform.settle()
    before = platform.rows("SELECT * FROM travis_usda_1958_frames ORDER BY oid")
    good = platform.storage.read(KEYS[0])
    platform.drop(KEYS[0], scan(tmp_path, 1, FAR))
    platform.settle()
    blocked = of_frame(platform, KEYS[0])
    assert blocked and not blocked.passed and "last good version of this frame stays on the map" in str(blocked.description)
    assert platform.rows("SELECT * FROM travis_usda_1958_frames ORDER BY oid") == before
    platform.drop(KEYS[0], good)  # the very bytes that were right: nothing is made, and all is well again
    platform.settle()
    resolved = of_frame(platform, KEYS[0])
    assert resolved and resolved.passed and platform.state(KEYS[0]) == ("done", None)


def test_a_file_that_is_no_frame_is_red_with_its_sentence(platform: Platform, tmp_path: Path) -> None:
    platform.drop(KEYS[1], write_tif(tmp_path / "three.tif", photograph(50, 60, 3)))
    platform.settle()
    found = of_frame(platform, KEYS[1])
    assert found and not found.passed and "drop it under nc/ instead" in str(found.description)


def test_a_scanned_folder_that_cannot_be_listed_holds_up_no_drop(
    platform: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    level = type(platform.storage).level

    def failing(storage: object, folder: str, after: str = "") -> object:
        if folder.endswith("scanned/"):
            raise PermissionError("scanned/ is closed")
        return level(storage, folder, after)  # type: ignore[arg-type]

    monkeypatch.setattr(type(platform.storage), "level", failing)
    with platform.database.begin() as connection:
        connection.execute(text("UPDATE ls4.frame SET scan_file = NULL"))
    platform.skip_waits()
    platform.drop(KEYS[1], scan(tmp_path, 5))
    platform.settle()
    assert platform.state(KEYS[1]) == ("done", None)
