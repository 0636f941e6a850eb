"""The upgrade of the index database to the schema of this version: `ls4 db upgrade`, `ls4 db init` and each local start.

A new database is created from `schema.metadata`, an older one is upgraded by the revisions in `migrations/`. Both have the same
result (test_migrations.py compares them). The revisions are one transaction: they succeed as a whole or change nothing. The tile
indexes of collections follow, each in a transaction of its own (`tile_index_columns.py`).
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from geoalchemy2 import alembic_helpers
from sqlalchemy import Connection, Engine, inspect, text

from ls4_assets.db.schema import SCHEMA, metadata
from ls4_assets.db.tile_index_columns import upgrade_tile_indexes
from ls4_assets.db.triggers import create_triggers
from ls4_assets.db.views import create_views, drop_views
from ls4_assets.errors import ConfigurationError
from resources.locks import lock_until_commit

SCRIPTS = Path(__file__).parent / "migrations"
# The revision of databases that were created before revisions were recorded.
BASELINE = "0001"
# An upgrade that waits for a table lock blocks all later queries of that table. It fails after this time instead.
_LOCK_SECONDS = 30


def _is_managed(object_: Any, name: str | None, type_: str, reflected: bool, compare_to: Any) -> bool:
    """Excludes the tables of PostGIS and, in `public`, the tile indexes of collections."""
    if type_ == "table" and reflected and compare_to is None and object_.schema != SCHEMA:
        return False
    return bool(alembic_helpers.include_object(object_, name, type_, reflected, compare_to))


# Options with which Alembic compares a database with the schema and generates a revision from the differences.
ALEMBIC_OPTIONS: dict[str, Any] = {
    "target_metadata": metadata,
    "version_table_schema": SCHEMA,
    "include_schemas": True,
    "include_object": _is_managed,
    "process_revision_directives": alembic_helpers.writer,
    "render_item": alembic_helpers.render_item,
    "compare_type": True,
    "compare_server_default": True,
}


@dataclass(frozen=True)
class Upgrade:
    """The revisions before (None: a new database) and after an upgrade, and how many tile indexes gained columns."""

    before: str | None
    after: str
    tile_indexes: int = 0

    def __str__(self) -> str:
        gained = f" {self.tile_indexes} tile indexes gained columns, which the next rebuilds fill." if self.tile_indexes else ""
        return f"{self._describe_revisions()}{gained}"

    def _describe_revisions(self) -> str:
        if self.before == self.after:
            return f"The index database is up to date (revision {self.after})."
        if self.before is None:
            return f"The index database was created at revision {self.after}."
        return f"The index database was upgraded from revision {self.before} to {self.after}."


def upgrade_database(engine: Engine, role: str | None = None) -> Upgrade:
    """Upgrade the schema and the tile indexes. `role`: the owner of the tables, if the engine connects as another role.

    Running it again continues an upgrade that was interrupted. Raises ConfigurationError as `upgrade` and
    `upgrade_tile_indexes` do.
    """
    with engine.connect() as connection:
        if role:
            with connection.begin():
                connection.execute(text(f"SET ROLE {role}"))
        with connection.begin():
            upgraded = upgrade(connection)
        return replace(upgraded, tile_indexes=upgrade_tile_indexes(connection))


def upgrade(connection: Connection) -> Upgrade:
    """Upgrade the schema in the caller's transaction, as the role that owns the tables.

    Raises ConfigurationError when a newer version of ls4 upgraded the database.
    """
    connection.execute(text(f"SET LOCAL lock_timeout = '{_LOCK_SECONDS}s'"))
    lock_until_commit(connection, "upgrade of the index schema")
    config = _config(connection)
    scripts = ScriptDirectory.from_config(config)
    newest, before = str(scripts.get_current_head()), read_revision(connection)
    if before is not None and before not in {script.revision for script in scripts.walk_revisions()}:
        raise ConfigurationError(
            f"The index database has revision {before}, which is newer than the {newest} of this version of ls4; "
            "install the newer version, or restore a backup from before the upgrade."
        )
    # A column that a view reads cannot be altered.
    drop_views(connection)
    if before is None:
        metadata.create_all(connection)
        command.stamp(config, newest)
    elif before != newest:
        if not _has_version_table(connection):
            command.stamp(config, before)
        command.upgrade(config, newest)
    create_views(connection)
    create_triggers(connection)
    return Upgrade(before, newest)


def read_revision(connection: Connection) -> str | None:
    """Returns the revision of the database; None for a new one."""
    recorded = MigrationContext.configure(connection, opts={"version_table_schema": SCHEMA}).get_current_revision()
    return recorded or (BASELINE if inspect(connection).has_table("source", SCHEMA) else None)


def _has_version_table(connection: Connection) -> bool:
    return inspect(connection).has_table("alembic_version", SCHEMA)


def _config(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(SCRIPTS))
    config.attributes["connection"] = connection
    return config
