"""The collection assets of a shard: collection_frames -> tile_index -> overview_mosaic -> mapfile -> exports.

tile_index (table and shapefile) and mapfile are here. They are rebuilt from Postgres without reading frames from the bucket. A
collection without frames is withdrawn. The others are in modules with their names; the SQL of the index is in `db.tile_index`.
"""

import time
from collections.abc import Iterator, Sequence

import dagster as dg
from sqlalchemy import func, select, update

from ls4_assets.assets import checks, events, keys
from ls4_assets.assets.collection_frames import collection_frames_spec, indexed_version_tags
from ls4_assets.assets.details import AssetDetails
from ls4_assets.assets.exports import exports_asset
from ls4_assets.assets.overview_mosaic import overview_mosaic_asset, withdraw_overview_mosaic
from ls4_assets.assets.report import report_metadata
from ls4_assets.db import export_state, schema
from ls4_assets.db import tile_index as index
from ls4_assets.db.shapefile import write_shapefile
from ls4_assets.domain.film_types import FILM_TYPES
from ls4_assets.domain.names import SHAPEFILE_SUFFIXES, Collection
from ls4_assets.publishing import collection_list, maps
from ls4_assets.publishing.exports import publish_collection_lists
from ls4_assets.publishing.map_publisher import InvalidMapError, MapPublisher
from ls4_assets.publishing.obsolete import remove_obsolete
from resources.archive import Archive
from resources.scratch import scratch_folder


def collection_assets(
    shard: str, publishers: Sequence[MapPublisher], details: AssetDetails
) -> list[dg.AssetsDefinition | dg.AssetSpec]:
    """The collection assets of a shard, with the checks of these map publishers."""
    partitions = keys.collection_partitions(shard)

    @dg.asset(
        key=keys.tile_index(shard),
        group_name=shard,
        partitions_def=partitions,
        deps=[keys.collection_frames(shard)],
        backfill_policy=dg.BackfillPolicy.multi_run(1),
        kinds={"postgres", "shapefile"},
        check_specs=[checks.index_check_spec(shard)],
        description="PostGIS table and zipped shapefile of the collection's frames, with footprints and download links.",
        **details.of(refresh_index, "collection"),
    )
    def tile_index(
        context: dg.AssetExecutionContext, archive: Archive
    ) -> Iterator[dg.MaterializeResult[None] | dg.AssetCheckResult]:
        collection = events.collection_of(context, shard)
        with events.log_collection_asset(context, collection):
            result = refresh_index(archive, collection)
        yield result._replace(tags=indexed_version_tags(context.instance, archive, collection))
        yield checks.check_index_counts(archive, collection)

    @dg.asset(
        key=keys.mapfile(shard),
        group_name=shard,
        partitions_def=partitions,
        deps=[keys.overview_mosaic(shard)],
        backfill_policy=dg.BackfillPolicy.multi_run(1),
        kinds={publisher.name for publisher in publishers},
        check_specs=checks.map_check_specs(shard, publishers),
        description="MapServer mapfile of the collection. The map is online as soon as the mapfile is in the bucket.",
        **details.of(publish_map, "collection"),
    )
    def mapfile(
        context: dg.AssetExecutionContext, archive: Archive
    ) -> Iterator[dg.MaterializeResult[None] | dg.AssetCheckResult]:
        collection = events.collection_of(context, shard)
        try:
            with events.log_collection_asset(context, collection):
                result = publish_map(archive, collection)
        except InvalidMapError as error:
            yield from checks.rejected_map_results(collection, error)
            raise dg.Failure(str(error)) from error
        yield result
        for publisher in publishers:
            yield checks.check_published_documents(archive, collection, publisher)
            yield checks.check_map_renders(archive, collection, publisher)

    frames = collection_frames_spec(shard, details)
    return [frames, tile_index, overview_mosaic_asset(shard, details), mapfile, exports_asset(shard, details)]


def refresh_index(archive: Archive, collection: Collection) -> dg.MaterializeResult[None]:
    """Update the collection's table and shapefile. Products of removed frames stay until their last readers are done."""
    started = time.monotonic()
    storage, url = archive.storage, archive.settings.public_url
    with index.collection_lock(archive.database, collection):
        with archive.database.begin() as connection:
            refreshed = index.refresh(connection, collection, storage, url)
        uploaded_keys = _publish_files(archive, collection) if refreshed.rows else []
        _update_row(archive, collection, files_revision=refreshed.revision)
        with archive.database.connect() as connection:
            report = report_metadata(connection, collection)
    metadata: dict[str, dg.MetadataValue] = {
        "frames": dg.MetadataValue.int(refreshed.rows),
        **report,
        "table": dg.MetadataValue.text(collection.table),
        "frames_updated": dg.MetadataValue.int(refreshed.upserted),
        "frames_removed": dg.MetadataValue.int(len(refreshed.removed)),
        "seconds": dg.MetadataValue.float(round(time.monotonic() - started, 3)),
    }
    for key in uploaded_keys:
        if key.endswith("_idx.zip"):
            metadata[f"link_{key.partition('/')[0]}"] = dg.MetadataValue.url(f"{url}/{key}")
    return dg.MaterializeResult(metadata=metadata)


def publish_map(archive: Archive, collection: Collection) -> dg.MaterializeResult[None]:
    """Publish the map with all active publishers, or withdraw it if the collection has no frames. Raises InvalidMapError."""
    settings = archive.settings
    with index.collection_lock(archive.database, collection):
        with archive.database.connect() as connection:
            state, recorded_format = maps.load_map(connection, collection), maps.load_format(connection, collection)
            revision = index.load_revision(connection, collection)
        if state is None:
            _withdraw(archive, collection, revision)
            return dg.MaterializeResult(metadata={"map": dg.MetadataValue.text("withdrawn: the collection has no frames")})
        maps.publish(archive, state)
        _update_row(archive, collection, published_at=func.now())
        publish_collection_lists(archive)
        inactive = set(maps.publishers_of(recorded_format)) - set(maps.active_publishers(settings))
        maps.withdraw(archive, collection, inactive)
        replaced = remove_obsolete(archive, collection)
        if recorded_format != maps.map_format(settings):
            # The STAC collection links to the maps.
            with archive.database.begin() as connection:
                export_state.update_state(connection, collection, revision=0)
        _update_row(archive, collection, map_revision=revision, map_format=maps.map_format(settings), attempts=0)
    links = maps.map_links(collection, settings)
    return dg.MaterializeResult(
        metadata={
            **{name: _link_or_text(value) for name, value in links.metadata.items()},
            "extent_3857": dg.MetadataValue.text(" ".join(f"{value:.1f}" for value in state.extent)),
            "public_cogs_replaced": dg.MetadataValue.int(len(replaced)),
        }
    )


def _link_or_text(value: str) -> dg.MetadataValue:
    return dg.MetadataValue.url(value) if "://" in value else dg.MetadataValue.text(value)


def _publish_files(archive: Archive, collection: Collection) -> list[str]:
    """Upload the shapefile once per film type that has frames, the zip that people download last. Returns the keys."""
    uploaded = []
    with scratch_folder("ls4-index-", archive.settings.work_dir) as folder:
        with archive.database.connect() as connection:
            files = write_shapefile(connection, collection, folder)
            film_types = index.load_film_types(connection, collection)
        for film_type in FILM_TYPES:
            for suffix, path in files.items():
                key = collection.tile_index_key(film_type, suffix)
                if film_type in film_types:
                    archive.storage.upload(path, key)
                    uploaded.append(key)
                else:
                    archive.storage.delete(key)
    return uploaded


def _withdraw(archive: Archive, collection: Collection, revision: int) -> None:
    """Delete the map, then the files, then the table, so that nothing that is still served loses its data.

    The sensor deletes the partition, because a run cannot finish on a deleted partition.
    """
    maps.withdraw(archive, collection)
    withdraw_overview_mosaic(archive, collection, revision)
    remove_obsolete(archive, collection)
    for film_type in FILM_TYPES:
        for suffix in (*SHAPEFILE_SUFFIXES, "_idx.zip"):
            archive.storage.delete(collection.tile_index_key(film_type, suffix))
    _update_row(archive, collection, published_at=None)
    publish_collection_lists(archive)
    with archive.database.begin() as connection:
        connection.execute(select(schema.collection).where(schema.collection.c.name == collection.name).with_for_update())
        # Keep the table while georef/ has tifs, even failed ones, or frames are in progress: the next rebuild restores the map.
        if not collection_list.has_sources_or_frames(connection, collection):
            index.drop_table(connection, collection)
    _update_row(archive, collection, map_revision=revision, attempts=0)


def _update_row(archive: Archive, collection: Collection, **values: object) -> None:
    """Record the progress of a rebuild. Steps that are not recorded are repeated after a crash."""
    with archive.database.begin() as connection:
        connection.execute(update(schema.collection).where(schema.collection.c.name == collection.name).values(values))
