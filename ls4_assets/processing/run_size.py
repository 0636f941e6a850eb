"""How large a Fargate task a run of frames gets: CPU, memory and disk by the sizes of its frames, more memory after a death.

Pure arithmetic, told to Dagster's ECS launcher by tags. On other launchers a run takes what its machine has.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ls4_assets.errors import ConfigurationError

# CPU units and the megabytes of memory that AWS runs with each: "Task CPU and memory" in the task definition parameters for
# Fargate of the ECS developer guide.
FARGATE: Mapping[int, Sequence[int]] = {
    256: (512, 1024, 2048),
    512: range(1024, 4096 + 1, 1024),
    1024: range(2048, 8192 + 1, 1024),
    2048: range(4096, 16384 + 1, 1024),
    4096: range(8192, 30720 + 1, 1024),
    8192: range(16384, 61440 + 1, 4096),
    16384: range(32768, 122880 + 1, 8192),
}
# Gigabytes of disk: without a word a task has the first; others may be from the second to the third.
DISK_WITHOUT_ASKING, LEAST_DISK, MOST_DISK = 20, 21, 200

# A worker with a core of its own for each so many frames, four at most: a frame takes seconds, and a core is paid by the second.
_FRAMES_A_WORKER, _MOST_WORKERS = 8, 4
# Megabytes: the run's own process with Dagster in it; a worker, whatever the frame (docs/performance.md: 656 at 20,000 px), and
# besides the file itself, which is read whole where it is one compressed strip.
_RUN_MEMORY, _WORKER_MEMORY = 1000, 800
# A scan may be packed to a quarter, and its frame takes up to eight times its pixels besides (LS4_WORK_DIR in
# docs/configuration.md). Disk costs next to nothing beside a run that waits for it for ever.
_DISK_FACTOR = 1 + 4 * 8
# What the image and the system take of a task's disk.
_DISK_TAKEN = 4


@dataclass(frozen=True)
class RunSize:
    """CPU units, megabytes of memory, gigabytes of disk. Raises ConfigurationError for what Fargate does not run."""

    cpu: int
    memory: int
    disk: int = DISK_WITHOUT_ASKING

    def __post_init__(self) -> None:
        if self.memory not in FARGATE.get(self.cpu, ()):
            valid = (
                ", ".join(map(str, FARGATE.get(self.cpu, ())))
                or f"no memory at all, but CPU units {', '.join(map(str, FARGATE))}"
            )
            raise ConfigurationError(f"Fargate runs no task of {self.cpu} CPU units with {self.memory} MB; choose of {valid}.")
        if not (self.disk == DISK_WITHOUT_ASKING or LEAST_DISK <= self.disk <= MOST_DISK):
            raise ConfigurationError(f"Fargate gives no disk of {self.disk} GB; choose {LEAST_DISK} to {MOST_DISK}.")

    @property
    def tags(self) -> dict[str, str]:
        """As Dagster's EcsRunLauncher reads them off a run."""
        tags = {"ecs/cpu": str(self.cpu), "ecs/memory": str(self.memory)}
        return tags if self.disk == DISK_WITHOUT_ASKING else {**tags, "ecs/ephemeral_storage": str(self.disk)}


def size_of_run(sizes: Sequence[int], crash_count: int, worker_megabytes: int) -> RunSize:
    """For frames of these `sizes`, in bytes. `deaths`: runs that died under one of them, most likely for want of memory: each
    doubles it. `worker_megabytes`: what a worker may take at most."""
    workers = min(_MOST_WORKERS, -(-len(sizes) // _FRAMES_A_WORKER))
    largest = sorted(sizes, reverse=True)[:workers]
    of_workers = sum(min(worker_megabytes, _WORKER_MEMORY + size // 1_000_000) for size in largest)
    cpu, memory = smallest_pair(1024 * workers, (_RUN_MEMORY + of_workers) * 2**crash_count)
    disk = _DISK_TAKEN + -(-_DISK_FACTOR * sum(largest) // 10**9)
    return RunSize(cpu, memory, DISK_WITHOUT_ASKING if disk <= DISK_WITHOUT_ASKING else min(disk, MOST_DISK))


def smallest_pair(cpu: int, memory: int) -> tuple[int, int]:
    """The cheapest that has at least as much of both; the largest where none has."""
    pairs = [(units, size) for units, memories in FARGATE.items() for size in memories]
    return next((pair for pair in pairs if pair[0] >= cpu and pair[1] >= memory), pairs[-1])
