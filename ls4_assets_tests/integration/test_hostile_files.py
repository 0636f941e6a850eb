"""Everything hostile at once, through the sensors: the photographs beside it are on the map within a minute.

The single faults are in the fast tests: unit/test_irregular_entries.py, unit/test_raster_bounds.py and test_odd_entries.py.
"""

import os
import random
import socket
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ls4_assets.local.postgres import Cluster
from ls4_assets.operations.status import collect, format_status
from ls4_assets_tests.integration.ingest_fixtures import FOLDER, tif
from ls4_assets_tests.platform import Platform, running_platform
from ls4_assets_tests.rasters import photograph, write_tif
from ls4_assets_tests.unit.test_raster_bounds import HIDDEN_AUX, USELESS, chain_of_images

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can create devices, and mount a disk that has times after 9999"),
]

GOOD = [tif(number) for number in range(5)]
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
