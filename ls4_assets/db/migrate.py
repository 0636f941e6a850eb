"""Bringing the index database to the schema of this version of the code: `ls4 db upgrade`, and each start of the laptop.

A new database is made from `schema.metadata` at once; an older one by the revisions in `migrations/`, which lead to the same
(test_migrations.py compares the two). All of it is one transaction: a database is as it was, or as this version wants it.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from geoalchemy2 import alembic_helpers
from sqlalchemy import Connection, inspect, text

from ls4_assets.db.schema import SCHEMA, metadata
from ls4_assets.db.triggers import create_triggers
from ls4_assets.db.views import create_views, drop_views
from ls4_assets.errors import ConfigurationError
from resources.locks import lock_until_commit

SCRIPTS = Path(__file__).parent / "migrations"
# What databases have that were made before their revision was noted.
BASELINE = "0001"
# Whoever holds a table for longer than this lets the upgrade fail, not everybody else wait behind it.
_LOCK_SECONDS = 30


def _is_ours(object_: Any, name: str | None, type_: str, reflected: bool, compare_to: Any) -> bool:
    """Not PostGIS's own tables, nor in `public` the tile indexes of collections."""
    if type_ == "table" and reflected and compare_to is None and object_.schema != SCHEMA:
        return False
    return bool(alembic_helpers.include_object(object_, name, type_, reflected, compare_to))


# How Alembic compares a database with the schema, and writes a revision of what differs.
COMPARED: dict[str, Any] = {
    "target_metadata": metadata,
    "version_table_schema": SCHEMA,
    "include_schemas": True,
    "include_object": _is_ours,
    "process_revision_directives": alembic_helpers.writer,
    "render_item": alembic_helpers.render_item,
    "compare_type": True,
    "compare_server_default": True,
}


@dataclass(frozen=True)
class Upgrade:
    """From which revision to which; `before` is None where there was no database of ls4 yet."""

    before: str | None
    now: str

    def __str__(self) -> str:
        if self.before == self.now:
            return f"The index database is up to date (revision {self.now})."
        return f"The index database went from {self.before or 'nothing'} to revision {self.now}."


def upgrade(connection: Connection) -> Upgrade:
    """Bring the schema up to date, as the role that owns the tables, in the caller's transaction.

    Raises ConfigurationError when the database was made by a newer version of the code.
    """
    connection.execute(text(f"SET LOCAL lock_timeout = '{_LOCK_SECONDS}s'"))
    lock_until_commit(connection, "upgrade of the index schema")
    config = _config(connection)
    scripts = ScriptDirectory.from_config(config)
    newest, before = str(scripts.get_current_head()), revision_of(connection)
    if before is not None and before not in {script.revision for script in scripts.walk_revisions()}:
        raise ConfigurationError(
            f"The index database has revision {before}, and this version of ls4 knows none later than {newest}: a newer version "
            "upgraded it; install that one, or restore the database's backup from before."
        )
    # They stand in the way of changes to the tables that they read.
    drop_views(connection)
    if before is None:
        metadata.create_all(connection)
        command.stamp(config, newest)
    elif before != newest:
        if not _is_noted(connection):
            command.stamp(config, before)
        command.upgrade(config, newest)
    create_views(connection)
    create_triggers(connection)
    return Upgrade(before, newest)


def revision_of(connection: Connection) -> str | None:
    """The revision that the database has; None where nothing was made yet."""
    noted = MigrationContext.configure(connection, opts={"version_table_schema": SCHEMA}).get_current_revision()
    return noted or (BASELINE if inspect(connection).has_table("source", SCHEMA) else None)


def _is_noted(connection: Connection) -> bool:
    return inspect(connection).has_table("alembic_version", SCHEMA)


def _config(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(SCRIPTS))
    config.attributes["connection"] = connection
    return config
