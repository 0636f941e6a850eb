"""The guard before deletions: when much of a collection is gone at once, its frames stay served until the operator says so.

A folder renamed by mistake, a disk half mounted, a wrong `rm` look like a wish to delete. What is held stays held until its
files are back or `ls4 confirm-deletion` lets it go.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import Connection, func, or_, select, update

from ls4_assets.db.schema import LIVE, SourceState, source
from ls4_assets.ingest import sources

# Small steps are summed up over this time.
MEMORY = timedelta(days=1)


@dataclass(frozen=True)
class Guard:
    """More than this share of a collection, and more than so many of its frames, do not go without a question."""

    share: float
    frames: int

    def holds(self, lost: int, frames: int) -> bool:
        return lost > self.frames and lost > self.share * frames


@dataclass(frozen=True, order=True)
class Held:
    """A collection of whose `frames` some are gone from georef/ and kept on the map all the same."""

    collection: str
    held: int
    frames: int

    def __str__(self) -> str:
        return (
            f"{self.held} of {self.frames} frames of {self.collection} are gone from georef/; nothing was removed. "
            f"If that is meant: `ls4 confirm-deletion {self.collection}`, else put the files back."
        )


def take_deletions(connection: Connection, gone: Sequence[str], guard: Guard) -> tuple[int, list[str]]:
    """Let the gone keys go, or hold them. Returns how many went, and the collections that hold some now."""
    here = (source.c.key.in_(gone), source.c.state != SourceState.DELETED, source.c.deletion_held_at.is_(None))
    rows = connection.execute(select(source.c.key, source.c.collection).where(*here).with_for_update()).all()
    names = sorted({row.collection for row in rows if row.collection})
    holding = [name for name, (lost, frames) in _losses(connection, names).items() if guard.holds(lost, frames)]
    held = [row.key for row in rows if row.collection in holding]
    if held:
        connection.execute(update(source).where(source.c.key.in_(held)).values(deletion_held_at=func.now()))
    going = [row.key for row in rows if row.collection not in holding]
    sources.remove(connection, going)
    return len(going), holding


def held_collections(connection: Connection, name: str | None = None) -> list[Held]:
    """All that wait for a word of the operator, sorted; or only the one of this name."""
    which = [source.c.deletion_held_at.is_not(None), source.c.state != SourceState.DELETED]
    if name:
        which.append(source.c.collection == name)
    held = select(source.c.collection, func.count(source.c.frame.distinct())).where(*which).group_by(source.c.collection)
    counts = {row[0]: row[1] for row in connection.execute(held)}
    live = (source.c.collection.in_(counts), source.c.state.in_(LIVE))
    frames = select(source.c.collection, func.count(source.c.frame.distinct())).where(*live).group_by(source.c.collection)
    totals = {row[0]: row[1] for row in connection.execute(frames)} if counts else {}
    return sorted(Held(of, count, totals.get(of, count)) for of, count in counts.items())


def held_keys(connection: Connection, name: str) -> list[str]:
    which = (source.c.collection == name, source.c.deletion_held_at.is_not(None), source.c.state != SourceState.DELETED)
    return list(connection.scalars(select(source.c.key).where(*which).order_by(source.c.key)))


def confirm(connection: Connection, keys: Sequence[str]) -> int:
    """Let held keys go; those that came back meanwhile are no longer held and stay. Returns how many went."""
    which = (source.c.key.in_(keys), source.c.deletion_held_at.is_not(None), source.c.state != SourceState.DELETED)
    going = list(connection.scalars(select(source.c.key).where(*which).with_for_update()))
    sources.remove(connection, going)
    return len(going)


def _losses(connection: Connection, names: Sequence[str]) -> dict[str, tuple[int, int]]:
    """How many frames of each collection are away or went lately, of how many there were.

    What the operator confirmed keeps its `deletion_held_at` and is forgotten here: it was meant.
    """
    lately = (source.c.deletion_held_at.is_(None), source.c.changed_at > func.now() - MEMORY)
    away = func.bool_and(or_(source.c.state == SourceState.DELETED, source.c.missing_since.is_not(None)))
    counted = or_(source.c.state != SourceState.DELETED, lately[0] & lately[1])
    # A frame whose tif was only renamed from .TIF to .tif is not lost.
    frames = (
        select(source.c.collection, away.label("away"))
        .where(source.c.collection.in_(names), source.c.frame.is_not(None), counted)
        .group_by(source.c.collection, source.c.frame)
        .subquery()
    )
    lost = func.count().filter(frames.c.away)
    query = select(frames.c.collection, lost.label("lost"), func.count().label("frames")).group_by(frames.c.collection)
    return {row.collection: (row.lost, row.frames) for row in connection.execute(query)}
