"""The tables of the index database and the states of a source.

Schema `ls4` holds the pipeline's own tables; schema `public`, which the map server and legacy consumers read, holds the tile
index of each collection (`tile_index`) and the overview mosaics. Queries are in the other modules of this package, triggers in
`triggers.py` and the statewide views in `views.py`. These tables are the only record of state: the event log of Dagster is
history. A change of `metadata` needs a revision in `migrations/`, one of `tile_index` an entry in `tile_index_columns.py`.
"""

from enum import StrEnum

from geoalchemy2 import Geometry
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Computed,
    Date,
    DateTime,
    Double,
    ForeignKey,
    Identity,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from ls4_assets.domain.names import Collection

SCHEMA = "ls4"
PUBLIC = "public"
WEB_MERCATOR = 3857
# A frame without a raw scan so far. A mosaic never has one.
SCANLESS = "scan_file is null and not deleted and partition not like '%/mosaic/%'"

INTERIOR = "region that hides every frame below it, at every zoom; null: not known"

metadata = MetaData(schema=SCHEMA)


class SourceState(StrEnum):
    """The processing state of a dropped tif.

    settling: changed a moment ago, the copy may not be complete; queued: waits for a run; requested: claimed by a run;
    done: its products are of this version; failed: its content is invalid; rejected: its name is invalid, or it is no regular
    file; deleted: removed from georef/.
    """

    SETTLING = "settling"
    QUEUED = "queued"
    REQUESTED = "requested"
    DONE = "done"
    FAILED = "failed"
    REJECTED = "rejected"
    DELETED = "deleted"


PENDING_STATES = (SourceState.SETTLING, SourceState.QUEUED, SourceState.REQUESTED)
# States of a tif that is in georef/ under a valid name.
LIVE_STATES = tuple(state for state in SourceState if state not in (SourceState.DELETED, SourceState.REJECTED))


source = Table(
    "source",
    metadata,
    # Range comparisons with a listing of the bucket need byte order, whatever the collation of the database.
    Column("key", Text(collation="C"), primary_key=True, comment="object key of the georef tif"),
    Column("state", Text, nullable=False, comment="settling, queued, requested, done, failed, rejected or deleted"),
    Column("reason", Text, comment="reason of the rejection or failure, written for staff"),
    Column("version", Text, nullable=False, comment="fingerprint of the tif and its sidecars"),
    Column("size", BigInteger, nullable=False, comment="size of the tif in bytes"),
    Column("sidecars", JSONB, nullable=False, server_default="[]", comment="object keys of the sidecars"),
    Column(
        "arrivals",
        JSONB(none_as_null=True),
        comment="of a tif with sidecars, per object key: version, generation, time; null: unknown",
    ),
    Column("frame", Text, comment="id of the frame; null when rejected by name"),
    Column("shard", Text),
    Column("collection", Text, comment="name of the collection"),
    Column("partition", Text, comment="Dagster partition key; null once the partition of a deleted source is removed"),
    Column("batch", Text, comment="id of the last batch that claimed the source"),
    Column("attempts", Integer, nullable=False, server_default="0", comment="number of runs of this version that crashed"),
    Column("first_seen", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("changed_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("version_count", Integer, nullable=False, server_default="1", comment="number of versions seen under this key"),
    Column("missing_since", DateTime(timezone=True), comment="time of the first complete listing without the key"),
    Column("deletion_held_at", DateTime(timezone=True), comment="start of the wait for the operator to confirm the deletion"),
    Column("retry_after", DateTime(timezone=True), comment="earliest time of the next run; the backoff grows with each crash"),
    Column("pending_since", DateTime(timezone=True), comment="start of the wait for this version's products; null: not waiting"),
    # `ls4 status` counts and sums the whole archive with an index-only scan.
    Index("source_collection", "collection", "state", postgresql_include=["size"]),
    Index("source_failed", "collection", "key", postgresql_where=text("state = 'failed'")),
    Index("source_frame", "frame"),
    # Each sensor query selects a few of millions of rows, so each has a partial index of exactly those rows.
    Index("source_settling", "changed_at", postgresql_where=text("state = 'settling'")),
    Index("source_queued", "collection", "changed_at", "key", postgresql_where=text("state = 'queued'")),
    Index("source_requested", "batch", postgresql_where=text("state = 'requested'")),
    Index("source_pending", "pending_since", "collection", postgresql_where=text("pending_since is not null")),
    Index("source_rejected", "key", postgresql_where=text("state = 'rejected'")),
    Index(
        "source_missing",
        "missing_since",
        postgresql_where=text("missing_since is not null and deletion_held_at is null and state <> 'deleted'"),
    ),
    Index("source_held", "collection", postgresql_where=text("deletion_held_at is not null and state <> 'deleted'")),
    Index("source_orphan_partition", "key", postgresql_where=text("state = 'deleted' and partition is not null")),
    comment="georef tifs, one row per object key",
)

frame = Table(
    "frame",
    metadata,
    Column("id", Text, primary_key=True, comment="film_type/shard/survey/type/stem"),
    Column("shard", Text, nullable=False),
    Column("collection", Text, nullable=False),
    Column("partition", Text, nullable=False),
    Column("source_key", Text, nullable=False),
    Column("source_version", Text, nullable=False),
    Column("content_hash", Text, nullable=False, comment="SHA-256 of tif and sidecars, and their order if they arrived apart"),
    Column("products", JSONB, nullable=False, server_default="{}", comment="per step: content, profile, size, version, run"),
    Column("profile", Text, Computed("products #>> '{cog,profile}'"), comment="profile hash of the COG; covers all options"),
    Column("scan_file", Text, comment="file name of the raw scan; null: none found"),
    Column("width", Integer, comment="width of the COG in pixels"),
    Column("height", Integer, comment="height of the COG in pixels"),
    Column("transform", ARRAY(Double), comment="affine transform of the COG in EPSG:3857, six numbers in rasterio order"),
    Column("source_crs", Text),
    Column("georeference", JSONB(none_as_null=True), comment="where position and CRS came from, residuals of control points"),
    Column("transformation", Text, comment="datum transformation to EPSG:3857 and its stated accuracy"),
    Column("missing_grids", ARRAY(Text), comment="PROJ grids without which the accuracy is insufficient; null: not known"),
    Column("valid_share", Double, comment="valid pixels over all pixels of the COG, 0 to 1"),
    Column("footprint", Geometry("MULTIPOLYGON", srid=WEB_MERCATOR)),
    Column("interior", Geometry("MULTIPOLYGON", srid=WEB_MERCATOR, spatial_index=False), comment=INTERIOR),
    Column("served_key", Text, comment="object key of the COG on the map, unique for each version"),
    Column("public_version", Text, comment="version of the COG under the public key, replaced once the map reads the new one"),
    Column("deleted", Boolean, nullable=False, server_default="false", comment="source deleted; removed by the next rebuild"),
    Column("revision", Integer, nullable=False, server_default="1", comment="counter of changes that affect the tile index"),
    Column("indexed_revision", Integer, nullable=False, server_default="0", comment="revision in the tile index"),
    Column("exported_revision", Integer, nullable=False, server_default="0", comment="revision in the STAC item"),
    Column("updated_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Index("frame_collection", "collection"),
    # The archive has few profiles and many frames: this index alone answers which profiles are stale (db/stale.py).
    Index("frame_profile", "profile", "collection", postgresql_where=text("not deleted")),
    Index("frame_scanless", "collection", "id", postgresql_where=text(SCANLESS)),
    Index("frame_without_grids", "collection", postgresql_where=text("missing_grids <> '{}'")),
    Index("frame_unindexed", "collection", "updated_at", postgresql_where=text("revision <> indexed_revision or deleted")),
    comment="products of each frame, of its last valid version",
)

collection = Table(
    "collection",
    metadata,
    Column("name", Text, primary_key=True),
    Column("shard", Text, nullable=False),
    Column("partition", Text, nullable=False),
    Column("table_name", Text, nullable=False, unique=True, comment="name of the tile index: the collection's in lower case"),
    Column("public_url", Text, comment="base URL of the links in the tile index"),
    Column("served_root", Text, comment="prefix of `served_location`: a folder, or /vsis3/<bucket>/"),
    Column("title", Text),
    Column("agency", Text),
    Column("year", Integer),
    Column("type", Text),
    Column("frames", Integer, nullable=False, server_default="0", comment="number of rows in the tile index"),
    Column("film_types", ARRAY(Text), nullable=False, server_default="{}", comment="film types in the tile index, sorted"),
    Column("outline", Geometry("GEOMETRY", srid=WEB_MERCATOR), comment="convex hull of all footprints; null: no frames"),
    Column("index_revision", BigInteger, nullable=False, server_default="0", comment="revision of the tile index, ascending"),
    Column("indexed_at", DateTime(timezone=True), comment="time of the last change of the tile index"),
    Column("files_revision", BigInteger, nullable=False, server_default="0", comment="index revision in the shapefile"),
    Column("map_revision", BigInteger, nullable=False, server_default="0", comment="index revision of the mapfile"),
    Column(
        "map_format",
        Text,
        nullable=False,
        server_default="mapserver 1",
        comment="publishers of the map, with their versions; a map in another format is published again",
    ),
    Column("published_at", DateTime(timezone=True), comment="time the mapfile was last written; null: no map"),
    Column("withdrawn_at", DateTime(timezone=True), comment="time the last frame left; null: not withdrawn"),
    Column("requested_at", DateTime(timezone=True), comment="time of the last rebuild request"),
    Column("attempts", Integer, nullable=False, server_default="0", comment="rebuilds requested since the last success"),
    Column("raw_scans_checked_at", DateTime(timezone=True), comment="time of the last search of scanned/ for missing raw scans"),
    comment="what is published of each collection",
)

overview_mosaic = Table(
    "overview_mosaic",
    metadata,
    Column("collection", Text, ForeignKey(collection.c.name, ondelete="CASCADE"), primary_key=True),
    Column("revision", BigInteger, nullable=False, server_default="0", comment="index revision in the mosaic"),
    Column("attempts", Integer, nullable=False, server_default="0", comment="builds since the last that left no frame out"),
    Column("key", Text, comment="object key of the COG, on the map or not; null: none"),
    Column("format_version", Text, comment="tiles are reused only from a mosaic of the same format"),
    Column("zoom", Integer, comment="resolution, as a web map zoom level"),
    comment="last overview mosaic of each collection",
)

overview_mosaic_frame = Table(
    "overview_mosaic_frame",
    metadata,
    Column("collection", Text, ForeignKey(overview_mosaic.c.collection, ondelete="CASCADE"), primary_key=True),
    Column("oid", Integer, primary_key=True, autoincrement=False),
    Column("served_location", Text, nullable=False, comment="GDAL path of the painted COG"),
    Column("source_version", Text, nullable=False),
    *(Column(side, Double, nullable=False) for side in ("minx", "miny", "maxx", "maxy")),
    comment="frames in the last overview mosaic, with their bounds in EPSG:3857",
)

# Only triggers write this table (`triggers.py`), so it is complete whichever code changes a source.
rejection = Table(
    "rejection",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("key", Text(collation="C"), nullable=False, comment="object key of the georef tif"),
    Column("kind", Text, nullable=False, comment="rejected: invalid name; failed: invalid content"),
    Column("scope", Text, nullable=False, comment="name of the collection; the folder when the key names no collection"),
    Column("reason", Text, nullable=False, comment="reason and fix, written for staff"),
    Column("version", Text, nullable=False, comment="version last rejected"),
    Column("occurrences", Integer, nullable=False, server_default="1", comment="number of rejections while open"),
    Column("first_seen", DateTime(timezone=True), nullable=False, comment="time of the first rejection"),
    Column("last_seen", DateTime(timezone=True), nullable=False, comment="time of the last rejection"),
    Column("resolved_at", DateTime(timezone=True), comment="time of the resolution; null: open"),
    Column("resolved_by", Text, comment="accepted version; null: the file was renamed or removed"),
    Index("rejection_open", "key", unique=True, postgresql_where=text("resolved_at is null")),
    Index("rejection_resolved", "resolved_at", postgresql_where=text("resolved_at is not null")),
    comment="history of rejected and failed sources",
)

failed_run = Table(
    "failed_run",
    metadata,
    Column("kind", Text, primary_key=True, comment="rebuild: rebuild of a collection; run: any other run"),
    Column("scope", Text, primary_key=True, comment="target of the run; a later success on the same target deletes the row"),
    Column("run", Text, nullable=False, comment="id of the last failed run"),
    Column("reason", Text, nullable=False),
    Column("failed_at", DateTime(timezone=True), nullable=False, comment="time of the first failure since the last success"),
    comment="failed runs without a later success",
)

notification = Table(
    "notification",
    metadata,
    Column("kind", Text, primary_key=True, comment="kind of the incident"),
    Column("scope", Text, primary_key=True, comment="collection, folder or target of the incident"),
    Column("item_count", Integer, nullable=False, comment="number of files or frames in the last notification"),
    Column("latest_at", DateTime(timezone=True), nullable=False, comment="time of the newest event notified"),
    Column("notified_at", DateTime(timezone=True), nullable=False, comment="time the last notification was sent"),
    Column("resolved_at", DateTime(timezone=True), comment="time the resolution was sent; null: open"),
    comment="last notification of each incident",
)

unlisted_folder = Table(
    "unlisted_folder",
    metadata,
    Column("folder", Text(collation="C"), primary_key=True, comment="key prefix; empty: the bucket itself"),
    Column("reason", Text, nullable=False, comment="error of the last scan, written for people"),
    Column("since", DateTime(timezone=True), nullable=False, comment="time of the first scan that failed"),
    Column("range_start", Text(collation="C"), nullable=False, comment="the keys that failed are greater than this"),
    Column("range_end", Text(collation="C"), nullable=False, comment="last key of those that failed"),
    comment="folders that scans cannot list or ingest",
)

export_state = Table(
    "export_state",
    metadata,
    Column("collection", Text, ForeignKey(collection.c.name, ondelete="CASCADE"), primary_key=True),
    Column("revision", BigInteger, nullable=False, server_default="0", comment="index revision in the exports"),
    Column("frames", Integer, nullable=False, server_default="0", comment="number of exported frames; 0: no exports"),
    Column("format_version", Text, comment="items of unchanged frames are reused only within the same format"),
    Column("attempts", Integer, nullable=False, server_default="0", comment="exports requested since the last success"),
    comment="exports of each collection",
)

statewide_build = Table(
    "statewide_build",
    metadata,
    Column("name", Text, primary_key=True),
    Column("inputs_digest", Text, comment="digest of the collections' exports in the statewide files"),
    Column("seconds", Double, nullable=False, server_default="0", comment="duration of the last build in seconds"),
    Column("started_at", DateTime(timezone=True)),
    Column("compiled_at", DateTime(timezone=True)),
    Column("attempts", Integer, nullable=False, server_default="0", comment="builds started since the last success"),
    comment="last build of the statewide files",
)

inbox = Table(
    "inbox",
    metadata,
    Column("key", Text(collation="C"), primary_key=True, comment="object key named by events, not yet checked"),
    Column("events", BigInteger, nullable=False, server_default="1", comment="number of events since the last check"),
    Column("since", DateTime(timezone=True), nullable=False, server_default=func.now(), comment="time of the first event"),
    Column(
        "retry_after",
        DateTime(timezone=True),
        nullable=False,
        server_default=func.now(),
        comment="earliest time of the next check; later when the folder could not be listed",
    ),
    Column("attempts", Integer, nullable=False, server_default="0", comment="number of failed checks"),
    Index("inbox_next", "retry_after", "since"),
    comment="object keys from bucket events, waiting for a check",
)

# The warm service (`db/warm_runs.py`). Rows exist only while a server or a run does.
warm_server = Table(
    "warm_server",
    metadata,
    Column("id", Text, primary_key=True, comment="one process of the warm service"),
    Column("slots", Integer, nullable=False, comment="number of runs that it executes at a time"),
    Column("slot_memory_mb", Integer, nullable=False, comment="memory of one run in MB"),
    Column("is_stopping", Boolean, nullable=False, server_default=text("false"), comment="it accepts no more runs"),
    Column("seen_at", DateTime(timezone=True), nullable=False, server_default=func.now(), comment="time of the last heartbeat"),
    comment="servers of the warm service",
)

warm_run = Table(
    "warm_run",
    metadata,
    Column("run_id", Text, primary_key=True),
    Column("server", Text, ForeignKey(warm_server.c.id, ondelete="CASCADE"), nullable=False, index=True),
    Column("arguments", Text, nullable=False, comment="what `dagster api execute_run` takes"),
    Column("pid", Integer, comment="process ID on the server; null: not started yet"),
    Column("is_interrupted", Boolean, nullable=False, server_default=text("false"), comment="the run is to be canceled"),
    comment="runs that the warm service starts or executes",
)

# The map server reads it: one row for each collection with an overview mosaic on the map.
overview_mosaics = Table(
    "overview_mosaics",
    metadata,
    Column("collection", Text, primary_key=True),
    Column("table_name", Text, nullable=False, unique=True),
    Column("served_location", Text, nullable=False, comment="GDAL path by which MapServer opens the COG"),
    Column("resolution", Double, nullable=False, comment="meters per pixel in EPSG:3857"),
    Column("frames", Integer, nullable=False, comment="number of frames in the mosaic"),
    Column("geom", Geometry("GEOMETRY", srid=WEB_MERCATOR), nullable=False, comment="outline of the collection"),
    schema=PUBLIC,
    comment="overview mosaics on the map",
)


# The columns that every tile index of ls4 has had since the first version. A table without them is not one.
TILE_INDEX_MARK = (
    *("oid", "location", "src_srs", "date", "roll", "frame_num", "dl_orig", "dl_georef", "dl_index"),
    *("band", "acquired", "served_location", "source_version", "profile_hash", "geom"),
)


def tile_index(collection: Collection) -> Table:
    """The tile index of a collection. The columns up to `dl_index` and `geom` are legacy: published consumers read them.

    A new column follows the last one here, and goes into `tile_index_columns.py`, which adds it to the existing tables.
    """
    return Table(
        collection.table,
        # An explicit schema: ls4 comes first in the pipeline's search path, and the map server has no access to it.
        MetaData(schema=PUBLIC),
        Column("oid", Integer, Identity(), primary_key=True, comment="stacking order of the map"),
        Column("location", Text, nullable=False, unique=True, comment="/vsis3/<bucket>/<cog key>"),
        Column("src_srs", Text, nullable=False),
        Column("date", Text),
        Column("roll", Text),
        Column("frame_num", Text),
        Column("dl_orig", Text),
        Column("dl_georef", Text),
        Column("dl_index", Text),
        Column("band", Text, nullable=False),
        Column("acquired", Date),
        Column("served_location", Text, nullable=False, comment="path by which MapServer opens the COG"),
        Column("source_version", Text, nullable=False),
        Column("profile_hash", Text, nullable=False),
        Column("geom", Geometry("MULTIPOLYGON", srid=WEB_MERCATOR), nullable=False),
        # After `geom`, which programs take that know of one geometry only.
        Column("interior", Geometry("MULTIPOLYGON", srid=WEB_MERCATOR, spatial_index=False), comment=INTERIOR),
    )
