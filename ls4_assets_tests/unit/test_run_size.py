"""Tests of the size of a run's task on Fargate."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ls4_assets.errors import ConfigurationError
from ls4_assets.processing.run_size import FARGATE, RunSize, choose_run_size, choose_task_size

SCAN = 50_000_000  # 7,200 px, bw
LARGE_SCAN = 270_000_000
GIGABYTE = 1_000_000_000


@pytest.mark.parametrize(
    ("sizes", "crash_count", "expected"),
    [
        ([SCAN], 0, RunSize(1024, 2048)),
        ([SCAN] * 16, 0, RunSize(2048, 4096)),
        ([SCAN] * 100, 0, RunSize(4096, 8192)),
        ([LARGE_SCAN] * 100, 0, RunSize(4096, 8192, 40)),
        ([12 * GIGABYTE], 0, RunSize(1024, 3072, 200)),
        # A crash doubles the memory, and raises the CPU where Fargate offers no more memory with it.
        ([SCAN], 1, RunSize(1024, 4096)),
        ([SCAN], 2, RunSize(1024, 8192)),
        ([SCAN] * 100, 3, RunSize(8192, 36864)),
        ([SCAN] * 100, 9, RunSize(16384, 122880)),
        # One large frame among small ones adds memory for one worker, not for all.
        ([SCAN] * 99 + [GIGABYTE], 0, RunSize(4096, 8192, 42)),
    ],
)
def test_size_follows_frames_and_crashes(sizes: list[int], crash_count: int, expected: RunSize) -> None:
    assert choose_run_size(sizes, crash_count, 1500) == expected


@given(st.lists(st.integers(1, 12 * GIGABYTE), min_size=1, max_size=100), st.integers(0, 5), st.integers(1000, 20_000))
def test_every_size_is_valid_and_crashes_never_shrink_it(sizes: list[int], crash_count: int, worker_memory_mb: int) -> None:
    size = choose_run_size(sizes, crash_count, worker_memory_mb)
    next_size = choose_run_size(sizes, crash_count + 1, worker_memory_mb)
    assert size.memory_mb in FARGATE[size.cpu_units]
    assert next_size.memory_mb >= size.memory_mb and next_size.cpu_units >= size.cpu_units and next_size.disk_gb == size.disk_gb


@pytest.mark.parametrize(("cpu_units", "memory_mb"), [(1024, 1024), (1024, 9216), (1000, 2048), (8192, 17408), (256, 4096)])
def test_invalid_pairs_are_rejected(cpu_units: int, memory_mb: int) -> None:
    with pytest.raises(ConfigurationError, match=f"no task of {cpu_units} CPU units with {memory_mb} MB; choose one of "):
        RunSize(cpu_units, memory_mb)


@pytest.mark.parametrize("disk_gb", [0, 19, 201])
def test_invalid_disks_are_rejected(disk_gb: int) -> None:
    with pytest.raises(ConfigurationError, match="choose 21 to 200"):
        RunSize(1024, 2048, disk_gb)


def test_tags_for_the_ecs_launcher() -> None:
    assert RunSize(1024, 2048).tags == {"ecs/cpu": "1024", "ecs/memory": "2048"}
    assert RunSize(1024, 2048, 40).tags["ecs/ephemeral_storage"] == "40"


def test_task_size_is_the_cheapest_that_fits() -> None:
    assert choose_task_size(1024, 2049) == (1024, 3072)
    assert choose_task_size(1024, 8193) == (2048, 9216)
    assert choose_task_size(99_999, 1) == (16384, 122880)
