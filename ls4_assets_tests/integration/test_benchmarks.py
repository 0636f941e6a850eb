"""The benchmarks of scale and of drops run at tiny sizes and report every figure. The durations themselves are not checked."""

import json
import subprocess
import sys
from typing import Any

import pytest

from benchmarks.drop_stages import CHANGED, DELETED
from ls4_assets_tests.platform import CHECKOUT


def run_benchmark(*parts: str) -> dict[str, Any]:
    return run_module("benchmarks.scale", "--quick", *parts)


def run_module(module: str, *arguments: str) -> dict[str, Any]:
    command = [sys.executable, "-W", "ignore", "-m", module, "--json", *arguments]
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


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_each_change_is_followed_to_the_map_through_all_its_stages() -> None:
    """The benchmark ends only when the map has shown each version. A stage is missing when the platform logs it no more."""
    counts = ("--drops=1", "--replacements=1", "--deletions=1", "--batch=4", "--collections=3", "--side=300", "--idle-seconds=1")
    figures = run_module("benchmarks.drop", *counts)
    for kind, stages in {"drop": CHANGED, "replace": CHANGED, "delete": DELETED}.items():
        assert tuple(figures["stages_s"][kind]) == stages
        seconds = figures[f"{kind}_s"]
        assert seconds["p50"] == seconds["p95"] > 0
        assert sum(figures["stages_s"][kind].values()) == pytest.approx(seconds["p50"], abs=0.1)
    assert 0 < figures["first_of_4_s"] <= figures["drop_4_s"]
    assert set(figures["work_s"]) == {"frame", "tile_index", "overview_mosaic", "mapfile", "exports"}
    assert {"frames", "collection"} <= set(figures["run_cpu_s"])
    assert 0 < figures["storm"]["first_s"] <= figures["storm"]["all_s"] and figures["storm"]["collections"] == 3
    names = ("idle_cpu_percent", "memory_pss_mb", "run_start_cpu_s", "event_bytes_per_frame", "longest_pause_of_4_s")
    assert min(figures[name] for name in names) > 0
