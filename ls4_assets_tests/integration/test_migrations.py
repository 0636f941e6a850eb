"""The index database from version to version, on a real PostgreSQL: `ls4 db init` and `ls4 db upgrade`."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata, produce_migrations, render_python_code
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from click.testing import CliRunner
from sqlalchemy import URL, Connection, NullPool, create_engine, make_url, text

from ls4_assets.cli.main import main
from ls4_assets.db import migrate
from ls4_assets.db.bootstrap import ROLES, bootstrap
from ls4_assets.db.migrate import BASELINE, COMPARED, SCRIPTS, Upgrade, upgrade
from ls4_assets.db.schema import metadata
from ls4_assets.local.postgres import Cluster
from ls4_assets_tests.conftest import new_cluster
from ls4_assets_tests.platform import CHECKOUT, PASSWORDS

# Everything of a table that a difference could hide in, as PostgreSQL itself writes it.
DESCRIPTION = """
SELECT c.oid::regclass::text AS relation, a.attname || ' ' || format_type(a.atttypid, a.atttypmod)
       || ' ' || a.attnotnull || ' ' || coalesce(pg_get_expr(d.adbin, d.adrelid), '') || ' ' || a.attcollation::regcollation
       || ' ' || coalesce(col_description(c.oid, a.attnum), '') AS is
  FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
  LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
 WHERE c.relkind = 'r' AND pg_get_userbyid(c.relowner) = 'ls4'
UNION ALL SELECT schemaname || '.' || tablename, indexdef FROM pg_indexes
           WHERE schemaname = 'ls4' OR tablename = 'overview_mosaics'
UNION ALL SELECT conrelid::regclass::text, conname || ' ' || pg_get_constraintdef(c.oid) FROM pg_constraint c
           JOIN pg_class t ON t.oid = conrelid WHERE pg_get_userbyid(t.relowner) = 'ls4'
UNION ALL SELECT viewname, definition FROM pg_views WHERE viewowner = 'ls4'
UNION ALL SELECT c.oid::regclass::text, coalesce(c.relacl::text, '') FROM pg_class c
           WHERE relkind IN ('r', 'v') AND pg_get_userbyid(c.relowner) = 'ls4'
"""


@pytest.fixture(scope="module")
def admin(cluster: Cluster) -> URL:
    """The roles are there; each test makes databases of its own."""
    bootstrap(cluster.admin_url, PASSWORDS)
    return make_url(cluster.admin_url).set(drivername="postgresql+psycopg2")


@contextmanager
def database(admin: URL, name: str) -> Iterator[URL]:
    """An empty database with PostGIS and schema ls4; its address is the pipeline's role's."""
    server = create_engine(admin, isolation_level="AUTOCOMMIT", poolclass=NullPool)
    with server.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name} OWNER ls4"))
        with create_engine(admin.set(database=name), poolclass=NullPool).begin() as inside:
            inside.execute(text("CREATE EXTENSION postgis"))
            inside.execute(text("GRANT CREATE ON SCHEMA public TO ls4"))
            inside.execute(text("ALTER DEFAULT PRIVILEGES FOR ROLE ls4 IN SCHEMA public GRANT SELECT ON TABLES TO mapserver"))
            inside.execute(text("CREATE SCHEMA ls4 AUTHORIZATION ls4"))
        try:
            yield admin.set(database=name, username="ls4", password=PASSWORDS["ls4"])
        finally:
            connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))


@contextmanager
def opened(url: URL) -> Iterator[Connection]:
    """As Alembic wants it: with `public` as the schema that need not be named."""
    with create_engine(url, poolclass=NullPool, connect_args={"options": "-csearch_path=public"}).begin() as connection:
        yield connection


def at_baseline(connection: Connection, noted: bool) -> None:
    """As when the oldest version made it, which did not note its revision."""
    script = ScriptDirectory(str(SCRIPTS)).get_revision(BASELINE)
    connection.exec_driver_sql(Path(script.path).with_suffix(".sql").read_text())
    migrate.create_views(connection)
    if noted:
        connection.execute(text("CREATE TABLE ls4.alembic_version (version_num varchar(32) PRIMARY KEY)"))
        connection.execute(text("INSERT INTO ls4.alembic_version VALUES (:now)"), {"now": BASELINE})


def description(url: URL) -> set[tuple[str, str]]:
    with opened(url) as connection:
        return {(row[0], row[1]) for row in connection.execute(text(DESCRIPTION)) if "alembic_version" not in row[0]}


def newest() -> str:
    return str(ScriptDirectory(str(SCRIPTS)).get_current_head())


def test_the_revisions_lead_to_the_schema_of_the_code(admin: URL) -> None:
    """Where this fails, schema.py was changed without a revision: the message holds what the revision has to do."""
    with database(admin, "by_revisions") as old, database(admin, "at_once") as new:
        with opened(old) as connection:
            at_baseline(connection, noted=False)
            assert upgrade(connection) == Upgrade(BASELINE, newest())
        with opened(new) as connection:
            assert upgrade(connection) == Upgrade(None, newest())
        for url in (old, new):
            with opened(url) as connection:
                context = MigrationContext.configure(connection, opts=COMPARED | {"target_metadata": metadata})
                missing = render_python_code(produce_migrations(context, metadata).upgrade_ops)
                assert compare_metadata(context, metadata) == [], f"write a revision behind {newest()} with:\n{missing}"
        assert description(old) ^ description(new) == set()
        assert len(description(new)) > 100


def test_what_is_in_the_tables_and_their_readers_rights_survive(admin: URL) -> None:
    with database(admin, "with_data") as url:
        with opened(url) as connection:
            at_baseline(connection, noted=True)
            connection.execute(text("INSERT INTO ls4.source (key, state, version, size) VALUES ('a.tif', 'done', 'v', 1)"))
            rejected = "INSERT INTO ls4.source (key, state, reason, version, size) VALUES ('b/georef/x', 'rejected', 'r', 'v', 1)"
            connection.execute(text(rejected))
            made = "INSERT INTO ls4.collection (name, shard, partition, table_name, published_at, outline) VALUES "
            connection.execute(text(made + "('A', 'A', 'A', 'a', now(), ST_MakeEnvelope(0, 0, 1, 1, 3857))"))
        with opened(url) as connection:
            assert str(upgrade(connection)) == f"The index database went from {BASELINE} to revision {newest()}."
        with opened(url) as connection:
            assert connection.scalar(text("SELECT state FROM ls4.source WHERE key = 'a.tif'")) == "done"
            open_ = [tuple(row) for row in connection.execute(text("SELECT key, place, reason FROM ls4.rejection"))]
            assert open_ == [("b/georef/x", "b", "r")]
            assert str(upgrade(connection)) == f"The index database is up to date (revision {newest()})."
        with opened(url.set(username="mapserver", password=PASSWORDS["mapserver"])) as connection:
            assert connection.scalar(text("SELECT name FROM public.archive_collections")) == "A"


def test_a_failed_revision_leaves_the_database_as_it_was(admin: URL) -> None:
    with database(admin, "half_way") as url:
        with opened(url) as connection:
            at_baseline(connection, noted=True)
            # In the way of a revision.
            connection.execute(text("CREATE TABLE ls4.inbox (other text)"))
        before = description(url)
        with pytest.raises(Exception, match="already exists"), opened(url) as connection:
            upgrade(connection)
        assert description(url) == before


def test_a_database_of_a_newer_version_is_rejected(admin: URL, monkeypatch: pytest.MonkeyPatch) -> None:
    with database(admin, "newer") as url:
        with opened(url) as connection:
            upgrade(connection)
            connection.execute(text("UPDATE ls4.alembic_version SET version_num = '9999'"))
        for name in ("STORAGE", "PUBLIC_URL", "MAP_URL"):
            monkeypatch.setenv(f"LS4_{name}", "x")
        monkeypatch.setenv("LS4_DATABASE_URL", url.render_as_string(hide_password=False))
        said = CliRunner().invoke(main, ["db", "upgrade"])
        assert said.exit_code == 1
        assert said.output == (
            f"Error: The index database has revision 9999, and this version of ls4 knows none later than {newest()}: a newer "
            "version upgraded it; install that one, or restore the database's backup from before.\n"
        )


def test_an_administrator_who_is_no_superuser(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on RDS: the extension and its tables belong to somebody else, and roles are made by a role that may make roles."""

    def init() -> str:
        return CliRunner().invoke(main, ["db", "init"]).output

    with new_cluster() as cluster:
        superuser = make_url(cluster.admin_url).set(drivername="postgresql+psycopg2")
        url = superuser.set(username="rds_admin", password="x")
        monkeypatch.setenv("LS4_ADMIN_DATABASE_URL", url.render_as_string(hide_password=False))
        with opened(superuser) as connection:
            connection.execute(text("CREATE ROLE rds_admin LOGIN CREATEROLE CREATEDB PASSWORD 'x'"))
        assert init() == (
            "Error: The databases' roles need passwords: set LS4_PASSWORD_DAGSTER, LS4_PASSWORD_LS4, LS4_PASSWORD_MAPSERVER.\n"
        )
        for role in ROLES:
            monkeypatch.setenv(f"LS4_PASSWORD_{role.upper()}", PASSWORDS[role])
        assert "PostGIS cannot be made in the database ls4 (permission denied" in init()
        with opened(superuser.set(database="ls4")) as connection:
            connection.execute(text("CREATE EXTENSION postgis"))

        assert init() == f"The index database went from nothing to revision {newest()}.\n"
        monkeypatch.setenv("LS4_PASSWORD_LS4", "rotated")
        assert init() == f"The index database is up to date (revision {newest()}).\n"
        with opened(url.set(username="ls4", password="rotated", database="ls4")) as pipeline:
            owner = "SELECT pg_get_userbyid(relowner) FROM pg_class WHERE oid = CAST(:name AS regclass)"
            assert pipeline.scalar(text(owner), {"name": "ls4.source"}) == "ls4"
            assert pipeline.scalar(text(owner), {"name": "spatial_ref_sys"}) == "postgres"
            pipeline.execute(text("ALTER TABLE ls4.source ADD COLUMN later text"))
            pipeline.execute(text("CREATE TABLE public.t AS SELECT ST_Transform(ST_Point(0, 0, 4326), 3857) AS geom"))
        with opened(url.set(username="mapserver", password=PASSWORDS["mapserver"], database="ls4")) as reader:
            assert reader.scalar(text("SELECT count(*) FROM public.t")) == 1
            assert reader.scalar(text("SELECT auth_srid FROM spatial_ref_sys WHERE srid = 3857")) == 3857
            assert reader.scalar(text("SHOW default_transaction_read_only")) == "on"


def test_an_engineer_writes_revisions_with_alembic_itself(admin: URL) -> None:
    with database(admin, "engineer") as url:
        with opened(url) as connection:
            upgrade(connection)
        settings = {"DATABASE_URL": url.render_as_string(hide_password=False), "STORAGE": "x", "PUBLIC_URL": "x", "MAP_URL": "x"}
        environment = {f"LS4_{name}": value for name, value in settings.items()}
        command = [str(Path(sys.executable).parent / "alembic"), "check"]
        done = subprocess.run(command, cwd=CHECKOUT, env=environment, capture_output=True, text=True, check=False)
        assert "No new upgrade operations detected." in done.stdout, done.stderr
