"""The collection assets of a shard: tile_index (table and shapefile) -> overview_mosaic -> mapfile -> catalogue.

tile_index and mapfile rebuild from what Postgres holds; no frame is read from the bucket. A collection whose last frame went is
withdrawn.
"""

import time
from collections.abc import Iterator
from pathlib import PurePosixPath

import dagster as dg
from sqlalchemy import func, select, update

from ls4_assets.assets import checks, events, keys
from ls4_assets.assets.exports import exports_asset
from ls4_assets.assets.overview_mosaic import overview_mosaic_asset, withdraw_overview_mosaic
from ls4_assets.assets.report import report_metadata
from ls4_assets.db import frames as records
from ls4_assets.db import tile_index as index
from ls4_assets.db.overview_mosaics import resolution_on_map
from ls4_assets.db.schema import collection as collection_table
from ls4_assets.db.shapefile import write_shapefile
from ls4_assets.domain.export_keys import stac_item_key
from ls4_assets.domain.links import map_url
from ls4_assets.domain.names import FILM_TYPES, SHAPEFILE_SUFFIXES, Collection, Frame
from ls4_assets.publishing import collection_list
from ls4_assets.publishing.exports import publish_lists
from ls4_assets.publishing.public_cogs import publish_cogs, remove_cogs, wait_for_readers
from ls4_assets.publishing.tile_documents import publish_tiles, withdraw_tiles
from mapserver import mapfile as mapfiles
from mapserver.rendering import FOOTPRINT
from resources.archive import Archive
from resources.scratch import scratch_folder


def collection_assets(shard: str) -> list[dg.AssetsDefinition]:
    """The collection assets of a shard."""
    partitions = keys.collection_partitions(shard)

    @dg.asset(
        key=keys.tile_index(shard),
        group_name=shard,
        partitions_def=partitions,
        # Lineage only: which frames belong to which collection is the database's to know.
        deps=[dg.AssetDep(keys.product(shard, "cog"), partition_mapping=dg.AllPartitionMapping())],
        backfill_policy=dg.BackfillPolicy.multi_run(1),
        kinds={"postgres", "shapefile"},
        check_specs=[checks.index_spec(shard)],
        description="PostGIS table and zipped shapefile of a collection's frames, with footprints and download links.",
    )
    def tile_index(
        context: dg.AssetExecutionContext, archive: Archive
    ) -> Iterator[dg.MaterializeResult[None] | dg.AssetCheckResult]:
        of = Collection.from_partition(shard, context.partition_key)
        with events.logged(context, of):
            done = refresh_index(archive, of)
        yield done
        yield checks.audited_index(archive, of)

    @dg.asset(
        key=keys.mapfile(shard),
        group_name=shard,
        partitions_def=partitions,
        deps=[keys.overview_mosaic(shard)],
        backfill_policy=dg.BackfillPolicy.multi_run(1),
        kinds={"mapserver"},
        check_specs=checks.mapfile_specs(shard),
        description="MapServer's mapfile of a collection: once it is written the map is served.",
    )
    def mapfile(
        context: dg.AssetExecutionContext, archive: Archive
    ) -> Iterator[dg.MaterializeResult[None] | dg.AssetCheckResult]:
        of = Collection.from_partition(shard, context.partition_key)
        try:
            with events.logged(context, of):
                done = publish_map(archive, of)
        except checks.InvalidMapfileError as rejected:
            yield checks.rejected_mapfile(of, rejected)
            raise
        yield done
        yield checks.published_mapfile(archive, of)
        yield checks.drawn_map(archive, of)

    return [tile_index, overview_mosaic_asset(shard), mapfile, exports_asset(shard)]


def refresh_index(archive: Archive, of: Collection) -> dg.MaterializeResult[None]:
    """Bring table and files up to date, then remove the products of frames that have left."""
    started = time.monotonic()
    storage, url = archive.storage, archive.settings.public_url
    with index.collection_lock(archive.database, of):
        with archive.database.begin() as connection:
            done = index.refresh(connection, of, storage, url)
        keys_written = _publish_files(archive, of) if done.rows else []
        if done.leaving:
            wait_for_readers(archive, of)
        for gone in done.leaving:
            _remove_products(archive, gone)
        _note(archive, of, files_revision=done.revision)
        with archive.database.connect() as connection:
            told = report_metadata(connection, of)
    metadata: dict[str, dg.MetadataValue] = {
        "frames": dg.MetadataValue.int(done.rows),
        **told,
        "table": dg.MetadataValue.text(of.table),
        "frames_updated": dg.MetadataValue.int(done.upserted),
        "frames_removed": dg.MetadataValue.int(len(done.leaving)),
        "seconds": dg.MetadataValue.float(round(time.monotonic() - started, 3)),
    }
    for key in keys_written:
        if key.endswith("_idx.zip"):
            metadata[f"link_{key.partition('/')[0]}"] = dg.MetadataValue.url(f"{url}/{key}")
    return dg.MaterializeResult(metadata=metadata)


def publish_map(archive: Archive, of: Collection) -> dg.MaterializeResult[None]:
    """Write the mapfile, or withdraw the map of a collection that has no frames."""
    settings, storage = archive.settings, archive.storage
    with index.collection_lock(archive.database, of):
        with archive.database.connect() as connection:
            extent, revision = index.extent(connection, of), index.revision(connection, of)
            overview_resolution = resolution_on_map(connection, of)
        if extent is None:
            _withdraw(archive, of, revision)
            return dg.MaterializeResult(metadata={"map": dg.MetadataValue.text("withdrawn: the collection has no frames")})
        text = mapfiles.render(
            mapfiles.MapfileContext(
                name=of.name,
                map_name=of.map_name,
                title=of.title,
                table=of.table,
                extent=extent,
                overview_resolution=overview_resolution,
                contact=settings.contact,
                service=settings.postgres_service,
            )
        )
        if findings := mapfiles.findings(text):
            raise checks.InvalidMapfileError(of, findings)
        template = str(PurePosixPath(of.map_key).with_name(FOOTPRINT.name))
        for key, data in ((template, FOOTPRINT.read_bytes()), (of.map_key, text.encode())):
            if not _is_published(archive, key, data):
                storage.put(key, data)
        publish_tiles(archive, of, extent, revision)
        _note(archive, of, published_at=func.now())
        publish_lists(archive)
        replaced = publish_cogs(archive, of)
        _note(archive, of, map_revision=revision, attempts=0)
    address = map_url(of, settings.map_url)
    return dg.MaterializeResult(
        metadata={
            "key": dg.MetadataValue.text(of.map_key),
            "map": dg.MetadataValue.url(address),
            "capabilities": dg.MetadataValue.url(f"{address}&SERVICE=WMS&VERSION=1.3.0&REQUEST=GetCapabilities"),
            "extent_3857": dg.MetadataValue.text(" ".join(f"{value:.1f}" for value in extent)),
            "layers": dg.MetadataValue.text(f"{of.name} {of.name}_index"),
            "public_cogs_replaced": dg.MetadataValue.int(len(replaced)),
        }
    )


def _publish_files(archive: Archive, of: Collection) -> list[str]:
    """Put the shapefile under each band that has frames. Returns the keys; the zip, which people download, comes last."""
    written = []
    with scratch_folder("ls4-index-", archive.settings.work_dir) as folder:
        with archive.database.connect() as connection:
            files = write_shapefile(connection, of, folder)
            bands = index.bands(connection, of)
        for film_type in FILM_TYPES:
            for suffix, path in files.items():
                key = of.tile_index_key(film_type, suffix)
                if film_type in bands:
                    archive.storage.upload(path, key)
                    written.append(key)
                else:
                    archive.storage.delete(key)
    return written


def _remove_products(archive: Archive, gone: Frame) -> None:
    """Delete what was made of a frame that is out of the index, unless it has come back meanwhile."""
    with records.frame_lock(archive.database, gone) as connection:
        record = records.record_of(connection, gone)
        if record is None or not record.deleted:
            return
        remove_cogs(archive, gone)
        for key in (gone.deflate_key, gone.overviews_key, gone.thumbnail_key, stac_item_key(gone)):
            archive.storage.delete(key)
        records.forget(connection, gone)


def _is_published(archive: Archive, key: str, data: bytes) -> bool:
    """The same mapfile is not written again: its ETag is what caches downstream go by."""
    stored = archive.storage.head(key)
    return stored is not None and stored.size == len(data) and archive.storage.read(key) == data


def _withdraw(archive: Archive, of: Collection, revision: int) -> None:
    """Map first, then files, then table: nothing that is still served loses what it reads.

    The partition is the sensor's to remove: a run cannot finish on a partition that is gone.
    """
    archive.storage.delete(of.map_key)
    withdraw_tiles(archive, of)
    withdraw_overview_mosaic(archive, of, revision)
    for film_type in FILM_TYPES:
        for suffix in (*SHAPEFILE_SUFFIXES, "_idx.zip"):
            archive.storage.delete(of.tile_index_key(film_type, suffix))
    _note(archive, of, published_at=None)
    publish_lists(archive)
    with archive.database.begin() as connection:
        connection.execute(select(collection_table).where(collection_table.c.name == of.name).with_for_update())
        # Not while frames are being made, or failed ones lie in georef/: the next rebuild brings the map back.
        if not collection_list.is_alive(connection, of):
            index.drop(connection, of)
    _note(archive, of, map_revision=revision, attempts=0)


def _note(archive: Archive, of: Collection, **values: object) -> None:
    """Write down how far a rebuild has come: what is not noted is done again, whatever killed the run."""
    with archive.database.begin() as connection:
        connection.execute(update(collection_table).where(collection_table.c.name == of.name).values(values))
