"""The line between runs that start in the warm service and runs that start as tasks of their own, drawn by the tags of a run.

A run is small when it has few frames and needs no more memory and disk than the service gives to each run. Runs that people
launch have no count of frames, unless they set the tag, and count as large.
"""

from collections.abc import Mapping

from ls4_assets.settings import RunSettings

# The purpose of a run that a sensor requested; runs that people launch do not have this tag.
KIND_TAG = "ls4/kind"
FRAMES_KIND, COLLECTION_KIND, STATEWIDE_KIND = "frames", "collection", "statewide"
# How many frames a run processes, or how many the collections have that it rebuilds.
FRAMES_TAG = "ls4/frames"
_MEMORY_TAG, _DISK_TAG = "ecs/memory", "ecs/ephemeral_storage"


def warm_memory_mb(tags: Mapping[str, str], settings: RunSettings) -> int | None:
    """The memory in MB that a small run needs, 0 when it was not estimated; None: the run is large."""
    is_rebuild = tags.get(KIND_TAG) in (COLLECTION_KIND, STATEWIDE_KIND)
    limit = settings.warm_rebuild_frames if is_rebuild else settings.warm_frames
    frames = tags.get(FRAMES_TAG, "")
    # The size of a task has the disk only when it needs more than every task has.
    if not frames.isdecimal() or int(frames) > limit or limit == 0 or _DISK_TAG in tags:
        return None
    return int(tags.get(_MEMORY_TAG, 0))
