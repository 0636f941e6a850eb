"""Reading a collection's frames for export: rows of its tile index joined with the COGs in the frame table."""

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, LargeBinary, Row, func, select

from ls4_assets.db.schema import frame, tile_index
from ls4_assets.db.tile_index import cog_location
from ls4_assets.domain.exports import CollectionExport
from ls4_assets.domain.film_types import FilmType
from ls4_assets.domain.names import Collection, Frame

# One centimeter on the ground.
_DEGREE_DIGITS = 7

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Cog:
    """The public COG of a frame. `is_current`: the frame table's size and hash belong to the public version."""

    width: int
    height: int
    transform: tuple[float, ...]
    size: int
    sha256: str | None
    profile: str
    is_current: bool

    @property
    def box(self) -> Box:
        """minx, miny, maxx, maxy in EPSG:3857. A COG is always north up."""
        pixel_width, _, west, _, pixel_height, north = self.transform
        return west, north + pixel_height * self.height, west + pixel_width * self.width, north


@dataclass(frozen=True)
class IndexedFrame:
    """A frame of the tile index. Geometry and `box` (minx, miny, maxx, maxy) are in degrees.

    columns: public columns of the tile index by name. cog: None if the COG's location is unknown. revision: the frame's
    revision. exported_revision: the revision in its STAC item.
    """

    frame: Frame
    oid: int
    columns: Mapping[str, Any]
    acquired: datetime.date | None
    geojson: str
    wkb: bytes
    box: Box
    scan_file: str | None
    source_crs: str | None
    cog: Cog | None
    revision: int
    exported_revision: int


INDEX_COLUMNS = ("location", "src_srs", "date", "roll", "frame_num", "dl_orig", "dl_georef", "dl_index", "band")


def read_indexed_frames(connection: Connection, collection: Collection, bucket: str) -> list[IndexedFrame]:
    """Frames of the tile index in stacking order. Rows without a frame are omitted, because they are about to be removed."""
    frame_rows = _frame_rows(connection, collection)
    by_location = {cog_location(bucket, Frame.from_partition(collection.shard, row.partition).cog_key): row for row in frame_rows}
    index_rows = _index_rows(connection, collection)
    return [_indexed_frame(collection, row, by_location[row.location]) for row in index_rows if row.location in by_location]


def exported_frames(export: CollectionExport, film_type: FilmType | None, frames: Sequence[IndexedFrame]) -> list[IndexedFrame]:
    """The frames of one file of an export; empty if the file does not exist."""
    return [
        indexed for indexed in frames if film_type in (None, indexed.frame.film_type) and (indexed.cog or not export.needs_cogs)
    ]


def _frame_rows(connection: Connection, collection: Collection) -> list[Row[Any]]:
    c = frame.c
    columns = (c.partition, c.width, c.height, c.transform, c.source_crs, c.products["cog"].label("cog"), c.scan_file)
    state = (c.public_version, c.revision, c.exported_revision)
    return list(connection.execute(select(*columns, *state).where(c.collection == collection.name, ~c.deleted)))


def _index_rows(connection: Connection, collection: Collection) -> list[Row[Any]]:
    table = tile_index(collection)
    # Counterclockwise rings, as RFC 7946 requires. MATERIALIZED, so that each footprint is transformed once and not per column.
    degrees = func.ST_ForcePolygonCCW(func.ST_Transform(table.c.geom, 4326))
    columns = (table.c.oid, table.c.acquired, *(table.c[name] for name in INDEX_COLUMNS))
    rows = select(*columns, degrees.label("degrees")).cte("rows").prefix_with("MATERIALIZED", dialect="postgresql")
    sides = (side(rows.c.degrees) for side in (func.ST_XMin, func.ST_YMin, func.ST_XMax, func.ST_YMax))
    query = select(
        *(column for column in rows.c if column.name != "degrees"),
        func.ST_AsGeoJSON(rows.c.degrees, _DEGREE_DIGITS).label("geojson"),
        func.ST_AsBinary(rows.c.degrees, type_=LargeBinary).label("wkb"),
        *(column.label(name) for column, name in zip(sides, ("minx", "miny", "maxx", "maxy"), strict=True)),
    )
    return list(connection.execute(query.order_by(rows.c.oid)))


def _indexed_frame(collection: Collection, index_row: Row[Any], frame_row: Row[Any]) -> IndexedFrame:
    return IndexedFrame(
        frame=Frame.from_partition(collection.shard, frame_row.partition),
        oid=index_row.oid,
        columns={name: getattr(index_row, name) for name in INDEX_COLUMNS},
        acquired=index_row.acquired,
        geojson=index_row.geojson,
        wkb=bytes(index_row.wkb),
        box=(index_row.minx, index_row.miny, index_row.maxx, index_row.maxy),
        scan_file=frame_row.scan_file,
        source_crs=frame_row.source_crs,
        cog=_cog(frame_row),
        revision=frame_row.revision,
        exported_revision=frame_row.exported_revision,
    )


def _cog(frame_row: Row[Any]) -> Cog | None:
    product = frame_row.cog
    if product is None or frame_row.transform is None:
        return None
    return Cog(
        width=frame_row.width,
        height=frame_row.height,
        transform=tuple(frame_row.transform),
        size=product["size"],
        sha256=product.get("sha256"),
        profile=product["profile"],
        is_current=frame_row.public_version == product["version"],
    )
