"""Reads and writes of the frame table, and of the state of the source that a frame is made from.

A frame's row describes its last valid version: a later version that fails changes neither the row nor the map. Sources that a
scan finds are in `ingest/sources.py`, batches in `ingest/batches.py`.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from typing import Any, TypedDict, cast

from geoalchemy2.elements import WKBElement
from sqlalchemy import ColumnElement, Connection, Engine, Integer, delete, exists, func, select, update
from sqlalchemy.dialects.postgresql import insert

from ls4_assets.db import schema
from ls4_assets.db.schema import WEB_MERCATOR, SourceState
from ls4_assets.domain.names import Collection, Frame
from ls4_assets.domain.products import Step
from resources.locks import lock_until_commit

ADOPTED = "adopted"
"""Replaces the profile hash and the run id of an adopted COG, which existed before ls4."""


_GEOMETRIES = ("footprint", "interior")


@dataclass(frozen=True)
class Product:
    """One product object of a frame. `size` is in bytes.

    `content` is the hash of the source, `profile` the hash of the options and `made_by` the id of the root run. `sha256` is the
    checksum of the object for downloads; None for adopted COGs.
    """

    content: str
    profile: str
    size: int
    version: str
    made_by: str
    sha256: str | None = None


def count_made_by(connection: Connection, shard: str, step: Step, runs: Sequence[str]) -> int:
    """Number of frames of the shard whose product of `step` these runs made."""
    table = schema.frame
    is_made = (table.c.shard == shard, table.c.products[step]["made_by"].astext.in_(runs), ~table.c.deleted)
    return connection.scalar(select(func.count()).where(*is_made)) or 0


class FrameFacts(TypedDict, total=False):
    """Measurements of a frame: the first five of its deflate tif, the others of its COG.

    `georeference` says where position and CRS came from (`raster.georeference`). `transformation` is that of the datum, with its
    accuracy; `missing_grids` would make it sufficient. `valid_share` is 0 to 1; `width` and `height` are in pixels; `transform`
    has the six numbers of an affine transform in rasterio order; `footprint` and `interior` are WKB of
    a MultiPolygon in EPSG:3857.
    """

    source_crs: str
    georeference: dict[str, Any]
    valid_share: float
    transformation: str
    missing_grids: list[str]
    width: int
    height: int
    transform: list[float]
    footprint: bytes
    interior: bytes | None


@dataclass(frozen=True)
class FrameRecord:
    """The columns of a frame's row that processing reads."""

    source_version: str
    content_hash: str
    products: Mapping[Step, Product]
    facts: FrameFacts
    served_key: str | None
    deleted: bool
    scan_file: str | None = None


@dataclass(frozen=True)
class SourceRecord:
    """The tif to make a frame from. `version_count` is the number of versions seen of the frame, under any spelling of its
    key; `generations` says in which order its files arrived, by object key (`ls4_assets.ingest.arrivals`)."""

    key: str
    version: str
    size: int
    sidecars: tuple[str, ...]
    version_count: int
    generations: Mapping[str, int] = field(default_factory=dict)


def load_source(connection: Connection, frame: Frame) -> SourceRecord | None:
    """Returns the live source of a frame, None without one. Of two (x.TIF renamed to x.tif) it is the one that is not missing."""
    columns = schema.source.c
    query = select(schema.source).where(columns.frame == frame.id).order_by(columns.missing_since.is_not(None), columns.key)
    rows = connection.execute(query).all()
    row = next((row for row in rows if row.state not in (SourceState.DELETED, SourceState.REJECTED)), None)
    version_count = sum(row.version_count for row in rows)
    if row is None:
        return None
    generations = {key: arrival[1] for key, arrival in (row.arrivals or {}).items()}
    return SourceRecord(row.key, row.version, row.size, tuple(row.sidecars), version_count, generations)


def load_frame(connection: Connection, frame: Frame) -> FrameRecord | None:
    """Returns the frame's row, None without one."""
    row = connection.execute(select(schema.frame).where(schema.frame.c.id == frame.id)).first()
    if row is None:
        return None
    facts = {name: getattr(row, name) for name in FrameFacts.__annotations__ if getattr(row, name) is not None}
    for name in _GEOMETRIES:
        if isinstance(facts.get(name), WKBElement):
            facts[name] = bytes.fromhex(facts[name].desc)
    return FrameRecord(
        source_version=row.source_version,
        content_hash=row.content_hash,
        products={step: Product(**values) for step, values in row.products.items()},
        facts=cast(FrameFacts, facts),
        served_key=row.served_key,
        deleted=row.deleted,
        scan_file=row.scan_file,
    )


def publish(
    connection: Connection,
    frame: Frame,
    source: SourceRecord,
    content_hash: str,
    products: Mapping[Step, Product],
    facts: FrameFacts,
    served_key: str | None,
    scan_file: str | None,
    complete: bool,
) -> None:
    """Write the frame's row. Facts that are not given keep their values. The run marks the source done later (`mark_done`).

    `served_key`: object key of the COG for the map, None without one. When it is not the public key, the public COG is replaced
    after the next change of the tile index (ls4_assets/publishing/obsolete.py).

    `complete`: all three products have this content and an active profile. Otherwise, as when a person materialized one asset
    alone, the source is queued and the sensor requests the others.
    """
    values: dict[str, Any] = {
        "shard": frame.collection.shard,
        "collection": frame.collection.name,
        "partition": frame.partition,
        "source_key": source.key,
        "source_version": source.version,
        "content_hash": content_hash,
        "products": {step: asdict(product) for step, product in products.items()},
        "served_key": served_key,
        "scan_file": scan_file,
        # When the tif was deleted during the upload, the row lists the objects that the next rebuild must remove.
        "deleted": not _update_source(connection, frame, source, complete),
        "updated_at": func.now(),
    }
    values |= facts
    if served_key == frame.cog_key:
        values["public_version"] = products["cog"].version
    for name in _GEOMETRIES:
        if values.get(name) is not None:
            values[name] = WKBElement(values[name], srid=WEB_MERCATOR)
    statement = insert(schema.frame).values(id=frame.id, **values)
    # The tile index has links, attributes and the footprint of the COG, and any write may change one of them.
    changed = values | {"revision": schema.frame.c.revision + 1}
    connection.execute(statement.on_conflict_do_update(index_elements=[schema.frame.c.id], set_=changed))


def touch_unchanged(connection: Connection, frame: Frame, source: SourceRecord, complete: bool) -> None:
    """Record a new version with the same bytes. The products stay, and the tile index is due only if the frame was deleted."""
    columns = schema.frame.c
    values = {
        "source_key": source.key,
        "source_version": source.version,
        "revision": columns.revision + columns.deleted.cast(Integer),
        "deleted": False,
    }
    if _update_source(connection, frame, source, complete):
        connection.execute(update(schema.frame).where(columns.id == frame.id).values(values))


def _update_source(connection: Connection, frame: Frame, source: SourceRecord, complete: bool) -> bool:
    """Lock the frame's source, and queue it when products are missing. Returns False when the source is deleted.

    The order of locks is source before frame, as in the sensor that handles deletions.
    """
    columns = schema.source.c
    query = select(columns.key).where(columns.frame == frame.id, columns.state != SourceState.DELETED).with_for_update()
    is_live = connection.execute(query).first() is not None
    set_source_state(connection, source, None if complete else SourceState.QUEUED)
    return is_live


def mark_done(connection: Connection, source: SourceRecord) -> None:
    """Mark a source done, once its products are published and Dagster has the materializations. A crash before that requeues it.

    A source whose frame is deleted, or has another version, keeps its state and is requeued too: its tif was deleted and came
    back unchanged during the run, so the next rebuild removes the products.
    """
    frame = schema.frame.c
    has_frame = exists().where(frame.id == schema.source.c.frame, frame.source_version == source.version, ~frame.deleted)
    values = _state_values(SourceState.DONE, None)
    connection.execute(update(schema.source).where(*_same_version(source), has_frame).values(values))


def set_source_state(connection: Connection, source: SourceRecord, state: SourceState | None, reason: str | None = None) -> bool:
    """Set state and reason of a source. Returns False, and writes nothing, when the source has a newer version.

    State None only writes the reason of a requested source, which stays requested.
    """
    same = _same_version(source)
    if state is None:
        statement = update(schema.source).where(*same, schema.source.c.state == SourceState.REQUESTED).values(reason=reason)
        return connection.execute(statement).rowcount == 1
    return connection.execute(update(schema.source).where(*same).values(_state_values(state, reason))).rowcount == 1


def requeue_after(connection: Connection, source: SourceRecord, reason: str, seconds: int) -> bool:
    """Queue a source for another run after a delay. Returns False for a source that is done already, as when a person
    rematerialized its frame."""
    undone = schema.source.c.state.in_((SourceState.QUEUED, SourceState.REQUESTED, SourceState.FAILED))
    values = requeue_values(reason, timedelta(seconds=seconds))
    return connection.execute(update(schema.source).where(*_same_version(source), undone).values(values)).rowcount == 1


def requeue_values(reason: str, wait: timedelta) -> dict[str, Any]:
    """Column values of a source that is queued for another run. They take back the attempt of the current run, which did not
    crash."""
    delay = {"retry_after": func.now() + wait, "attempts": func.greatest(schema.source.c.attempts - 1, 0)}
    return _state_values(SourceState.QUEUED, reason) | delay


def _same_version(source: SourceRecord) -> tuple[ColumnElement[bool], ...]:
    columns = schema.source.c
    return columns.key == source.key, columns.version == source.version, columns.state != SourceState.DELETED


def _state_values(state: SourceState, reason: str | None) -> dict[str, Any]:
    """Column values of a change of state now."""
    return {"state": state, "reason": reason, "changed_at": func.now(), "retry_after": None}


def load_median_pixel_size(connection: Connection, collection: Collection) -> float:
    """Median pixel width of the collection's frames in EPSG:3857 meters; 1 if it is unknown."""
    frame = schema.frame.c
    pixel_size = (func.ST_XMax(frame.footprint) - func.ST_XMin(frame.footprint)) / frame.width
    conditions = (frame.collection == collection.name, ~frame.deleted, frame.width > 0, frame.footprint.is_not(None))
    return connection.scalar(select(func.percentile_cont(0.5).within_group(pixel_size)).where(*conditions)) or 1.0


def delete_frame(connection: Connection, frame: Frame) -> None:
    """Delete the frame's row. The caller deletes its objects."""
    connection.execute(delete(schema.frame).where(schema.frame.c.id == frame.id))


@contextmanager
def frame_lock(engine: Engine, frame: Frame) -> Iterator[Connection]:
    """One transaction with an exclusive lock on the frame, so that publishing and removing exclude each other."""
    with engine.begin() as connection:
        lock_until_commit(connection, f"frame {frame.id}")
        yield connection
