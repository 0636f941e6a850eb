"""Advisory locks in PostgreSQL, by name. The server releases a lock when the connection that holds it closes.

PostgreSQL identifies advisory locks by number, a hash of the name.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, Engine, text

_NUMBER = "(hashtextextended(:name, 0))"


def lock_until_commit(connection: Connection, name: str) -> None:
    """Acquire the lock, waiting for it if necessary. The current transaction holds it until its end."""
    connection.execute(text(f"SELECT pg_advisory_xact_lock{_NUMBER}"), {"name": name})


@contextmanager
def exclusive_lock(database: Engine, name: str) -> Iterator[None]:
    """Acquire the lock, waiting for it if necessary, for work of several transactions."""
    with _session(database) as connection:
        connection.execute(text(f"SELECT pg_advisory_lock{_NUMBER}"), {"name": name})
        try:
            yield
        finally:
            _unlock(connection, name)


@contextmanager
def try_lock(database: Engine, name: str) -> Iterator[bool]:
    """Yields False when another process or thread holds the lock: Dagster times a tick out after a minute, but its thread
    continues."""
    with _session(database) as connection:
        acquired = bool(connection.scalar(text(f"SELECT pg_try_advisory_lock{_NUMBER}"), {"name": name}))
        try:
            yield acquired
        finally:
            if acquired:
                _unlock(connection, name)


def _session(database: Engine) -> Connection:
    """A connection without a transaction, which would stay open as long as the lock is held."""
    return database.connect().execution_options(isolation_level="AUTOCOMMIT")


def _unlock(connection: Connection, name: str) -> None:
    connection.execute(text(f"SELECT pg_advisory_unlock{_NUMBER}"), {"name": name})
