"""Names in Dagster: asset keys and partition sets of a shard.

A shard's assets and partition sets are its own, so that no set grows past what Dagster recomputes at once, and a new
collection is only a new partition key.
"""

import time
from collections.abc import Mapping

import dagster as dg

from ls4_assets.domain.names import COLLECTION_STEPS, STEPS, Step

REJECTED = dg.AssetKey("rejected_files")
COMPILED = dg.AssetKey("compiled_historical_indexes")
ARCHIVE_CONSISTENCY = dg.AssetKey("archive_consistency")
# Tags by which the sensors find their own runs again.
BATCH_TAG = "ls4/batch"
# The collection of a rebuild, of which dagster.yaml lets only one run at a time.
COLLECTION_TAG = "ls4/collection"
# The sensors ask again for what a dead run left undone; Dagster's own retry beside it would do the work twice.
NO_RETRIES = {"dagster/max_retries": "0"}
# A rebuild takes seconds and shows what hours of frames have made.
REBUILD_PRIORITY = {"dagster/priority": "1"}
# What a frame costs, roughly: by it a run that is requested later, but has less before it, overtakes in the queue.
_SECONDS_A_FRAME = 5
# What a sensor's run is for; runs of people have none.
KIND_TAG = "ls4/kind"
# A backfill with this tag makes only what is not right any more, whatever was selected.
ONLY_TAG, STALE = "ls4/only", "stale"


def georef(shard: str) -> dg.AssetKey:
    return dg.AssetKey([shard, "georef"])


def product(shard: str, step: Step) -> dg.AssetKey:
    return dg.AssetKey([shard, step])


def tile_index(shard: str) -> dg.AssetKey:
    return dg.AssetKey([shard, "tile_index"])


def overview_mosaic(shard: str) -> dg.AssetKey:
    return dg.AssetKey([shard, "overview_mosaic"])


def mapfile(shard: str) -> dg.AssetKey:
    return dg.AssetKey([shard, "mapfile"])


def exports(shard: str) -> dg.AssetKey:
    return dg.AssetKey([shard, "exports"])


def from_step_on(shard: str, step: str) -> list[dg.AssetKey]:
    """The assets of a shard that are made anew when one starts at `step`, all of one partition set: those of frames end with
    the COG, as the sensor then sees to the collection by itself."""
    chain: tuple[str, ...] = STEPS if step in STEPS else COLLECTION_STEPS
    return [dg.AssetKey([shard, name]) for name in chain[chain.index(step) :]]


def run_priority(frames: int) -> dict[str, str]:
    """Place in Dagster's queue of a run that is through when so many frames are: by the second at which that would be if it had
    the machine for itself.

    Small and old ones come first, and a large one is overtaken only for as long as it would take itself. Always below zero,
    which is what runs have that a person launches in the Dagster UI, and rebuilds are above that.
    """
    return {"dagster/priority": str(-int(time.time() + _SECONDS_A_FRAME * frames))}


def is_for_stale(tags: Mapping[str, str]) -> bool:
    return tags.get(ONLY_TAG) == STALE


def frames_op(shard: str) -> str:
    """Name of the operation that makes a shard's frames; run config is addressed to it."""
    return f"{shard}_frames"


def frame_partitions(shard: str) -> dg.DynamicPartitionsDefinition:
    return dg.DynamicPartitionsDefinition(name=f"frames/{shard}")


def collection_partitions(shard: str) -> dg.DynamicPartitionsDefinition:
    return dg.DynamicPartitionsDefinition(name=f"collections/{shard}")
