"""The export assets: `exports` of each collection, and the statewide `compiled_historical_indexes`.

Both run after the map and never delay it. A failed export is retried with backoff. The files are written in `publishing`.
"""

import time

import dagster as dg

from ls4_assets.assets import events, keys
from ls4_assets.assets.details import DAILY, AssetDetails
from ls4_assets.domain import export_keys
from ls4_assets.domain.names import Collection
from ls4_assets.publishing.exports import publish_exports
from ls4_assets.publishing.statewide import compile_statewide
from ls4_assets.runtime.run_line import KIND_TAG
from resources.archive import Archive


def exports_asset(shard: str, details: AssetDetails) -> dg.AssetsDefinition:
    """The asset of a shard."""

    @dg.asset(
        key=keys.exports(shard),
        group_name=shard,
        partitions_def=keys.collection_partitions(shard),
        deps=[keys.mapfile(shard)],
        backfill_policy=dg.BackfillPolicy.multi_run(1),
        kinds={"stac", "parquet"},
        description="Downloads of the collection: STAC items, footprints (GeoJSON, GeoParquet) and a raster tile index for GDAL.",
        **details.of(refresh_exports, "collection"),
    )
    def exports(context: dg.AssetExecutionContext, archive: Archive) -> dg.MaterializeResult[None]:
        collection = events.collection_of(context, shard)
        is_manual = KIND_TAG not in context.run.tags
        with events.log_collection_asset(context, collection):
            return refresh_exports(archive, collection, force=is_manual)

    return exports


def refresh_exports(archive: Archive, collection: Collection, *, force: bool = False) -> dg.MaterializeResult[None]:
    """Update a collection's exports. `force` also rewrites the STAC items of unchanged frames."""
    started = time.monotonic()
    exported = publish_exports(archive, collection, force=force)
    if not exported.frames:
        return dg.MaterializeResult(metadata={"exports": dg.MetadataValue.text("withdrawn: the collection has no frames")})
    url = archive.settings.public_url
    links = {key.rpartition("/")[2].replace(".", "_"): dg.MetadataValue.url(f"{url}/{key}") for key in exported.keys}
    return dg.MaterializeResult(
        metadata={
            "frames": dg.MetadataValue.int(exported.frames),
            "items_written": dg.MetadataValue.int(exported.items_written),
            "seconds": dg.MetadataValue.float(round(time.monotonic() - started, 3)),
            **links,
        }
    )


def compiled_indexes_asset(details: AssetDetails) -> dg.AssetsDefinition:
    """The statewide asset. It declares no dependencies, because edges to 254 shards would add nothing to the asset graph."""

    @dg.asset(
        key=keys.COMPILED_INDEXES,
        group_name="archive",
        kinds={"geojson", "parquet"},
        description="Footprints of all collections in one file, as GeoJSON and as GeoParquet.",
        freshness_policy=DAILY,
        **details.of(compile_statewide, "archive"),
    )
    def compiled_historical_indexes(archive: Archive) -> dg.MaterializeResult[None]:
        export = compile_statewide(archive)
        url = archive.settings.public_url
        missing = " ".join(collection.name for collection in export.missing)
        return dg.MaterializeResult(
            metadata={
                "collections": dg.MetadataValue.int(export.collections),
                "frames": dg.MetadataValue.int(export.frames),
                "bytes": dg.MetadataValue.int(sum(export.sizes.values())),
                "seconds": dg.MetadataValue.float(export.seconds),
                "geojson": dg.MetadataValue.url(f"{url}/{export_keys.COMPILED_GEOJSON_KEY}"),
                "parquet": dg.MetadataValue.url(f"{url}/{export_keys.COMPILED_PARQUET_KEY}"),
                **({"missing": dg.MetadataValue.text(missing)} if missing else {}),
            }
        )

    return compiled_historical_indexes
