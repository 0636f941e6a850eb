"""Corrected positions through the sensor: the rejection of a contradiction, and both halves of its advice followed."""

import re
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import dagster as dg
import pytest
from affine import Affine
from click.testing import CliRunner
from sqlalchemy import text

from ls4_assets.cli.main import main
from ls4_assets.ingest import arrivals
from ls4_assets.local.postgres import Cluster
from ls4_assets_tests.integration.ingest_fixtures import tif
from ls4_assets_tests.platform import Platform, running_platform
from ls4_assets_tests.rasters import UTM_PLACE, photograph, write_tif
from ls4_assets_tests.s3_servers import REGION, SERVERS, S3Server, s3_server_fixture  # noqa: F401
from ls4_assets_tests.sidecar_files import TRANSFORM, qgis_points, world_file

KEY = tif(14)
TFW, PRJ = KEY.replace(".tif", ".tfw"), KEY.replace(".tif", ".prj")
WRONG = Affine.translation(120, 0) @ TRANSFORM
RIGHT_WORLD_FILE = world_file().encode()


@pytest.fixture
def platform(cluster: Cluster, tmp_path: Path) -> Iterator[Platform]:
    with running_platform(cluster, tmp_path) as running:
        yield running


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    """A tif whose header is 120 m east of the right place."""
    return write_tif(tmp_path / "scan.tif", photograph(60, 50), crs="EPSG:26914", transform=WRONG)


def easting(platform: Platform) -> float:
    """Easting in EPSG:26914 of the frame's center, in the tile index that the map server reads."""
    (row,) = platform.rows("SELECT ST_X(ST_Transform(ST_Centroid(geom), 26914)) AS x FROM travis_usda_1958_frames")
    return float(str(row["x"]))


def offset_m(platform: Platform) -> int:
    """How far east of the right place the frame lies."""
    return round(easting(platform) - (UTM_PLACE[0] + 50))


def position_metadata(platform: Platform) -> str:
    """What the Dagster UI shows of the position, on the newest materialization of the COG."""
    event = platform.instance.get_latest_materialization_event(dg.AssetKey(["Travis", "cog"]))
    assert event and event.asset_materialization
    value = event.asset_materialization.metadata["position"].value
    assert isinstance(value, str)
    return value


def test_header_and_world_file_dropped_together_are_rejected_with_advice_that_helps(platform: Platform, scan: Path) -> None:
    """A corrected world file beside a tif with a position in its header made the frame again, 120 m off, and was "done"."""
    platform.drop(TFW, RIGHT_WORLD_FILE)
    platform.drop(KEY, scan)
    platform.settle()
    state, reason = platform.state(KEY)
    assert state == "failed" and reason and reason.count("latitude 30.27") == 2 and "120 m away" in reason
    advice = re.search(r"; delete (\S+) if the header of the tif is right, or drop (\S+) again if it is right\.$", reason)
    assert advice and {*advice.groups()} == {Path(TFW).name}
    # Staff believe the world file.
    platform.drop(TFW, RIGHT_WORLD_FILE)
    platform.settle()
    assert (platform.state(KEY), offset_m(platform)) == (("done", None), 0)
    name = Path(TFW).name
    assert position_metadata(platform) == (
        f"from {name}, coordinate system from its header; dropped after its header, which lies 120 m away"
    )
    # Staff believe the header.
    platform.storage.delete(TFW)
    platform.settle()
    assert (platform.state(KEY), offset_m(platform)) == (("done", None), 120)
    assert position_metadata(platform) == "from its header"


@pytest.mark.parametrize("server", SERVERS)
def test_world_file_that_is_dropped_again_counts_on_s3(
    server: str,
    s3_server: Callable[[str], S3Server],
    cluster: Cluster,
    tmp_path: Path,
    scan: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Dropping the same bytes again is the advice, and S3 gives them the same version."""
    running_server = s3_server(server)
    bucket = f"s3://{running_server.new_bucket().bucket}"
    options = {"s3_endpoint_url": running_server.endpoint_url, "s3_region": REGION}
    with running_platform(cluster, tmp_path, bucket, **options) as platform:
        platform.drop(TFW, RIGHT_WORLD_FILE)
        platform.drop(KEY, scan)
        platform.settle()
        assert platform.state(KEY)[0] == "failed"
        # People take longer than s3fs, which writes an object twice.
        monkeypatch.setattr(arrivals, "_SAME_DROP", timedelta(0))
        platform.settle()
        assert platform.state(KEY)[0] == "failed"
        time.sleep(1.1)
        platform.drop(TFW, RIGHT_WORLD_FILE)
        platform.settle()
        assert (platform.state(KEY), offset_m(platform)) == (("done", None), 0)


def test_correction_of_a_frame_on_the_map_needs_no_second_drop(platform: Platform, scan: Path) -> None:
    platform.drop(KEY, scan)
    platform.settle()
    assert offset_m(platform) == 120
    platform.drop(TFW, RIGHT_WORLD_FILE)
    platform.settle()
    assert (platform.state(KEY), offset_m(platform)) == (("done", None), 0)
    # A correction of another file keeps the world file's word.
    platform.drop(PRJ, b"EPSG:26914")
    platform.settle()
    assert (platform.state(KEY), offset_m(platform)) == (("done", None), 0)
    # A new scan, with the header of the old one: which is meant is unclear, and the frame stays where it is.
    platform.drop(KEY, write_tif(scan, photograph(60, 50, seed=8), crs="EPSG:26914", transform=WRONG))
    platform.settle()
    state, reason = platform.state(KEY)
    assert state == "failed" and reason and "has two positions" in reason and "stays on the map" in reason
    assert offset_m(platform) == 0
    platform.drop(TFW, RIGHT_WORLD_FILE)
    platform.settle()
    assert (platform.state(KEY), offset_m(platform)) == (("done", None), 0)


def test_world_file_that_arrives_during_the_copy_is_no_correction(platform: Platform, scan: Path) -> None:
    """The files of one drop appear one after another; only what follows a processed version is a correction."""
    platform.drop(KEY, scan)
    platform.tick("ingest_poll")
    platform.drop(TFW, RIGHT_WORLD_FILE)
    platform.settle()
    state, reason = platform.state(KEY)
    assert state == "failed" and reason and "has two positions" in reason


def test_corrections_are_recognized_in_archives_of_earlier_versions(platform: Platform, scan: Path) -> None:
    """Their rows do not say in which order the files arrived."""
    platform.drop(KEY, scan)
    platform.settle()
    with platform.database.begin() as connection:
        connection.execute(text("UPDATE ls4.source SET arrivals = NULL"))
    platform.drop(TFW, RIGHT_WORLD_FILE)
    platform.settle()
    assert (platform.state(KEY), offset_m(platform)) == (("done", None), 0)


def test_equal_bytes_that_get_the_last_word_move_the_frame(platform: Platform, scan: Path) -> None:
    """A world file that was dropped again to overrule the header was "reused", with the position of the header."""
    platform.drop(KEY, scan)
    platform.settle()
    platform.drop(TFW, RIGHT_WORLD_FILE)
    platform.settle()
    assert offset_m(platform) == 0
    (before,) = platform.rows("SELECT content_hash FROM ls4.frame")
    platform.storage.delete(TFW)
    platform.settle()
    points = f"{KEY}.points"
    platform.drop(TFW, world_file(WRONG).encode())
    platform.settle()
    platform.drop(points, qgis_points().encode())
    platform.settle()
    assert (platform.state(KEY), offset_m(platform)) == (("done", None), 0)
    platform.drop(TFW, world_file(WRONG).encode())
    platform.settle()
    assert (platform.state(KEY), offset_m(platform)) == (("done", None), 120)
    (after,) = platform.rows("SELECT content_hash FROM ls4.frame")
    assert str(before["content_hash"]).endswith("-1.0") and str(after["content_hash"]).count("-") == 1


def test_sidecar_that_an_earlier_version_ignored_does_not_move_the_frame(platform: Platform, scan: Path) -> None:
    """Files of years ago beside the tif overruled the header at the first scan after the upgrade."""
    platform.drop(KEY, scan)
    platform.settle()
    points = f"{KEY}.points"
    platform.drop(points, qgis_points().encode())
    with platform.database.begin() as connection:
        connection.execute(text("UPDATE ls4.source SET arrivals = NULL, changed_at = now() + interval '1 hour'"))
    platform.settle()
    state, reason = platform.state(KEY)
    assert state == "failed" and reason and "has two positions" in reason
    assert offset_m(platform) == 120


def test_ingest_replaces_sidecars_of_tifs_in_the_archive(
    platform: Platform, scan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`ls4 ingest --replace` of a folder with only corrected world files did nothing."""
    platform.drop(TFW, RIGHT_WORLD_FILE)
    platform.drop(KEY, scan)
    platform.settle()
    assert platform.state(KEY)[0] == "failed"
    folder = tmp_path / "corrections"
    folder.mkdir()
    (folder / Path(TFW).name).write_bytes(RIGHT_WORLD_FILE)
    for name in ("storage", "public_url", "map_url"):
        monkeypatch.setenv(f"LS4_{name.upper()}", str(getattr(platform.settings, name)))
    monkeypatch.setenv("LS4_DATABASE_URL", platform.settings.database_url.get_secret_value())
    result = CliRunner().invoke(main, ["ingest", str(folder), "--collection", "bw/Travis/USDA_1958/frames", "--replace"])
    assert result.exit_code == 0 and "1 files uploaded" in result.output, result.output
    platform.settle()
    assert (platform.state(KEY), offset_m(platform)) == (("done", None), 0)


def test_control_points_of_qgis_place_a_scan_that_has_nothing_else(platform: Platform, tmp_path: Path) -> None:
    scan = write_tif(tmp_path / "plain.tif", photograph(60, 50), crs=None, transform=Affine.identity())
    platform.drop(KEY, scan)
    platform.settle()
    state, reason = platform.state(KEY)
    assert state == "failed" and reason and "has no georeference" in reason
    platform.drop(f"{KEY}.points", qgis_points().encode())
    platform.settle()
    assert (platform.state(KEY), offset_m(platform)) == (("done", None), 0)
    assert position_metadata(platform) == f"from {Path(KEY).name}.points"
    (row,) = platform.rows("SELECT georeference FROM ls4.frame")
    facts = row["georeference"]
    assert isinstance(facts, dict) and (facts["control_points"], facts["transformation"]) == (4, "polynomial 1")
    assert facts["max_px"] < 0.01


def test_file_below_georef_has_its_own_sentence(platform: Platform, scan: Path) -> None:
    """A tif in a folder below georef/ was ignored without a word."""
    lost = KEY.replace("/georef/", "/georef/roll 6/")
    platform.drop(lost, scan)
    platform.drop(KEY.replace("/georef/", "/georef/deflate/"), scan)
    platform.settle()
    assert [row["key"] for row in platform.rows("SELECT key FROM ls4.source")] == [lost]
    state, reason = platform.state(lost)
    assert state == "rejected" and reason and "no folders below georef/ are read; move the file up, to" in reason
    platform.storage.delete(lost)
    platform.drop(KEY, scan)
    platform.settle()
    assert platform.state(KEY)[0] == "done"
