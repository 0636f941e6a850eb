"""The frame table: what was made of each frame, and the only place that writes it.

A frame's row always tells of its last good version: a later version that fails leaves it, and the map, as they were.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, TypedDict, cast

from geoalchemy2.elements import WKBElement
from sqlalchemy import Connection, Engine, Integer, delete, func, select, text, update
from sqlalchemy.dialects.postgresql import insert

from ls4_assets.index.schema import WEB_MERCATOR, SourceState, frame, source
from ls4_assets.names import Frame, Step


@dataclass(frozen=True)
class Product:
    """One object made of a frame. `content` is the source's hash, `profile` that of the options, `made_by` the root run."""

    content: str
    profile: str
    size: int
    version: str
    made_by: str


class Facts(TypedDict, total=False):
    """What is known of a frame: the first two since its deflate tif was made, the others since its COG was.

    `valid_share` is 0 to 1; the footprint is WKB of a MultiPolygon in EPSG:3857; width and height are the COG's.
    """

    source_crs: str
    valid_share: float
    width: int
    height: int
    footprint: bytes


@dataclass(frozen=True)
class FrameRecord:
    """The frame's row, as far as processing asks for it."""

    source_version: str
    content_hash: str
    products: Mapping[Step, Product]
    facts: Facts
    deleted: bool


@dataclass(frozen=True)
class SourceRecord:
    """The tif that a frame is to be made of."""

    key: str
    version: str
    size: int
    sidecars: tuple[str, ...]


def source_of(connection: Connection, of: Frame) -> SourceRecord | None:
    """The live source of a frame; None when it is gone."""
    live = source.c.state.not_in([SourceState.DELETED, SourceState.REFUSED])
    row = connection.execute(select(source).where(source.c.frame == of.id, live)).first()
    return SourceRecord(row.key, row.version, row.size, tuple(row.sidecars)) if row else None


def record_of(connection: Connection, of: Frame) -> FrameRecord | None:
    row = connection.execute(select(frame).where(frame.c.id == of.id)).first()
    if row is None:
        return None
    products = {step: Product(**values) for step, values in row.products.items()}
    facts = {name: getattr(row, name) for name in Facts.__annotations__ if getattr(row, name) is not None}
    if isinstance(row.footprint, WKBElement):
        facts["footprint"] = bytes.fromhex(row.footprint.desc)
    return FrameRecord(row.source_version, row.content_hash, products, cast(Facts, facts), row.deleted)


def publish(
    connection: Connection,
    of: Frame,
    made_from: SourceRecord,
    content_hash: str,
    products: Mapping[Step, Product],
    facts: Facts,
    scan_file: str | None,
    complete: bool,
) -> None:
    """Write the frame's row and call its source done. Facts that were not found anew stay as they are.

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
        "scan_file": scan_file,
        "deleted": False,
        "updated_at": func.now(),
    }
    values |= facts
    if "footprint" in facts:
        values["footprint"] = WKBElement(facts["footprint"], srid=WEB_MERCATOR)
    # Source before frame, as the sensor locks them when a tif is deleted.
    mark_source(connection, made_from, SourceState.DONE if complete else SourceState.QUEUED)
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
    mark_source(connection, made_from, SourceState.DONE if complete else SourceState.QUEUED)
    connection.execute(update(frame).where(frame.c.id == of.id).values(values))


def mark_source(connection: Connection, which: SourceRecord, state: SourceState | None, reason: str | None = None) -> bool:
    """Set state and reason of a source, unless another version has come meanwhile (then False: that one's run will tell).

    State None: a run that has it goes on having it, and only the reason is written down.
    """
    same = [source.c.key == which.key, source.c.version == which.version, source.c.state != SourceState.DELETED]
    if state is None:
        noted = update(source).where(*same, source.c.state == SourceState.REQUESTED).values(reason=reason)
        return connection.execute(noted).rowcount == 1
    values = {"state": state, "reason": reason, "changed_at": func.now(), "not_before": None}
    return connection.execute(update(source).where(*same).values(values)).rowcount == 1


def forget(connection: Connection, of: Frame) -> None:
    connection.execute(delete(frame).where(frame.c.id == of.id))


@contextmanager
def frame_lock(engine: Engine, of: Frame) -> Iterator[Connection]:
    """One transaction that nobody else has on this frame: publishing and removing exclude each other."""
    with engine.begin() as connection:
        connection.execute(text("SELECT pg_advisory_xact_lock(hashtextextended(:id, 0))"), {"id": f"frame {of.id}"})
        yield connection
