"""Everything hostile at once, through the sensors: the photographs beside it are on the map within a minute.

The single faults are in the fast tests: unit/test_irregular_entries.py, unit/test_raster_bounds.py and test_odd_entries.py.
"""

import os
import random
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import dagster as dg
import pytest
from affine import Affine

from ls4_assets.local.postgres import Cluster
from ls4_assets.operations.status import collect
from ls4_assets.operations.status_text import format_status
from ls4_assets_tests.integration.ingest_fixtures import FOLDER, tif
from ls4_assets_tests.platform import Platform, running_platform
from ls4_assets_tests.rasters import NORTH, WEST, photograph, write_tif
from ls4_assets_tests.unit.test_raster_bounds import HIDDEN_AUX, USELESS, chain_of_images

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can create devices, and mount a disk that has times after 9999"),
]

# `FLOOD_FRAMES=5000 make test-slow ARGS="-k flood"` takes about an hour on two cores.
FLOOD_FRAMES = int(os.environ.get("FLOOD_FRAMES", "300"))
FLOODED = [f"bw/Travis/USDA_{year}/frames/georef" for year in range(1951, 1956)]
GOOD = [tif(number) for number in range(5)]
# Of 50 batches, 10 of a shard may be open, and each of the collections may be rebuilt meanwhile.
MAX_RUNS_AHEAD = 25
# Dagster stops a sensor after 60 s.
MAX_TICK_SECONDS = 30
OTHER_GOOD = [tif(number, "bw/Bastrop/USDA_1958/frames/georef") for number in range(2)]


@pytest.fixture
def platform(cluster: Cluster, tmp_path: Path) -> Iterator[Platform]:
    """On a tmpfs, whose times go beyond the year 9999."""
    archive = tmp_path / "disk"
    archive.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=500m", "tmpfs", archive], check=True)
    try:
        with running_platform(cluster, tmp_path, str(archive)) as running:
            yield running
    finally:
        subprocess.run(["umount", "-l", archive], check=True)


def bind_socket(path: Path) -> None:
    home = os.open(path.parent, os.O_RDONLY)
    server = socket.socket(socket.AF_UNIX)
    server.bind(f"/proc/self/fd/{home}/{path.name}")  # the whole path is longer than an address may be
    server.close()
    os.close(home)


def make_device(kind: int, major: int, minor: int) -> Callable[[Path], None]:
    return lambda path: os.mknod(path, kind | 0o666, os.makedev(major, minor))


IRREGULAR: dict[str, Callable[[Path], object]] = {
    "link to itself": lambda path: path.symlink_to(path.name),
    "link to a file": lambda path: path.symlink_to("/etc/passwd"),
    "link to nothing": lambda path: path.symlink_to("/nowhere/x.tif"),
    "link to a device": lambda path: path.symlink_to("/dev/zero"),
    "link to a folder": lambda path: path.symlink_to("/etc"),
    "fifo": os.mkfifo,
    "socket": bind_socket,
    "character device": make_device(stat.S_IFCHR, 1, 5),
    "block device": make_device(stat.S_IFBLK, 7, 0),
}


def test_siblings_of_hostile_files_are_on_the_map_within_a_minute(platform: Platform, good: Path, tmp_path: Path) -> None:
    root = Path(platform.settings.storage)
    georef = root / FOLDER
    for key in (*GOOD, *OTHER_GOOD):
        platform.drop(key, good)
    # Photographs with odd times are photographs.
    for key, seconds in zip(GOOD, (260_000_000_000, -1, -10_000_000_000, 0, 4_000_000_000), strict=True):
        os.utime(root / key, (seconds, seconds))
    rejected, failed = [], []
    for number, make in enumerate(IRREGULAR.values(), start=100):
        make(root / tif(number))
        platform.drop(tif(200 + number), good)
        make((root / tif(200 + number)).with_suffix(".prj"))
        rejected += [tif(number), tif(200 + number)]
    for folder in ("bw/Travis/l1", "bw/Travis/l2", "bw/l3", f"{FOLDER}/l4"):
        (root / folder).symlink_to("..")
        rejected.append(folder)
    for name in ("\u0660\u0662-\u0660\u0668-\u0660\u0666_1-2.tif", "a\nb\u202e.tif"):
        (georef / name).write_bytes(good.read_bytes())
        rejected.append(f"{FOLDER}/{name}")
    utm = write_tif(tmp_path / "utm.tif", photograph(40, 50), crs=None)
    for number, crs in enumerate(USELESS.values(), start=500):
        platform.drop(tif(number), utm)
        (root / f"{tif(number)}.aux.xml").write_text(HIDDEN_AUX.format(crs))
        failed.append(tif(number))
    for number, (name, size) in enumerate((("aux.xml", 199_000), ("tif.aux.xml", 199_000), ("aux.xml", 400_000)), start=600):
        platform.drop(tif(number), utm)
        (root / tif(number)).with_suffix(f".{name}").write_text("<PAMDataset>" + "<SRS>" * size)
        failed.append(tif(number))
    for number, (images, loop) in enumerate(((1, True), (3, True), (60_000, False)), start=700):
        platform.drop(tif(number), chain_of_images(tmp_path / "chain.tif", images, loop=loop))
        failed.append(tif(number))
    started = time.monotonic()
    platform.settle()
    assert time.monotonic() - started < 60
    assert {key: platform.state(key)[0] for key in (*GOOD, *OTHER_GOOD)} == dict.fromkeys((*GOOD, *OTHER_GOOD), "done")
    assert len(platform.rows("SELECT 1 FROM travis_usda_1958_frames")) == len(GOOD)
    assert len(platform.rows("SELECT 1 FROM bastrop_usda_1958_frames")) == len(OTHER_GOOD)
    for keys, expected in ((rejected, "rejected"), (failed, "failed")):
        for key in keys:
            state, reason = platform.state(key)
            assert state == expected, (key, reason)
            assert reason and reason.endswith(".") and "\n" not in reason and "unexpected" not in reason, (key, reason)
            assert "root:" not in reason, "a line of /etc/passwd"
    assert platform.ingest() == [], "nothing is tried again"
    assert "\u202e" not in "\n".join(format_status(collect(platform.settings)))


def test_damaged_headers_are_rejections_and_not_defects(platform: Platform, tmp_path: Path) -> None:
    """Whatever is wrong with a header stays wrong: a frame that counts as a defect of the platform is retried, and reported."""
    numbers = random.Random(5)
    original = write_tif(tmp_path / "x.tif", photograph(120, 130), tiled=True, blockxsize=64, blockysize=64, compress="DEFLATE")
    data = original.read_bytes()
    header = (int.from_bytes(data[4:8], "little"), 400)
    keys = [tif(number) for number in range(300)]
    for key in keys:
        damaged = bytearray(data)
        for _ in range(numbers.choice((1, 2, 5))):
            position = numbers.choice((numbers.randrange(8), header[0] + numbers.randrange(header[1])))
            if position < len(damaged):
                damaged[position] = numbers.randrange(256)
        platform.drop(key, bytes(damaged))
    platform.settle()
    states = {key: platform.state(key) for key in keys}
    assert not {key: reason for key, (state, reason) in states.items() if state not in ("done", "failed")}
    assert not {key: reason for key, (_, reason) in states.items() if reason and "unexpected" in reason}


def damage(data: bytes, number: int) -> bytes:
    """One of the ways in which a copy goes wrong; none is a photograph any more."""
    return (data[: len(data) // 2], b"", bytes(len(data)), b"%PDF-1.7" + data, data[:8])[number % 5]


@dataclass
class Flood:
    """Ticks and runs of a platform, one run at a time in the order of Dagster's queue: by priority, then the oldest."""

    platform: Platform
    queue: list[dg.RunRequest] = field(default_factory=list)
    tick_seconds: list[float] = field(default_factory=list)
    run_count: int = 0

    def advance(self) -> bool:
        """Evaluate the sensors and execute the next run. Returns whether there was one."""
        for sensor in ("ingest_poll", "publish_collections"):
            started = time.monotonic()
            result = self.platform.tick(sensor)
            self.tick_seconds.append(time.monotonic() - started)
            self.queue += result.run_requests or [] if isinstance(result, dg.SensorResult) else []
        if not self.queue:
            return False
        request = max(self.queue, key=lambda each: int(each.tags.get("dagster/priority", "0")))
        self.queue.remove(request)
        self.platform.run(request.asset_selection or [], request.run_config, request.partition_key, request.tags)
        self.run_count += 1
        return True

    def count(self, table: str) -> int:
        """Frames in a tile index."""
        exists = self.platform.rows("SELECT to_regclass(:name) AS it", name=f"public.{table}")[0]["it"]
        return len(self.platform.rows(f"SELECT 1 FROM {table}")) if exists else 0


@pytest.mark.timeout(7200)
def test_flood_of_tiny_files_neither_stops_nor_hides_anything(cluster: Cluster, tmp_path: Path) -> None:
    """Thousands of tifs dropped at once, of which one in a hundred is damaged. It was never watched to its end."""
    batch = max(1, FLOOD_FRAMES // 50)
    with running_platform(cluster, tmp_path, batch_size=str(batch)) as platform:
        root, damaged = Path(platform.settings.storage), set[str]()
        for folder in (*FLOODED, str(Path(OTHER_GOOD[0]).parent)):
            (root / folder).mkdir(parents=True)
        pixels = photograph(64, 64)
        for number in range(FLOOD_FRAMES):
            key = tif(number, FLOODED[number % len(FLOODED)])
            place = Affine(1, 0, WEST + 40 * (number % 100), 0, -1, NORTH - 40 * (number // 100))
            write_tif(root / key, pixels, transform=place, compress="DEFLATE")
            if number % 100 == 50:
                (root / key).write_bytes(damage((root / key).read_bytes(), number // 100))
                damaged.add(key)
        flood = Flood(platform)
        while not flood.run_count:
            flood.advance()
        for key in OTHER_GOOD:
            write_tif(root / key, photograph(200, 220))
        runs_before, started = flood.run_count, time.monotonic()
        while flood.count("bastrop_usda_1958_frames") < len(OTHER_GOOD):
            assert flood.run_count - runs_before <= MAX_RUNS_AHEAD
            flood.advance()
        sibling_seconds, sibling_runs = time.monotonic() - started, flood.run_count - runs_before
        assert len(platform.rows("SELECT 1 FROM ls4.source WHERE state = 'done'")) < FLOOD_FRAMES / 2, "the flood is over"
        idle = 0
        while idle < 3:
            idle = 0 if flood.advance() else idle + 1
        sys.stdout.write(
            f"\n{FLOOD_FRAMES} files: {flood.run_count} runs in {time.monotonic() - started:.0f} s; siblings on the map after "
            f"{sibling_runs} runs, {sibling_seconds:.0f} s; longest tick {max(flood.tick_seconds):.1f} s\n"
        )
        states = platform.rows("SELECT key, state, reason FROM ls4.source")
        assert len(states) == FLOOD_FRAMES + len(OTHER_GOOD)
        assert {row["key"] for row in states if row["state"] != "done"} == damaged
        for row in states:
            if row["key"] in damaged:
                reason = str(row["reason"])
                assert row["state"] == "failed" and reason.endswith(".") and "unexpected" not in reason, row
        indexed = sum(flood.count(f"travis_usda_{year}_frames") for year in range(1951, 1956))
        assert indexed == FLOOD_FRAMES - len(damaged)
        assert max(flood.tick_seconds) < MAX_TICK_SECONDS
