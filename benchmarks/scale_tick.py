"""One tick of each sensor while the archive holds so many known frames: seconds, and the peak memory of the process.

The archive is real: folders of files (hard links to a few empty-handed scans, which no one opens) and the rows that a finished
archive has of them.
"""

import time
from pathlib import Path

import dagster as dg
from sqlalchemy import Engine, text

from ls4_assets.definitions import defs
from ls4_assets.domain.names import Collection
from ls4_assets.ingest.listing import combined_version
from ls4_assets.raster.memory import peak_rss_mb, reset_peak
from resources.archive import Archive

_FRAMES_A_COLLECTION = 500
_NEW = 100
# A file system allows some 65,000 links to one file.
_COLLECTIONS_A_FILE = 100
# A look is bounded; after these of one walk the others are alike.
_MOST_TICKS = 3

_KNOWN = (
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
      published_at)
    VALUES (:name, :shard, :partition, :table, :count, 1, 1, 1, :public_url, :root, now())""",
    """INSERT INTO ls4.overview_mosaic (collection, revision) VALUES (:name, 1)""",
    """INSERT INTO ls4.export_state (collection, revision, frames) VALUES (:name, 1, :count)""",
)

Figures = dict[str, float]


def measure_ticks(sizes: list[int]) -> dict[str, Figures]:
    """The archive grows from size to size."""
    archive, definitions = Archive(), defs()
    every = _collections(archive, -(-max(sizes) // _FRAMES_A_COLLECTION))
    figures, laid = {}, 0
    with dg.DagsterInstance.get() as instance:
        for size in sizes:
            upto = -(-size // _FRAMES_A_COLLECTION)
            for number in range(laid, upto):
                _lay_out(archive, every[number], number)
            laid = upto
            _settle_database(archive.database)
            figures[str(size)] = _measured(archive, instance, definitions, every[0], size)
    return figures


def _collections(archive: Archive, count: int) -> list[Collection]:
    """Spread over all counties; the first in key order comes first."""
    counties = sorted(name for name, kind in archive.settings.shards.items() if kind == "county")
    return [Collection(counties[n % len(counties)], f"USDA_{1930 + n // len(counties)}", "frames") for n in range(count)]


def _lay_out(archive: Archive, of: Collection, number: int) -> None:
    scan = Path(archive.storage.gdal_path(f"derived/scan{number // _COLLECTIONS_A_FILE}.tif"))
    if not scan.exists():
        scan.parent.mkdir(exist_ok=True)
        scan.write_bytes(b"a scan that no one opens")
    folder = Path(archive.storage.gdal_path(of.folder("bw"))) / "georef"
    folder.mkdir(parents=True)
    for n in range(_FRAMES_A_COLLECTION):
        (folder / f"02-08-60_6-{n}.tif").hardlink_to(scan)
    found = archive.storage.head(f"{of.folder('bw')}/georef/02-08-60_6-0.tif")
    assert found
    values = {
        "folder": of.folder("bw"), "version": combined_version(found, []), "size": found.size, "shard": of.shard, "name": of.name,
        "partition": of.partition, "count": _FRAMES_A_COLLECTION, "table": of.table,
        "public_url": archive.settings.public_url, "root": archive.storage.gdal_path("x")[:-1],
    }  # fmt: skip
    with archive.database.begin() as connection:
        for statement in _KNOWN:
            connection.execute(text(statement), values)


def _settle_database(database: Engine) -> None:
    """As autovacuum leaves an archive that has grown over weeks."""
    with database.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        for table in ("source", "frame", "collection"):
            connection.execute(text(f"VACUUM ANALYZE ls4.{table}"))


def _measured(
    archive: Archive, instance: dg.DagsterInstance, definitions: dg.Definitions, first: Collection, size: int
) -> Figures:
    """First a tick with new frames, whose batch then waits while nothing new is seen: the worst of some ticks of a walk."""
    reset_peak()
    _drop_new(archive, first, size)
    new_s, result, cursor = _tick(archive, instance, definitions, "ingest_poll", "")
    requested = result.run_requests if isinstance(result, dg.SensorResult) else None
    assert len(requested or ()) == 1, f"the new frames were not requested: {result}"
    quiet: list[float] = []
    cursor = ""
    while not quiet or (cursor and len(quiet) < _MOST_TICKS):
        seconds, result, cursor = _tick(archive, instance, definitions, "ingest_poll", cursor)
        assert isinstance(result, dg.SkipReason), f"a tick saw something where nothing is new: {result}"
        quiet.append(seconds)
    rebuilds_s, result, _ = _tick(archive, instance, definitions, "publish_collections", "")
    assert isinstance(result, dg.SkipReason), f"something is due in a finished archive: {result}"
    _finish(archive.database)
    return {"seconds": max(quiet), "new_seconds": new_s, "collections_seconds": rebuilds_s, "peak_mb": peak_rss_mb()}


def _tick(
    archive: Archive, instance: dg.DagsterInstance, definitions: dg.Definitions, name: str, cursor: str
) -> tuple[float, object, str]:
    """Seconds, what the sensor answered, and where its next look goes on."""
    context = dg.build_sensor_context(instance=instance, definitions=definitions, cursor=cursor, resources={"archive": archive})
    sensor = definitions.get_sensor_def(name)
    started = time.perf_counter()
    result = sensor(context)
    seconds = time.perf_counter() - started
    return seconds, result, (result.cursor if isinstance(result, dg.SensorResult) else context.cursor) or ""


def _drop_new(archive: Archive, of: Collection, size: int) -> None:
    folder = Path(archive.storage.gdal_path(of.folder("bw"))) / "georef"
    for n in range(_NEW):
        (folder / f"02-08-60_{size}-{n}.tif").write_bytes(b"a new scan")


def _finish(database: Engine) -> None:
    """As if the batch had been made: the next size starts with everything known."""
    with database.begin() as connection:
        connection.execute(text("UPDATE ls4.source SET state = 'done', batch = NULL WHERE state = 'requested'"))
