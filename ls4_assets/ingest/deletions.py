"""The deletion guard: when much of a collection disappears at once, its frames stay on the map until the operator confirms.

A folder renamed by mistake, a partly mounted disk and a wrong `rm` all resemble intended deletions. A held
deletion stays held until the files are back or `ls4 confirm-deletion` (`confirm`) approves it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import Connection, func, or_, select, update

from ls4_assets.db.schema import LIVE_STATES, SourceState, source
from ls4_assets.ingest import sources

# Deletions within this time count together, so that many small ones cannot bypass the guard.
GUARD_WINDOW = timedelta(days=1)


@dataclass(frozen=True)
class DeletionGuard:
    """Limits above which a deletion is held: more than the share `share` of a collection and more than `frames` frames."""

    share: float
    frames: int

    def holds(self, lost: int, frames: int) -> bool:
        return lost > self.frames and lost > self.share * frames


@dataclass(frozen=True, order=True)
class HeldDeletion:
    """A collection of which `held` of `frames` frames are gone from georef/ but stay on the map until confirmed."""

    collection: str
    held: int
    frames: int

    def __str__(self) -> str:
        return (
            f"{self.held} of {self.frames} frames of {self.collection} are gone from georef/; nothing was removed. "
            f"To remove them, run `ls4 confirm-deletion {self.collection}`; otherwise put the files back."
        )


def apply_deletions(connection: Connection, gone: Sequence[str], guard: DeletionGuard) -> tuple[int, list[str]]:
    """Delete or hold the keys `gone`. Returns how many were deleted and the names of collections with held deletions."""
    pending = (source.c.key.in_(gone), source.c.state != SourceState.DELETED, source.c.deletion_held_at.is_(None))
    rows = connection.execute(select(source.c.key, source.c.collection).where(*pending).with_for_update()).all()
    names = sorted({row.collection for row in rows if row.collection})
    held_names = [name for name, (lost, frames) in _count_losses(connection, names).items() if guard.holds(lost, frames)]
    held = [row.key for row in rows if row.collection in held_names]
    if held:
        connection.execute(update(source).where(source.c.key.in_(held)).values(deletion_held_at=func.now()))
    deleted = [row.key for row in rows if row.collection not in held_names]
    sources.mark_deleted(connection, deleted)
    return len(deleted), held_names


def list_held_deletions(connection: Connection, name: str | None = None) -> list[HeldDeletion]:
    """Collections that wait for the operator's confirmation, sorted by name; with `name`, that one only."""
    is_held = [source.c.deletion_held_at.is_not(None), source.c.state != SourceState.DELETED]
    if name:
        is_held.append(source.c.collection == name)
    held = select(source.c.collection, func.count(source.c.frame.distinct())).where(*is_held).group_by(source.c.collection)
    counts = {row[0]: row[1] for row in connection.execute(held)}
    live = (source.c.collection.in_(counts), source.c.state.in_(LIVE_STATES))
    frames = select(source.c.collection, func.count(source.c.frame.distinct())).where(*live).group_by(source.c.collection)
    totals = {row[0]: row[1] for row in connection.execute(frames)} if counts else {}
    return sorted(HeldDeletion(held_name, count, totals.get(held_name, count)) for held_name, count in counts.items())


def list_held_keys(connection: Connection, name: str) -> list[str]:
    is_held = (source.c.collection == name, source.c.deletion_held_at.is_not(None), source.c.state != SourceState.DELETED)
    return list(connection.scalars(select(source.c.key).where(*is_held).order_by(source.c.key)))


def approve_deletions(connection: Connection, keys: Sequence[str]) -> int:
    """Delete held keys; returns how many. Files that came back since are no longer held and stay."""
    is_held = (source.c.key.in_(keys), source.c.deletion_held_at.is_not(None), source.c.state != SourceState.DELETED)
    approved = list(connection.scalars(select(source.c.key).where(*is_held).with_for_update()))
    sources.mark_deleted(connection, approved)
    return len(approved)


def _count_losses(connection: Connection, names: Sequence[str]) -> dict[str, tuple[int, int]]:
    """By collection: frames that are missing or were deleted within the guard window, and all frames including those.

    Confirmed deletions keep their `deletion_held_at` and are not counted: they were intended.
    """
    is_recent = (source.c.deletion_held_at.is_(None), source.c.changed_at > func.now() - GUARD_WINDOW)
    is_lost = func.bool_and(or_(source.c.state == SourceState.DELETED, source.c.missing_since.is_not(None)))
    counted = or_(source.c.state != SourceState.DELETED, is_recent[0] & is_recent[1])
    # Grouped by frame: a frame whose tif was only renamed from .TIF to .tif is not lost.
    frames = (
        select(source.c.collection, is_lost.label("is_lost"))
        .where(source.c.collection.in_(names), source.c.frame.is_not(None), counted)
        .group_by(source.c.collection, source.c.frame)
        .subquery()
    )
    lost = func.count().filter(frames.c.is_lost)
    query = select(frames.c.collection, lost.label("lost"), func.count().label("frames")).group_by(frames.c.collection)
    return {row.collection: (row.lost, row.frames) for row in connection.execute(query)}
