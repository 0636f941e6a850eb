"""Which frames are stale: frames whose profile is not an active one. The rows alone give an exact answer.

The profile of a COG covers all options of its frame, and no two film types share a profile. Adopted COGs have no profile of ls4
and are valid anyway (operations/adopt), so they are never stale.
"""

from collections.abc import Mapping, Sequence

from sqlalchemy import Connection, String, bindparam, column, func, select, text

from ls4_assets.db.frames import ADOPTED
from ls4_assets.db.schema import LIVE_STATES, frame, source
from ls4_assets.domain.film_types import FILM_TYPES
from ls4_assets.domain.profiles import Profiles

# SELECT DISTINCT reads the whole index. This recursion looks up the next greater profile instead, once per distinct profile.
_PROFILES = """
WITH RECURSIVE known (profile) AS (
    SELECT min(profile) FROM ls4.frame WHERE NOT deleted
    UNION ALL
    SELECT (SELECT min(frame.profile) FROM ls4.frame WHERE NOT deleted AND frame.profile > known.profile)
    FROM known WHERE known.profile IS NOT NULL
)
SELECT profile FROM known WHERE profile IS NOT NULL AND profile <> ALL (:current)
"""


def find_stale_profiles(connection: Connection, profiles: Profiles) -> list[str]:
    """Returns the profile hashes of frames that are not active. Costs one index lookup per distinct profile."""
    current = [ADOPTED, *(profiles[film_type].hash("cog") for film_type in FILM_TYPES)]
    query = text(_PROFILES).columns(column("profile", String))
    return list(connection.scalars(query.bindparams(bindparam("current", current))))


def count_stale(connection: Connection, profiles: Profiles, collection: str | None = None) -> Mapping[str, int]:
    """Returns the number of stale frames by collection, without collections that have none."""
    stale = find_stale_profiles(connection, profiles)
    if not stale:
        return {}
    query = select(frame.c.collection, func.count()).where(frame.c.profile.in_(stale), ~frame.c.deleted)
    if collection:
        query = query.where(frame.c.collection == collection)
    return dict(connection.execute(query.group_by(frame.c.collection)).tuples().all())


def find_stale_partitions(
    connection: Connection, profiles: Profiles, collection: str | None = None
) -> Mapping[str, Sequence[str]]:
    """Returns the partitions of stale frames that can be rematerialized (their tif is in georef/), sorted, by shard."""
    stale = find_stale_profiles(connection, profiles)
    query = (
        select(frame.c.shard, frame.c.partition)
        .join(source, source.c.frame == frame.c.id)
        .where(frame.c.profile.in_(stale), ~frame.c.deleted, source.c.state.in_(LIVE_STATES), source.c.missing_since.is_(None))
        .distinct()
        .order_by(frame.c.shard, frame.c.partition)
    )
    if collection:
        query = query.where(frame.c.collection == collection)
    partitions: dict[str, list[str]] = {}
    for row in connection.execute(query) if stale else ():
        partitions.setdefault(row.shard, []).append(row.partition)
    return partitions
