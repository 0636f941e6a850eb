"""What Dagster's storage does with a run before it stores it: it names the collections, and checks a run that is executed again.

Every run passes here: those of sensors, of backfills, and those that people launch in the Dagster UI.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, cast

import dagster as dg

from ls4_assets.domain.partition_parser import parse_collection_partition
from ls4_assets.domain.products import STEPS
from ls4_assets.errors import InvalidNameError, Ls4Error
from ls4_assets.runtime.dagster_names import PARTITION_RANGE_TAGS, PARTITION_TAG

# The collection of a run or backfill, or their number, for people. `ls4/collection` would let one run at a time start for each.
COLLECTIONS_TAG = "ls4/collections"
# Dagster's retry of a run whose process was killed. The daemon submits it, and stops at an error.
_RETRY_TAG = "dagster/retry_number"


class RunError(Ls4Error):
    """A run must not start. The message says what to do instead."""


def prepare_run(run: dg.DagsterRun, partitions_of: Callable[[str], Sequence[str]]) -> dg.DagsterRun:
    """The run with its collections as a tag, and with a partition that exists if its batch is executed again.

    partitions_of: the keys of a partition set. Raises RunError when a run that is executed again has nothing to make, or cannot
    start.

    A run that people launch gets no `ls4/frames`: the launcher takes a run with a small number for one that needs little memory,
    and only sensors estimate it.
    """
    tags = dict(run.tags)
    has_range = all(name in tags for name in PARTITION_RANGE_TAGS)
    if not run.asset_selection or not (PARTITION_TAG in tags or has_range):
        return run
    first_asset = min([*key.path] for key in run.asset_selection)
    shard, partitions = first_asset[0], _batch(run)
    is_again = run.parent_run_id is not None and _RETRY_TAG not in tags
    if PARTITION_TAG in tags:
        if partitions and is_again:
            tags[PARTITION_TAG] = _existing_partition(tags[PARTITION_TAG], partitions, partitions_of(f"frames/{shard}"))
        partitions = partitions or [tags[PARTITION_TAG]]
    else:
        partition_set = "frames" if first_asset[-1] in STEPS else "collections"
        partitions = _range(tags, partitions_of(f"{partition_set}/{shard}"), is_again=is_again)
    if value := name_collections(find_collections(shard, partitions)):
        # A backfill's runs inherit the number of its collections, but each has its own.
        tags[COLLECTIONS_TAG] = value
    return run.with_tags(tags)


def _existing_partition(own: str, batch: Sequence[str], existing: Sequence[str]) -> str:
    """Dagster reads the versions of the run's own partition before its first step, and stops if there is none."""
    left = {*batch} & {*existing}
    if not left:
        raise RunError("All frames of this run have left the archive, so there is nothing to make. Drop their tifs again.")
    return own if own in left else next(partition for partition in batch if partition in left)


def _range(tags: Mapping[str, str], existing: Sequence[str], *, is_again: bool) -> list[str]:
    """The partitions of a run of a backfill, in the order in which they were added."""
    first, last = (tags[name] for name in PARTITION_RANGE_TAGS)
    if first in existing and last in existing:
        return [*existing[existing.index(first) : existing.index(last) + 1]]
    if is_again:
        raise RunError(
            "The first or the last frame of this run has left the archive, so Dagster cannot find those between them. "
            "Launch a backfill of the partitions that failed or are missing instead."
        )
    return [first, last]


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
