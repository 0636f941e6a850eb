"""The shards and surveys that hold anything: only they have assets in Dagster, as an empty one looks healthy and costs memory."""

from collections.abc import Collection
from typing import NamedTuple

from sqlalchemy import Connection, create_engine, text
from sqlalchemy.pool import NullPool

_IN_USE = text(
    "SELECT DISTINCT c.shard, split_part(c.partition, '/', 1) AS survey FROM ls4.collection AS c WHERE c.shard <> ALL(:besides) "
    "AND (EXISTS (SELECT FROM ls4.source WHERE collection = c.name) OR EXISTS (SELECT FROM ls4.frame WHERE collection = c.name))"
)


class InUse(NamedTuple):
    """shards; surveys, such as USDA_1958, of all of these shards."""

    shards: frozenset[str]
    surveys: frozenset[str]


def find_in_use(connection: Connection, besides: Collection[str] = ()) -> InUse:
    """The shards with a dropped or an indexed frame, except `besides`, and their surveys."""
    rows = connection.execute(_IN_USE, {"besides": sorted(besides)}).all()
    return InUse(frozenset(row.shard for row in rows), frozenset(row.survey for row in rows))


def load_in_use(url: str) -> InUse:
    """As `find_in_use`, over a connection that is closed again: the run server, which forks, must have none."""
    engine = create_engine(url, poolclass=NullPool, connect_args={"connect_timeout": 10})
    with engine.connect() as connection:
        return find_in_use(connection)
