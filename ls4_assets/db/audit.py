"""Consistency counts: dropped tifs, frames, rows of the tile index and COGs in the bucket, each counted independently.

`operations/reconcile` compares the same things object by object and repairs them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from sqlalchemy import ColumnElement, Connection, func, select

from ls4_assets.db import schema, tile_index
from ls4_assets.db.schema import LIVE_STATES, PENDING_STATES, SourceState
from ls4_assets.db.stale import count_stale
from ls4_assets.domain.film_types import FILM_TYPES
from ls4_assets.domain.names import Collection, Frame
from ls4_assets.domain.profiles import Profiles
from resources.storage import Storage, StoredObject

# A larger collection is counted in Postgres only, so that listing its COGs does not slow down every rebuild. The nightly
# reconciliation compares all COGs with the bucket.
_MAX_LISTED_COGS = 2_000
_MAX_NAMES = 3
_HAS_COG = (schema.frame.c.profile.is_not(None), ~schema.frame.c.deleted)


@dataclass(frozen=True)
class Audit:
    """`counts` by what was counted; `errors`, one phrase for each mismatch."""

    counts: Mapping[str, int]
    errors: list[str] = field(default_factory=list)


def audit_collection(connection: Connection, storage: Storage, collection: Collection) -> Audit:
    """Count the index rows, frames, COGs and dropped tifs of a collection.

    Frames that are not indexed yet do not count, and neither do rows adopted with a COG for which ls4 cannot have a frame.
    """
    frame, source = schema.frame.c, schema.source.c
    indexed = (*_HAS_COG, frame.collection == collection.name, frame.revision == frame.indexed_revision)
    legacy = set(tile_index.list_legacy_keys(connection, collection))
    has_table = tile_index.has_table(connection, collection)
    total = connection.scalar(select(func.count()).select_from(schema.tile_index(collection))) if has_table else 0
    rows = (total or 0) - len(legacy)
    frames = connection.scalar(select(func.count()).select_from(schema.frame).where(*indexed)) or 0
    states = _count_states(connection, collection)
    has_frame = select(frame.id).where(frame.id == source.frame).exists()
    without_frame = connection.scalar(
        select(func.count())
        .select_from(schema.source)
        .where(source.collection == collection.name, source.state == SourceState.DONE, ~has_frame)
    )
    unindexed = connection.scalar(
        select(func.count()).where(frame.collection == collection.name, frame.revision != frame.indexed_revision)
    )
    counts = {
        "dropped": sum(states.values()),
        "done": states.get(SourceState.DONE, 0),
        "failed": states.get(SourceState.FAILED, 0),
        "waiting": sum(states.get(state, 0) for state in PENDING_STATES),
        "frames": frames,
        "rows": rows,
        "legacy_rows": len(legacy),
    }
    errors = [] if unindexed or rows == frames else [f"the tile index has {rows} rows for {frames} frames"]
    if without_frame:
        errors.append(f"{without_frame} tifs are done but have no frame")
    if frames <= _MAX_LISTED_COGS:
        # The order matters while frames are added: published keys, then the listing, then all keys are each a superset.
        published = _load_cog_keys(connection, *indexed, frame.public_version.is_not(None))
        stored = _list_cogs(storage, collection)
        counts["cogs"] = len(stored)
        if missing := sorted(published - stored):
            errors.append(f"{len(missing)} COGs are missing in the bucket: {', '.join(missing[:_MAX_NAMES])}")
        if unknown := sorted(stored - _load_cog_keys(connection, frame.collection == collection.name) - legacy):
            errors.append(f"{len(unknown)} COGs in the bucket have no frame: {', '.join(unknown[:_MAX_NAMES])}")
    return Audit(counts, errors)


def audit_archive(connection: Connection, profiles: Profiles) -> Audit:
    """Count all collections together, in Postgres only."""
    frame, source, collection = schema.frame.c, schema.source.c, schema.collection.c
    states = dict(connection.execute(select(source.state, func.count()).group_by(source.state)).tuples().all())
    frames = connection.scalar(select(func.count()).where(*_HAS_COG)) or 0
    unindexed = connection.scalar(select(func.count()).where((frame.revision != frame.indexed_revision) | frame.deleted)) or 0
    total, maps = connection.execute(
        select(func.coalesce(func.sum(collection.frames), 0), func.count(collection.published_at))
    ).one()
    legacy = _count_legacy_rows(connection)
    rows = int(total) - legacy
    counts = {
        "dropped": sum(states.get(state, 0) for state in LIVE_STATES),
        "done": states.get(SourceState.DONE, 0),
        "failed": states.get(SourceState.FAILED, 0),
        "waiting": sum(states.get(state, 0) for state in PENDING_STATES),
        "rejected": states.get(SourceState.REJECTED, 0),
        "frames": frames,
        "rows": rows,
        "legacy_rows": legacy,
        "maps": maps,
        "stale": sum(count_stale(connection, profiles).values()),
    }
    errors = [] if unindexed or frames == rows else [f"the tile indexes have {rows} rows in total for {frames} frames"]
    is_unmapped = (collection.frames > 0, collection.published_at.is_(None), collection.attempts > 1)
    if unmapped := list(connection.scalars(select(collection.name).where(*is_unmapped).limit(_MAX_NAMES))):
        errors.append(f"no map can be built for {', '.join(unmapped)}")
    return Audit(counts, errors)


def _count_legacy_rows(connection: Connection) -> int:
    """Reads only the tile indexes with more rows than frames: a few of thousands."""
    collection = schema.collection.c
    query = select(schema.frame.c.collection, func.count().label("frames")).where(*_HAS_COG)
    made = query.group_by(schema.frame.c.collection).subquery()
    joined = schema.collection.outerjoin(made, made.c.collection == collection.name)
    has_more_rows = collection.frames > func.coalesce(made.c.frames, 0)
    rows = connection.execute(select(collection.shard, collection.partition).select_from(joined).where(has_more_rows)).all()
    return sum(len(tile_index.list_legacy_keys(connection, Collection.from_partition(*row))) for row in rows)


def _count_states(connection: Connection, collection: Collection) -> dict[str, int]:
    source = schema.source.c
    query = select(source.state, func.count()).where(source.collection == collection.name, source.state.in_(LIVE_STATES))
    return dict(connection.execute(query.group_by(source.state)).tuples().all())


def _load_cog_keys(connection: Connection, *conditions: ColumnElement[bool]) -> set[str]:
    """Returns the public COG keys of the selected frames."""
    return {Frame.from_id(frame_id).cog_key for frame_id in connection.scalars(select(schema.frame.c.id).where(*conditions))}


def _list_cogs(storage: Storage, collection: Collection) -> set[str]:
    """Returns the keys of the COGs of all film types in the bucket."""
    folders = (collection.cog_folder(film_type) for film_type in FILM_TYPES)
    found = (item for folder in folders for item in storage.list_level(folder))
    return {item.key for item in found if isinstance(item, StoredObject) and item.key.endswith(".tif")}
