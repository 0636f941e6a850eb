"""The frame table: what was made of each frame, and the only place that writes it.

A frame's row always tells of its last good version: a later version that fails leaves it, and the map, as they were.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any, TypedDict, cast

from geoalchemy2.elements import WKBElement
from sqlalchemy import ColumnElement, Connection, Engine, Integer, delete, exists, func, select, update
from sqlalchemy.dialects.postgresql import insert

from ls4_assets.db.schema import WEB_MERCATOR, SourceState, frame, source
from ls4_assets.domain.names import Frame, Step
from resources.locks import lock_until_commit

ADOPTED = "adopted"
"""Stands where a product's profile and run stand otherwise: the COG was there before ls4."""


@dataclass(frozen=True)
class Product:
    """One object made of a frame. `content` is the source's hash, `profile` that of the options, `made_by` the root run.

    `sha256`: of the object itself, for those who download it; known of COGs that ls4 made.
    """

    content: str
    profile: str
    size: int
    version: str
    made_by: str
    sha256: str | None = None


class Facts(TypedDict, total=False):
    """What is known of a frame: the first two since its deflate tif was made, the others since its COG was.

    `valid_share` is 0 to 1; the footprint is WKB of a MultiPolygon in EPSG:3857; width, height and transform (the six numbers
    of an affine transform, as rasterio orders them) are the COG's.
    """

    source_crs: str
    valid_share: float
    width: int
    height: int
    transform: list[float]
    footprint: bytes


@dataclass(frozen=True)
class FrameRecord:
    """The frame's row, as far as processing asks for it."""

    source_version: str
    content_hash: str
    products: Mapping[Step, Product]
    facts: Facts
    served_key: str | None
    deleted: bool
    scan_file: str | None = None


@dataclass(frozen=True)
class SourceRecord:
    """The tif that a frame is to be made of. `generation` counts the versions that were ever seen of the frame,
    however its key was spelled."""

    key: str
    version: str
    size: int
    sidecars: tuple[str, ...]
    generation: int


def source_of(connection: Connection, of: Frame) -> SourceRecord | None:
    """The live source of a frame; None when it is gone. Of two, as when x.TIF became x.tif, the one that was not missed."""
    there_first = (source.c.missing_since.is_not(None), source.c.key)
    rows = connection.execute(select(source).where(source.c.frame == of.id).order_by(*there_first)).all()
    row = next((row for row in rows if row.state not in (SourceState.DELETED, SourceState.REJECTED)), None)
    seen = sum(row.generation for row in rows)
    return SourceRecord(row.key, row.version, row.size, tuple(row.sidecars), seen) if row else None


def record_of(connection: Connection, of: Frame) -> FrameRecord | None:
    row = connection.execute(select(frame).where(frame.c.id == of.id)).first()
    if row is None:
        return None
    products = {step: Product(**values) for step, values in row.products.items()}
    facts = {name: getattr(row, name) for name in Facts.__annotations__ if getattr(row, name) is not None}
    if isinstance(row.footprint, WKBElement):
        facts["footprint"] = bytes.fromhex(row.footprint.desc)
    found = (row.source_version, row.content_hash, products, cast(Facts, facts), row.served_key, row.deleted, row.scan_file)
    return FrameRecord(*found)


def publish(
    connection: Connection,
    of: Frame,
    made_from: SourceRecord,
    content_hash: str,
    products: Mapping[Step, Product],
    facts: Facts,
    served_key: str | None,
    scan_file: str | None,
    complete: bool,
) -> None:
    """Write the frame's row. Facts that were not found anew stay as they are. Its source is the run's to call done (`told`).

    `served_key`: of the COG that the map shall read, None while there is none; where that is not the public key, the public
    COG follows once the index has changed over (ls4_assets/publishing/public_cogs.py).

    `complete`: all three products are of this content and the profile in force. A person may have asked for one alone; the
    source is then queued, and the sensor has the others made.
    """
    values: dict[str, Any] = {
        "shard": of.collection.shard,
        "collection": of.collection.name,
        "partition": of.partition,
        "source_key": made_from.key,
        "source_version": made_from.version,
        "content_hash": content_hash,
        "products": {step: asdict(product) for step, product in products.items()},
        "served_key": served_key,
        "scan_file": scan_file,
        # A tif that was deleted while this was uploaded: the row tells the next rebuild what to remove.
        "deleted": not _keep_source(connection, of, made_from, complete),
        "updated_at": func.now(),
    }
    values |= facts
    if served_key == of.cog_key:
        values["public_version"] = products["cog"].version
    if "footprint" in facts:
        values["footprint"] = WKBElement(facts["footprint"], srid=WEB_MERCATOR)
    row = insert(frame).values(id=of.id, **values)
    # The index shows links, attributes and footprint of the COG: any write may have changed one of them.
    connection.execute(row.on_conflict_do_update(index_elements=[frame.c.id], set_=values | {"revision": frame.c.revision + 1}))


def confirm(connection: Connection, of: Frame, made_from: SourceRecord, complete: bool) -> None:
    """The same bytes came again: the products stand, and the index has nothing to show anew unless the frame was leaving."""
    values = {
        "source_key": made_from.key,
        "source_version": made_from.version,
        "revision": frame.c.revision + frame.c.deleted.cast(Integer),
        "deleted": False,
    }
    if _keep_source(connection, of, made_from, complete):
        connection.execute(update(frame).where(frame.c.id == of.id).values(values))


def _keep_source(connection: Connection, of: Frame, made_from: SourceRecord, complete: bool) -> bool:
    """Lock the frame's source, and queue it for what is missing. False when it was deleted meanwhile.

    Source before frame, as the sensor locks them when a tif is deleted.
    """
    there = select(source.c.key).where(source.c.frame == of.id, source.c.state != SourceState.DELETED).with_for_update()
    kept = connection.execute(there).first() is not None
    mark_source(connection, made_from, None if complete else SourceState.QUEUED)
    return kept


def told(connection: Connection, made_from: SourceRecord) -> None:
    """Call a source done: its products are published and Dagster knows. One whose run died before is looked at again.

    So is one that went meanwhile and came back as it was: the frame is leaving, and its products with it.
    """
    stands = exists().where(frame.c.id == source.c.frame, frame.c.source_version == made_from.version, ~frame.c.deleted)
    values = _now(SourceState.DONE, None)
    connection.execute(update(source).where(*_same_version(made_from), stands).values(values))


def mark_source(connection: Connection, which: SourceRecord, state: SourceState | None, reason: str | None = None) -> bool:
    """Set state and reason of a source, unless another version has come meanwhile (then False: that one's run will tell).

    State None: a run that has it goes on having it, and only the reason is written down.
    """
    same = _same_version(which)
    if state is None:
        noted = update(source).where(*same, source.c.state == SourceState.REQUESTED).values(reason=reason)
        return connection.execute(noted).rowcount == 1
    return connection.execute(update(source).where(*same).values(_now(state, reason))).rowcount == 1


def requeue_after(connection: Connection, which: SourceRecord, reason: str, seconds: int) -> bool:
    """Let a source that is not done wait for another run, which does not count as a death of this one. False for one that is
    done, of which a person wanted something anew."""
    undone = source.c.state.in_((SourceState.QUEUED, SourceState.REQUESTED, SourceState.FAILED))
    values = requeue_after_values(reason, timedelta(seconds=seconds))
    return connection.execute(update(source).where(*_same_version(which), undone).values(values)).rowcount == 1


def requeue_after_values(reason: str, wait: timedelta) -> dict[str, Any]:
    """What a source becomes that waits for another run, without a death being counted."""
    later = {"retry_after": func.now() + wait, "attempts": func.greatest(source.c.attempts - 1, 0)}
    return _now(SourceState.QUEUED, reason) | later


def _same_version(which: SourceRecord) -> tuple[ColumnElement[bool], ...]:
    return source.c.key == which.key, source.c.version == which.version, source.c.state != SourceState.DELETED


def _now(state: SourceState, reason: str | None) -> dict[str, Any]:
    """What a source becomes at this moment."""
    return {"state": state, "reason": reason, "changed_at": func.now(), "retry_after": None}


def forget(connection: Connection, of: Frame) -> None:
    connection.execute(delete(frame).where(frame.c.id == of.id))


@contextmanager
def frame_lock(engine: Engine, of: Frame) -> Iterator[Connection]:
    """One transaction that nobody else has on this frame: publishing and removing exclude each other."""
    with engine.begin() as connection:
        lock_until_commit(connection, f"frame {of.id}")
        yield connection
