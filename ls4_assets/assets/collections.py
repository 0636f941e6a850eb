"""The collection assets of a shard: tile_index (table and shapefile) -> mapfile.

Both rebuild from what Postgres holds; no frame is read from the bucket. A collection whose last frame went is withdrawn.
"""

import tempfile
import time
from pathlib import Path

import dagster as dg
from sqlalchemy import func, select, text, update

from ls4_assets import catalogue
from ls4_assets.assets import keys
from ls4_assets.index import frames as records
from ls4_assets.index import tile_index as index
from ls4_assets.index.schema import collection as collection_table
from ls4_assets.index.shapefile import write_shapefile
from ls4_assets.links import map_url
from ls4_assets.names import BANDS, SHAPEFILE_SUFFIXES, STEPS, Collection, Frame
from mapserver import mapfile as mapfiles
from resources.archive import Archive


def collection_assets(shard: str) -> list[dg.AssetsDefinition]:
    """The two collection assets of a shard."""
    partitions = keys.collection_partitions(shard)

    @dg.asset(
        key=keys.tile_index(shard),
        group_name=shard,
        partitions_def=partitions,
        # Lineage only: which frames belong to which collection is the database's to know.
        deps=[dg.AssetDep(keys.product(shard, "cog"), partition_mapping=dg.AllPartitionMapping())],
        backfill_policy=dg.BackfillPolicy.multi_run(1),
        kinds={"postgres", "shapefile"},
        description="PostGIS table and zipped shapefile of a collection's frames, with footprints and download links.",
    )
    def tile_index(context: dg.AssetExecutionContext, archive: Archive) -> dg.MaterializeResult[None]:
        return refresh_index(archive, Collection.from_partition(shard, context.partition_key))

    @dg.asset(
        key=keys.mapfile(shard),
        group_name=shard,
        partitions_def=partitions,
        deps=[keys.tile_index(shard)],
        backfill_policy=dg.BackfillPolicy.multi_run(1),
        kinds={"mapserver"},
        description="MapServer's mapfile of a collection: once it is written the map is served.",
    )
    def mapfile(context: dg.AssetExecutionContext, archive: Archive) -> dg.MaterializeResult[None]:
        return publish_map(archive, Collection.from_partition(shard, context.partition_key))

    return [tile_index, mapfile]


def refresh_index(archive: Archive, of: Collection) -> dg.MaterializeResult[None]:
    """Bring table and files up to date, then remove the products of frames that have left."""
    started = time.monotonic()
    storage, url = archive.storage, archive.settings.public_url
    with index.collection_lock(archive.database, of):
        with archive.database.begin() as connection:
            done = index.refresh(connection, of, storage, url)
        keys_written = _publish_files(archive, of) if done.rows else []
        for gone in done.leaving:
            _remove_products(archive, gone)
        _note(archive, of, files_revision=done.revision)
    metadata: dict[str, dg.MetadataValue] = {
        "table": dg.MetadataValue.text(of.table),
        "frames": dg.MetadataValue.int(done.rows),
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
                contact=settings.contact,
                service=settings.postgres_service,
            )
        )
        if findings := mapfiles.findings(text):
            raise dg.Failure(f"The mapfile of {of.name} was not published: {'; '.join(findings)}. Mend the template.")
        if not _is_published(archive, of.map_key, text.encode()):
            storage.put(of.map_key, text.encode())
        _note(archive, of, published_at=func.now())
        _publish_catalogue(archive)
        _note(archive, of, map_revision=revision, attempts=0)
    address = map_url(of, settings.map_url)
    return dg.MaterializeResult(
        metadata={
            "key": dg.MetadataValue.text(of.map_key),
            "map": dg.MetadataValue.url(address),
            "capabilities": dg.MetadataValue.url(f"{address}&SERVICE=WMS&VERSION=1.3.0&REQUEST=GetCapabilities"),
            "extent_3857": dg.MetadataValue.text(" ".join(f"{value:.1f}" for value in extent)),
            "layers": dg.MetadataValue.text(f"{of.name} {of.name}_index"),
        }
    )


def _publish_files(archive: Archive, of: Collection) -> list[str]:
    """Put the shapefile under each band that has frames. Returns the keys; the zip, which people download, comes last."""
    written = []
    with tempfile.TemporaryDirectory(prefix="ls4-index-", dir=archive.settings.work_dir) as folder:
        with archive.database.connect() as connection:
            files = write_shapefile(connection, of, Path(folder))
            bands = index.bands(connection, of)
        for band in BANDS:
            for suffix, path in files.items():
                key = of.tile_index_key(band, suffix)
                if band in bands:
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
        for key in (*(gone.product_key(step) for step in STEPS), gone.thumbnail_key):
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
    for band in BANDS:
        for suffix in (*SHAPEFILE_SUFFIXES, "_idx.zip"):
            archive.storage.delete(of.tile_index_key(band, suffix))
    _note(archive, of, published_at=None)
    _publish_catalogue(archive)
    with archive.database.begin() as connection:
        connection.execute(select(collection_table).where(collection_table.c.name == of.name).with_for_update())
        # Not while frames are being made, or failed ones lie in georef/: the next rebuild brings the map back.
        if not catalogue.is_alive(connection, of):
            index.drop(connection, of)
    _note(archive, of, map_revision=revision, attempts=0)


def _note(archive: Archive, of: Collection, **values: object) -> None:
    """Write down how far a rebuild has come: what is not noted is done again, whatever killed the run."""
    with archive.database.begin() as connection:
        connection.execute(update(collection_table).where(collection_table.c.name == of.name).values(values))


def _publish_catalogue(archive: Archive) -> None:
    with archive.database.begin() as connection:
        # One at a time: of two rebuilds that end together, the older list must not be written last.
        connection.execute(text("SELECT pg_advisory_xact_lock(hashtextextended('catalogue', 0))"))
        settings = archive.settings
        listed = catalogue.collections_json(connection, settings.map_url, settings.public_url)
        archive.storage.put(catalogue.COLLECTIONS_KEY, listed)
