"""The setup of a PostgreSQL server by its administrator (`ls4 db init`): roles, databases, PostGIS and grants. Idempotent.

Three roles: `dagster` owns the Dagster database; `ls4` (the pipeline) owns the index database and creates its tables;
`mapserver` may only SELECT from the tile indexes, and connect to no other database. Each call sets the passwords, so a rotated
secret only needs a second call.

The administrator need not be a superuser (on RDS nobody is): it becomes a member of the two owners. The tables of PostGIS, such
as `spatial_ref_sys`, keep their owner and are only read. The tables of ls4 are created by `migrate.py`.
"""

from collections.abc import Mapping

from psycopg2.extensions import encrypt_password
from sqlalchemy import URL, Connection, NullPool, create_engine, make_url, text
from sqlalchemy.exc import DBAPIError, ProgrammingError

from ls4_assets.db.migrate import Upgrade, upgrade_database
from ls4_assets.db.roles import ROLES
from ls4_assets.db.schema import SCHEMA
from ls4_assets.errors import ConfigurationError

OWNED_DATABASES = ("dagster", "ls4")
# A worker has one connection. A statement takes milliseconds, and nginx waits a minute for a map.
_MIN_MAP_CONNECTIONS = 20
# https://www.postgresql.org/docs/current/errcodes-appendix.html
_INSUFFICIENT_PRIVILEGE = "42501"
_MAP_STATEMENT_SECONDS = 30


def bootstrap(admin_url: str | URL, passwords: Mapping[str, str]) -> Upgrade:
    """Set up a PostgreSQL server. `admin_url` is of a superuser or rds_superuser; `passwords` has one per role.

    Raises ConfigurationError when the administrator lacks a privilege, or a newer version of ls4 upgraded the database.
    """
    url = make_url(admin_url)
    with _autocommit(url) as server:
        for role in ROLES:
            _ensure_role(server, role, passwords[role])
        _join_owners(server)
        for database in OWNED_DATABASES:
            _ensure_database(server, database)
        _confine_map_server(server)
    index_url = url.set(database="ls4")
    with _autocommit(index_url) as index:
        _ensure_postgis(index)
        index.execute(text(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA} AUTHORIZATION ls4"))
        index.execute(text("REVOKE CREATE ON SCHEMA public FROM PUBLIC"))
        index.execute(text("GRANT CREATE, USAGE ON SCHEMA public TO ls4"))
        index.execute(text("GRANT USAGE ON SCHEMA public TO mapserver"))
        # A second line of defense: the role has no write privileges either.
        index.execute(text("ALTER ROLE mapserver SET default_transaction_read_only = on"))
        # The map server can read each tile index as soon as the pipeline creates it.
        index.execute(text("ALTER DEFAULT PRIVILEGES FOR ROLE ls4 IN SCHEMA public GRANT SELECT ON TABLES TO mapserver"))
    # The pipeline's role must own its tables to alter them later.
    return upgrade_database(create_engine(index_url, poolclass=NullPool), role="ls4")


def _autocommit(url: URL) -> Connection:
    return create_engine(url, isolation_level="AUTOCOMMIT", poolclass=NullPool).connect()


def _ensure_role(server: Connection, role: str, password: str) -> None:
    exists = server.scalar(text("SELECT 1 FROM pg_roles WHERE rolname = :role"), {"role": role})
    verb = "ALTER" if exists else "CREATE"
    # Utility statements take no parameters and may be logged, so the server gets the SCRAM verifier and never the password.
    driver = server.connection.driver_connection
    verifier = encrypt_password(password, role, scope=driver, algorithm="scram-sha-256")
    server.exec_driver_sql(f"{verb} ROLE {role} LOGIN PASSWORD '{verifier}'")


def _join_owners(server: Connection) -> None:
    """Make the administrator a member of the owners: only a member can create a database for a role, or act as it."""
    if not server.scalar(text("SELECT rolsuper FROM pg_roles WHERE rolname = current_user")):
        server.execute(text(f"GRANT {', '.join(OWNED_DATABASES)} TO CURRENT_USER"))


def _ensure_database(server: Connection, name: str) -> None:
    if not server.scalar(text("SELECT 1 FROM pg_database WHERE datname = :name"), {"name": name}):
        server.execute(text(f"CREATE DATABASE {name} OWNER {name} TEMPLATE template0 ENCODING 'UTF8'"))
        server.execute(text(f"REVOKE ALL ON DATABASE {name} FROM PUBLIC"))
    server.execute(text(f"GRANT CONNECT ON DATABASE {name} TO {'ls4, mapserver' if name == 'ls4' else name}"))


def _confine_map_server(server: Connection) -> None:
    """Limit what a compromised map worker can do to the server, and to which databases it can connect."""
    total = server.scalar(text("SELECT setting::int FROM pg_settings WHERE name = 'max_connections'"))
    server.execute(text(f"ALTER ROLE mapserver CONNECTION LIMIT {max(_MIN_MAP_CONNECTIONS, total // 2)}"))
    server.execute(text(f"ALTER ROLE mapserver SET statement_timeout = '{_MAP_STATEMENT_SECONDS}s'"))
    # PostgreSQL lets every role connect to these. A managed server may keep them for itself: then it also protects them.
    for name in ("postgres", "template1"):
        try:
            server.execute(text(f"REVOKE CONNECT ON DATABASE {name} FROM PUBLIC"))
        except ProgrammingError as error:
            if getattr(error.orig, "pgcode", None) != _INSUFFICIENT_PRIVILEGE:
                raise


def _ensure_postgis(index: Connection) -> None:
    try:
        index.execute(text("CREATE EXTENSION IF NOT EXISTS postgis"))
    except DBAPIError as error:
        reason = str(error.orig).partition("\n")[0]
        raise ConfigurationError(
            f"The extension PostGIS cannot be created in the database ls4 ({reason}); install it on the server, or have a "
            "superuser run CREATE EXTENSION postgis in that database, then run this command again."
        ) from None
    for name in ("spatial_ref_sys", "geometry_columns"):
        for role in ("ls4", "mapserver"):
            # PostGIS grants SELECT to PUBLIC. A role cannot grant on a table that it does not own.
            if not index.scalar(text("SELECT has_table_privilege(:role, :name, 'SELECT')"), {"role": role, "name": name}):
                index.execute(text(f"GRANT SELECT ON {name} TO {role}"))
