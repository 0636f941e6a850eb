"""A frame that was placed without NADCON's grid is reported until the grid is there and the frame is built again."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from affine import Affine

from ls4_assets.assets import frame_checks, keys
from ls4_assets.db import schema
from ls4_assets.domain.products import STEPS
from ls4_assets.local.postgres import Cluster
from ls4_assets.operations.doctor import format_report, inspect_grids
from ls4_assets_tests.integration.test_checks import latest_evaluation
from ls4_assets_tests.platform import Platform, frame_of, running_platform
from ls4_assets_tests.proj_grids import write_grid
from ls4_assets_tests.rasters import UTM_PLACE, photograph, write_tif

FOLDER = "bw/Travis/USDA_1958/frames"
NAD27, NAD83 = (f"{FOLDER}/georef/02-08-60_6-{number}.tif" for number in (107, 108))
COLLECTION = frame_of(NAD27).collection.name


@pytest.fixture(name="platform", scope="module")
def platform_fixture(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    folder = tmp_path_factory.mktemp("platform")
    with running_platform(cluster, folder) as running:
        for key, crs in ((NAD27, "EPSG:26714"), (NAD83, "EPSG:26914")):
            transform = Affine(1, 0, UTM_PLACE[0], 0, -1, UTM_PLACE[1])
            running.drop(key, write_tif(folder / "scan.tif", photograph(200, 220), crs=crs, transform=transform))
        running.settle()
        yield running


def evaluation(platform: Platform, key: str, name: str = frame_checks.DATUM_GRIDS_EXIST) -> dg.AssetCheckEvaluation | None:
    return latest_evaluation(platform, "cog", name, frame_of(key).partition)


def inspect(platform: Platform) -> tuple[set[str], dict[str, int], str]:
    """Names of the needed grids, the frames without them, and the report as text."""
    with platform.database.connect() as connection:
        report = inspect_grids(platform.settings, connection)
    needed = {grid.name for grid in report.missing if grid.is_needed}
    assert report.is_complete == (not needed and not report.frames and not report.unknown)
    return needed, dict(report.frames), "\n".join(format_report(report))


def test_a_missing_grid_is_reported_until_the_frame_is_built_with_it(platform: Platform, tmp_path: Path) -> None:
    warning = evaluation(platform, NAD27)
    assert warning is not None and not warning.passed and warning.severity == dg.AssetCheckSeverity.WARN
    assert "NAD27 to WGS 84 (6), accuracy 7 m" in str(warning.description)
    assert "us_noaa_conus.tif" in str(warning.metadata["missing_grids"].value)
    # One of a modern datum has no evaluation: each is a row of Dagster's event log. The check that it has names the operation.
    assert evaluation(platform, NAD83) is None
    valid = evaluation(platform, NAD83, frame_checks.COG_VALID)
    assert valid is not None and "placed with NAD83 to WGS 84 (1), accuracy 4 m" in str(valid.metadata["location"].value)
    event = platform.instance.get_latest_materialization_event(dg.AssetKey(["Travis", "cog"]))
    assert event is not None and event.asset_materialization is not None
    assert "to WGS 84" in str(event.asset_materialization.metadata["transformation"].value)

    needed, frames, text = inspect(platform)
    assert (needed, frames) == ({"us_noaa_conus.tif"}, {COLLECTION: 1})
    assert "https://cdn.proj.org/us_noaa_conus.tif" in text and f"ls4 rematerialize {COLLECTION}" in text

    write_grid(tmp_path / "grids")
    equipped = platform.with_settings(proj_grids=str(tmp_path / "grids"))
    needed, frames, text = inspect(equipped)
    assert (needed, frames) == (set(), {COLLECTION: 1})
    # What the command in the report does.
    assert equipped.run([keys.product("Travis", step) for step in STEPS], partition_key=frame_of(NAD27).partition).success
    resolved = evaluation(platform, NAD27)
    assert resolved is not None and resolved.passed
    assert inspect(equipped)[1:] == ({}, inspect(equipped)[2]) and "All needed grids are there." in inspect(equipped)[2]


def test_the_command_prints_what_scripts_need(platform: Platform) -> None:
    url = platform.settings.database_url.get_secret_value()
    environment = {"PATH": os.environ["PATH"], "LS4_DATABASE_URL": url, "LS4_STORAGE": platform.settings.storage}
    environment |= {"LS4_PUBLIC_URL": "http://example.org", "LS4_MAP_URL": "http://example.org"}
    argv = [str(Path(sys.executable).parent / "ls4"), "doctor", "--json"]
    result = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 1, result.stderr
    missing = {grid["name"]: grid for grid in json.loads(result.stdout)["missing"]}
    assert missing["us_noaa_conus.tif"]["is_needed"] and "EPSG:4267" in missing["us_noaa_conus.tif"]["systems"]


def test_frames_without_a_recorded_transformation_are_counted(platform: Platform) -> None:
    """Frames from before the transformation was recorded were never counted, and NAD27 frames 3.5 m off passed for complete."""
    table, names = schema.frame, {"NAD27": "EPSG:26714", "plain": "EPSG:32614", "gone": "EPSG:26714"}
    with platform.database.connect() as connection:
        row = dict(connection.execute(table.select().where(table.c.id == frame_of(NAD27).id)).mappings().one())
        row = {name: value for name, value in row.items() if name != "profile"}
        for name, crs in names.items():
            old = {"id": f"old/{name}", "source_crs": crs, "missing_grids": None, "deleted": name == "gone"}
            connection.execute(table.insert().values(**{**row, **old}))
        report = inspect_grids(platform.settings, connection)
        connection.rollback()
    assert report.unknown == {COLLECTION: 1} and not report.is_complete
    line = f"The transformation of 1 frames of {COLLECTION} is not known; run: ls4 rematerialize {COLLECTION}"
    assert line in [*format_report(report)]
