"""What Dagster is told of adopted frames: their partitions, and one materialisation of `cog` each."""

from collections.abc import Sequence

import dagster as dg

from ls4_assets.assets import event_store, keys
from ls4_assets.db.chunks import chunks
from ls4_assets.db.frames import ADOPTED
from ls4_assets.domain.links import links
from ls4_assets.operations.adopt.records import Adoption

_PARTITIONS_AT_ONCE = 2000


def add_partitions(instance: dg.DagsterInstance, shard: str, partitions: Sequence[str]) -> None:
    """Make the partitions of a collection's frames known, sorted as given."""
    for some in chunks(partitions, _PARTITIONS_AT_ONCE):
        instance.add_dynamic_partitions(str(keys.frame_partitions(shard).name), some)


def remove_partitions(instance: dg.DagsterInstance, shard: str, partitions: Sequence[str]) -> None:
    """Take frames that are gone out of the Dagster UI: the sensor does this only for those that had a georef tif."""
    for partition in partitions:
        instance.delete_dynamic_partition(str(keys.frame_partitions(shard).name), partition)


def record(instance: dg.DagsterInstance, adoptions: Sequence[Adoption], public_url: str) -> None:
    """Store one materialisation for each."""
    made = [materialization(one, public_url) for one in adoptions]
    event_store.store_asset_events(instance, event_store.RUNLESS, made)


def materialization(adoption: Adoption, public_url: str) -> dg.AssetMaterialization:
    frame, header, product = adoption.candidate.frame, adoption.header, adoption.product
    return dg.AssetMaterialization(
        asset_key=keys.product(frame.collection.shard, "cog"),
        partition=frame.partition,
        metadata={
            "key": dg.MetadataValue.text(frame.cog_key),
            "size": dg.MetadataValue.int(product.size),
            "work": dg.MetadataValue.text("adopted: made before, found valid"),
            "dimensions": dg.MetadataValue.text(f"{header.width} x {header.height}"),
            "link": dg.MetadataValue.url(links(frame, public_url, None).dl_georef),
        },
        tags={"dagster/data_version": f"{ADOPTED}-{product.version}"},
    )
