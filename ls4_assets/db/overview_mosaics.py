"""The state of overview mosaics: the frames in the last one, and the mosaic on the map.

The transaction that puts a mosaic on the map also records its frames. The changes since then are the difference between these
records and the tile index, whichever process crashed in between. The mosaics are painted in `raster/overview_mosaic.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, delete, func, literal, select, update
from sqlalchemy.dialects.postgresql import insert

from ls4_assets.db import schema
from ls4_assets.db.schema import WEB_MERCATOR, overview_mosaic, overview_mosaic_frame, overview_mosaics
from ls4_assets.domain.chunks import chunks
from ls4_assets.domain.film_types import FILM_TYPES
from ls4_assets.domain.names import Collection
from ls4_assets.raster.overview_grid import Box, zoom_resolution
from ls4_assets.raster.overview_painting import PlacedFrame

# Meters per pixel of a collection without frames of known size.
_DEFAULT_RESOLUTION = 1.0

_SIDES = {"minx": "ST_XMin", "miny": "ST_YMin", "maxx": "ST_XMax", "maxy": "ST_YMax"}
# A frame is unchanged when these are: its position in the stack, its COG and the version that the COG was made from.
_IDENTITY = ("oid", "served_location", "source_version")


@dataclass(frozen=True)
class FrameChange:
    """A frame that differs from the last mosaic. `boxes`: its old and new bounds in EPSG:3857, or one of them."""

    oid: int
    boxes: tuple[Box, ...]


@dataclass(frozen=True)
class OverviewMosaic:
    """A mosaic. `served_location` is the GDAL path of the object `key`; `format_version` and `zoom` are as in the table."""

    key: str
    served_location: str
    format_version: str
    zoom: int


@dataclass(frozen=True)
class MosaicState:
    """The state of a collection's mosaic, and what the next build depends on.

    revision: revision of the tile index.
    published: the collection has a map. rebuilds: rebuilds requested since the last success, including the current one.
    extent: bounds of all footprints in EPSG:3857; None without frames. bands: 3 when any frame has as many, else 1.
    attempts, key, format_version, zoom: columns of `overview_mosaic`. on_map: the map has a mosaic.
    """

    revision: int
    published: bool
    rebuilds: int
    extent: Box | None
    bands: int
    attempts: int
    key: str | None
    format_version: str | None
    zoom: int | None
    on_map: bool


def load_state(connection: Connection, collection: Collection) -> MosaicState:
    """Returns the state of a collection's mosaic, after creating its row."""
    connection.execute(insert(overview_mosaic).values(collection=collection.name).on_conflict_do_nothing())
    columns, mosaic = schema.collection.c, overview_mosaic.c
    on_map = select(overview_mosaics.c.collection).where(overview_mosaics.c.collection == collection.name).exists()
    row = connection.execute(
        select(
            *(columns.index_revision, columns.published_at, columns.attempts.label("rebuilds"), columns.film_types),
            *_sides(columns.outline),
            *(mosaic.attempts, mosaic.key, mosaic.format_version, mosaic.zoom, on_map.label("on_map")),
        )
        .join_from(schema.collection, overview_mosaic, mosaic.collection == columns.name)
        .where(columns.name == collection.name)
    ).one()
    return MosaicState(
        revision=row.index_revision,
        published=row.published_at is not None,
        rebuilds=row.rebuilds,
        extent=None if row.minx is None else (row.minx, row.miny, row.maxx, row.maxy),
        bands=max((FILM_TYPES[film_type].bands for film_type in row.film_types), default=1),
        attempts=row.attempts,
        key=row.key,
        format_version=row.format_version,
        zoom=row.zoom,
        on_map=row.on_map,
    )


def measure_native_resolution(connection: Connection, collection: Collection) -> float:
    """Returns the median resolution of the collection's frames in meters per pixel: footprint area over valid pixels."""
    frame = schema.frame.c
    pixels = func.nullif(frame.width * frame.height * func.coalesce(func.nullif(frame.valid_share, 0), 1), 0)
    resolution = func.sqrt(func.ST_Area(frame.footprint) / pixels)
    median = select(func.percentile_cont(0.5).within_group(resolution))
    return connection.scalar(median.where(frame.collection == collection.name, ~frame.deleted)) or _DEFAULT_RESOLUTION


def load_changes(connection: Connection, collection: Collection) -> list[FrameChange]:
    """Returns the frames that were added, changed or removed since the last mosaic."""
    table = schema.tile_index(collection)
    # One pass over both tables, which reads the footprints of changed frames only.
    painted = select(overview_mosaic_frame).where(overview_mosaic_frame.c.collection == collection.name).subquery()
    same = and_(*(painted.c[name] == table.c[name] for name in _IDENTITY))
    rows = connection.execute(
        select(
            func.coalesce(table.c.oid, painted.c.oid).label("oid"),
            *_sides(table.c.geom),
            *(painted.c[side] for side in _SIDES),
        )
        .select_from(table.join(painted, table.c.oid == painted.c.oid, full=True))
        .where(func.coalesce(same, False).is_(False))
    )
    return [FrameChange(row[0], tuple(_box(sides) for sides in (row[1:5], row[5:9]) if sides[0] is not None)) for row in rows]


def load_frames(connection: Connection, collection: Collection, box: Box | None = None) -> list[PlacedFrame]:
    """Returns the frames of the tile index whose bounds intersect `box` (EPSG:3857); None: all frames."""
    table = schema.tile_index(collection)
    intersects = table.c.geom.op("&&")(func.ST_MakeEnvelope(*box, WEB_MERCATOR)) if box else literal(True)
    rows = connection.execute(select(table.c.oid, table.c.served_location, *_sides(table.c.geom)).where(intersects))
    return [PlacedFrame(row[0], row[1], _box(row[2:6])) for row in rows]


def publish(
    connection: Connection,
    collection: Collection,
    mosaic: OverviewMosaic,
    changes: Sequence[FrameChange],
    left_out: Sequence[int],
) -> None:
    """Put a mosaic on the map. It shows the current tile index with all `changes`, except the frames `left_out` (oids)."""
    columns = schema.collection.c
    row = select(
        literal(collection.name), columns.table_name, literal(mosaic.served_location), literal(zoom_resolution(mosaic.zoom))
    )
    statement = insert(overview_mosaics).from_select(
        ["collection", "table_name", "served_location", "resolution", "frames", "geom"],
        row.add_columns(columns.frames - len(left_out), columns.outline).where(columns.name == collection.name),
    )
    new = {column.name: statement.excluded[column.name] for column in overview_mosaics.columns}
    connection.execute(statement.on_conflict_do_update(index_elements=["collection"], set_=new))
    _record_frames(connection, collection, [change.oid for change in changes], left_out)
    update_state(connection, collection, key=mosaic.key, format_version=mosaic.format_version, zoom=mosaic.zoom)


def unpublish(connection: Connection, collection: Collection) -> None:
    """Take the mosaic off the map, which then reads frames at every scale."""
    connection.execute(delete(overview_mosaics).where(overview_mosaics.c.collection == collection.name))


def delete_mosaic(connection: Connection, collection: Collection, revision: int) -> None:
    """Take the mosaic of a collection without frames off the map and reset its row. The caller deletes its objects."""
    unpublish(connection, collection)
    connection.execute(delete(overview_mosaic_frame).where(overview_mosaic_frame.c.collection == collection.name))
    update_state(connection, collection, key=None, format_version=None, zoom=None, revision=revision, attempts=0)


def update_state(connection: Connection, collection: Collection, **values: object) -> None:
    """Set columns of the collection's row."""
    connection.execute(update(overview_mosaic).where(overview_mosaic.c.collection == collection.name).values(values))


def load_resolution_on_map(connection: Connection, collection: Collection) -> float | None:
    """Returns the resolution of the mosaic on the map in meters per pixel; None without one."""
    return connection.scalar(select(overview_mosaics.c.resolution).where(overview_mosaics.c.collection == collection.name))


def load_key_on_map(connection: Connection, collection: Collection) -> str | None:
    """Returns the object key of the mosaic on the map; None without one."""
    joined = overview_mosaic.join(overview_mosaics, overview_mosaics.c.collection == overview_mosaic.c.collection)
    query = select(overview_mosaic.c.key).select_from(joined).where(overview_mosaic.c.collection == collection.name)
    return connection.scalar(query)


def _record_frames(connection: Connection, collection: Collection, changed: Sequence[int], left_out: Sequence[int]) -> None:
    """Write the rows of changed frames only, so one more frame costs the same in every collection."""
    table, frames = schema.tile_index(collection), overview_mosaic_frame
    for oids in chunks({*changed, *left_out}, 5000):
        connection.execute(delete(frames).where(frames.c.collection == collection.name, frames.c.oid.in_(oids)))
    # Frames that could not be read stay a difference, so the next build tries them again.
    for oids in chunks(set(changed) - set(left_out), 5000):
        rows = select(literal(collection.name), *(table.c[name] for name in _IDENTITY), *_sides(table.c.geom))
        names = ["collection", *_IDENTITY, *_SIDES]
        connection.execute(insert(frames).from_select(names, rows.where(table.c.oid.in_(oids))))


def _sides(geom: ColumnElement[Any]) -> list[ColumnElement[float]]:
    return [getattr(func, function)(geom).label(name) for name, function in _SIDES.items()]


def _box(sides: Sequence[float]) -> Box:
    minx, miny, maxx, maxy = sides
    return minx, miny, maxx, maxy
