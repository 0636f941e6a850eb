"""What Dagster's storage checks before it stores a backfill, so that two clicks in the Dagster UI do not remake the archive.

Every backfill passes here: those of the UI, which shows the sentence of an error at once, and those of `ls4 rematerialize`.
"""

import time
from collections import Counter
from collections.abc import Iterable
from typing import Any

from dagster._core.execution.backfill import PartitionBackfill

from ls4_assets.domain.products import STEPS
from ls4_assets.errors import Ls4Error
from ls4_assets.runtime.run_guard import COLLECTIONS_TAG, find_collections, name_collections
from ls4_assets.settings import load_settings

# A backfill with this tag starts however large it is.
CONFIRM_TAG = "ls4/confirm"
# How many frames it makes. Its runs inherit the tag; `ls4/frames` is the number in one run, by which the launcher chooses.
BACKFILL_FRAMES_TAG = "ls4/backfill_frames"
_PRIORITY_TAG = "dagster/priority"
# A backfill goes behind every drop of the next day, and then waits no longer than a drop.
_DELAY_SECONDS = 24 * 3600


class BackfillError(Ls4Error):
    """A backfill must not start. The message says what to do instead."""


def prepare_backfill(backfill: PartitionBackfill, unfinished: Iterable[PartitionBackfill]) -> PartitionBackfill:
    """The backfill with a priority behind drops, title and tags, if it has none. Raises BackfillError when it must not start."""
    if backfill.asset_backfill_data is None:
        return backfill  # of a job: nothing here has one
    targets = backfill.asset_backfill_data.target_subset.partitions_subsets_by_asset_key
    if not any(len(subset) for subset in targets.values()):
        raise BackfillError("The selection has no partition, so there is nothing to make. Drop tifs into georef/ first.")
    for other in unfinished:
        if other.asset_backfill_data and other.asset_backfill_data.target_subset == backfill.asset_backfill_data.target_subset:
            raise BackfillError(
                f"The backfill {other.backfill_id} makes the same partitions and has not ended. Follow it, or cancel it first."
            )
    frames = _count_frames(targets)
    total = sum(frames.values())
    if CONFIRM_TAG not in backfill.tags and total > (limit := load_settings().backfill_confirm_frames):
        raise BackfillError(
            f"The backfill would make {total:,} frames again, more than the {limit:,} of LS4_BACKFILL_CONFIRM_FRAMES. "
            f"Select fewer partitions, or add the tag {CONFIRM_TAG} with the value yes if you mean all of them."
        )
    tags = {_PRIORITY_TAG: str(-int(time.time() + _DELAY_SECONDS))} | ({BACKFILL_FRAMES_TAG: str(total)} if total else {})
    if collections := name_collections(_find_collections(targets)):
        tags[COLLECTIONS_TAG] = collections
    title = f"{collections}: {total:,} frames" if total else collections
    return backfill._replace(tags=tags | dict(backfill.tags), title=backfill.title or title or None)


def _find_collections(targets: Any) -> set[str]:
    sets: dict[tuple[str, bool], set[str]] = {}
    for key, subset in targets.items():
        # The assets of a shard have the same frames, or the same collections.
        sets.setdefault((key.path[0], key.path[-1] in STEPS), set()).update(subset.get_partition_keys())
    return {name for (shard, _), partitions in sets.items() for name in find_collections(shard, partitions)}


def _count_frames(targets: Any) -> Counter[str]:
    """Frames by shard, each counted once for all of its products."""
    frames: Counter[str] = Counter()
    for key, subset in targets.items():
        shard, asset = key.path[0], key.path[-1]
        if asset in STEPS and len(subset):
            frames[shard] = max(frames[shard], len(subset))
    return frames
