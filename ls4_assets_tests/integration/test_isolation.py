"""A batch of a hundred frames with seven invalid ones: the others are served, and only the invalid ones are retried."""

import re
from collections.abc import Callable
from pathlib import Path

import dagster as dg
import numpy as np
import pytest
from affine import Affine
from click.testing import CliRunner

from ls4_assets.cli.main import main
from ls4_assets.domain.products import STEPS
from ls4_assets.operations.status import collect
from ls4_assets_tests.integration.test_faults import write_truncated, write_without_georeference, writer_of
from ls4_assets_tests.platform import Platform, frame_of
from ls4_assets_tests.rasters import NORTH, WEST, photograph, write_tif

FOLDER = "bw/Travis/USDA_1958/frames/georef"
TABLE = "travis_usda_1958_frames"


def key(number: int) -> str:
    return f"{FOLDER}/02-08-60_6-{number}.tif"


def valid_tif(folder: Path, number: int, side: int = 200) -> Path:
    transform = Affine(1, 0, WEST + side * (number - 100), 0, -1, NORTH)
    return write_tif(folder / f"{number}.tif", photograph(side, side, seed=number), transform=transform)


# By number in the batch: a function that writes the file, and a pattern of its reason.
INVALID: dict[int, tuple[Callable[[Path], Path], str]] = {
    100: (write_without_georeference, "no georeference|georef"),
    117: (lambda path: write_tif(path, photograph(50, 60, 3)), "3 band"),
    134: (lambda path: write_tif(path, photograph(50, 60).astype(np.complex64)), "complex64"),
    151: (writer_of(b""), "empty"),
    168: (write_truncated, "truncated"),
    198: (writer_of(b"%PDF-1.7 this is not a tif"), "not a tif"),
}
MISNAMED = f"{FOLDER}/scan0001.tif"


def test_seven_invalid_frames_of_a_hundred_do_not_stop_the_others(platform: Platform, tmp_path: Path) -> None:
    for number in range(100, 199):
        write = INVALID[number][0] if number in INVALID else lambda path, number=number: valid_tif(path.parent, number)
        platform.drop(key(number), write(tmp_path / f"{number}.tif"))
    platform.drop(MISNAMED, valid_tif(tmp_path, 199))
    runs = platform.ingest()
    assert not all(run.success for run in runs)
    platform.rebuild()
    invalid = {frame_of(key(number)).partition: number for number in INVALID}
    for step in STEPS:
        statuses = platform.partitions("Travis", step)
        assert {partition for partition, status in statuses.items() if status == "FAILED"} == set(invalid)
        assert sum(status == "MATERIALIZED" for status in statuses.values()) == 93
    assert len(platform.rows(f"SELECT 1 FROM {TABLE}")) == 93
    status = collect(platform.settings)
    (collection,) = status.collections
    assert (collection.dropped, collection.done, collection.waiting, collection.indexed) == (99, 93, 0, 93)
    for number, (_, pattern) in INVALID.items():
        assert re.search(pattern, collection.failed[key(number)]), collection.failed[key(number)]
    assert list(status.rejected) == [MISNAMED]
    assert list(tmp_path.glob("archive/.unfinished/*")) == []


def test_dagster_ui_retries_only_failed_partitions(platform: Platform, tmp_path: Path) -> None:
    """After the operator raised a limit. *Failed* in the Dagster UI starts a run for each range of failed partitions."""
    platform.drop(key(101), valid_tif(tmp_path, 101))
    for number in (102, 103):
        platform.drop(key(number), valid_tif(tmp_path, number, side=1200))
    strict = platform.with_settings(max_pixels="1000000")
    strict.ingest()
    failed = [partition for partition, status in strict.partitions("Travis", "cog").items() if status == "FAILED"]
    assert failed == [frame_of(key(number)).partition for number in (102, 103)]
    before = platform.storage.head(frame_of(key(101)).cog_key)
    tags = {"dagster/asset_partition_range_start": failed[0], "dagster/asset_partition_range_end": failed[1]}
    assert platform.run([dg.AssetKey(["Travis", step]) for step in STEPS], tags=tags).success
    assert set(platform.partitions("Travis", "cog").values()) == {"MATERIALIZED"}
    assert [platform.state(key(number)) for number in (101, 102, 103)] == [("done", None)] * 3
    platform.rebuild()
    assert len(platform.rows(f"SELECT 1 FROM {TABLE}")) == 3
    assert platform.storage.head(frame_of(key(101)).cog_key) == before
    assert platform.ingest() == []


def test_ls4_retry_retries_only_failed_frames(platform: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = key(101).replace("Travis", "Bastrop")
    platform.drop(elsewhere, valid_tif(tmp_path, 101, side=1200))
    for number in (101, 102):
        platform.drop(key(number), valid_tif(tmp_path, number, side=200 if number == 101 else 1200))
    strict = platform.with_settings(max_pixels="1000000")
    strict.ingest()
    assert [strict.state(dropped)[0] for dropped in (elsewhere, key(101), key(102))] == ["failed", "done", "failed"]
    before = platform.storage.head(frame_of(key(101)).cog_key)
    for name, value in platform.archive.overrides.items():
        monkeypatch.setenv(f"LS4_{name.upper()}", value)
    result = CliRunner().invoke(main, ["retry", "--collection", "Travis_USDA_1958_frames"])
    assert (result.exit_code, result.output) == (0, "1 frames are queued again; run `ls4 status` to follow them.\n")
    (run,) = platform.ingest()
    assert run.success
    assert [platform.state(dropped)[0] for dropped in (elsewhere, key(101), key(102))] == ["failed", "done", "done"]
    assert platform.storage.head(frame_of(key(101)).cog_key) == before
    misspelled = CliRunner().invoke(main, ["retry", "--collection", "Travis_USDA_1985_frames"])
    assert misspelled.exit_code == 1 and "did you mean Travis_USDA_1958_frames" in misspelled.output
    assert CliRunner().invoke(main, ["retry"]).exit_code == 0
    platform.settle()
    assert platform.state(elsewhere) == ("done", None)
