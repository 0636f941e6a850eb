"""The shards that hold anything: only they have assets in Dagster, because an empty county looks healthy and costs memory."""

from collections.abc import Collection

from sqlalchemy import Connection, create_engine, text
from sqlalchemy.pool import NullPool

from ls4_assets.db.surveys_in_use import find_surveys_in_use

_IN_USE = text(
    "SELECT DISTINCT c.shard FROM ls4.collection AS c WHERE c.shard <> ALL(:besides) AND ("
    "EXISTS (SELECT FROM ls4.source WHERE collection = c.name) OR EXISTS (SELECT FROM ls4.frame WHERE collection = c.name))"
)


def find_shards_in_use(connection: Connection, besides: Collection[str] = ()) -> set[str]:
    """The shards with a dropped or an indexed frame, except `besides`."""
    return set(connection.execute(_IN_USE, {"besides": sorted(besides)}).scalars())


def load_in_use(url: str) -> tuple[set[str], set[str]]:
    """The shards and surveys in use, over a connection that is closed again: the run server, which forks, must have none."""
    engine = create_engine(url, poolclass=NullPool, connect_args={"connect_timeout": 10})
    with engine.connect() as connection:
        return find_shards_in_use(connection), find_surveys_in_use(connection)
