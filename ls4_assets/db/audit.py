"""Do the numbers agree? What was dropped, what was made, what the index shows and what lies in the bucket, counted each on its
own."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from sqlalchemy import ColumnElement, Connection, func, select

from ls4_assets.db import tile_index as index
from ls4_assets.db.schema import LIVE, WAITING, SourceState, collection, frame, source, tile_index
from ls4_assets.db.stale import count_stale
from ls4_assets.domain.names import FILM_TYPES, STEPS, Collection, Frame
from ls4_assets.settings import Profiles
from resources.storage import Storage, StoredObject

# A collection with more COGs than this is counted in Postgres alone, so that a rebuild costs the same whatever its size; the
# nightly reconciliation compares them all with the bucket.
LISTED = 2_000
_NAMED = 3
_MADE = (frame.c.profile.is_not(None), ~frame.c.deleted)


@dataclass(frozen=True)
class Audit:
    """`counts` by what was counted; `wrong`, one phrase each."""

    counts: Mapping[str, int]
    wrong: list[str] = field(default_factory=list)


def audit_collection(connection: Connection, storage: Storage, of: Collection) -> Audit:
    """Rows of the index, frames, COGs and dropped tifs of one collection. Frames whose change the index is yet to show are left
    out, and so are rows that were taken over with a COG of which ls4 cannot have a frame."""
    shown = (*_MADE, frame.c.collection == of.name, frame.c.revision == frame.c.indexed_revision)
    legacy = set(index.legacy_keys(connection, of))
    there = connection.scalar(select(func.count()).select_from(tile_index(of))) if index.exists(connection, of) else 0
    rows = (there or 0) - len(legacy)
    cogs = connection.scalar(select(func.count()).select_from(frame).where(*shown)) or 0
    states = _states(connection, of)
    row_of = select(frame.c.id).where(frame.c.id == source.c.frame).exists()
    unmade = connection.scalar(
        select(func.count())
        .select_from(source)
        .where(source.c.collection == of.name, source.c.state == SourceState.DONE, ~row_of)
    )
    pending = connection.scalar(
        select(func.count()).where(frame.c.collection == of.name, frame.c.revision != frame.c.indexed_revision)
    )
    counts = {
        "dropped": sum(states.values()),
        "done": states.get(SourceState.DONE, 0),
        "failed": states.get(SourceState.FAILED, 0),
        "waiting": sum(states.get(state, 0) for state in WAITING),
        "frames": cogs,
        "rows": rows,
        "legacy_rows": len(legacy),
    }
    wrong = [] if pending or rows == cogs else [f"the index has {rows} rows and {cogs} frames are made"]
    if unmade:
        wrong.append(f"{unmade} tifs count as done and have no frame")
    if cogs <= LISTED:
        # Before and after the listing, as each is to be a part of what comes later.
        public = _cog_keys(connection, *shown, frame.c.public_version.is_not(None))
        lying = _cogs(storage, of)
        counts["cogs"] = len(lying)
        if missing := sorted(public - lying):
            wrong.append(f"{len(missing)} COGs are not in the bucket: {', '.join(missing[:_NAMED])}")
        if strange := sorted(lying - _cog_keys(connection, frame.c.collection == of.name) - legacy):
            wrong.append(f"{len(strange)} COGs in the bucket are no frame's: {', '.join(strange[:_NAMED])}")
    return Audit(counts, wrong)


def audit_archive(connection: Connection, profiles: Profiles) -> Audit:
    """The same for all collections together, from Postgres alone."""
    states = dict(connection.execute(select(source.c.state, func.count()).group_by(source.c.state)).tuples().all())
    made = connection.scalar(select(func.count()).where(*_MADE)) or 0
    pending = connection.scalar(select(func.count()).where((frame.c.revision != frame.c.indexed_revision) | frame.c.deleted)) or 0
    there, maps = connection.execute(
        select(func.coalesce(func.sum(collection.c.frames), 0), func.count(collection.c.published_at))
    ).one()
    legacy = _legacy_rows(connection)
    rows = int(there) - legacy
    counts = {
        "dropped": sum(states.get(state, 0) for state in LIVE),
        "done": states.get(SourceState.DONE, 0),
        "failed": states.get(SourceState.FAILED, 0),
        "waiting": sum(states.get(state, 0) for state in WAITING),
        "rejected": states.get(SourceState.REJECTED, 0),
        "frames": made,
        "rows": rows,
        "legacy_rows": legacy,
        "maps": maps,
        "stale": sum(count_stale(connection, profiles).values()),
    }
    wrong = [] if pending or made == rows else [f"the indexes have {rows} rows in all and {made} frames are made"]
    without = (collection.c.frames > 0, collection.c.published_at.is_(None), collection.c.attempts > 1)
    if unmapped := list(connection.scalars(select(collection.c.name).where(*without).limit(_NAMED))):
        wrong.append(f"no map can be made of {', '.join(unmapped)}")
    return Audit(counts, wrong)


def _legacy_rows(connection: Connection) -> int:
    """Only the tables are read that have more rows than frames are made: few of thousands."""
    made = select(frame.c.collection, func.count().label("frames")).where(*_MADE).group_by(frame.c.collection).subquery()
    joined = collection.outerjoin(made, made.c.collection == collection.c.name)
    more = collection.c.frames > func.coalesce(made.c.frames, 0)
    longer = connection.execute(select(collection.c.shard, collection.c.partition).select_from(joined).where(more)).all()
    return sum(len(index.legacy_keys(connection, Collection.from_partition(*row))) for row in longer)


def _states(connection: Connection, of: Collection) -> dict[str, int]:
    mine = (source.c.collection == of.name, source.c.state.in_(LIVE))
    return dict(connection.execute(select(source.c.state, func.count()).where(*mine).group_by(source.c.state)).tuples().all())


def _cog_keys(connection: Connection, *which: ColumnElement[bool]) -> set[str]:
    """Public keys of the COGs of these frames."""
    return {Frame.from_id(id_).cog_key for id_ in connection.scalars(select(frame.c.id).where(*which))}


def _cogs(storage: Storage, of: Collection) -> set[str]:
    """Keys of the COGs under both bands; what else lies there is not counted."""
    found = (item for band in FILM_TYPES for item in storage.level(f"{of.folder(band)}/{STEPS[-1]}/"))
    return {item.key for item in found if isinstance(item, StoredObject) and item.key.endswith(".tif")}
