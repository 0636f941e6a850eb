"""Memory test: a frame of 20,000 x 20,000 pixels stays below 1.5 GB, warped or not. It takes minutes (marked slow)."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

_JOB = """
import json, resource, sys
import numpy as np, rasterio
from affine import Affine
from pathlib import Path
from rasterio.windows import Window
from ls4_assets.raster.frame import process
from ls4_assets.raster.source import Limits
from ls4_assets.domain.profiles import PROFILES

folder, crs, film_type, angle, size = Path(sys.argv[1]), sys.argv[2], sys.argv[3], float(sys.argv[4]), int(sys.argv[5])
x, y = (620_000, 3_350_000) if crs == "EPSG:26914" else (-10_880_000, 3_540_000)
bands = PROFILES[film_type].bands
rng = np.random.default_rng(1)
strip = rng.integers(90, 140, (bands, 500, size), dtype=np.uint8)
strip[:, :, :500] = 0
with rasterio.open(folder / "scan.tif", "w", driver="GTiff", width=size, height=size, count=bands, dtype="uint8",
                   crs=crs, transform=Affine.translation(x, y) @ Affine.rotation(angle) @ Affine.scale(0.5, -0.5)) as target:
    for top in range(0, size, 500):
        target.write(strip, window=Window(0, top, size, 500))
result = process(folder / "scan.tif", folder / "work", "f", film_type, PROFILES[film_type], Limits())
print(json.dumps({
    "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6, "steps": result.peak_mb,
    "seconds": result.seconds, "size": [result.width, result.height], "valid": result.valid_share,
}))
"""


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("crs", "film_type", "angle"),
    [("EPSG:3857", "bw", 0), ("EPSG:26914", "bw", 0), ("EPSG:26914", "bw", 30), ("EPSG:26914", "nc", 0)],
)
def test_peak_memory_of_a_large_frame(tmp_path: Path, crs: str, film_type: str, angle: float) -> None:
    command = [sys.executable, "-W", "ignore", "-c", _JOB, str(tmp_path), crs, film_type, str(angle), "20000"]
    completed = subprocess.run(command, check=True, capture_output=True, text=True)
    figures = json.loads(completed.stdout)
    assert figures["peak_mb"] < 1500, figures
    assert figures["valid"] < 0.99
