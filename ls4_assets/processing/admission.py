"""Admission of a frame: is there enough disk, in the work folder and in the archive, and enough memory in a worker?

Disk is estimated for the worst case, a photograph that does not compress. The part of a reservation that a running frame has not
written yet counts as used, so that frames that start together do not all count on the same free space. A frame that does not fit
on the disk waits; a frame that fits in no worker's memory is rejected with the numbers.
"""

import errno
import resource
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
from rasterio.enums import Interleaving

from ls4_assets.domain.profiles import FrameProfile
from ls4_assets.domain.sidecars import sidecar_kind
from ls4_assets.errors import FrameError, InsufficientResourcesError, UnwritableArchiveError
from ls4_assets.raster.frame import MAX_KEPT_BYTES
from ls4_assets.raster.gdal_env import gdal_env
from ls4_assets.raster.source import Source
from ls4_assets.raster.tiff_directories import COMPRESSION, read_blocks
from resources.storage import Storage

_MEGABYTE = 1_000_000
# The value of the tag Compression.
_UNCOMPRESSED = 1
# Prefix of a run's scratch folder. It has one folder per running frame, which contains the frame's reservation.
RUN_PREFIX = "ls4-run-"
_RESERVATION = "reserved-bytes"

# A disk with less free space counts as full: a step writes a few megabytes at a time.
_FULL_DISK_BYTES = 32 * _MEGABYTE

# Memory of a worker for a frame of any size that is stored in small blocks: measured 510 MB at 1.5 gigapixels, and 665 MB at
# half as many pixels that have to be rotated.
_BASE_MEMORY_BYTES = 800 * _MEGABYTE


@dataclass(frozen=True)
class DiskEstimate:
    """Bytes of disk that a frame needs: at most in the work folder, and in the archive when it is done."""

    work_bytes: int
    archive_bytes: int


def estimate_for_download(source_bytes: int) -> DiskEstimate:
    """Return the estimate by file size only, as if the file were stored uncompressed: the least that a frame can need."""
    return estimate_for_pixels(source_bytes, source_bytes)


def estimate_for_source(source: Source, source_bytes: int, profile: FrameProfile) -> DiskEstimate:
    """Return the estimate by the header. Rotating a frame north up needs a larger rectangle, at most twice as large."""
    is_rotated = source.needs_warp and abs(source.transform.b) > abs(source.transform.a) * 1e-3
    growth = 2.1 if is_rotated else 1.15 if source.needs_warp else 1.0
    estimate = estimate_for_pixels(source_bytes, int(source.width * source.height * profile.bands * growth))
    if not source.needs_conversion:
        return estimate
    # The intermediate file of 8 bits with its mask, and a copy of the scan where its tags have to be changed.
    converted = source.width * source.height * (profile.bands + 1) + source_bytes
    return DiskEstimate(estimate.work_bytes + converted, estimate.archive_bytes)


def estimate_for_pixels(source_bytes: int, pixel_bytes: int) -> DiskEstimate:
    """Return the estimate for a product of `pixel_bytes` uncompressed.

    Deflate tif and COG are each as large as that, overviews a third, and masks take a little more.
    """
    archive = int(pixel_bytes * (1 + 1 / 3 + 4 / 3) * 1.05)
    kept = pixel_bytes if pixel_bytes <= MAX_KEPT_BYTES else 0
    return DiskEstimate(source_bytes + kept + archive, archive)


def reserve_disk(name: str, estimate: DiskEstimate, scratch: Path, archive: Sequence[Path]) -> None:
    """Reserve the estimated disk for the frame `name`; raises InsufficientResourcesError when it is not free.

    `scratch`: the frame's folder in a run's scratch folder, which is in the work folder. `archive`: the archive's folder; empty
    for a bucket.
    """
    work = scratch.parent.parent
    (scratch / _RESERVATION).write_text(str(estimate.work_bytes))
    required = {work: estimate.work_bytes - _folder_bytes(scratch)}
    for folder in archive:
        is_same_disk = folder.stat().st_dev == work.stat().st_dev
        required |= {work: required[work] + estimate.archive_bytes} if is_same_disk else {folder: estimate.archive_bytes}
    for folder, size in required.items():
        reserved = sum(_iter_other_reservations(work, scratch)) if folder == work else 0
        free = shutil.disk_usage(folder).free - reserved
        if size > free:
            others = f" apart from the {_format_bytes(reserved)} reserved for running frames" if reserved else ""
            raise InsufficientResourcesError(
                f"{name} needs {_format_bytes(size)} in {folder} and {_format_bytes(max(free, 0))} is free{others}"
            )


def full_disk(folders: Sequence[Path]) -> Path | None:
    """Return the first folder whose disk is full, or None: the cause of a failure when the error itself does not name it."""
    return next((folder for folder in folders if shutil.disk_usage(folder).free < _FULL_DISK_BYTES), None)


def disk_full_error(name: str, folder: Path) -> InsufficientResourcesError:
    return InsufficientResourcesError(f"{name} could not be finished because the disk of {folder} is full")


@contextmanager
def explain_unwritable(name: str, storage: Storage) -> Iterator[None]:
    """Raise UnwritableArchiveError when the block, which writes to the archive, must not: it is mounted read-only, or owned by
    another user."""
    try:
        yield
    except OSError as error:
        if not storage.capabilities.has_local_paths or error.errno not in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise
        folder = Path(storage.gdal_path(""))
        raise UnwritableArchiveError(
            f"{name} could not be written to the archive {folder}, which is read-only or belongs to another user"
        ) from error


def out_of_memory_error(name: str, worker_memory_mb: int) -> FrameError:
    return FrameError(
        f"{name} takes more memory than the {worker_memory_mb:,} MB of a worker; ask the operator to raise LS4_WORKER_MEMORY_MB, "
        "then materialize it again."
    )


def reject_oversized_blocks(source: Source, worker_memory_mb: int) -> None:
    """Raise FrameError when a strip or tile of the file, which has to be read whole, exceeds the memory of a worker."""
    with gdal_env(pam=True), source.open() as dataset:
        rows, columns = dataset.block_shapes[0]
        value_bytes = np.dtype(dataset.dtypes[0]).itemsize
        is_interleaved = dataset.count > 1 and dataset.interleaving == Interleaving.pixel
    # GDAL decodes a block into its cache, and a block with several bands into a buffer first.
    block_bytes = int(1.1 * rows * columns * value_bytes * (2 * source.count if is_interleaved else 1))
    if source.needs_conversion:
        # At least one row of blocks is converted at once, through copies of wider types.
        block_bytes += 4 * rows * source.width * value_bytes * source.count
    required = _BASE_MEMORY_BYTES + _largest_compressed_block_bytes(source) + block_bytes
    if required > worker_memory_mb * _MEGABYTE:
        raise FrameError(
            f"{source.path.name} is stored in so few strips or tiles that reading it takes {required / 1e6:,.0f} MB of memory, "
            f"and a worker has {worker_memory_mb:,} MB; convert it with gdal_translate -co TILED=YES and drop the result, or ask "
            "the operator to raise LS4_WORKER_MEMORY_MB."
        )


def _largest_compressed_block_bytes(source: Source) -> int:
    """Size of the photograph's largest compressed strip or tile; 0 for an uncompressed file, which is read in pieces."""
    # GDAL opens some files whose directories cannot be read here; do not reject those.
    if source.page is None or source.page.directory.number(COMPRESSION, _UNCOMPRESSED) == _UNCOMPRESSED:
        return 0
    _, sizes = read_blocks(source.path, source.page.directory)
    return int(sizes.max(initial=0))


def reject_oversized_sidecar(tif: str, sidecar: str, size: int, max_source_bytes: int) -> None:
    """Raise FrameError for a sidecar that is too large to be what its name says; `size` is in bytes."""
    kind = sidecar_kind(sidecar)
    max_bytes = kind.max_bytes if kind and kind.max_bytes else max_source_bytes
    if size > max_bytes:
        raise FrameError(
            f"{tif} has a sidecar {sidecar} of {size:,} bytes and the limit is {max_bytes:,}; delete the sidecar, or export it "
            "again from the GIS and drop that."
        )


def limit_workers(processes: int, worker_memory_mb: int) -> int:
    """Return how many of `processes` workers fit in the available memory, and at least 1."""
    return max(1, min(processes, available_memory_bytes() // (worker_memory_mb * _MEGABYTE)))


def available_memory_bytes(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Return the available memory of this machine or of this container, whichever is less."""
    available = int(psutil.virtual_memory().available)
    for limit_file, used_file, cache_field in (
        ("memory.max", "memory.current", "inactive_file "),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file "),
    ):
        # The files are missing without a container, and under the other version of cgroups; "max" is not a number: no limit.
        with suppress(OSError, ValueError):
            limit, used = int((cgroup / limit_file).read_text()), int((cgroup / used_file).read_text())
            stat = (cgroup / limit_file).with_name("memory.stat").read_text()
            reclaimable = sum(int(line.split()[1]) for line in stat.splitlines() if line.startswith(cache_field))
            available = min(available, limit - used + reclaimable)
    return max(available, 0)


def limit_memory(worker_memory_mb: int) -> None:
    """Limit this process to that much memory beyond its current use.

    The kernel then fails allocations beyond it, which fails only the frame that the process works on.
    """
    status = Path("/proc/self/status").read_text()
    (used,) = (int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmData:"))
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = used + worker_memory_mb * _MEGABYTE
    resource.setrlimit(resource.RLIMIT_DATA, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


def _iter_other_reservations(work: Path, scratch: Path) -> Iterator[int]:
    """Yield the bytes that each other running frame has reserved on this disk and not written yet."""
    for reservation in work.glob(f"{RUN_PREFIX}*/*/{_RESERVATION}"):
        # The folder of a frame that finishes now disappears; a half-written reservation is not a number.
        with suppress(OSError, ValueError):
            if reservation.parent != scratch:
                yield max(0, int(reservation.read_text()) - _folder_bytes(reservation.parent))


def _format_bytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


def _folder_bytes(folder: Path) -> int:
    size = 0
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):
            size += path.stat().st_blocks * 512
    return size
