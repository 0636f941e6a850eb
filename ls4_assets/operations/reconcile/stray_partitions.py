"""Partitions in Dagster that belong to no collection of the archive, in any shard. Those of a collection are in `plan`.

A person who types a key into the Materialize dialog of the Dagster UI adds a partition, which no sensor removes.
"""

from collections.abc import Collection as Items
from collections.abc import Iterator

from dagster import DagsterInstance

from ls4_assets.assets import keys
from ls4_assets.domain.names import Collection
from ls4_assets.operations.reconcile.model import Action, ActionKind

PartitionSets = dict[str, tuple[frozenset[str], frozenset[str]]]


def load_partition_sets(instance: DagsterInstance, shards: Items[str]) -> PartitionSets:
    """The partitions of the frames and of the collections of every shard, in use or not."""
    return {
        shard: (
            frozenset(instance.get_dynamic_partitions(str(keys.frame_partitions(shard).name))),
            frozenset(instance.get_dynamic_partitions(str(keys.collection_partitions(shard).name))),
        )
        for shard in shards
    }


def find_stray_partitions(sets: PartitionSets, collections: Items[Collection]) -> Iterator[Action]:
    """An action for each partition outside `collections`, with the name of its partition set as value.

    `sets` must be read before `collections`: ls4 writes the rows of a frame before it adds the partition.
    """
    known = {(collection.shard, collection.partition) for collection in collections}
    for shard, (frames, collection_keys) in sorted(sets.items()):
        for partition in sorted(frames):
            parts = partition.split("/")
            if len(parts) < 3 or (shard, "/".join(parts[:2])) not in known:
                yield _remove(str(keys.frame_partitions(shard).name), partition, "frame")
        for partition in sorted(collection_keys):
            if (shard, partition) not in known:
                yield _remove(str(keys.collection_partitions(shard).name), partition, "collection")


def remove_stray_partitions(instance: DagsterInstance, actions: Items[Action]) -> None:
    """Remove the partitions of these actions from Dagster."""
    for action in actions:
        instance.delete_dynamic_partition(str(action.value), action.target)


def _remove(name: str, partition: str, kind: str) -> Action:
    return Action(ActionKind.REMOVE_PARTITION, partition, f"is a partition of {name} without a {kind}", value=name)
