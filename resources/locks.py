"""Locks that end with their owner: PostgreSQL drops them when the connection that holds them is gone."""

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Engine, text


@contextmanager
def only_one(database: Engine, what: str) -> Iterator[bool]:
    """False while somebody else does the same: Dagster gives a tick up after a minute, but its thread works on."""
    lock, named = "(hashtextextended(:what, 0))", {"what": what}
    with database.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        alone = bool(connection.scalar(text(f"SELECT pg_try_advisory_lock{lock}"), named))
        try:
            yield alone
        finally:
            if alone:
                connection.execute(text(f"SELECT pg_advisory_unlock{lock}"), named)
