"""What Dagster's storage does with a run before it stores it: it names the collections, and checks a run that is executed again.

Every run passes here: those of sensors, of backfills, and those that people launch in the Dagster UI.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, cast

import dagster as dg

from ls4_assets.domain.partition_parser import parse_collection_partition
from ls4_assets.errors import InvalidNameError, Ls4Error
from ls4_assets.runtime.dagster_names import PARTITION_TAG

# The collection of a run or backfill, or their number, for people. `ls4/collection` would let one run at a time start for each.
COLLECTIONS_TAG = "ls4/collections"
# Dagster's retry of a run whose process was killed. The daemon submits it, and stops at an error.
_RETRY_TAG = "dagster/retry_number"


class RunError(Ls4Error):
    """A run must not start. The message says what to do instead."""


def prepare_run(run: dg.DagsterRun, existing_frames: Callable[[str], Sequence[str]]) -> dg.DagsterRun:
    """The run with its collections as a tag, and with a partition that exists if its batch is executed again.

    existing_frames: the partitions of the frames of a shard. Raises RunError when all frames of the batch have left.
    """
    own = run.tags.get(PARTITION_TAG)
    if not own or not run.asset_selection:
        return run
    shard, batch = min(key.path[0] for key in run.asset_selection), _batch(run)
    tags = dict(run.tags)
    if run.parent_run_id and batch and _RETRY_TAG not in tags:
        # Dagster reads the versions of the run's own partition before its first step, and stops if there is none.
        existing = set(existing_frames(shard))
        if not (left := [partition for partition in batch if partition in existing]):
            raise RunError("All frames of this run have left the archive, so there is nothing to make. Drop their tifs again.")
        tags[PARTITION_TAG] = own if own in existing else left[0]
    if COLLECTIONS_TAG not in tags and (value := name_collections(find_collections(shard, batch or [own]))):
        tags[COLLECTIONS_TAG] = value
    return run.with_tags(tags)


def _batch(run: dg.DagsterRun) -> list[str]:
    """The frames of a run that was given a list of them."""
    ops = cast(Mapping[str, Any], dict(run.run_config or {}).get("ops") or {})
    return [partition for op in ops.values() for partition in (op.get("config") or {}).get("frames") or []]


def find_collections(shard: str, partitions: Iterable[str]) -> set[str]:
    """Names of the collections of partitions of frames or of collections. Invalid keys, which people may add, have none."""
    names = set()
    for partition in {"/".join(partition.split("/", 2)[:2]) for partition in partitions}:
        try:
            names.add(parse_collection_partition(shard, partition).name)
        except InvalidNameError:
            continue
    return names


def name_collections(names: Iterable[str]) -> str:
    """Value of the tag: the name of one collection, or how many there are; empty for none."""
    found = sorted(names)
    return found[0] if len(found) == 1 else f"{len(found)} collections" if found else ""
