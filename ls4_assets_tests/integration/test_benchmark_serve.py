"""`python -m benchmarks.serve --quick` from end to end, without titiler: the figures that no busy machine changes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

CHECKOUT = Path(__file__).resolve().parents[2]


def test_a_whole_collection_costs_the_same_however_many_frames_it_has() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TITILER_PYTHON"}
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.serve", "--quick", "--json"]
    done = subprocess.run(command, cwd=CHECKOUT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    figures = json.loads(done.stdout.splitlines()[-1])
    whole, native = figures["whole_collection"], figures["native_zoom"]
    assert whole.keys() == native.keys() == {"10", "100"}
    # The mosaic's header, and its tiles under one picture: how many depends on the collection's shape alone.
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
