"""Which frames were made under another profile than the one in force: exact, from the rows alone.

The profile of a COG names every option of its frame, and no two bands share one, so a frame is stale when its profile is none of
those in force. An adopted COG was made under none of ours and is valid all the same (ls4_assets/adopt): it is not stale.
"""

from collections.abc import Mapping, Sequence

from sqlalchemy import Connection, String, bindparam, column, func, select, text

from ls4_assets.db.frames import ADOPTED
from ls4_assets.db.schema import LIVE, frame, source
from ls4_assets.domain.names import FILM_TYPES
from ls4_assets.settings import Profiles

# Postgres reads all of an index to find the distinct values in it; this asks for the next greater one each time.
_PROFILES = """
WITH RECURSIVE known (profile) AS (
    SELECT min(profile) FROM ls4.frame WHERE NOT deleted
    UNION ALL
    SELECT (SELECT min(frame.profile) FROM ls4.frame WHERE NOT deleted AND frame.profile > known.profile)
    FROM known WHERE known.profile IS NOT NULL
)
SELECT profile FROM known WHERE profile IS NOT NULL AND profile <> ALL (:current)
"""


def stale_profiles(connection: Connection, profiles: Profiles) -> list[str]:
    """Profiles not in force under which some frame was made: a look into the index for each profile there is."""
    current = [ADOPTED, *(profiles[band].hash("cog") for band in FILM_TYPES)]
    query = text(_PROFILES).columns(column("profile", String))
    return list(connection.scalars(query.bindparams(bindparam("current", current))))


def count_stale(connection: Connection, profiles: Profiles, collection: str | None = None) -> Mapping[str, int]:
    """How many frames are stale, by collection; nothing for those that have none."""
    old = stale_profiles(connection, profiles)
    if not old:
        return {}
    query = select(frame.c.collection, func.count()).where(frame.c.profile.in_(old), ~frame.c.deleted)
    if collection:
        query = query.where(frame.c.collection == collection)
    return dict(connection.execute(query.group_by(frame.c.collection)).tuples().all())


def stale_partitions(connection: Connection, profiles: Profiles, collection: str | None = None) -> Mapping[str, Sequence[str]]:
    """Partitions of the stale frames whose tif lies in georef/, sorted, by shard: what can be made anew."""
    old = stale_profiles(connection, profiles)
    query = (
        select(frame.c.shard, frame.c.partition)
        .join(source, source.c.frame == frame.c.id)
        .where(frame.c.profile.in_(old), ~frame.c.deleted, source.c.state.in_(LIVE), source.c.missing_since.is_(None))
        .distinct()
        .order_by(frame.c.shard, frame.c.partition)
    )
    if collection:
        query = query.where(frame.c.collection == collection)
    found: dict[str, list[str]] = {}
    for row in connection.execute(query) if old else ():
        found.setdefault(row.shard, []).append(row.partition)
    return found
