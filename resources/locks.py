"""Locks in PostgreSQL that end with their owner: the server drops them when the connection that holds them is gone.

Each is known by a name of ours, which PostgreSQL hashes to the number that its advisory locks are known by.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, Engine, text

_NUMBER = "(hashtextextended(:what, 0))"


def lock_until_commit(connection: Connection, what: str) -> None:
    """Wait until nobody else has it; the transaction that the connection is in has it until its end."""
    connection.execute(text(f"SELECT pg_advisory_xact_lock{_NUMBER}"), {"what": what})


@contextmanager
def exclusive_lock(database: Engine, what: str) -> Iterator[None]:
    """Wait until nobody else does the same: for work of many transactions."""
    with _session(database) as connection:
        connection.execute(text(f"SELECT pg_advisory_lock{_NUMBER}"), {"what": what})
        try:
            yield
        finally:
            _unlock(connection, what)


@contextmanager
def try_lock(database: Engine, what: str) -> Iterator[bool]:
    """False while somebody else does the same: Dagster gives a tick up after a minute, but its thread works on."""
    with _session(database) as connection:
        alone = bool(connection.scalar(text(f"SELECT pg_try_advisory_lock{_NUMBER}"), {"what": what}))
        try:
            yield alone
        finally:
            if alone:
                _unlock(connection, what)


def _session(database: Engine) -> Connection:
    """A connection that is in no transaction while the lock is held."""
    return database.connect().execution_options(isolation_level="AUTOCOMMIT")


def _unlock(connection: Connection, what: str) -> None:
    connection.execute(text(f"SELECT pg_advisory_unlock{_NUMBER}"), {"what": what})
