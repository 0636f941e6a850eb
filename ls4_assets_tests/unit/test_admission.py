"""Tests of disk estimates, disk reservations and memory limits, with real processes and real limits."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from ls4_assets.domain.profiles import PROFILES
from ls4_assets.errors import FrameError, InsufficientResourcesError
from ls4_assets.processing import admission
from ls4_assets.processing.admission import (
    DiskEstimate,
    available_memory_bytes,
    estimate_for_source,
    limit_workers,
    reject_oversized_blocks,
    reserve_disk,
)
from ls4_assets.raster.frame import process
from ls4_assets.raster.source import Limits, open_source
from ls4_assets_tests.rasters import UTM_PLACE, photograph, write_tif
from ls4_assets_tests.trait_pixels import georeference_tags

GIGABYTE = 10**9
HEIGHT_OF_PAGE = 1500


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Free bytes on the disk of each folder, by the folder's name; 0 for other folders."""
    free_bytes: dict[str, int] = {}

    def usage(folder: Path) -> object:
        return type("Usage", (), {"free": free_bytes.get(folder.name, 0)})

    monkeypatch.setattr("ls4_assets.processing.admission.shutil.disk_usage", usage)
    return free_bytes


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    folder = tmp_path / "work" / f"{admission.RUN_PREFIX}1" / "frame"
    folder.mkdir(parents=True)
    return folder


def test_frame_that_fits_is_admitted(free: dict[str, int], scratch: Path) -> None:
    free["work"] = 4 * GIGABYTE
    reserve_disk("x.tif", DiskEstimate(3 * GIGABYTE, GIGABYTE), scratch, [])


def test_full_disk_is_reported_with_folder_and_sizes(free: dict[str, int], scratch: Path) -> None:
    free["work"] = 1_200_000_000
    with pytest.raises(InsufficientResourcesError) as rejection:
        reserve_disk("x.tif", DiskEstimate(3_100_000_000, GIGABYTE), scratch, [])
    work = scratch.parent.parent
    assert str(rejection.value) == f"x.tif needs 3.1 GB in {work} and 1.2 GB is free"


def test_archive_on_the_same_disk_adds_to_the_estimate(free: dict[str, int], scratch: Path, tmp_path: Path) -> None:
    free["work"] = 4 * GIGABYTE
    (tmp_path / "archive").mkdir()
    with pytest.raises(InsufficientResourcesError, match=r"needs 5\.0 GB"):
        reserve_disk("x.tif", DiskEstimate(3 * GIGABYTE, 2 * GIGABYTE), scratch, [tmp_path / "archive"])


def test_archive_on_another_disk_is_checked_separately(free: dict[str, int], scratch: Path) -> None:
    archive = Path("/dev/shm")
    if archive.stat().st_dev == scratch.stat().st_dev:
        pytest.skip("/dev/shm is on the same disk as the scratch folder")
    free |= {"work": 4 * GIGABYTE, "shm": GIGABYTE}
    with pytest.raises(InsufficientResourcesError, match=r"needs 2\.0 GB in /dev/shm and 1\.0 GB is free"):
        reserve_disk("x.tif", DiskEstimate(3 * GIGABYTE, 2 * GIGABYTE), scratch, [archive])


def test_unwritten_reservations_of_other_frames_are_not_free(free: dict[str, int], scratch: Path) -> None:
    """Sixteen frames started at once, each saw the same free disk, and together they filled it."""
    free["work"] = 5 * GIGABYTE
    reserve_disk("first.tif", DiskEstimate(3 * GIGABYTE, 0), scratch, [])
    second = scratch.parent.with_name(f"{admission.RUN_PREFIX}2") / "frame"
    second.mkdir(parents=True)
    with pytest.raises(
        InsufficientResourcesError, match=r"second.tif needs 3\.0 GB .* 2\.0 GB is free apart from the 3\.0 GB reserved"
    ):
        reserve_disk("second.tif", DiskEstimate(3 * GIGABYTE, 0), second, [])
    (scratch / "pixels").write_bytes(bytes(20_000_000))
    (scratch / admission._RESERVATION).write_text("20000000")  # written completely
    reserve_disk("second.tif", DiskEstimate(3 * GIGABYTE, 0), second, [])


@pytest.mark.parametrize(
    ("film_type", "crs", "compress"), [("bw", 3857, None), ("bw", 26914, "LZW"), ("nc", 26914, None), ("nc", 3857, None)]
)
@pytest.mark.parametrize("rotated", [False, True])
def test_no_frame_takes_more_disk_than_estimated(
    tmp_path: Path, film_type: str, crs: int, compress: str | None, rotated: bool
) -> None:
    """Pixels of pure noise, which does not compress."""
    from affine import Affine

    profile = PROFILES[film_type]
    x, y = UTM_PLACE if crs == 26914 else (-10_880_000.0, 3_540_000.0)
    transform = Affine.translation(x, y) @ Affine.rotation(30 if rotated else 0) @ Affine.scale(1, -1)
    pixels = np.random.default_rng(1).integers(0, 256, (profile.bands, 1100, 1300), dtype=np.uint8)
    options: dict[str, Any] = {"compress": compress} if compress else {}
    path = write_tif(tmp_path / "x.tif", pixels, crs=f"EPSG:{crs}", transform=transform, **options)
    size = path.stat().st_size
    estimate = estimate_for_source(open_source(path, profile.film_type, Limits()), size, profile)
    result = process(path, tmp_path / "work", "x", profile.film_type, profile, Limits())
    products = sum(result.sizes.values())
    kept = result.width * result.height * profile.bands
    assert products <= estimate.archive_bytes
    assert size + kept + products <= estimate.work_bytes <= 8 * (size + kept)


@pytest.mark.parametrize("layout", [{"blockysize": 3008}, {"tiled": True, "blockxsize": 3008, "blockysize": 3008}])
def test_blocks_larger_than_a_worker_are_rejected_with_the_numbers(tmp_path: Path, layout: dict[str, Any]) -> None:
    path = write_tif(tmp_path / "x.tif", photograph(3008, 3008, 3), compress="LZW", interleave="pixel", **layout)
    with pytest.raises(
        FrameError, match=r"so few strips or tiles that reading it takes 8\d\d MB .* a worker has 810 MB; .*TILED=YES"
    ):
        reject_oversized_blocks(open_source(path, "nc", Limits()), 810)
    layouts: list[dict[str, Any]] = [{"tiled": True, "compress": "LZW"}, {"blockysize": 3008}]
    for number, accepted in enumerate(layouts):
        path = write_tif(tmp_path / f"{number}.tif", photograph(3008, 3008, 3), interleave="pixel", **accepted)
        reject_oversized_blocks(open_source(path, "nc", Limits()), 810)


def test_strip_of_a_photograph_that_is_a_later_page_is_counted(tmp_path: Path) -> None:
    """A photograph in one compressed strip behind a thumbnail was admitted, and its worker ran out of memory."""
    path = tmp_path / "x.tif"
    pixels = np.random.default_rng(1).integers(1, 255, (HEIGHT_OF_PAGE, HEIGHT_OF_PAGE), dtype=np.uint8)
    with tifffile.TiffWriter(path) as writer:
        writer.write(pixels[::8, ::8], subfiletype=1, photometric="minisblack", extratags=georeference_tags(8))
        writer.write(
            pixels, subfiletype=0, photometric="minisblack", extratags=georeference_tags(), compression="zlib",
            rowsperstrip=HEIGHT_OF_PAGE,
        )  # fmt: skip
    source = open_source(path, "bw", Limits())
    assert source.page is not None and not source.page.is_first
    # The base, the strip as it is compressed (2.2 MB), and 1.1 and 4 times the strip as it is decoded.
    decoded_mb = 5.1 * HEIGHT_OF_PAGE**2 / 1e6
    reject_oversized_blocks(source, int(800 + decoded_mb + 3))
    with pytest.raises(FrameError, match="so few strips"):
        reject_oversized_blocks(source, int(800 + decoded_mb + 1))


def test_worker_count_is_limited_by_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ls4_assets.processing.admission.available_memory_bytes", lambda: 6 * GIGABYTE)
    assert [limit_workers(16, 1500), limit_workers(2, 1500), limit_workers(16, 9000)] == [4, 2, 1]


@pytest.mark.parametrize("version", [1, 2])
def test_memory_limit_of_the_container_is_respected(tmp_path: Path, version: int) -> None:
    """The worker count followed the host's memory, and the container ran out of memory and was killed."""
    folder = tmp_path if version == 2 else tmp_path / "memory"
    folder.mkdir(exist_ok=True)
    names = ("memory.max", "memory.current") if version == 2 else ("memory.limit_in_bytes", "memory.usage_in_bytes")
    for name, value in zip(names, ("50000000", "30000000"), strict=True):
        (folder / name).write_text(f"{value}\n")
    (folder / "memory.stat").write_text("inactive_file 5000000\ntotal_inactive_file 5000000\n")
    assert available_memory_bytes(tmp_path) == 25_000_000
    (folder / names[0]).write_text("max\n")
    assert available_memory_bytes(tmp_path) > GIGABYTE / 10


SCRIPT = """
import json, sys
from pathlib import Path
from ls4_assets.processing import admission
from ls4_assets.raster.frame import process
from ls4_assets.raster.gdal_env import is_out_of_memory
from ls4_assets.raster.source import Limits
from ls4_assets.domain.profiles import PROFILES
admission.limit_memory(int(sys.argv[3]))
try:
    process(Path(sys.argv[1]), Path(sys.argv[2]), "x", "bw", PROFILES["bw"], Limits())
    print(json.dumps("done"))
except BaseException as error:
    print(json.dumps("out of memory" if is_out_of_memory(error) else repr(error)))
"""


def test_out_of_memory_is_not_reported_as_a_corrupt_file(tmp_path: Path) -> None:
    """A worker that ran out of memory reported a good scan as truncated."""
    scan = write_tif(tmp_path / "x.tif", photograph(4000, 4000), compress="LZW", blockysize=4000)
    results = {}
    # One arena and one thread: what they reserve ahead would count as memory that is in use already. 14 MB is too little in any
    # environment; from 25 MB on it depends on what the imports left free.
    environment = os.environ | {"MALLOC_ARENA_MAX": "1", "OPENBLAS_NUM_THREADS": "1"}
    for megabytes in (14, 800):
        command = [sys.executable, "-W", "ignore", "-c", SCRIPT, str(scan), str(tmp_path / str(megabytes)), str(megabytes)]
        results[megabytes] = json.loads(
            subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
        )
    assert results == {14: "out of memory", 800: "done"}
