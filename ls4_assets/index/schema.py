"""The tables: three of our own in schema `ls4`, and one tile index per collection in `public`, where the legacy ones were.

`source` is the truth about what lies in georef/; `frame` about what was made of it; `collection` about what is published. The
event log of Dagster is history, never asked for state.
"""

from enum import StrEnum

from geoalchemy2 import Geometry
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Date,
    DateTime,
    Double,
    Identity,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from ls4_assets.names import Collection

SCHEMA = "ls4"
PUBLIC = "public"
WEB_MERCATOR = 3857

metadata = MetaData(schema=SCHEMA)


class SourceState(StrEnum):
    """Where a dropped tif stands.

    settling: it changed a moment ago and may still be being copied; queued: waits for a run; requested: a run has it;
    done: its products are those of this version; failed: its content is at fault; refused: its name is; deleted: it is gone.
    """

    SETTLING = "settling"
    QUEUED = "queued"
    REQUESTED = "requested"
    DONE = "done"
    FAILED = "failed"
    REFUSED = "refused"
    DELETED = "deleted"


source = Table(
    "source",
    metadata,
    Column("key", Text, primary_key=True, comment="key of the georef tif"),
    Column("state", Text, nullable=False),
    Column("reason", Text, comment="why it was refused or failed, in words for staff"),
    Column("version", Text, nullable=False, comment="of the tif and its sidecars together"),
    Column("size", BigInteger, nullable=False),
    Column("sidecars", JSONB, nullable=False, server_default="[]"),
    Column("frame", Text, comment="id of the frame; null when refused by name"),
    Column("shard", Text),
    Column("collection", Text, comment="name of the collection"),
    Column("partition", Text),
    Column("batch", Text, comment="the batch that was last requested for it"),
    Column("attempts", Integer, nullable=False, server_default="0", comment="runs that died under this version"),
    Column("first_seen", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("changed_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("gone_at", DateTime(timezone=True), comment="when a complete listing first no longer showed it"),
    Column("not_before", DateTime(timezone=True), comment="a source whose runs die is tried again ever more seldom"),
    Index("source_waiting", "changed_at", postgresql_where=text("state in ('queued', 'requested', 'settling')")),
    Index("source_collection", "collection", "state"),
    Index("source_frame", "frame"),
)

frame = Table(
    "frame",
    metadata,
    Column("id", Text, primary_key=True, comment="band/shard/second/type/stem"),
    Column("shard", Text, nullable=False),
    Column("collection", Text, nullable=False),
    Column("partition", Text, nullable=False),
    Column("source_key", Text, nullable=False),
    Column("source_version", Text, nullable=False),
    Column("content_hash", Text, nullable=False, comment="SHA-256 over the tif and its sidecars"),
    Column("products", JSONB, nullable=False, server_default="{}", comment="per step: content, profile, size, version, run"),
    Column("scan_file", Text, comment="real file name of the raw scan, when there is one"),
    Column("width", Integer),
    Column("height", Integer),
    Column("source_crs", Text),
    Column("valid_share", Double),
    Column("footprint", Geometry("MULTIPOLYGON", srid=WEB_MERCATOR, spatial_index=False)),
    Column("deleted", Boolean, nullable=False, server_default="false", comment="its source is gone; leaves with the next index"),
    Column("revision", Integer, nullable=False, server_default="1", comment="grows with each change that the index shows"),
    Column("indexed_revision", Integer, nullable=False, server_default="0"),
    Column("updated_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Index("frame_collection", "collection"),
    Index("frame_unindexed", "collection", postgresql_where=text("revision <> indexed_revision")),
)

collection = Table(
    "collection",
    metadata,
    Column("name", Text, primary_key=True),
    Column("shard", Text, nullable=False),
    Column("partition", Text, nullable=False),
    Column("table_name", Text, nullable=False, unique=True, comment="names that differ by case only would share a table"),
    Column("public_url", Text, comment="base of the links in the published index"),
    Column("index_revision", Integer, nullable=False, server_default="0", comment="grows with each change of the table"),
    Column("files_revision", Integer, nullable=False, server_default="0", comment="of the table that the shapefile shows"),
    Column("map_revision", Integer, nullable=False, server_default="0", comment="of the table that the mapfile was made for"),
    Column("published_at", DateTime(timezone=True), comment="when its map was last written; null: no map"),
    Column("withdrawn_at", DateTime(timezone=True), comment="its last frame went; only its partition is left to remove"),
    Column("requested_at", DateTime(timezone=True), comment="when its rebuild was last requested"),
    Column("attempts", Integer, nullable=False, server_default="0", comment="rebuilds requested since the last that ended well"),
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
