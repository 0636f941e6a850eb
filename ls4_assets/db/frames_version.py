"""The version of a collection's frames: the same as long as no frame is added, changed or removed.

`collection.index_revision` changes with every rebuild and not before it, so it cannot show that a rebuild is due. A version is
a sum of hashes, which needs no sorting: PostgreSQL computes it for ten thousand frames in 50 ms.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal

from sqlalchemy import BigInteger, ColumnElement, Connection, Numeric, case, cast, func, select

from ls4_assets.db.schema import frame


@dataclass(frozen=True)
class FramesVersion:
    """frames: how many there are now. current: their version now. indexed: their version in the tile index."""

    frames: int
    current: str
    indexed: str


NO_FRAMES = FramesVersion(0, "0-0000000000000000", "0-0000000000000000")


def load_frames_versions(connection: Connection, names: Iterable[str]) -> dict[str, FramesVersion]:
    """The versions of the collections with these names. One without frames has NO_FRAMES."""
    wanted = [*names]
    is_indexed = frame.c.indexed_revision > 0
    query = (
        select(
            frame.c.collection,
            func.count().label("frames"),
            _sum_of_hashes(frame.c.revision).label("current"),
            func.count().filter(is_indexed).label("indexed_frames"),
            _sum_of_hashes(case((is_indexed, frame.c.indexed_revision))).label("indexed"),
        )
        .where(frame.c.collection.in_(wanted), ~frame.c.deleted)
        .group_by(frame.c.collection)
    )
    found = {
        row.collection: FramesVersion(row.frames, _text(row.frames, row.current), _text(row.indexed_frames, row.indexed))
        for row in connection.execute(query)
    }
    return {name: found.get(name, NO_FRAMES) for name in wanted}


def _sum_of_hashes(revision: ColumnElement[int]) -> ColumnElement[Decimal]:
    """Rows whose revision is null do not count."""
    each = func.hashtextextended(frame.c.id, cast(revision, BigInteger))
    return cast(func.coalesce(func.sum(each), 0), Numeric())


def _text(frames: int, total: Decimal) -> str:
    return f"{frames}-{int(total) % 2**64:016x}"
