"""Which runs start in the warm service."""

import pytest

from ls4_assets.assets import keys
from ls4_assets.processing.run_size import RunSize, choose_run_size
from ls4_assets.runtime.run_line import COLLECTION_KIND, FRAMES_KIND, STATEWIDE_KIND, warm_memory_mb
from ls4_assets.settings import RunSettings

SETTINGS = RunSettings(warm_frames=8, warm_rebuild_frames=2000)
SCAN = 50_000_000


def frames(count: int, size: int = SCAN, crash_count: int = 0) -> dict[str, str]:
    """The tags of a run of frames."""
    return {**keys.size_tags(FRAMES_KIND, count), **choose_run_size([size] * count, crash_count, 1500).tags}


@pytest.mark.parametrize(
    ("tags", "memory_mb"),
    [
        pytest.param(frames(1), 2048, id="one frame"),
        pytest.param(frames(8), 2048, id="at the limit"),
        pytest.param(frames(9), None, id="above the limit"),
        pytest.param(frames(1, crash_count=1), 4096, id="after a crash it needs a larger slot"),
        pytest.param(frames(1, size=12_000_000_000), None, id="needs more disk than a task has by default"),
        pytest.param(keys.size_tags(FRAMES_KIND, 8), 0, id="on one machine its size is not estimated"),
        pytest.param(keys.size_tags(COLLECTION_KIND, 2000), 0, id="rebuild"),
        pytest.param(keys.size_tags(COLLECTION_KIND, 2001), None, id="rebuild of a large collection"),
        pytest.param(keys.size_tags(STATEWIDE_KIND, 2001), None, id="statewide files of a large archive"),
        pytest.param({}, None, id="launched by a person"),
        pytest.param({"ls4/frames": "1"}, 0, id="launched by a person with the tag"),
        pytest.param({"ls4/frames": "one"}, None, id="not a number"),
    ],
)
def test_run_is_small_by_its_tags(tags: dict[str, str], memory_mb: int | None) -> None:
    assert warm_memory_mb(tags, SETTINGS) == memory_mb


def test_zero_keeps_every_run_out() -> None:
    """An empty collection has no frames, which is not more than a limit of zero."""
    never = RunSettings(warm_frames=0, warm_rebuild_frames=0)
    assert warm_memory_mb(frames(1), never) is None
    assert warm_memory_mb(keys.size_tags(COLLECTION_KIND, 0), never) is None


def test_default_line_is_a_run_with_one_worker() -> None:
    """The memory of a slot is that of one worker, so a run of more would never be accepted."""
    limit = RunSettings().warm_frames
    assert choose_run_size([SCAN] * limit, 0, 1500) == RunSize(1024, 2048)
    assert choose_run_size([SCAN] * (limit + 1), 0, 1500).memory_mb > 2048
