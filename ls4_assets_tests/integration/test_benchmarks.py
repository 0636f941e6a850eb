"""The scale benchmark works at tiny sizes and tells what it promises; how long anything takes is not asked here."""

import json
import subprocess
import sys
from typing import Any

import pytest

from ls4_assets_tests.platform import CHECKOUT


def figures(*parts: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.scale", "--quick", "--json", *parts]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=CHECKOUT)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_one_frame_more_is_measured_in_collections_of_two_sizes() -> None:
    """The benchmark itself rejects to tell a figure when index, mosaic, map or status do not show the frame."""
    found = figures("collection")
    assert list(found["index_one_frame_s"]) == ["9", "25"]
    for size, seconds in found["index_one_frame_s"].items():
        stages = found["index_stages_s"][size]
        assert set(stages) == {"due", "tile_index", "files", "check", "overview_mosaic", "mapfile", "status"}
        assert min(*stages.values(), seconds, found["legacy"]["one_frame_s"][size]) > 0


@pytest.mark.slow
def test_all_parts_are_measured() -> None:
    found = figures()
    assert {"batch_overhead_ratio", "index_one_frame_s", "index_stages_s", "legacy", "tick"} <= set(found)
    assert {"definitions_load_s", "partition_page_s"} <= set(found)
    assert found["batch"]["400"]["frames"] == 6
    assert found["adopt"]["cogs"] == 12
    assert list(found["tick"]) == ["500", "1000"]
    assert found["dagit"]["partitions"] >= 2_000
