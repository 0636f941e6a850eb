"""What Alembic runs, for `ls4 db upgrade` on a connection that it is given, for its own command on that of the configuration."""

from contextlib import nullcontext

from alembic import context
from sqlalchemy import Connection, create_engine

from ls4_assets.db.migrate import COMPARED


def run(connection: Connection) -> None:
    context.configure(connection, **COMPARED)
    with context.begin_transaction():
        context.run_migrations()


given = context.config.attributes.get("connection")
if given is None:
    from ls4_assets.settings import load_settings

    # The role's own schema has its name and would come first: Alembic would take it for the one that need not be named.
    engine = create_engine(load_settings().database_url.get_secret_value(), connect_args={"options": "-csearch_path=public"})
    given = engine.begin()
else:
    given = nullcontext(given)

with given as open_connection:
    run(open_connection)
