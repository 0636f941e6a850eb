"""The scale benchmark runs at tiny sizes and reports every figure. The durations themselves are not checked."""

import json
import subprocess
import sys
from typing import Any

import pytest

from ls4_assets_tests.platform import CHECKOUT


def run_benchmark(*parts: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.scale", "--quick", "--json", *parts]
    process = subprocess.run(command, check=False, capture_output=True, text=True, cwd=CHECKOUT)
    assert process.returncode == 0, process.stderr[-3000:]
    figures: dict[str, Any] = json.loads(process.stdout.splitlines()[-1])
    return figures


def test_adding_one_frame_is_measured_in_collections_of_two_sizes() -> None:
    """The benchmark fails unless index, mosaic, map and status show the new frame."""
    figures = run_benchmark("collection")
    assert list(figures["index_one_frame_s"]) == ["9", "25"]
    for size, seconds in figures["index_one_frame_s"].items():
        stages = figures["index_stages_s"][size]
        assert set(stages) == {"due", "tile_index", "files", "check", "overview_mosaic", "mapfile", "status"}
        assert min(*stages.values(), seconds, figures["legacy"]["one_frame_s"][size]) > 0


@pytest.mark.slow
def test_all_parts_are_measured() -> None:
    figures = run_benchmark()
    assert {"batch_overhead_ratio", "index_one_frame_s", "index_stages_s", "legacy", "tick"} <= set(figures)
    assert {"definitions_load_s", "partition_page_s"} <= set(figures)
    assert figures["batch"]["400"]["frames"] == 6
    assert figures["adopt"]["cogs"] == 12
    assert list(figures["tick"]) == ["500", "1000"]
    assert figures["ui"]["partitions"] >= 2_000
