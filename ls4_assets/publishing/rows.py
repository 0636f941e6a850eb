"""A collection's frames as they are exported: each row of its tile index, with what the frame table knows of its COG."""

import datetime
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, LargeBinary, Row, func, select

from ls4_assets.db.schema import frame, tile_index
from ls4_assets.db.tile_index import location_of
from ls4_assets.domain.names import Collection, Frame

# A centimetre on the ground.
_DEGREE_DIGITS = 7

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Cog:
    """The public COG. `current`: it is of the version that the frame table tells of, so size and hash are its own."""

    width: int
    height: int
    transform: tuple[float, ...]
    size: int
    sha256: str | None
    profile: str
    current: bool

    @property
    def box(self) -> Box:
        """minx, miny, maxx, maxy in EPSG:3857; a COG is north up."""
        across, _, west, _, down, north = self.transform
        return west, north + down * self.height, west + across * self.width, north


@dataclass(frozen=True)
class Shown:
    """A frame of the tile index. Geometry and `box` are in degrees; `columns` are the index's public ones, by name.

    `cog` is None where it is not known where it lies. `revision` is the frame's, `exported` the one that its STAC item shows.
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
    exported: int


INDEX_COLUMNS = ("location", "src_srs", "date", "roll", "frame_num", "dl_orig", "dl_georef", "dl_index", "band")


def read_shown(connection: Connection, of: Collection, bucket: str) -> list[Shown]:
    """Every frame of the index, in stacking order. One that is in the index but in no frame row is on its way out."""
    known = _frames(connection, of)
    by_location = {location_of(bucket, Frame.from_partition(of.shard, row.partition).cog_key): row for row in known}
    indexed = _index_rows(connection, of)
    return [_shown(of, row, by_location[row.location]) for row in indexed if row.location in by_location]


def _frames(connection: Connection, of: Collection) -> list[Row[Any]]:
    c = frame.c
    columns = (c.partition, c.width, c.height, c.transform, c.source_crs, c.products["cog"].label("cog"), c.scan_file)
    state = (c.public_version, c.revision, c.exported_revision)
    return list(connection.execute(select(*columns, *state).where(c.collection == of.name, ~c.deleted)))


def _index_rows(connection: Connection, of: Collection) -> list[Row[Any]]:
    table = tile_index(of)
    # Counter-clockwise, as RFC 7946 has it. Materialized: each footprint is transformed once, not for each of its columns.
    degrees = func.ST_ForcePolygonCCW(func.ST_Transform(table.c.geom, 4326))
    columns = (table.c.oid, table.c.acquired, *(table.c[name] for name in INDEX_COLUMNS))
    rows = select(*columns, degrees.label("degrees")).cte("rows").prefix_with("MATERIALIZED", dialect="postgresql")
    sides = (side(rows.c.degrees) for side in (func.ST_XMin, func.ST_YMin, func.ST_XMax, func.ST_YMax))
    chosen = select(
        *(column for column in rows.c if column.name != "degrees"),
        func.ST_AsGeoJSON(rows.c.degrees, _DEGREE_DIGITS).label("geojson"),
        func.ST_AsBinary(rows.c.degrees, type_=LargeBinary).label("wkb"),
        *(column.label(name) for column, name in zip(sides, ("minx", "miny", "maxx", "maxy"), strict=True)),
    )
    return list(connection.execute(chosen.order_by(rows.c.oid)))


def _shown(of: Collection, row: Row[Any], known: Row[Any]) -> Shown:
    return Shown(
        frame=Frame.from_partition(of.shard, known.partition),
        oid=row.oid,
        columns={name: getattr(row, name) for name in INDEX_COLUMNS},
        acquired=row.acquired,
        geojson=row.geojson,
        wkb=bytes(row.wkb),
        box=(row.minx, row.miny, row.maxx, row.maxy),
        scan_file=known.scan_file,
        source_crs=known.source_crs,
        cog=_cog(known),
        revision=known.revision,
        exported=known.exported_revision,
    )


def _cog(known: Row[Any]) -> Cog | None:
    made = known.cog
    if made is None or known.transform is None:
        return None
    return Cog(
        width=known.width,
        height=known.height,
        transform=tuple(known.transform),
        size=made["size"],
        sha256=made.get("sha256"),
        profile=made["profile"],
        current=known.public_version == made["version"],
    )
