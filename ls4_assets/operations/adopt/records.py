"""What Postgres is told of adopted frames, and what it knew before.

An adopted frame has one product, its COG, of no profile in force: a person who materialises it gets all three made from the
georef tif, and until then, or until that tif is replaced, it is done.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass

from geoalchemy2.elements import WKBElement
from sqlalchemy import Connection, Engine, func, select, update
from sqlalchemy.dialects.postgresql import insert

from ls4_assets.db.frames import ADOPTED, Product
from ls4_assets.db.schema import WEB_MERCATOR, SourceState, collection, frame, source
from ls4_assets.domain.names import Collection
from ls4_assets.errors import InvalidNameError
from ls4_assets.ingest.planner import Change, Changes
from ls4_assets.ingest.sources import apply_changes, tables_in_use
from ls4_assets.operations.adopt.cog_header import Header
from ls4_assets.operations.adopt.inventory import Candidate
from resources.locks import lock_until_commit


@dataclass(frozen=True)
class Adoption:
    """A COG that may be served. `trusted`: it is taken for a product of the georef tif that lies there now."""

    candidate: Candidate
    header: Header
    trusted: bool

    @property
    def product(self) -> Product:
        cog = self.candidate.cog
        return Product(self.header.source_sha256, ADOPTED, cog.size, cog.version, ADOPTED)


@dataclass(frozen=True)
class Known:
    """What the tables hold of a collection. `adopted`: version of the COG by frame; `alone`: keys of the adopted COGs that never
    had a georef tif; `made`: frames that ls4 made itself, or that are leaving; `in_runs`: frames that a run is making."""

    adopted: dict[str, str]
    alone: frozenset[str]
    made: frozenset[str]
    in_runs: frozenset[str]

    def has(self, candidate: Candidate) -> bool:
        """A COG that was adopted and replaced since is looked at anew; one that ls4 made, or is making, is ls4's own."""
        id_ = candidate.frame.id
        return id_ in self.made or id_ in self.in_runs or self.adopted.get(id_) == candidate.cog.version


def known(connection: Connection, of: Collection) -> Known:
    """Read it. Raises NameRejected when another collection has this one's table."""
    other = tables_in_use(connection).get(of.table, of.name)
    if other != of.name:
        raise InvalidNameError(
            f"{of.name} differs from {other} by upper and lower case only; move its files there, and adopt again."
        )
    cog = frame.c.products["cog"]
    columns = (frame.c.id, frame.c.deleted, frame.c.source_key, frame.c.served_key)
    made_by, version = cog["made_by"].astext.label("by"), cog["version"].astext.label("version")
    rows = connection.execute(select(*columns, made_by, version).where(frame.c.collection == of.name)).all()
    ours = [row for row in rows if row.by == ADOPTED and not row.deleted]
    adopted = {row.id: row.version for row in ours}
    alone = frozenset(row.served_key for row in ours if row.served_key == row.source_key)
    requested = (source.c.collection == of.name, source.c.state == SourceState.REQUESTED)
    in_runs = frozenset(connection.scalars(select(source.c.frame).where(*requested)))
    return Known(adopted, alone, frozenset(row.id for row in rows) - adopted.keys(), in_runs)


def write(connection: Connection, of: Collection, adoptions: Sequence[Adoption]) -> None:
    """Write sources and frames in one transaction of the caller's. The index of the collection is due thereby."""
    named = {"name": of.name, "shard": of.shard, "partition": of.partition, "table_name": of.table}
    row = insert(collection).values(named)
    connection.execute(row.on_conflict_do_update(index_elements=[collection.c.name], set_={"withdrawn_at": None}))
    # A tif that is newer than its COG is left to the sensor, which has the frame made anew.
    trusted = [one.candidate for one in adoptions if one.trusted]
    done = [Change(found.source, SourceState.DONE, found.frame) for found in trusted if found.source]
    apply_changes(connection, Changes(rows=done))
    rows = [_row(of, one) for one in adoptions]
    statement = insert(frame).values(rows)
    new = {name: statement.excluded[name] for name in rows[0] if name != "id"} | {"revision": frame.c.revision + 1}
    ours = frame.c.products["cog"]["made_by"].astext == ADOPTED
    connection.execute(statement.on_conflict_do_update(index_elements=[frame.c.id], set_=new, where=ours))


def withdraw(connection: Connection, cogs: Iterable[str]) -> list[str]:
    """Take frames off the index whose COG, all that there was of them, is gone. Returns their partitions."""
    leaves = {"deleted": True, "revision": frame.c.revision + 1, "updated_at": func.now()}
    lost = (frame.c.served_key.in_(list(cogs)), frame.c.source_key == frame.c.served_key)
    return list(connection.scalars(update(frame).where(*lost).values(leaves).returning(frame.c.partition)))


@contextmanager
def partitions_lock(engine: Engine, shard: str) -> Iterator[None]:
    """Nobody else adopts into this shard meanwhile: a range in the Dagster UI follows the order in which partitions were added."""
    with engine.begin() as connection:
        lock_until_commit(connection, f"partitions of {shard}")
        yield


def _row(of: Collection, adoption: Adoption) -> dict[str, object]:
    candidate, header = adoption.candidate, adoption.header
    dropped = candidate.source if adoption.trusted else None
    return {
        "id": candidate.frame.id,
        "shard": of.shard,
        "collection": of.name,
        "partition": candidate.frame.partition,
        # Without a georef tif that it is of, a COG is its own source.
        "source_key": dropped.key if dropped else candidate.cog.key,
        "source_version": dropped.version if dropped else candidate.cog.version,
        "content_hash": header.source_sha256,
        "products": {"cog": asdict(adoption.product)},
        "served_key": candidate.cog.key,
        "public_version": candidate.cog.version,
        "scan_file": candidate.scan_file,
        "width": header.width,
        "height": header.height,
        "transform": list(header.transform),
        "footprint": WKBElement(header.footprint, srid=WEB_MERCATOR),
        "deleted": False,
        "updated_at": func.now(),
    }
