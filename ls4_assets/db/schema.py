"""The tables: our own in schema `ls4`; in `public`, where the legacy ones were, one tile index per collection and one of mosaics.

`source` is the truth about what lies in georef/; `frame` about what was made of it; `collection` about what is published;
`overview_mosaic` about the map zoomed out; `catalogue` and `compilation` about what is exported; `rejection` is the history of what
could not be taken; `failed_run` and `notice` say what goes wrong and what people were told of it; `inbox` holds what events told
of and nobody has looked at yet. The event log of Dagster is history, never asked for state. A change here wants a revision in
`migrations/` (docs/operations.md).
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
# A frame whose raw scan was not there yet; a mosaic has none.
SCANLESS = "scan_file is null and not deleted and partition not like '%/mosaic/%'"

metadata = MetaData(schema=SCHEMA)


class SourceState(StrEnum):
    """Where a dropped tif stands.

    settling: it changed a moment ago and may still be being copied; queued: waits for a run; requested: a run has it;
    done: its products are those of this version; failed: its content is at fault; rejected: its name is; deleted: it is gone.
    """

    SETTLING = "settling"
    QUEUED = "queued"
    REQUESTED = "requested"
    DONE = "done"
    FAILED = "failed"
    REJECTED = "rejected"
    DELETED = "deleted"


WAITING = (SourceState.SETTLING, SourceState.QUEUED, SourceState.REQUESTED)
# States of a tif that lies in georef/ under a name that can be taken.
LIVE = tuple(state for state in SourceState if state not in (SourceState.DELETED, SourceState.REJECTED))


source = Table(
    "source",
    metadata,
    # Compared in ranges with a listing of the bucket, which is in byte order whatever the database's own is.
    Column("key", Text(collation="C"), primary_key=True, comment="key of the georef tif"),
    Column("state", Text, nullable=False),
    Column("reason", Text, comment="why it was rejected or failed, in words for staff"),
    Column("version", Text, nullable=False, comment="of the tif and its sidecars together"),
    Column("size", BigInteger, nullable=False),
    Column("sidecars", JSONB, nullable=False, server_default="[]"),
    Column("frame", Text, comment="id of the frame; null when rejected by name"),
    Column("shard", Text),
    Column("collection", Text, comment="name of the collection"),
    Column("partition", Text),
    Column("batch", Text, comment="the batch that was last requested for it"),
    Column("attempts", Integer, nullable=False, server_default="0", comment="runs that died under this version"),
    Column("first_seen", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("changed_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("generation", Integer, nullable=False, server_default="1", comment="versions that were ever seen under this key"),
    Column("missing_since", DateTime(timezone=True), comment="when a complete listing first no longer showed it"),
    Column("deletion_held_at", DateTime(timezone=True), comment="since when its deletion waits for a word of the operator"),
    Column("retry_after", DateTime(timezone=True), comment="a source whose runs die is tried again ever more seldom"),
    Column("pending_since", DateTime(timezone=True), comment="since when this version waits or works; null: it does not"),
    # `ls4 status` counts and sums the whole archive from this index alone.
    Index("source_collection", "collection", "state", postgresql_include=["size"]),
    Index("source_failed", "collection", "key", postgresql_where=text("state = 'failed'")),
    Index("source_frame", "frame"),
    # What a sensor asks for is few among millions: each question has an index of just the rows that are its answer.
    Index("source_settling", "changed_at", postgresql_where=text("state = 'settling'")),
    Index("source_queued", "collection", "changed_at", "key", postgresql_where=text("state = 'queued'")),
    Index("source_requested", "batch", postgresql_where=text("state = 'requested'")),
    Index("source_waiting", "pending_since", "collection", postgresql_where=text("pending_since is not null")),
    Index("source_rejected", "key", postgresql_where=text("state = 'rejected'")),
    Index(
        "source_missing",
        "missing_since",
        postgresql_where=text("missing_since is not null and deletion_held_at is null and state <> 'deleted'"),
    ),
    Index("source_held", "collection", postgresql_where=text("deletion_held_at is not null and state <> 'deleted'")),
    Index("source_leftover", "key", postgresql_where=text("state = 'deleted' and partition is not null")),
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
    Column("content_hash", Text, nullable=False, comment="SHA-256 over the tif and its sidecars"),
    Column("products", JSONB, nullable=False, server_default="{}", comment="per step: content, profile, size, version, run"),
    Column("profile", Text, Computed("products #>> '{cog,profile}'"), comment="of its COG, which names all options of a frame"),
    Column("scan_file", Text, comment="real file name of the raw scan, when there is one"),
    Column("width", Integer),
    Column("height", Integer),
    Column("transform", ARRAY(Double), comment="of the COG, in EPSG:3857: the six numbers of an affine transform"),
    Column("source_crs", Text),
    Column("valid_share", Double),
    Column("footprint", Geometry("MULTIPOLYGON", srid=WEB_MERCATOR)),
    Column("served_key", Text, comment="of the COG that the map reads; no two versions ever have the same"),
    Column("public_version", Text, comment="of the COG under the public key, which follows when nobody reads the old one"),
    Column("deleted", Boolean, nullable=False, server_default="false", comment="its source is gone; leaves with the next index"),
    Column("revision", Integer, nullable=False, server_default="1", comment="grows with each change that the index shows"),
    Column("indexed_revision", Integer, nullable=False, server_default="0"),
    Column("exported_revision", Integer, nullable=False, server_default="0", comment="that its STAC item shows"),
    Column("updated_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Index("frame_collection", "collection"),
    # Few profiles, many frames: which are stale is read from this index alone (index/stale.py).
    Index("frame_profile", "profile", "collection", postgresql_where=text("not deleted")),
    Index("frame_scanless", "collection", "id", postgresql_where=text(SCANLESS)),
    Index("frame_unindexed", "collection", "updated_at", postgresql_where=text("revision <> indexed_revision or deleted")),
)

collection = Table(
    "collection",
    metadata,
    Column("name", Text, primary_key=True),
    Column("shard", Text, nullable=False),
    Column("partition", Text, nullable=False),
    Column("table_name", Text, nullable=False, unique=True, comment="names that differ by case only would share a table"),
    Column("public_url", Text, comment="base of the links in the published index"),
    Column("served_root", Text, comment="what stands before the keys in `served_location`: a folder, or /vsis3/<bucket>/"),
    Column("title", Text),
    Column("agency", Text),
    Column("year", Integer),
    Column("type", Text),
    Column("frames", Integer, nullable=False, server_default="0", comment="rows of the table"),
    Column("bands", ARRAY(Text), nullable=False, server_default="{}"),
    Column("outline", Geometry("GEOMETRY", srid=WEB_MERCATOR), comment="convex hull of all footprints; null: no frames"),
    Column("index_revision", BigInteger, nullable=False, server_default="0", comment="grows with each change of the table"),
    Column("indexed_at", DateTime(timezone=True), comment="when the table last changed"),
    Column("files_revision", BigInteger, nullable=False, server_default="0", comment="of the table that the shapefile shows"),
    Column("map_revision", BigInteger, nullable=False, server_default="0", comment="of the table that the mapfile was made for"),
    Column("published_at", DateTime(timezone=True), comment="when its map was last written; null: no map"),
    Column("withdrawn_at", DateTime(timezone=True), comment="its last frame went; only its partition is left to remove"),
    Column("requested_at", DateTime(timezone=True), comment="when its rebuild was last requested"),
    Column("attempts", Integer, nullable=False, server_default="0", comment="rebuilds requested since the last that ended well"),
    Column(
        "raw_scans_checked_at",
        DateTime(timezone=True),
        comment="when scanned/ was last looked through for scans that were missing",
    ),
)

overview_mosaic = Table(
    "overview_mosaic",
    metadata,
    Column("collection", Text, ForeignKey(collection.c.name, ondelete="CASCADE"), primary_key=True),
    Column("revision", BigInteger, nullable=False, server_default="0", comment="of the index whose frames it shows"),
    Column("attempts", Integer, nullable=False, server_default="0", comment="since the last that left no frame out"),
    Column("key", Text, comment="of the COG, whether or not it is on the map at the moment; null: none was made"),
    Column("format_version", Text, comment="what must be the same for its tiles to be taken over"),
    Column("zoom", Integer, comment="its resolution, as a zoom of web maps"),
)

overview_mosaic_frame = Table(
    "overview_mosaic_frame",
    metadata,
    Column("collection", Text, ForeignKey(overview_mosaic.c.collection, ondelete="CASCADE"), primary_key=True),
    Column("oid", Integer, primary_key=True, autoincrement=False),
    Column("served_location", Text, nullable=False, comment="of the COG that was painted"),
    Column("source_version", Text, nullable=False),
    *(Column(side, Double, nullable=False) for side in ("minx", "miny", "maxx", "maxy")),
)

# Written by triggers alone (`triggers.py`): whoever rejects a source, or takes it at last, its history is exact.
rejection = Table(
    "rejection",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("key", Text(collation="C"), nullable=False, comment="of the georef tif"),
    Column("kind", Text, nullable=False, comment="rejected: its name is at fault; failed: its content"),
    Column("place", Text, nullable=False, comment="name of its collection, or its folder where the name tells of none"),
    Column("reason", Text, nullable=False, comment="in words for staff, with what to do"),
    Column("version", Text, nullable=False, comment="that was rejected last"),
    Column("times", Integer, nullable=False, server_default="1", comment="how often it was rejected"),
    Column("first_seen", DateTime(timezone=True), nullable=False),
    Column("last_seen", DateTime(timezone=True), nullable=False, comment="when it was rejected last"),
    Column("resolved_at", DateTime(timezone=True), comment="null: open"),
    Column("resolved_by", Text, comment="the version that was taken; null: the file was renamed or taken away"),
    Index("rejection_open", "key", unique=True, postgresql_where=text("resolved_at is null")),
    Index("rejection_resolved", "resolved_at", postgresql_where=text("resolved_at is not null")),
)

failed_run = Table(
    "failed_run",
    metadata,
    Column("kind", Text, primary_key=True, comment="rebuild: of a collection; run: any other"),
    Column("place", Text, primary_key=True, comment="what it worked on; a later run of the same that ends well removes the row"),
    Column("run", Text, nullable=False, comment="id of the run that failed last"),
    Column("reason", Text, nullable=False),
    Column("failed_at", DateTime(timezone=True), nullable=False, comment="when the first failed since the last that ended well"),
)

notification = Table(
    "notification",
    metadata,
    Column("kind", Text, primary_key=True),
    Column("place", Text, primary_key=True),
    Column("files", Integer, nullable=False, comment="that were told of"),
    Column("latest", DateTime(timezone=True), nullable=False, comment="the newest trouble that was told of"),
    Column("notified_at", DateTime(timezone=True), nullable=False),
    Column("resolved_at", DateTime(timezone=True), comment="when it was told that the trouble is over"),
)

export_state = Table(
    "export_state",
    metadata,
    Column("collection", Text, ForeignKey(collection.c.name, ondelete="CASCADE"), primary_key=True),
    Column("revision", BigInteger, nullable=False, server_default="0", comment="of the index that its exports show"),
    Column("frames", Integer, nullable=False, server_default="0", comment="in them; 0: nothing is exported"),
    Column("format_version", Text, comment="what must be the same for items of unchanged frames to stand"),
    Column("attempts", Integer, nullable=False, server_default="0", comment="requested since the last that ended well"),
)

statewide_build = Table(
    "statewide_build",
    metadata,
    Column("name", Text, primary_key=True),
    Column("inputs_digest", Text, comment="digest of the collections' exports that the statewide files were put together from"),
    Column("seconds", Double, nullable=False, server_default="0", comment="that the last one took"),
    Column("started_at", DateTime(timezone=True)),
    Column("compiled_at", DateTime(timezone=True)),
    Column("attempts", Integer, nullable=False, server_default="0", comment="begun since the last that ended well"),
)

inbox = Table(
    "inbox",
    metadata,
    Column("key", Text(collation="C"), primary_key=True, comment="of an object that events told of: to be looked at"),
    Column("events", BigInteger, nullable=False, server_default="1", comment="so many told of it since it was looked at last"),
    Column("since", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column(
        "retry_after", DateTime(timezone=True), nullable=False, server_default=func.now(), comment="its folder could not be read"
    ),
    Column("attempts", Integer, nullable=False, server_default="0", comment="looks that failed"),
    Index("inbox_next", "retry_after", "since"),
)

# The map server's: one row for each collection that has an overview mosaic on the map.
overview_mosaics = Table(
    "overview_mosaics",
    metadata,
    Column("collection", Text, primary_key=True),
    Column("table_name", Text, nullable=False, unique=True),
    Column("served_location", Text, nullable=False, comment="path by which MapServer opens the COG"),
    Column("resolution", Double, nullable=False, comment="metres a pixel, in EPSG:3857"),
    Column("frames", Integer, nullable=False, comment="that it shows"),
    Column("geom", Geometry("GEOMETRY", srid=WEB_MERCATOR), nullable=False, comment="around all of them"),
    schema=PUBLIC,
)


def tile_index(of: Collection) -> Table:
    """The tile index of a collection. The columns up to `dl_index` and `geom` are legacy: published consumers read them."""
    return Table(
        of.table,
        # Named, because schema ls4 comes first in the pipeline's own search path and is closed to the map server.
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
    )
