"""The script that Alembic runs: on the connection of `ls4 db upgrade`, or for the `alembic` command on that of the settings."""

from contextlib import nullcontext

from alembic import context
from sqlalchemy import Connection, create_engine

from ls4_assets.db.migrate import ALEMBIC_OPTIONS


def run(connection: Connection) -> None:
    context.configure(connection, **ALEMBIC_OPTIONS)
    with context.begin_transaction():
        context.run_migrations()


given = context.config.attributes.get("connection")
if given is None:
    from ls4_assets.settings import load_settings

    # The role `ls4` has a schema of the same name first in its search path, and Alembic treats the first one as the default.
    engine = create_engine(load_settings().database_url.get_secret_value(), connect_args={"options": "-csearch_path=public"})
    given = engine.begin()
else:
    given = nullcontext(given)

with given as open_connection:
    run(open_connection)
