"""Asset checks of frames and collections with a real Dagster instance: which block, which warn, and when they resolve."""

import re
import threading
from collections.abc import Iterator, Mapping
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import dagster as dg
import pytest
from affine import Affine
from dagster._core.event_api import PartitionKeyFilter
from sqlalchemy import text

from ls4_assets.assets import checks, frame_checks
from ls4_assets.db.audit import audit_archive, audit_collection
from ls4_assets.ingest.late_raw_scans import find_late_raw_scans
from ls4_assets.local.postgres import Cluster
from ls4_assets.publishing.maps import MAP_PUBLISHERS
from ls4_assets_tests.platform import Platform, frame_of, running_platform
from ls4_assets_tests.rasters import photograph, write_tif
from mapserver.config import MAPSERV

FOLDER = "bw/Travis/USDA_1958/frames"
KEYS = [f"{FOLDER}/georef/02-08-60_6-10{number}.tif" for number in range(3)]
FAR = Affine(1, 0, -10_880_000.0, 0, -1, 4_600_000.0)
COLLECTION = frame_of(KEYS[0]).collection

MAPSERVER = MAP_PUBLISHERS["mapserver"]

needs_mapserv = pytest.mark.skipif(not MAPSERV.exists(), reason="no mapserv on this machine")


@pytest.fixture(scope="module")
def platform(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """Three frames for all tests: the second is far from its county, and only the last has a raw scan."""
    folder = tmp_path_factory.mktemp("platform")
    with running_platform(cluster, folder) as running:
        running.drop(f"{FOLDER}/scanned/02-08-60_6-102.tif", b"raw")
        for number, key in enumerate(KEYS):
            running.drop(key, write_scan(folder, number, FAR if number == 1 else None))
        running.settle()
        yield running


def write_scan(folder: Path, seed: int, place: Affine | None = None) -> Path:
    transform = place or Affine(1, 0, -10_880_000.0 + 200 * seed, 0, -1, 3_540_000.0)
    return write_tif(folder / f"{seed}.tif", photograph(200, 220, 1, seed), transform=transform)


def latest_evaluation(platform: Platform, asset: str, name: str, partition: str | None) -> dg.AssetCheckEvaluation | None:
    """The latest evaluation of a check on one partition."""
    key = dg.AssetCheckKey(dg.AssetKey(["Travis", asset]), name)
    partition_filter = PartitionKeyFilter(key=partition)
    executions = platform.instance.event_log_storage.get_latest_asset_check_execution_by_key([key], partition_filter)
    execution = executions.get(key)
    if execution is None or execution.event is None or execution.event.dagster_event is None:
        return None
    return execution.event.dagster_event.asset_check_evaluation_data


def frame_evaluation(platform: Platform, key: str, name: str = frame_checks.COG_VALID) -> dg.AssetCheckEvaluation | None:
    return latest_evaluation(platform, "cog", name, frame_of(key).partition)


def metadata(evaluation: dg.AssetCheckEvaluation | None) -> Mapping[str, object]:
    assert evaluation is not None
    return {name: value.value for name, value in evaluation.metadata.items()}


def test_one_failed_frame_does_not_affect_the_others(platform: Platform) -> None:
    evaluations = [frame_evaluation(platform, key) for key in KEYS]
    assert [evaluation and evaluation.passed for evaluation in evaluations] == [True, False, True]
    good, bad = metadata(evaluations[0]), metadata(evaluations[1])
    assert good["pixels"] == "1 of 1 compared blocks are equal to the scan" and "overviews 2" in str(good["layout"])
    assert bad["failed_checks"] == "location" and "km from Travis" in str(bad["location"]) and bad["pixels"] == good["pixels"]
    state, reason = platform.state(KEYS[1])
    assert state == "failed" and reason and "check its georeference and its folder, and drop it again." in reason
    assert platform.partitions("Travis", "cog")[frame_of(KEYS[1]).partition] == "FAILED"
    assert platform.storage.head(frame_of(KEYS[1]).cog_key) is None, "a blocked version must not be published"
    assert len(platform.rows("SELECT 1 FROM travis_usda_1958_frames")) == 2


# Collections


def collection_evaluation(platform: Platform, asset: str, name: str) -> dg.AssetCheckEvaluation:
    evaluation = latest_evaluation(platform, asset, name, COLLECTION.partition)
    assert evaluation is not None
    return evaluation


def test_index_counts_match_drops_and_bucket(platform: Platform) -> None:
    evaluation = collection_evaluation(platform, "tile_index", checks.INDEX_COUNTS_MATCH)
    assert evaluation.passed, evaluation.description
    assert metadata(evaluation) == {
        "dropped": 3, "done": 2, "failed": 1, "waiting": 0, "frames": 2, "rows": 2, "legacy_rows": 0, "cogs": 2,
    }  # fmt: skip


CORRUPTIONS = {
    "DELETE FROM travis_usda_1958_frames WHERE oid = 1": "the tile index has 1 rows for 2 frames",
    "DELETE FROM ls4.frame WHERE id LIKE '%100'": "1 tifs are done but have no frame",
    "UPDATE ls4.frame SET id = replace(id, '100', '999'), revision = 9": "1 COGs in the bucket have no frame: bw/Travis/USDA",
    "UPDATE ls4.frame SET id = replace(id, '100', '999')": "1 COGs are missing in the bucket: bw/Travis/USDA_1958/frames/cog/",
    # Frames that are not indexed yet are not an error.
    "UPDATE ls4.frame SET revision = revision + 1": "",
}


@pytest.mark.parametrize("statement", CORRUPTIONS)
def test_mismatched_counts_are_reported(platform: Platform, statement: str) -> None:
    with platform.database.connect() as connection:
        connection.execute(text(statement))
        wrong = "; ".join(audit_collection(connection, platform.storage, COLLECTION).errors)
    assert CORRUPTIONS[statement] in wrong and bool(wrong) == bool(CORRUPTIONS[statement]), wrong


def test_archive_counts_match_or_are_reported(platform: Platform) -> None:
    with platform.database.connect() as connection:
        assert audit_archive(connection, platform.settings.profiles).errors == []
        connection.execute(text("UPDATE ls4.collection SET frames = 7"))
        assert audit_archive(connection, platform.settings.profiles).errors == [
            "the tile indexes have 7 rows in total for 2 frames"
        ]


def test_archive_check_runs_on_its_schedule(platform: Platform) -> None:
    schedule = platform.definitions.get_schedule_def("archive_audit")
    assert schedule.default_status == dg.DefaultScheduleStatus.RUNNING
    result = platform.definitions.resolve_job_def(schedule.job_name).execute_in_process(instance=platform.instance)
    (evaluation,) = result.get_asset_check_evaluations()
    assert (evaluation.check_name, evaluation.passed) == (checks.ARCHIVE_COUNTS_MATCH, True)
    assert metadata(evaluation)["failed"] == 1


@needs_mapserv
def test_real_mapserv_draws_the_published_map(platform: Platform) -> None:
    evaluation = collection_evaluation(platform, "mapfile", MAPSERVER.smoke_check.name)
    assert evaluation.passed, evaluation.description
    assert metadata(evaluation)["rendered_by"] == str(MAPSERV)


@needs_mapserv
@pytest.mark.parametrize(
    ("right", "wrong", "message"),
    [
        ("service=ls4", "service=none", "is not drawn: .*onnect"),
        (f'"{COLLECTION.name}_index"', '"other"', f"layer {COLLECTION.name}_index is not drawn"),
        ('TILEITEM "served_location"', 'TILEITEM "dl_index"', "is not drawn|is empty where a photograph should be"),
        ("MAP", "PAM", "is not drawn"),
    ],
)
def test_map_without_a_photograph_is_reported(platform: Platform, right: str, wrong: str, message: str) -> None:
    mapfile = platform.storage.read(COLLECTION.map_key)
    assert right.encode() in mapfile
    platform.storage.put(COLLECTION.map_key, mapfile.replace(right.encode(), wrong.encode()))
    result = checks.check_map_renders(platform.archive, COLLECTION, MAPSERVER)
    platform.storage.put(COLLECTION.map_key, mapfile)
    assert not result.passed and result.severity == dg.AssetCheckSeverity.ERROR
    assert re.search(message, str(result.description)), result.description


def test_check_warns_when_no_map_server_is_reachable(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mapserver.smoke_test.MAPSERV", Path("/nowhere/mapserv"))
    result = checks.check_map_renders(platform.archive, COLLECTION, MAPSERVER)
    assert not result.passed and result.severity == dg.AssetCheckSeverity.WARN
    assert "the web front end does not answer" in str(result.description)


def test_check_uses_the_internal_map_url(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    """If runs could not reach the public address, every rebuild waited for a timeout and warned."""
    monkeypatch.setattr("mapserver.smoke_test.MAPSERV", Path("/nowhere/mapserv"))
    monkeypatch.setattr("mapserver.smoke_test._RETRY_SECONDS", 0.5)
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as front:
        threading.Thread(target=front.serve_forever, daemon=True).start()
        inside = f"http://127.0.0.1:{front.server_port}"
        result = checks.check_map_renders(platform.with_settings(map_internal_url=inside).archive, COLLECTION, MAPSERVER)
        front.shutdown()
    assert str(result.metadata["rendered_by"].value).startswith(inside), result.description


# The following tests change frames.


def test_missing_scan_warns_until_it_arrives(platform: Platform) -> None:
    """The scan was linked as .tif until the frame was rebuilt, even if the scanner had named it differently."""
    warned = frame_evaluation(platform, KEYS[0], frame_checks.RAW_SCAN_EXISTS)
    assert warned and not warned.passed and warned.severity == dg.AssetCheckSeverity.WARN
    assert "scanned/02-08-60_6-100.tif" in str(warned.description)
    assert frame_evaluation(platform, KEYS[2], frame_checks.RAW_SCAN_EXISTS) is None, "no event for a scan that existed"
    products = platform.rows("SELECT products FROM ls4.frame ORDER BY id")
    platform.drop(f"{FOLDER}/scanned/02-08-60_6-100.TIF", b"raw")
    platform.skip_waits()
    platform.settle()
    resolved = frame_evaluation(platform, KEYS[0], frame_checks.RAW_SCAN_EXISTS)
    assert resolved and resolved.passed
    links = platform.rows("SELECT dl_orig FROM travis_usda_1958_frames ORDER BY location")
    assert [str(row["dl_orig"]).rpartition("/")[2] for row in links] == ["02-08-60_6-100.TIF", "02-08-60_6-102.tif"]
    assert platform.rows("SELECT products FROM ls4.frame ORDER BY id") == products, "no frame may be rebuilt"


def test_scanned_folder_is_checked_again_only_after_a_delay_and_while_a_scan_is_missing(platform: Platform) -> None:
    with platform.database.begin() as connection:
        connection.execute(text("UPDATE ls4.frame SET scan_file = NULL WHERE id LIKE '%102'"))
        connection.execute(text("UPDATE ls4.collection SET raw_scans_checked_at = now()"))
    assert find_late_raw_scans(platform.database, platform.storage).frames == []
    assert find_late_raw_scans(platform.database, platform.storage, timedelta(0)).frames == [frame_of(KEYS[2])]
    assert find_late_raw_scans(platform.database, platform.storage, timedelta(0)).frames == []


def test_blocked_version_keeps_the_last_good_one_on_the_map_until_a_good_one_arrives(platform: Platform, tmp_path: Path) -> None:
    platform.settle()
    before = platform.rows("SELECT * FROM travis_usda_1958_frames ORDER BY oid")
    good = platform.storage.read(KEYS[0])
    platform.drop(KEYS[0], write_scan(tmp_path, 1, FAR))
    platform.settle()
    blocked = frame_evaluation(platform, KEYS[0])
    assert blocked and not blocked.passed and "last good version of this frame stays on the map" in str(blocked.description)
    assert platform.rows("SELECT * FROM travis_usda_1958_frames ORDER BY oid") == before
    platform.drop(KEYS[0], good)  # identical to the last good version, so nothing is built
    platform.settle()
    resolved = frame_evaluation(platform, KEYS[0])
    assert resolved and resolved.passed and platform.state(KEYS[0]) == ("done", None)


def test_file_that_is_not_a_frame_fails_with_advice(platform: Platform, tmp_path: Path) -> None:
    platform.drop(KEYS[1], write_tif(tmp_path / "three.tif", photograph(50, 60, 3)))
    platform.settle()
    evaluation = frame_evaluation(platform, KEYS[1])
    assert evaluation and not evaluation.passed
    assert "drop it under nc/ if it is in natural color" in str(evaluation.description)


def test_unreadable_scanned_folder_does_not_block_drops(
    platform: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    level = type(platform.storage).list_level

    def failing(storage: object, folder: str, after: str = "") -> object:
        if folder.endswith("scanned/"):
            raise PermissionError("scanned/ is closed")
        return level(storage, folder, after)  # type: ignore[arg-type]

    monkeypatch.setattr(type(platform.storage), "list_level", failing)
    with platform.database.begin() as connection:
        connection.execute(text("UPDATE ls4.frame SET scan_file = NULL"))
    platform.skip_waits()
    platform.drop(KEYS[1], write_scan(tmp_path, 5))
    platform.settle()
    assert platform.state(KEYS[1]) == ("done", None)
