"""Is there room for a frame, now and at all: disk of the work folder and of the archive, memory of the workers.

Disk is counted for the worst case, a photograph that does not compress. What a frame was promised and has not written yet counts
as taken, so that frames which start together do not all see the same free space. Too little disk is nobody's fault: the frame
waits. A frame that no worker's memory can hold is rejected with the numbers.
"""

import resource
import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import rasterio
from rasterio.enums import Interleaving
from tifffile import COMPRESSION, TiffFile, TiffFileError

from ls4_assets.domain.profiles import FrameProfile
from ls4_assets.errors import FrameError, InsufficientResourcesError
from ls4_assets.raster.frame import KEEP_AT_MOST
from ls4_assets.raster.gdal_env import gdal_env
from ls4_assets.raster.source import Source

_MEGABYTE = 1_000_000
# A run's scratch folder, with a folder for each frame that is being worked on, and what that frame was promised.
RUN_PREFIX = "ls4-run-"
_RESERVATION = "promised-bytes"

# With less than this left a disk counts as full: a step writes some megabytes at a time.
_FULL = 32 * _MEGABYTE

# What a worker takes for a frame of any size stored in small blocks: measured 510 MB at 1.5 thousand million pixels, and 665 MB
# at half as many that have to be turned.
_MEMORY_OF_ANY = 800 * _MEGABYTE


@dataclass(frozen=True)
class Need:
    """Bytes of disk: in the work folder at the frame's worst moment, and in the archive at its end."""

    work: int
    archive: int


def need_of_download(source_bytes: int) -> Need:
    """Before anything but its size is known: as if it were stored uncompressed, the least that a frame may need."""
    return need_of_pixels(source_bytes, source_bytes)


def need_of_source(source: Source, source_bytes: int, profile: FrameProfile) -> Need:
    """By the header. A frame that is turned north up needs a larger rectangle, twice as large at most."""
    turned = source.needs_warp and abs(source.transform.b) > abs(source.transform.a) * 1e-3
    growth = 2.1 if turned else 1.15 if source.needs_warp else 1.0
    return need_of_pixels(source_bytes, int(source.width * source.height * profile.bands * growth))


def need_of_pixels(source_bytes: int, raw: int) -> Need:
    """`raw`: uncompressed bytes of the product. Deflate tif and COG as large as that, overviews a third, masks some more."""
    archive = int(raw * (1 + 1 / 3 + 4 / 3) * 1.05)
    kept = raw if raw <= KEEP_AT_MOST else 0
    return Need(source_bytes + kept + archive, archive)


def reserve_disk(name: str, need: Need, scratch: Path, archive: Sequence[Path]) -> None:
    """Promise the frame that works in `scratch` its disk, or raise NoRoom. `archive`: its folder; empty for a bucket.

    `scratch` is a folder in a run's scratch folder, in the work folder.
    """
    work = scratch.parent.parent
    (scratch / _RESERVATION).write_text(str(need.work))
    wanted = {work: need.work - _size(scratch)}
    for folder in archive:
        same = folder.stat().st_dev == work.stat().st_dev
        wanted |= {work: wanted[work] + need.archive} if same else {folder: need.archive}
    for folder, size in wanted.items():
        taken = sum(_promised_to_others(work, scratch)) if folder == work else 0
        free = shutil.disk_usage(folder).free - taken
        if size > free:
            promised = f" besides what frames under way will write ({_amount(taken)})" if taken else ""
            raise InsufficientResourcesError(
                f"{name} needs {_amount(size)} in {folder} and {_amount(max(free, 0))} are free{promised}"
            )


def exhausted(folders: Sequence[Path]) -> Path | None:
    """The first of the folders whose disk is full: why something failed, where the error itself does not tell."""
    return next((folder for folder in folders if shutil.disk_usage(folder).free < _FULL), None)


def no_disk(name: str, folder: Path) -> InsufficientResourcesError:
    return InsufficientResourcesError(f"{name} could not be finished because the disk of {folder} is full")


def no_memory(name: str, worker_megabytes: int) -> FrameError:
    return FrameError(
        f"{name} takes more memory than the {worker_megabytes:,} MB of a worker; ask the operator to raise LS4_WORKER_MEMORY_MB, "
        "then materialise it again."
    )


def reject_memory(source: Source, worker_megabytes: int) -> None:
    """Raise FrameFault when a strip or tile of the file, which has to be read whole, is more than a worker may hold."""
    with gdal_env(pam=True), rasterio.open(source.path, driver="GTiff") as dataset:
        rows, columns = dataset.block_shapes[0]
        interleaved = dataset.count > 1 and dataset.interleaving == Interleaving.pixel
    # GDAL decodes a block into its cache, and one with several bands into a buffer before.
    need = _MEMORY_OF_ANY + _largest_part(source.path) + int(1.1 * rows * columns * (2 * source.count if interleaved else 1))
    if need > worker_megabytes * _MEGABYTE:
        raise FrameError(
            f"{source.path.name} is stored in so few parts that reading it takes {need / 1e6:,.0f} MB of memory, and a worker "
            f"has {worker_megabytes:,} MB; convert it with gdal_translate -co TILED=YES and drop the result, or ask the "
            "operator to raise LS4_WORKER_MEMORY_MB."
        )


def _largest_part(tif: Path) -> int:
    """Bytes of the largest compressed strip or tile; an uncompressed one is read by pieces."""
    # What GDAL can open and tifffile cannot is no reason to reject a frame.
    with suppress(TiffFileError), TiffFile(tif) as file:
        page = file.pages.first
        return max(page.databytecounts, default=0) if page.compression != COMPRESSION.NONE else 0
    return 0


def workers_that_fit(processes: int, worker_megabytes: int) -> int:
    """As many of `processes` as memory holds now, and one in any case."""
    return max(1, min(processes, memory_available() // (worker_megabytes * _MEGABYTE)))


def memory_available(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes that this machine or this container has left, whichever is less."""
    available = int(psutil.virtual_memory().available)
    for limit, used, cache in (
        ("memory.max", "memory.current", "inactive_file "),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file "),
    ):
        # No such file: no container, or the other version of cgroups. "max" is no number: no limit.
        with suppress(OSError, ValueError):
            most, taken = int((cgroup / limit).read_text()), int((cgroup / used).read_text())
            stat = (cgroup / limit).with_name("memory.stat").read_text()
            given_back = sum(int(line.split()[1]) for line in stat.splitlines() if line.startswith(cache))
            available = min(available, most - taken + given_back)
    return max(available, 0)


def bound_memory(worker_megabytes: int) -> None:
    """Let this process take that much memory beyond what it has. The kernel then rejects it more: an error of its own frame."""
    status = Path("/proc/self/status").read_text()
    (now,) = (int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmData:"))
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    most = now + worker_megabytes * _MEGABYTE
    resource.setrlimit(resource.RLIMIT_DATA, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


def _promised_to_others(work: Path, scratch: Path) -> Iterator[int]:
    """What frames under way on this disk were promised and have not written yet."""
    for promise in work.glob(f"{RUN_PREFIX}*/*/{_RESERVATION}"):
        # A frame that ends meanwhile takes its folder with it; a promise half written is no number.
        with suppress(OSError, ValueError):
            if promise.parent != scratch:
                yield max(0, int(promise.read_text()) - _size(promise.parent))


def _amount(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


def _size(folder: Path) -> int:
    size = 0
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):
            size += path.stat().st_blocks * 512
    return size
