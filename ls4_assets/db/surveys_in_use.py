"""The surveys that hold anything, such as USDA_1958: each has a page in the Dagster UI that lists its collections."""

from collections.abc import Collection

from sqlalchemy import Connection, text

_IN_USE = text(
    "SELECT DISTINCT split_part(c.partition, '/', 1) FROM ls4.collection AS c "
    "WHERE split_part(c.partition, '/', 1) <> ALL(:besides) AND ("
    "EXISTS (SELECT FROM ls4.source WHERE collection = c.name) OR EXISTS (SELECT FROM ls4.frame WHERE collection = c.name))"
)


def find_surveys_in_use(connection: Connection, besides: Collection[str] = ()) -> set[str]:
    """The surveys with a dropped or an indexed frame, except `besides`."""
    return set(connection.execute(_IN_USE, {"besides": sorted(besides)}).scalars())
