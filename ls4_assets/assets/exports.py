"""What is exported, as assets: `exports` of each collection, and the statewide `compiled_historical_indexes`.

Both come after the map and never hold it back: one that fails is red by itself, and is tried again ever more seldom.
"""

import time

import dagster as dg

from ls4_assets.assets import events, keys
from ls4_assets.domain import export_keys
from ls4_assets.domain.names import Collection
from ls4_assets.publishing.exports import publish_exports
from ls4_assets.publishing.statewide import compile_statewide
from resources.archive import Archive


def exports_asset(shard: str) -> dg.AssetsDefinition:
    """The asset of a shard."""

    @dg.asset(
        key=keys.exports(shard),
        group_name=shard,
        partitions_def=keys.collection_partitions(shard),
        deps=[keys.mapfile(shard)],
        backfill_policy=dg.BackfillPolicy.multi_run(1),
        kinds={"stac", "parquet"},
        description="What people take away of a collection: STAC items, GeoJSON, GeoParquet, and a mosaic index for GDAL.",
    )
    def exports(context: dg.AssetExecutionContext, archive: Archive) -> dg.MaterializeResult[None]:
        of = Collection.from_partition(shard, context.partition_key)
        by_hand = keys.KIND_TAG not in context.run.tags
        with events.logged(context, of):
            return refresh_exports(archive, of, force=by_hand)

    return exports


def refresh_exports(archive: Archive, of: Collection, *, force: bool = False) -> dg.MaterializeResult[None]:
    """Bring a collection's exports up to date; `anew`: the items of unchanged frames too."""
    started = time.monotonic()
    done = publish_exports(archive, of, force=force)
    if not done.frames:
        return dg.MaterializeResult(metadata={"exports": dg.MetadataValue.text("withdrawn: the collection has no frames")})
    url = archive.settings.public_url
    links = {key.rpartition("/")[2].replace(".", "_"): dg.MetadataValue.url(f"{url}/{key}") for key in done.keys}
    return dg.MaterializeResult(
        metadata={
            "frames": dg.MetadataValue.int(done.frames),
            "items_written": dg.MetadataValue.int(done.items_written),
            "seconds": dg.MetadataValue.float(round(time.monotonic() - started, 3)),
            **links,
        }
    )


def compiled_asset() -> dg.AssetsDefinition:
    """The statewide asset. Which collections it is made of is the database's to know: an edge to 254 shards tells nobody more."""

    @dg.asset(
        key=keys.COMPILED,
        group_name="archive",
        kinds={"geojson", "parquet"},
        description="The footprints of all collections in one file, as GeoJSON and as GeoParquet.",
    )
    def compiled_historical_indexes(archive: Archive) -> dg.MaterializeResult[None]:
        done = compile_statewide(archive)
        url = archive.settings.public_url
        missing = {"missing": dg.MetadataValue.text(" ".join(of.name for of in done.missing))} if done.missing else {}
        return dg.MaterializeResult(
            metadata={
                "collections": dg.MetadataValue.int(done.collections),
                "frames": dg.MetadataValue.int(done.frames),
                "bytes": dg.MetadataValue.int(sum(done.sizes.values())),
                "seconds": dg.MetadataValue.float(done.seconds),
                "geojson": dg.MetadataValue.url(f"{url}/{export_keys.COMPILED_GEOJSON_KEY}"),
                "parquet": dg.MetadataValue.url(f"{url}/{export_keys.COMPILED_PARQUET_KEY}"),
                **missing,
            }
        )

    return compiled_historical_indexes
