"""What a database administrator does once: roles, databases, PostGIS and grants. Idempotent, and prints nothing.

Three roles: `dagster` owns the Dagster database; `ls4` (the pipeline) owns the index and may create its tables; `mapserver`
may only SELECT the tile indexes. Passwords are set anew at each call, so a rotated secret needs no more than a re-run.
"""

from collections.abc import Mapping

from psycopg2.extensions import encrypt_password
from sqlalchemy import URL, Connection, NullPool, create_engine, make_url, text

from ls4_assets.index.schema import SCHEMA, metadata
from ls4_assets.index.triggers import create_triggers
from ls4_assets.index.views import create_views

ROLES = ("dagster", "ls4", "mapserver")
OWNED_DATABASES = ("dagster", "ls4")


def bootstrap(admin_url: str | URL, passwords: Mapping[str, str]) -> None:
    """Make a PostgreSQL server ready. `admin_url` is a superuser's (or an rds_superuser's); `passwords` has one per role."""
    url = make_url(admin_url)
    with _autocommit(url) as server:
        for role in ROLES:
            _ensure_role(server, role, passwords[role])
        for database in OWNED_DATABASES:
            _ensure_database(server, database)
    with _autocommit(url.set(database="ls4")) as index:
        index.execute(text("CREATE EXTENSION IF NOT EXISTS postgis"))
        index.execute(text(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA} AUTHORIZATION ls4"))
        index.execute(text("REVOKE CREATE ON SCHEMA public FROM PUBLIC"))
        index.execute(text("GRANT CREATE, USAGE ON SCHEMA public TO ls4"))
        index.execute(text("GRANT USAGE ON SCHEMA public TO mapserver"))
        # A second line of defence, behind the rights that the role does not have.
        index.execute(text("ALTER ROLE mapserver SET default_transaction_read_only = on"))
        index.execute(text("GRANT SELECT ON spatial_ref_sys, geometry_columns TO ls4, mapserver"))
        # Every tile index that the pipeline will ever make is readable by the map server from its first moment.
        index.execute(text("ALTER DEFAULT PRIVILEGES FOR ROLE ls4 IN SCHEMA public GRANT SELECT ON TABLES TO mapserver"))
        # As the pipeline's role, which thereby owns its tables and may alter them later.
        index.execute(text("SET ROLE ls4"))
        metadata.create_all(index)
        create_views(index)
        create_triggers(index)


def _autocommit(url: URL) -> Connection:
    return create_engine(url, isolation_level="AUTOCOMMIT", poolclass=NullPool).connect()


def _ensure_role(server: Connection, role: str, password: str) -> None:
    exists = server.scalar(text("SELECT 1 FROM pg_roles WHERE rolname = :role"), {"role": role})
    verb = "ALTER" if exists else "CREATE"
    # Utility statements take no parameters and may be logged: the server is told the SCRAM verifier, never the password.
    driver = server.connection.driver_connection
    verifier = encrypt_password(password, role, scope=driver, algorithm="scram-sha-256")
    server.exec_driver_sql(f"{verb} ROLE {role} LOGIN PASSWORD '{verifier}'")


def _ensure_database(server: Connection, name: str) -> None:
    if not server.scalar(text("SELECT 1 FROM pg_database WHERE datname = :name"), {"name": name}):
        # On RDS the administrator is no superuser and must be a member of the owner-to-be.
        server.execute(text(f"GRANT {name} TO CURRENT_USER"))
        server.execute(text(f"CREATE DATABASE {name} OWNER {name} TEMPLATE template0 ENCODING 'UTF8'"))
        server.execute(text(f"REVOKE ALL ON DATABASE {name} FROM PUBLIC"))
    server.execute(text(f"GRANT CONNECT ON DATABASE {name} TO {'ls4, mapserver' if name == 'ls4' else name}"))
