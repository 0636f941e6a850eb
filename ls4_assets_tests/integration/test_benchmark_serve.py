"""`python -m benchmarks.serve --quick` without titiler: the figures that do not depend on the load of the machine."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

CHECKOUT = Path(__file__).resolve().parents[2]


def measure(*part: str) -> dict[str, Any]:
    environment = {name: value for name, value in os.environ.items() if name != "TITILER_PYTHON"}
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.serve", *part, "--quick", "--json"]
    process = subprocess.run(command, cwd=CHECKOUT, env=environment, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr[-3000:]
    figures: dict[str, Any] = json.loads(process.stdout.splitlines()[-1])
    return figures


def test_a_point_of_the_synthetic_archive_has_about_sixty_photographs() -> None:
    figures = measure("point")
    assert figures["footprints"] == 12_000 and 50 < figures["photographs_at_a_point"] < 75
    assert figures["cached"]["p50_ms"] < figures["new"]["p50_ms"]


def test_a_map_of_a_whole_collection_costs_the_same_for_any_number_of_frames() -> None:
    figures = measure()
    whole, native = figures["whole_collection"], figures["native_zoom"]
    assert whole.keys() == native.keys() == {"10", "100"}
    # The mosaic's header and its tiles in one image: their number depends only on the collection's shape.
    assert all(0 < whole[count]["ours"]["storage_requests"] <= 10 for count in ("10", "100"))
    assert whole["100"]["legacy"]["storage_requests"] >= 100
    for count in ("10", "100"):
        for view in (whole, native):
            assert view[count]["titiler"] is None
            for contender in ("ours", "legacy"):
                assert view[count][contender].keys() == {
                    "storage_requests",
                    "storage_bytes",
                    "cold_s",
                    "warm_s",
                    "requests_per_s",
                }
                assert all(value >= 0 for value in view[count][contender].values())
            assert view[count]["ours"]["storage_requests"] < view[count]["legacy"]["storage_requests"]
    assert figures["titiler"] is None
    assert "TITILER_PYTHON" in figures["reason"]
    assert figures["tile_cache_hit_ms"] > 0
