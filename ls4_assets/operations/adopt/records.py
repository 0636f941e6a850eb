"""Read and write the Postgres rows of adopted frames. Their events in Dagster are in `history`.

An adopted frame has one product, its COG, made under no active profile. It counts as done until its georef tif is replaced or
it is materialized; then all three products are made from the georef tif.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass

from geoalchemy2.elements import WKBElement
from sqlalchemy import Connection, Engine, func, select, update
from sqlalchemy.dialects.postgresql import insert

from ls4_assets.db import schema
from ls4_assets.db.frames import ADOPTED, Product
from ls4_assets.db.schema import WEB_MERCATOR, SourceState, frame, source
from ls4_assets.domain.names import Collection
from ls4_assets.errors import InvalidNameError
from ls4_assets.ingest.planner import SourceChange, SourceChanges
from ls4_assets.ingest.sources import apply_changes, load_table_names
from ls4_assets.operations.adopt.cog_header import CogHeader
from ls4_assets.operations.adopt.inventory import Candidate
from resources.locks import lock_until_commit


@dataclass(frozen=True)
class Adoption:
    """A COG that may be served. `is_current`: it counts as a product of the georef tif that is in the bucket now."""

    candidate: Candidate
    header: CogHeader
    is_current: bool

    @property
    def product(self) -> Product:
        cog = self.candidate.cog
        return Product(self.header.source_sha256, ADOPTED, cog.size, cog.version, ADOPTED)


@dataclass(frozen=True)
class ExistingFrames:
    """What the tables hold of a collection.

    `adopted_versions`: version of the COG by id of the adopted frame. `sourceless_cogs`: keys of adopted COGs that never had a
    georef tif. `own_ids`: frames that ls4 made, or that are being deleted. `running_ids`: frames that a run is making.
    """

    adopted_versions: dict[str, str]
    sourceless_cogs: frozenset[str]
    own_ids: frozenset[str]
    running_ids: frozenset[str]

    def has(self, candidate: Candidate) -> bool:
        """Return whether the candidate needs no adoption: it was adopted and not replaced since, or ls4 makes the frame."""
        id_ = candidate.frame.id
        return id_ in self.own_ids or id_ in self.running_ids or self.adopted_versions.get(id_) == candidate.cog.version


def load_existing_frames(connection: Connection, collection: Collection) -> ExistingFrames:
    """Read the collection's rows. Raises InvalidNameError when another collection uses this one's table."""
    other = load_table_names(connection).get(collection.table, collection.name)
    if other != collection.name:
        raise InvalidNameError(
            f"{collection.name} differs from {other} only in upper and lower case; move its files there, and adopt again."
        )
    cog = frame.c.products["cog"]
    columns = (frame.c.id, frame.c.deleted, frame.c.source_key, frame.c.served_key)
    made_by, version = cog["made_by"].astext.label("made_by"), cog["version"].astext.label("version")
    rows = connection.execute(select(*columns, made_by, version).where(frame.c.collection == collection.name)).all()
    adopted = [row for row in rows if row.made_by == ADOPTED and not row.deleted]
    versions = {row.id: row.version for row in adopted}
    sourceless_cogs = frozenset(row.served_key for row in adopted if row.served_key == row.source_key)
    requested = (source.c.collection == collection.name, source.c.state == SourceState.REQUESTED)
    running_ids = frozenset(connection.scalars(select(source.c.frame).where(*requested)))
    return ExistingFrames(versions, sourceless_cogs, frozenset(row.id for row in rows) - versions.keys(), running_ids)


def write_frames(connection: Connection, collection: Collection, adoptions: Sequence[Adoption]) -> None:
    """Write sources and frames in the caller's transaction. The new frame revisions make the collection's index due."""
    names = {
        "name": collection.name,
        "shard": collection.shard,
        "partition": collection.partition,
        "table_name": collection.table,
    }
    row = insert(schema.collection).values(names)
    connection.execute(row.on_conflict_do_update(index_elements=[schema.collection.c.name], set_={"withdrawn_at": None}))
    # A tif that is newer than its COG is left to the sensor, which has the frame made again.
    current = [adoption.candidate for adoption in adoptions if adoption.is_current]
    done = [SourceChange(candidate.source, SourceState.DONE, candidate.frame) for candidate in current if candidate.source]
    apply_changes(connection, SourceChanges(rows=done))
    rows = [_frame_row(collection, adoption) for adoption in adoptions]
    statement = insert(frame).values(rows)
    new = {name: statement.excluded[name] for name in rows[0] if name != "id"} | {"revision": frame.c.revision + 1}
    is_adopted = frame.c.products["cog"]["made_by"].astext == ADOPTED
    connection.execute(statement.on_conflict_do_update(index_elements=[frame.c.id], set_=new, where=is_adopted))


def withdraw_frames(connection: Connection, cogs: Iterable[str]) -> list[str]:
    """Mark frames deleted whose only object, the COG at one of these keys, is gone. Return their partitions."""
    deleted = {"deleted": True, "revision": frame.c.revision + 1, "updated_at": func.now()}
    lost = (frame.c.served_key.in_(list(cogs)), frame.c.source_key == frame.c.served_key)
    return list(connection.scalars(update(frame).where(*lost).values(deleted).returning(frame.c.partition)))


@contextmanager
def partitions_lock(engine: Engine, shard: str) -> Iterator[None]:
    """Let one process at a time add partitions to a shard. A range in the Dagster UI follows the order of addition."""
    with engine.begin() as connection:
        lock_until_commit(connection, f"partitions of {shard}")
        yield


def _frame_row(collection: Collection, adoption: Adoption) -> dict[str, object]:
    candidate, header = adoption.candidate, adoption.header
    tif = candidate.source if adoption.is_current else None
    return {
        "id": candidate.frame.id,
        "shard": collection.shard,
        "collection": collection.name,
        "partition": candidate.frame.partition,
        # Without a current georef tif, a COG is its own source.
        "source_key": tif.key if tif else candidate.cog.key,
        "source_version": tif.version if tif else candidate.cog.version,
        "content_hash": header.source_sha256,
        "products": {"cog": asdict(adoption.product)},
        "served_key": candidate.cog.key,
        "public_version": candidate.cog.version,
        "scan_file": candidate.scan_file,
        "width": header.width,
        "height": header.height,
        "transform": list(header.transform),
        "footprint": WKBElement(header.footprint, srid=WEB_MERCATOR),
        "interior": WKBElement(header.interior, srid=WEB_MERCATOR) if header.interior else None,
        "deleted": False,
        "updated_at": func.now(),
    }
