"""One tick of each sensor on archives with many recorded frames: seconds, and the peak memory of the process.

The archive is real: folders with files (hard links to a few dummy scans, which are never opened), and the rows of a completely
processed archive.
"""

import time
from pathlib import Path

import dagster as dg
from sqlalchemy import Engine, text

from benchmarks.scale_definitions import load_definitions
from ls4_assets.domain.names import Collection
from ls4_assets.publishing.maps import map_format
from ls4_assets.raster.memory import peak_rss_mb, reset_peak
from resources.archive import Archive
from resources.storage import combined_version

_FRAMES_PER_COLLECTION = 500
_NEW_FRAMES = 100
# A file system allows about 65,000 hard links to one file.
_COLLECTIONS_PER_FILE = 100
# A tick scans a limited part of the archive; after three ticks of a full scan the others are similar.
_MAX_TICKS = 3

_INSERTS = (
    """INSERT INTO ls4.source (key, state, version, size, frame, shard, collection, partition)
    SELECT :folder || '/georef/' || stem || '.tif', 'done', :version, :size, :folder || '/' || stem, :shard, :name,
      :partition || '/bw/' || stem
    FROM (SELECT '02-08-60_6-' || n AS stem FROM generate_series(0, :count - 1) n) stems""",
    """INSERT INTO ls4.frame
      (id, shard, collection, partition, source_key, source_version, content_hash, revision, indexed_revision)
    SELECT :folder || '/' || stem, :shard, :name, :partition || '/bw/' || stem, :folder || '/georef/' || stem || '.tif', :version,
      '', 1, 1 FROM (SELECT '02-08-60_6-' || n AS stem FROM generate_series(0, :count - 1) n) stems""",
    """INSERT INTO ls4.collection
      (name, shard, partition, table_name, frames, index_revision, files_revision, map_revision, public_url, served_root,
      published_at, map_format)
    VALUES (:name, :shard, :partition, :table, :count, 1, 1, 1, :public_url, :root, now(), :map_format)""",
    """INSERT INTO ls4.overview_mosaic (collection, revision) VALUES (:name, 1)""",
    """INSERT INTO ls4.export_state (collection, revision, frames) VALUES (:name, 1, :count)""",
)

Figures = dict[str, float]


def measure_ticks(sizes: list[int]) -> dict[str, Figures]:
    """Figures by size; the archive grows from size to size."""
    archive = Archive()
    collections = _collections(archive, -(-max(sizes) // _FRAMES_PER_COLLECTION))
    figures, created = {}, 0
    with dg.DagsterInstance.get() as instance:
        for size in sizes:
            end = -(-size // _FRAMES_PER_COLLECTION)
            for number in range(created, end):
                _create(archive, collections[number], number)
            created = end
            _vacuum(archive.database)
            figures[str(size)] = _measure(archive, instance, load_definitions(), collections[0], size)
    return figures


def _collections(archive: Archive, count: int) -> list[Collection]:
    """Collections spread over all counties, starting with the first in key order."""
    counties = sorted(name for name, kind in archive.settings.shards.items() if kind == "county")
    return [Collection(counties[n % len(counties)], f"USDA_{1930 + n // len(counties)}", "frames") for n in range(count)]


def _create(archive: Archive, collection: Collection, number: int) -> None:
    """Write the files and rows of one collection."""
    scan = Path(archive.storage.gdal_path(f"derived/scan{number // _COLLECTIONS_PER_FILE}.tif"))
    if not scan.exists():
        scan.parent.mkdir(exist_ok=True)
        scan.write_bytes(b"a dummy scan")
    folder = Path(archive.storage.gdal_path(collection.folder("bw"))) / "georef"
    folder.mkdir(parents=True)
    for n in range(_FRAMES_PER_COLLECTION):
        (folder / f"02-08-60_6-{n}.tif").hardlink_to(scan)
    stored = archive.storage.head(f"{collection.folder('bw')}/georef/02-08-60_6-0.tif")
    assert stored
    values = {
        "folder": collection.folder("bw"), "version": combined_version(stored, []), "size": stored.size,
        "shard": collection.shard, "name": collection.name,
        "partition": collection.partition, "count": _FRAMES_PER_COLLECTION, "table": collection.table,
        "public_url": archive.settings.public_url, "root": archive.storage.gdal_path("x")[:-1],
        "map_format": map_format(archive.settings),
    }  # fmt: skip
    with archive.database.begin() as connection:
        for statement in _INSERTS:
            connection.execute(text(statement), values)


def _vacuum(database: Engine) -> None:
    """Vacuum and analyze, as autovacuum does while an archive grows over weeks."""
    with database.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        for table in ("source", "frame", "collection"):
            connection.execute(text(f"VACUUM ANALYZE ls4.{table}"))


def _measure(
    archive: Archive, instance: dg.DagsterInstance, definitions: dg.Definitions, first: Collection, size: int
) -> Figures:
    """Measure a tick with new frames, then ticks without; `seconds` is the slowest of up to three ticks of a full scan."""
    reset_peak()
    _drop_new(archive, first, size)
    new_s, result, cursor = _tick(archive, instance, definitions, "ingest_poll", "")
    requested = result.run_requests if isinstance(result, dg.SensorResult) else None
    assert len(requested or ()) == 1, f"the new frames were not requested: {result}"
    quiet: list[float] = []
    cursor = ""
    while not quiet or (cursor and len(quiet) < _MAX_TICKS):
        seconds, result, cursor = _tick(archive, instance, definitions, "ingest_poll", cursor)
        assert isinstance(result, dg.SkipReason), f"a tick without new frames requested something: {result}"
        quiet.append(seconds)
    rebuilds_s, result, _ = _tick(archive, instance, definitions, "publish_collections", "")
    assert isinstance(result, dg.SkipReason), f"a rebuild is pending in a completely processed archive: {result}"
    _finish(archive.database)
    return {"seconds": max(quiet), "new_seconds": new_s, "collections_seconds": rebuilds_s, "peak_mb": peak_rss_mb()}


def _tick(
    archive: Archive, instance: dg.DagsterInstance, definitions: dg.Definitions, name: str, cursor: str
) -> tuple[float, object, str]:
    """Seconds, the sensor's result, and the cursor of its next tick."""
    context = dg.build_sensor_context(instance=instance, definitions=definitions, cursor=cursor, resources={"archive": archive})
    sensor = definitions.get_sensor_def(name)
    started = time.perf_counter()
    result = sensor(context)
    seconds = time.perf_counter() - started
    return seconds, result, (result.cursor if isinstance(result, dg.SensorResult) else context.cursor) or ""


def _drop_new(archive: Archive, collection: Collection, size: int) -> None:
    folder = Path(archive.storage.gdal_path(collection.folder("bw"))) / "georef"
    for n in range(_NEW_FRAMES):
        (folder / f"02-08-60_{size}-{n}.tif").write_bytes(b"a new scan")


def _finish(database: Engine) -> None:
    """Mark the batch as done, so that the next size starts with a completely processed archive."""
    with database.begin() as connection:
        connection.execute(text("UPDATE ls4.source SET state = 'done', batch = NULL WHERE state = 'requested'"))
