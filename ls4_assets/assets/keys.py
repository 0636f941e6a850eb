"""Dagster's names: asset keys, partition sets, run tags and priorities. Names of objects and tables are in `domain`.

Each shard has its own assets and partition sets. This keeps every set small enough for Dagster to evaluate at once, and a new
collection only adds a partition key.
"""

import time
from collections.abc import Mapping

import dagster as dg

from ls4_assets.domain.products import COLLECTION_STEPS, STEPS, Step, previous_step
from ls4_assets.runtime.run_line import FRAMES_TAG, KIND_TAG

REJECTED_FILES = dg.AssetKey("rejected_files")
COLLECTIONS = dg.AssetKey("collections")
COMPILED_INDEXES = dg.AssetKey("compiled_historical_indexes")
ARCHIVE_CONSISTENCY = dg.AssetKey("archive_consistency")
# Identifies the batch of a run that a sensor requested.
BATCH_TAG = "ls4/batch"
# The collection of a rebuild. dagster.yaml limits each value to one run at a time.
COLLECTION_TAG = "ls4/collection"
# Sensors request the unfinished work of a crashed run again, so a retry by Dagster would duplicate it.
NO_RETRIES = {"dagster/max_retries": "0"}
# Rebuilds go first because each takes seconds and publishes hours of frame processing.
REBUILD_PRIORITY = {"dagster/priority": "1"}
# Rough cost of a frame, for `run_priority`.
_SECONDS_PER_FRAME = 5
# A backfill with this tag processes only the stale partitions of its selection.
ONLY_TAG, STALE = "ls4/only", "stale"


def survey(name: str) -> dg.AssetKey:
    """The page of the collections of one survey in all shards."""
    return dg.AssetKey([*COLLECTIONS.path, name])


def georef(shard: str) -> dg.AssetKey:
    return dg.AssetKey([shard, "georef"])


def product(shard: str, step: Step) -> dg.AssetKey:
    return dg.AssetKey([shard, step])


def upstream(shard: str, step: Step) -> dg.AssetKey:
    """The asset that a step reads."""
    previous = previous_step(step)
    return product(shard, previous) if previous else georef(shard)


def collection_frames(shard: str) -> dg.AssetKey:
    return dg.AssetKey([shard, "collection_frames"])


def tile_index(shard: str) -> dg.AssetKey:
    return dg.AssetKey([shard, "tile_index"])


def overview_mosaic(shard: str) -> dg.AssetKey:
    return dg.AssetKey([shard, "overview_mosaic"])


def mapfile(shard: str) -> dg.AssetKey:
    return dg.AssetKey([shard, "mapfile"])


def exports(shard: str) -> dg.AssetKey:
    return dg.AssetKey([shard, "exports"])


def assets_from_step(shard: str, step: str) -> list[dg.AssetKey]:
    """Assets of a shard from `step` onward within one partition set.

    Steps of frames end with the COG, because the sensor then rebuilds the collection automatically.
    """
    chain: tuple[str, ...] = STEPS if step in STEPS else COLLECTION_STEPS
    return [dg.AssetKey([shard, name]) for name in chain[chain.index(step) :]]


def run_priority(frames: int) -> dict[str, str]:
    """Priority tag of a run that finishes after `frames` frames: the negative of its estimated finish time.

    Smaller and older runs go first, and later runs can delay a large run by at most its own duration. The value is always
    negative: runs that a person launches have 0, and rebuilds have 1.
    """
    return {"dagster/priority": str(-int(time.time() + _SECONDS_PER_FRAME * frames))}


def size_tags(kind: str, frames: int) -> dict[str, str]:
    """Tags by which the launcher decides where a run starts: its purpose and number of frames."""
    return {KIND_TAG: kind, FRAMES_TAG: str(frames)}


def is_stale_only(tags: Mapping[str, str]) -> bool:
    """Whether a run with these tags processes only stale partitions."""
    return tags.get(ONLY_TAG) == STALE


def frames_op_name(shard: str) -> str:
    """Name of the op that materializes a shard's frames, for run config."""
    return f"{shard}_frames"


def frame_partitions(shard: str) -> dg.DynamicPartitionsDefinition:
    return dg.DynamicPartitionsDefinition(name=f"frames/{shard}")


def collection_partitions(shard: str) -> dg.DynamicPartitionsDefinition:
    return dg.DynamicPartitionsDefinition(name=f"collections/{shard}")
