"""Disk and memory: what a frame is said to need, what is done when there is less, with real processes and real limits."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ls4_assets.domain.profiles import PROFILES
from ls4_assets.errors import FrameError, InsufficientResourcesError
from ls4_assets.processing import admission
from ls4_assets.processing.admission import Need, memory_available, need_of_source, reject_memory, reserve_disk, workers_that_fit
from ls4_assets.raster.frame import process
from ls4_assets.raster.source import Limits, open_source
from ls4_assets_tests.rasters import UTM_PLACE, photograph, write_tif

GIGABYTE = 10**9


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """What the disk of each folder has left, by the folder's name; anything else has none."""
    left: dict[str, int] = {}

    def usage(folder: Path) -> object:
        return type("Usage", (), {"free": left.get(folder.name, 0)})

    monkeypatch.setattr("ls4_assets.processing.admission.shutil.disk_usage", usage)
    return left


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    folder = tmp_path / "work" / f"{admission.RUN_PREFIX}1" / "frame"
    folder.mkdir(parents=True)
    return folder


def test_a_frame_that_has_room_goes_on(free: dict[str, int], scratch: Path) -> None:
    free["work"] = 4 * GIGABYTE
    reserve_disk("x.tif", Need(3 * GIGABYTE, GIGABYTE), scratch, [])


def test_too_little_room_says_how_much_where_and_what_to_do(free: dict[str, int], scratch: Path) -> None:
    free["work"] = 1_200_000_000
    with pytest.raises(InsufficientResourcesError) as rejection:
        reserve_disk("x.tif", Need(3_100_000_000, GIGABYTE), scratch, [])
    work = scratch.parent.parent
    assert str(rejection.value) == f"x.tif needs 3.1 GB in {work} and 1.2 GB are free"


def test_an_archive_on_the_same_disk_needs_its_part_there_too(free: dict[str, int], scratch: Path, tmp_path: Path) -> None:
    free["work"] = 4 * GIGABYTE
    (tmp_path / "archive").mkdir()
    with pytest.raises(InsufficientResourcesError, match=r"needs 5\.0 GB"):
        reserve_disk("x.tif", Need(3 * GIGABYTE, 2 * GIGABYTE), scratch, [tmp_path / "archive"])


def test_an_archive_on_another_disk_is_asked_itself(free: dict[str, int], scratch: Path) -> None:
    elsewhere = Path("/dev/shm")
    if elsewhere.stat().st_dev == scratch.stat().st_dev:
        pytest.skip("/dev/shm is no disk of its own here")
    free |= {"work": 4 * GIGABYTE, "shm": GIGABYTE}
    with pytest.raises(InsufficientResourcesError, match=r"needs 2\.0 GB in /dev/shm and 1\.0 GB are free"):
        reserve_disk("x.tif", Need(3 * GIGABYTE, 2 * GIGABYTE), scratch, [elsewhere])


def test_what_others_were_promised_and_have_not_written_is_not_free(free: dict[str, int], scratch: Path) -> None:
    """Sixteen frames began at once, each saw the same free disk, and all of them filled it."""
    free["work"] = 5 * GIGABYTE
    reserve_disk("first.tif", Need(3 * GIGABYTE, 0), scratch, [])
    second = scratch.parent.with_name(f"{admission.RUN_PREFIX}2") / "frame"
    second.mkdir(parents=True)
    with pytest.raises(InsufficientResourcesError, match=r"second.tif needs 3\.0 GB .* 2\.0 GB are free besides .*\(3\.0 GB\)"):
        reserve_disk("second.tif", Need(3 * GIGABYTE, 0), second, [])
    (scratch / "pixels").write_bytes(bytes(20_000_000))
    (scratch / admission._RESERVATION).write_text("20000000")  # all of it written
    reserve_disk("second.tif", Need(3 * GIGABYTE, 0), second, [])


@pytest.mark.parametrize(
    ("band", "crs", "compress"), [("bw", 3857, None), ("bw", 26914, "LZW"), ("nc", 26914, None), ("nc", 3857, None)]
)
@pytest.mark.parametrize("turned", [False, True])
def test_no_frame_takes_more_disk_than_it_is_said_to_need(
    tmp_path: Path, band: str, crs: int, compress: str | None, turned: bool
) -> None:
    """Pixels of pure noise, which nothing compresses."""
    from affine import Affine

    profile = PROFILES[band]  # type: ignore[index]
    x, y = UTM_PLACE if crs == 26914 else (-10_880_000.0, 3_540_000.0)
    place = Affine.translation(x, y) @ Affine.rotation(30 if turned else 0) @ Affine.scale(1, -1)
    pixels = np.random.default_rng(1).integers(0, 256, (profile.bands, 1100, 1300), dtype=np.uint8)
    options = {"compress": compress} if compress else {}
    path = write_tif(tmp_path / "x.tif", pixels, crs=f"EPSG:{crs}", transform=place, **options)
    size = path.stat().st_size
    need = need_of_source(open_source(path, profile.film_type, Limits()), size, profile)
    result = process(path, tmp_path / "work", "x", profile.film_type, profile, Limits())
    products = sum(result.sizes.values())
    kept = result.width * result.height * profile.bands
    assert products <= need.archive
    assert size + kept + products <= need.work <= 8 * (size + kept)


@pytest.mark.parametrize("layout", [{"blockysize": 3008}, {"tiled": True, "blockxsize": 3008, "blockysize": 3008}])
def test_a_file_in_parts_that_no_worker_can_hold_is_rejected_with_the_numbers(tmp_path: Path, layout: dict[str, object]) -> None:
    path = write_tif(tmp_path / "x.tif", photograph(3008, 3008, 3), compress="LZW", interleave="pixel", **layout)
    with pytest.raises(FrameError, match=r"so few parts that reading it takes 8\d\d MB .* a worker has 810 MB; .*TILED=YES"):
        reject_memory(open_source(path, "nc", Limits()), 810)
    for number, harmless in enumerate(({"tiled": True, "compress": "LZW"}, {"blockysize": 3008})):
        path = write_tif(tmp_path / f"{number}.tif", photograph(3008, 3008, 3), interleave="pixel", **harmless)
        reject_memory(open_source(path, "nc", Limits()), 810)


def test_workers_are_as_many_as_memory_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ls4_assets.processing.admission.memory_available", lambda: 6 * GIGABYTE)
    assert [workers_that_fit(16, 1500), workers_that_fit(2, 1500), workers_that_fit(16, 9000)] == [4, 2, 1]


@pytest.mark.parametrize("version", [1, 2])
def test_a_container_has_what_its_limit_leaves(tmp_path: Path, version: int) -> None:
    """Workers were as many as the host's memory held, and the container was killed for want of its own."""
    folder = tmp_path if version == 2 else tmp_path / "memory"
    folder.mkdir(exist_ok=True)
    names = ("memory.max", "memory.current") if version == 2 else ("memory.limit_in_bytes", "memory.usage_in_bytes")
    for name, value in zip(names, ("50000000", "30000000"), strict=True):
        (folder / name).write_text(f"{value}\n")
    (folder / "memory.stat").write_text("inactive_file 5000000\ntotal_inactive_file 5000000\n")
    assert memory_available(tmp_path) == 25_000_000
    (folder / names[0]).write_text("max\n")
    assert memory_available(tmp_path) > GIGABYTE / 10


BOUND = """
import json, sys
from pathlib import Path
from ls4_assets.processing import admission
from ls4_assets.raster.frame import process
from ls4_assets.raster.gdal_env import is_out_of_memory
from ls4_assets.raster.source import Limits
from ls4_assets.domain.profiles import PROFILES
admission.bound_memory(int(sys.argv[3]))
try:
    process(Path(sys.argv[1]), Path(sys.argv[2]), "x", "bw", PROFILES["bw"], Limits())
    print(json.dumps("done"))
except BaseException as error:
    print(json.dumps("out of memory" if is_out_of_memory(error) else repr(error)))
"""


def test_want_of_memory_is_not_taken_for_a_corrupt_file(tmp_path: Path) -> None:
    """A worker that could get no more memory called a good scan truncated."""
    scan = write_tif(tmp_path / "x.tif", photograph(4000, 4000), compress="LZW", blockysize=4000)
    said = {}
    for megabytes in (14, 25, 800):
        command = [sys.executable, "-W", "ignore", "-c", BOUND, str(scan), str(tmp_path / str(megabytes)), str(megabytes)]
        said[megabytes] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert said == {14: "out of memory", 25: "out of memory", 800: "done"}
