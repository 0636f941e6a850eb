"""`ls4 db`: create, upgrade and restore the database."""

import os
import sys

import click

from ls4_assets.cli.configuration import load_archive_settings
from ls4_assets.errors import ConfigurationError


@click.group()
def db() -> None:
    """Create, upgrade or restore the database."""


@db.command("init")
def init() -> None:
    """Create roles, databases, PostGIS, grants and tables, or set changed passwords. Running it again is safe.

    Connects as the administrator given by LS4_ADMIN_DATABASE_URL, or by libpq's PGHOST, PGUSER and PGPASSWORD. The passwords of
    the roles come from LS4_PASSWORD_DAGSTER, LS4_PASSWORD_LS4 and LS4_PASSWORD_MAPSERVER.
    """
    from ls4_assets.db.bootstrap import bootstrap
    from ls4_assets.db.roles import ROLES

    names = {role: f"LS4_PASSWORD_{role.upper()}" for role in ROLES}
    if missing := [name for name in names.values() if not os.environ.get(name)]:
        raise ConfigurationError(f"The database roles need passwords; set {', '.join(missing)}.")
    admin = os.environ.get("LS4_ADMIN_DATABASE_URL", "postgresql+psycopg2:///postgres")
    click.echo(bootstrap(admin, {role: os.environ[name] for role, name in names.items()}))


@db.command("upgrade")
def upgrade() -> None:
    """Upgrade the tables to this version of ls4. Run it before the services of a new version start.

    Maps keep serving during the upgrade. Run it again after an interruption: it continues.
    """
    from ls4_assets.db.migrate import upgrade_database
    from resources.open import open_database

    click.echo(upgrade_database(open_database(load_archive_settings().database_url.get_secret_value())))


@db.command("restore")
@click.option("--apply", "apply_", is_flag=True, help="Restore the rows. Without it, only print the plan.")
def restore(apply_: bool) -> None:
    """Restore a lost database from the files in the bucket. The new database must be empty."""
    load_archive_settings()
    from ls4_assets.operations.restore import restore_database
    from resources.archive import Archive

    sys.exit(0 if restore_database(Archive(), click.echo, apply=apply_) else 1)
