"""The columns that tile indexes gained since revision 0006, and the upgrade of the existing tables to them.

Each collection has a table of its own, so a revision of Alembic cannot name them, and altering all of them in its one
transaction would make every map wait for the last. `ls4 db upgrade` therefore alters the tables after the revisions, each in a
short transaction of its own. The tables themselves show what is left to do: an upgrade that was interrupted continues.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from psycopg2.errors import LockNotAvailable
from sqlalchemy import Connection, select, text
from sqlalchemy.exc import DBAPIError

from ls4_assets.db import schema
from ls4_assets.db.schema import PUBLIC
from ls4_assets.db.tile_index import list_owned_tables, mark_rebuild_pending
from ls4_assets.errors import ConfigurationError

# Map requests that arrive while an ALTER TABLE waits for its lock queue behind it, so it waits briefly and often.
_LOCK_MILLISECONDS = 500
_PAUSE_SECONDS = 0.5
_ATTEMPTS = 60


@dataclass(frozen=True)
class AddedColumn:
    """One column. `definition`: its SQL type, with a constant DEFAULT if it is NOT NULL: PostgreSQL adds it without rewriting
    the table, and rows of adopted COGs keep the default. Never change an entry; databases have been upgraded with it."""

    name: str
    definition: str
    comment: str = ""


# In the order of `schema.tile_index`, where they follow `geom`. test_tile_index_columns.py compares the two.
ADDED_COLUMNS = (AddedColumn("interior", "geometry(MultiPolygon,3857)", schema.INTERIOR),)


def upgrade_tile_indexes(connection: Connection) -> int:
    """Add the missing columns to every tile index of ls4 and mark its rebuild as pending, which fills them. Returns how many
    tables changed. `connection` has no open transaction.

    Raises ConfigurationError, after all other tables, when another session keeps a table locked.
    """
    with connection.begin():
        tables = {
            name: [column for column in ADDED_COLUMNS if column.name not in present]
            for name, present in sorted(list_owned_tables(connection).items())
        }
    outdated = {name: columns for name, columns in tables.items() if columns}
    locked = [name for name, columns in outdated.items() if not _upgrade_table(connection, name, columns)]
    if locked:
        raise ConfigurationError(
            f"{len(outdated) - len(locked)} tile indexes were upgraded, and other sessions have locked {', '.join(locked)}; "
            "end their queries and run `ls4 db upgrade` again, which continues."
        )
    return len(outdated)


def _upgrade_table(connection: Connection, name: str, columns: Sequence[AddedColumn]) -> bool:
    """Returns False when another session kept the table locked."""
    for attempt in range(_ATTEMPTS):
        if attempt:
            time.sleep(_PAUSE_SECONDS)
        try:
            with connection.begin():
                connection.execute(text(f"SET LOCAL lock_timeout = '{_LOCK_MILLISECONDS}ms'"))
                # First, because it may take a second and locks no reader of the table. A refresh locks the same row.
                row = select(schema.collection.c.name).where(schema.collection.c.table_name == name).with_for_update()
                if collection := connection.scalar(row):
                    mark_rebuild_pending(connection, collection)
                _add_columns(connection, name, columns)
        except DBAPIError as error:
            if not isinstance(error.orig, LockNotAvailable):
                raise
        else:
            return True
    return False


def _add_columns(connection: Connection, name: str, columns: Sequence[AddedColumn]) -> None:
    quote = connection.dialect.identifier_preparer.quote
    table = f"{PUBLIC}.{quote(name)}"
    clauses = (f"ADD COLUMN IF NOT EXISTS {quote(column.name)} {column.definition}" for column in columns)
    connection.execute(text(f"ALTER TABLE {table} {', '.join(clauses)}"))
    for column in columns:
        if column.comment:
            comment = column.comment.replace("'", "''")
            connection.execute(text(f"COMMENT ON COLUMN {table}.{quote(column.name)} IS '{comment}'"))
