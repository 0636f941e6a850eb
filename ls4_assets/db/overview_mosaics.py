"""What the database knows of overview mosaics: which frames the last one shows, and which mosaic the map reads.

The frames that a mosaic shows are noted in the transaction that puts it on the map. What has changed since then is the
difference between these notes and the tile index, whatever died in between.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, delete, func, literal, select, update
from sqlalchemy.dialects.postgresql import insert

from ls4_assets.db import schema
from ls4_assets.db.chunks import chunks
from ls4_assets.db.schema import WEB_MERCATOR, overview_mosaic, overview_mosaics
from ls4_assets.domain.names import Collection
from ls4_assets.raster.overview_grid import Box, resolution
from ls4_assets.raster.overview_painting import PlacedFrame

# Of a collection of which no frame tells its size.
_USUAL_METRES = 1.0

_SIDES = {"minx": "ST_XMin", "miny": "ST_YMin", "maxx": "ST_XMax", "maxy": "ST_YMax"}
# What must be the same for a frame to be the same: its place in the stack, its COG, and what that was made of.
_IDENTITY = ("oid", "served_location", "source_version")


@dataclass(frozen=True)
class Change:
    """A frame that differs from the one that the last mosaic shows; `boxes`: where it was, and where it is."""

    oid: int
    boxes: tuple[Box, ...]


@dataclass(frozen=True)
class Mosaic:
    """One that was made: `served_location` is GDAL's path to the object `key`; `format_version` and `zoom` as in the table."""

    key: str
    served_location: str
    format_version: str
    zoom: int


@dataclass(frozen=True)
class State:
    """Where a collection's mosaic stands, and what decides about its next one.

    revision: of the tile index.
    published: its map is there; rebuilds: asked for since the last that brought the map up to date, this one included.
    extent: of all footprints; None without frames. bands: 3 where some frame has colours.
    attempts, key, format_version, zoom: the columns of `overview_mosaic`; on_map: the map reads it.
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


def state(connection: Connection, of: Collection) -> State:
    """Makes the collection's row where there is none."""
    connection.execute(insert(overview_mosaic).values(collection=of.name).on_conflict_do_nothing())
    whole, mosaic = schema.collection.c, overview_mosaic.c
    on_map = select(overview_mosaics.c.collection).where(overview_mosaics.c.collection == of.name).exists()
    row = connection.execute(
        select(
            *(whole.index_revision, whole.published_at, whole.attempts.label("rebuilds"), whole.bands, *_sides(whole.outline)),
            *(mosaic.attempts, mosaic.key, mosaic.format_version, mosaic.zoom, on_map.label("on_map")),
        )
        .join_from(schema.collection, overview_mosaic, mosaic.collection == whole.name)
        .where(whole.name == of.name)
    ).one()
    return State(
        revision=row.index_revision,
        published=row.published_at is not None,
        rebuilds=row.rebuilds,
        extent=None if row.minx is None else (row.minx, row.miny, row.maxx, row.maxy),
        bands=3 if "nc" in row.bands else 1,
        attempts=row.attempts,
        key=row.key,
        format_version=row.format_version,
        zoom=row.zoom,
        on_map=row.on_map,
    )


def native_resolution(connection: Connection, of: Collection) -> float:
    """Median metres a pixel of the collection's frames: from the ground that their valid pixels cover."""
    frame = schema.frame.c
    pixels = func.nullif(frame.width * frame.height * func.coalesce(func.nullif(frame.valid_share, 0), 1), 0)
    metres = func.sqrt(func.ST_Area(frame.footprint) / pixels)
    median = select(func.percentile_cont(0.5).within_group(metres)).where(frame.collection == of.name, ~frame.deleted)
    return connection.scalar(median) or _USUAL_METRES


def changes(connection: Connection, of: Collection) -> list[Change]:
    """Frames that came, changed or left since the last mosaic."""
    table, frames = schema.tile_index(of), schema.overview_mosaic_frame
    # One pass over each: no footprint is looked at but those of frames that changed.
    noted = select(frames).where(frames.c.collection == of.name).subquery()
    same = and_(*(noted.c[name] == table.c[name] for name in _IDENTITY))
    rows = connection.execute(
        select(func.coalesce(table.c.oid, noted.c.oid).label("oid"), *_sides(table.c.geom), *(noted.c[side] for side in _SIDES))
        .select_from(table.join(noted, table.c.oid == noted.c.oid, full=True))
        .where(func.coalesce(same, False).is_(False))
    )
    return [Change(row[0], tuple(_box(sides) for sides in (row[1:5], row[5:9]) if sides[0] is not None)) for row in rows]


def frames_in(connection: Connection, of: Collection, box: Box | None = None) -> list[PlacedFrame]:
    """Frames of the tile index whose boxes meet `box`; all of them without one."""
    table = schema.tile_index(of)
    meets = table.c.geom.op("&&")(func.ST_MakeEnvelope(*box, WEB_MERCATOR)) if box else literal(True)
    rows = connection.execute(select(table.c.oid, table.c.served_location, *_sides(table.c.geom)).where(meets))
    return [PlacedFrame(row[0], row[1], _box(row[2:6])) for row in rows]


def publish(connection: Connection, of: Collection, mosaic: Mosaic, changed: Sequence[Change], left_out: Sequence[int]) -> None:
    """Put a mosaic on the map. It shows the tile index as it is, with what has `changed`, but for frames `left_out`, by oid."""
    whole = schema.collection.c
    shown = select(literal(of.name), whole.table_name, literal(mosaic.served_location), literal(resolution(mosaic.zoom)))
    statement = insert(overview_mosaics).from_select(
        ["collection", "table_name", "served_location", "resolution", "frames", "geom"],
        shown.add_columns(whole.frames - len(left_out), whole.outline).where(whole.name == of.name),
    )
    new = {column.name: statement.excluded[column.name] for column in overview_mosaics.columns}
    connection.execute(statement.on_conflict_do_update(index_elements=["collection"], set_=new))
    _note_frames(connection, of, [change.oid for change in changed], left_out)
    note(connection, of, key=mosaic.key, format_version=mosaic.format_version, zoom=mosaic.zoom)


def take_off(connection: Connection, of: Collection) -> None:
    """The map reads frames again, at every scale."""
    connection.execute(delete(overview_mosaics).where(overview_mosaics.c.collection == of.name))


def forget(connection: Connection, of: Collection, revision: int) -> None:
    """Nothing is left of the mosaic of a collection that has no frames; its objects are the caller's to delete."""
    take_off(connection, of)
    frames = schema.overview_mosaic_frame
    connection.execute(delete(frames).where(frames.c.collection == of.name))
    note(connection, of, key=None, format_version=None, zoom=None, revision=revision, attempts=0)


def note(connection: Connection, of: Collection, **values: object) -> None:
    connection.execute(update(overview_mosaic).where(overview_mosaic.c.collection == of.name).values(values))


def resolution_on_map(connection: Connection, of: Collection) -> float | None:
    """Metres a pixel of the mosaic that the map reads; None when there is none."""
    return connection.scalar(select(overview_mosaics.c.resolution).where(overview_mosaics.c.collection == of.name))


def key_on_map(connection: Connection, of: Collection) -> str | None:
    """Of the COG that the map reads; None when there is none."""
    joined = overview_mosaic.join(overview_mosaics, overview_mosaics.c.collection == overview_mosaic.c.collection)
    return connection.scalar(select(overview_mosaic.c.key).select_from(joined).where(overview_mosaic.c.collection == of.name))


def _note_frames(connection: Connection, of: Collection, changed: Sequence[int], left_out: Sequence[int]) -> None:
    """Only rows that differ are written: one frame more costs the same in every collection."""
    table, frames = schema.tile_index(of), schema.overview_mosaic_frame
    for oids in chunks({*changed, *left_out}, 5000):
        connection.execute(delete(frames).where(frames.c.collection == of.name, frames.c.oid.in_(oids)))
    # What could not be read goes on being a difference.
    for oids in chunks(set(changed) - set(left_out), 5000):
        rows = select(literal(of.name), *(table.c[name] for name in _IDENTITY), *_sides(table.c.geom))
        names = ["collection", *_IDENTITY, *_SIDES]
        connection.execute(insert(frames).from_select(names, rows.where(table.c.oid.in_(oids))))


def _sides(geom: ColumnElement[Any]) -> list[ColumnElement[float]]:
    return [getattr(func, function)(geom).label(name) for name, function in _SIDES.items()]


def _box(sides: Sequence[float]) -> Box:
    minx, miny, maxx, maxy = sides
    return minx, miny, maxx, maxy
