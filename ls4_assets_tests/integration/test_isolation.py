"""A batch of a hundred frames, seven of them bad in seven ways: the others are served, and only the bad are tried again."""

import re
from collections.abc import Callable
from pathlib import Path

import dagster as dg
import numpy as np
import pytest
from affine import Affine
from click.testing import CliRunner

from ls4_assets.cli.main import main
from ls4_assets.domain.names import STEPS
from ls4_assets.operations.status import collect
from ls4_assets_tests.integration.test_faults import no_georeference, truncated, written
from ls4_assets_tests.platform import Platform, frame_of
from ls4_assets_tests.rasters import NORTH, WEST, photograph, write_tif

FOLDER = "bw/Travis/USDA_1958/frames/georef"
TABLE = "travis_usda_1958_frames"


def key(number: int) -> str:
    return f"{FOLDER}/02-08-60_6-{number}.tif"


def good(folder: Path, number: int, side: int = 200) -> Path:
    place = Affine(1, 0, WEST + side * (number - 100), 0, -1, NORTH)
    return write_tif(folder / f"{number}.tif", photograph(side, side, seed=number), transform=place)


# Where each lies in the batch, how it is made, and a word of the sentence that it gets.
BAD: dict[int, tuple[Callable[[Path], Path], str]] = {
    100: (no_georeference, "no georeference|georef"),
    117: (lambda path: write_tif(path, photograph(50, 60, 3)), "3 band"),
    134: (lambda path: write_tif(path, photograph(50, 60).astype(np.uint16)), "uint16"),
    151: (written(b""), "empty"),
    168: (truncated, "truncated"),
    198: (written(b"%PDF-1.7 this is no tif"), "not a tif"),
}
MISNAMED = f"{FOLDER}/scan0001.tif"


def test_of_a_hundred_frames_with_seven_bad_ones_ninety_three_are_served_and_seven_say_why(
    platform: Platform, tmp_path: Path
) -> None:
    for number in range(100, 199):
        make = BAD[number][0] if number in BAD else lambda path, number=number: good(path.parent, number)  # type: ignore[misc]
        platform.drop(key(number), make(tmp_path / f"{number}.tif"))
    platform.drop(MISNAMED, good(tmp_path, 199))
    runs = platform.look()
    assert [run.success for run in runs] == [False]
    platform.rebuild()
    bad = {frame_of(key(number)).partition: number for number in BAD}
    for step in STEPS:
        shown = platform.partitions("Travis", step)
        assert {partition for partition, status in shown.items() if status == "FAILED"} == set(bad)
        assert sum(status == "MATERIALIZED" for status in shown.values()) == 93
    assert len(platform.rows(f"SELECT 1 FROM {TABLE}")) == 93
    status = collect(platform.settings)
    (one,) = status.collections
    assert (one.dropped, one.done, one.waiting, one.indexed) == (99, 93, 0, 93)
    for number, (_, word) in BAD.items():
        assert re.search(word, one.failed[key(number)]), one.failed[key(number)]
    assert list(status.rejected) == [MISNAMED]
    assert list(tmp_path.glob("archive/.unfinished/*")) == []


def test_only_what_failed_is_tried_again_from_dagit(platform: Platform, tmp_path: Path) -> None:
    """The operator raised a limit; in the Dagster UI, *Failed* is a run over each stretch of failed partitions."""
    platform.drop(key(101), good(tmp_path, 101))
    for number in (102, 103):
        platform.drop(key(number), good(tmp_path, number, side=1200))
    strict = platform.with_settings(max_pixels="1000000")
    strict.look()
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
    assert platform.look() == []


def test_only_what_failed_is_tried_again_by_ls4_retry(
    platform: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = key(101).replace("Travis", "Bastrop")
    platform.drop(elsewhere, good(tmp_path, 101, side=1200))
    for number in (101, 102):
        platform.drop(key(number), good(tmp_path, number, side=200 if number == 101 else 1200))
    strict = platform.with_settings(max_pixels="1000000")
    strict.look()
    assert [strict.state(each)[0] for each in (elsewhere, key(101), key(102))] == ["failed", "done", "failed"]
    before = platform.storage.head(frame_of(key(101)).cog_key)
    for name, value in platform.archive.overrides.items():
        monkeypatch.setenv(f"LS4_{name.upper()}", value)
    said = CliRunner().invoke(main, ["retry", "--collection", "Travis_USDA_1958_frames"])
    assert (said.exit_code, said.output) == (0, "1 frames are queued again; `ls4 status` tells what becomes of them.\n")
    (run,) = platform.look()
    assert run.success
    assert [platform.state(each)[0] for each in (elsewhere, key(101), key(102))] == ["failed", "done", "done"]
    assert platform.storage.head(frame_of(key(101)).cog_key) == before
    misspelt = CliRunner().invoke(main, ["retry", "--collection", "Travis_USDA_1985_frames"])
    assert misspelt.exit_code == 1 and "did you mean Travis_USDA_1958_frames" in misspelt.output
    assert CliRunner().invoke(main, ["retry"]).exit_code == 0
    platform.settle()
    assert platform.state(elsewhere) == ("done", None)
