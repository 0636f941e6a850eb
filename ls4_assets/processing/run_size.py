"""Size of the Fargate task of a run of frames: CPU, memory and disk by the sizes of its frames, more memory after a crash.

Arithmetic only. Dagster's ECS launcher reads the size from the tags of the run; other launchers ignore it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ls4_assets.errors import ConfigurationError

# CPU units, and the memory in MB that AWS allows with each: "Task CPU and memory" in the task definition parameters for Fargate,
# ECS developer guide.
FARGATE: Mapping[int, Sequence[int]] = {
    256: (512, 1024, 2048),
    512: range(1024, 4096 + 1, 1024),
    1024: range(2048, 8192 + 1, 1024),
    2048: range(4096, 16384 + 1, 1024),
    4096: range(8192, 30720 + 1, 1024),
    8192: range(16384, 61440 + 1, 4096),
    16384: range(32768, 122880 + 1, 8192),
}
# Disk of a task that requests none, and the limits of a request.
DEFAULT_DISK_GB, MIN_DISK_GB, MAX_DISK_GB = 20, 21, 200

# One worker, with a CPU core of its own, per 8 frames, at most 4: a frame takes seconds, and AWS bills cores by the second.
_FRAMES_PER_WORKER, _MAX_WORKERS = 8, 4
# The run process with Dagster, and a worker for a frame of any size (docs/explanation/performance.md: 656 at 20,000 px). The size
# of the frame's file is added, because a file with one compressed strip is read whole.
_RUN_MEMORY_MB, _WORKER_MEMORY_MB = 1000, 800
# A scan may be compressed to a quarter, and its frame takes up to eight times its pixels in addition (LS4_WORK_DIR in
# docs/reference/settings.md). Disk costs almost nothing compared with a run that waits for it forever.
_DISK_FACTOR = 1 + 4 * 8
# Disk that the image and the system use.
_DISK_OVERHEAD_GB = 4


@dataclass(frozen=True)
class RunSize:
    """Size of a task. Raises ConfigurationError for a size that Fargate does not offer."""

    cpu_units: int
    memory_mb: int
    disk_gb: int = DEFAULT_DISK_GB

    def __post_init__(self) -> None:
        sizes = FARGATE.get(self.cpu_units, ())
        if self.memory_mb not in sizes:
            valid = f"{', '.join(map(str, sizes))} MB" if sizes else f"{', '.join(map(str, FARGATE))} CPU units"
            raise ConfigurationError(
                f"Fargate runs no task of {self.cpu_units} CPU units with {self.memory_mb} MB; choose one of {valid}."
            )
        if not (self.disk_gb == DEFAULT_DISK_GB or MIN_DISK_GB <= self.disk_gb <= MAX_DISK_GB):
            raise ConfigurationError(f"Fargate offers no disk of {self.disk_gb} GB; choose {MIN_DISK_GB} to {MAX_DISK_GB}.")

    @property
    def tags(self) -> dict[str, str]:
        """Run tags for Dagster's EcsRunLauncher."""
        tags = {"ecs/cpu": str(self.cpu_units), "ecs/memory": str(self.memory_mb)}
        return tags if self.disk_gb == DEFAULT_DISK_GB else {**tags, "ecs/ephemeral_storage": str(self.disk_gb)}


def choose_run_size(sizes_bytes: Sequence[int], crash_count: int, worker_memory_mb: int) -> RunSize:
    """Return the size of the task for frames of these file sizes.

    `crash_count`: runs that crashed under one of the frames, most likely out of memory; each doubles the memory.
    `worker_memory_mb`: the most that a worker may use.
    """
    workers = min(_MAX_WORKERS, -(-len(sizes_bytes) // _FRAMES_PER_WORKER))
    largest = sorted(sizes_bytes, reverse=True)[:workers]
    workers_mb = sum(min(worker_memory_mb, _WORKER_MEMORY_MB + size // 1_000_000) for size in largest)
    cpu_units, memory_mb = choose_task_size(1024 * workers, (_RUN_MEMORY_MB + workers_mb) * 2**crash_count)
    disk_gb = _DISK_OVERHEAD_GB + -(-_DISK_FACTOR * sum(largest) // 10**9)
    return RunSize(cpu_units, memory_mb, DEFAULT_DISK_GB if disk_gb <= DEFAULT_DISK_GB else min(disk_gb, MAX_DISK_GB))


def choose_task_size(cpu_units: int, memory_mb: int) -> tuple[int, int]:
    """Return the cheapest pair of CPU units and MB with at least as much of both; the largest pair when there is none."""
    pairs = [(units, size) for units, sizes in FARGATE.items() for size in sizes]
    return next((pair for pair in pairs if pair[0] >= cpu_units and pair[1] >= memory_mb), pairs[-1])
