"""Record adopted frames in Dagster: their partitions, and one materialization of `cog` each. Their rows are in `records`."""

from collections.abc import Sequence

import dagster as dg

from ls4_assets.assets import event_store, keys
from ls4_assets.assets.frame_metadata import format_size
from ls4_assets.assets.provenance import adopted_data_version
from ls4_assets.domain.chunks import chunks
from ls4_assets.domain.links import build_links, map_page_url
from ls4_assets.operations.adopt.records import Adoption
from ls4_assets.runtime.dagster_names import DATA_VERSION_TAG
from ls4_assets.settings import AddressSettings

_PARTITION_CHUNK = 2000


def add_partitions(instance: dg.DagsterInstance, shard: str, partitions: Sequence[str]) -> None:
    """Add the partitions of frames in the given order."""
    for chunk in chunks(partitions, _PARTITION_CHUNK):
        instance.add_dynamic_partitions(str(keys.frame_partitions(shard).name), chunk)


def remove_partitions(instance: dg.DagsterInstance, shard: str, partitions: Sequence[str]) -> None:
    """Remove the partitions of frames that are gone. The sensor removes only those of frames that had a georef tif."""
    for partition in partitions:
        instance.delete_dynamic_partition(str(keys.frame_partitions(shard).name), partition)


def record_materializations(instance: dg.DagsterInstance, adoptions: Sequence[Adoption], addresses: AddressSettings) -> None:
    """Store one materialization for each adoption."""
    events = [_build_materialization(adoption, addresses) for adoption in adoptions]
    event_store.store_asset_events(instance, event_store.RUNLESS_ORIGIN, events)


def _build_materialization(adoption: Adoption, addresses: AddressSettings) -> dg.AssetMaterialization:
    frame, header, product = adoption.candidate.frame, adoption.header, adoption.product
    return dg.AssetMaterialization(
        asset_key=keys.product(frame.collection.shard, "cog"),
        partition=frame.partition,
        metadata={
            "map": dg.MetadataValue.url(map_page_url(frame, addresses.map_url)),
            "link": dg.MetadataValue.url(build_links(frame, addresses.public_url, None).dl_georef),
            "size": dg.MetadataValue.text(format_size(product.size)),
            "dimensions": dg.MetadataValue.text(f"{header.width} x {header.height}"),
            "work": dg.MetadataValue.text("adopted: an existing COG that passed validation"),
            "key": dg.MetadataValue.text(frame.cog_key),
        },
        tags={DATA_VERSION_TAG: adopted_data_version(product)},
    )
