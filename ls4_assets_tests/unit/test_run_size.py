"""The size of a run's task on Fargate."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ls4_assets.errors import ConfigurationError
from ls4_assets.processing.run_size import FARGATE, RunSize, size_of_run, smallest_pair

SCAN = 50_000_000  # 7,200 px, bw
FILM = 270_000_000
GIGABYTE = 1_000_000_000


@pytest.mark.parametrize(
    ("sizes", "deaths", "expected"),
    [
        ([SCAN], 0, RunSize(1024, 2048)),
        ([SCAN] * 16, 0, RunSize(2048, 4096)),
        ([SCAN] * 100, 0, RunSize(4096, 8192)),
        ([FILM] * 100, 0, RunSize(4096, 8192, 40)),
        ([12 * GIGABYTE], 0, RunSize(1024, 3072, 200)),
        # After a death twice the memory, and where its CPU goes with no more, more CPU.
        ([SCAN], 1, RunSize(1024, 4096)),
        ([SCAN], 2, RunSize(1024, 8192)),
        ([SCAN] * 100, 3, RunSize(8192, 36864)),
        ([SCAN] * 100, 9, RunSize(16384, 122880)),
        # One large frame among small ones is room for one worker more, not for all.
        ([SCAN] * 99 + [GIGABYTE], 0, RunSize(4096, 8192, 42)),
    ],
)
def test_size_by_the_frames(sizes: list[int], crash_count: int, expected: RunSize) -> None:
    assert size_of_run(sizes, crash_count, 1500) == expected


@given(st.lists(st.integers(1, 12 * GIGABYTE), min_size=1, max_size=100), st.integers(0, 5), st.integers(1000, 20_000))
def test_every_size_is_one_that_fargate_runs_and_no_death_makes_it_smaller(
    sizes: list[int], crash_count: int, worker: int
) -> None:
    size, next_ = size_of_run(sizes, crash_count, worker), size_of_run(sizes, crash_count + 1, worker)
    assert size.memory in FARGATE[size.cpu]
    assert next_.memory >= size.memory and next_.cpu >= size.cpu and next_.disk == size.disk


@pytest.mark.parametrize(("cpu", "memory"), [(1024, 1024), (1024, 9216), (1000, 2048), (8192, 17408), (256, 4096)])
def test_pairs_that_fargate_does_not_run_are_rejected(cpu: int, memory: int) -> None:
    with pytest.raises(ConfigurationError, match=f"no task of {cpu} CPU units with {memory} MB; choose of "):
        RunSize(cpu, memory)


@pytest.mark.parametrize("disk", [0, 19, 201])
def test_disks_that_fargate_does_not_give_are_rejected(disk: int) -> None:
    with pytest.raises(ConfigurationError, match="choose 21 to 200"):
        RunSize(1024, 2048, disk)


def test_tags_as_the_launcher_reads_them() -> None:
    assert RunSize(1024, 2048).tags == {"ecs/cpu": "1024", "ecs/memory": "2048"}
    assert RunSize(1024, 2048, 40).tags["ecs/ephemeral_storage"] == "40"


def test_smallest_pair() -> None:
    assert smallest_pair(1024, 2049) == (1024, 3072)
    assert smallest_pair(1024, 8193) == (2048, 9216)
    assert smallest_pair(99_999, 1) == (16384, 122880)
