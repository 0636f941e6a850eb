"""`ls4 db init` and `ls4 db upgrade` on a real PostgreSQL: revisions, data, roles and privileges."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata, produce_migrations, render_python_code
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from click.testing import CliRunner
from sqlalchemy import URL, Connection, NullPool, create_engine, make_url, text

from ls4_assets.cli.main import main
from ls4_assets.db.bootstrap import bootstrap
from ls4_assets.db.migrate import ALEMBIC_OPTIONS, BASELINE, SCRIPTS, Upgrade, upgrade
from ls4_assets.db.roles import ROLES
from ls4_assets.db.schema import metadata
from ls4_assets.ingest import listing
from ls4_assets.local.postgres import Cluster
from ls4_assets_tests.conftest import new_cluster
from ls4_assets_tests.platform import CHECKOUT, PASSWORDS

AT_0005 = Path(__file__).with_name("database_at_0005.sql")
NAME = "Travis_USDA_1958_frames"

# Every property of the schema in which two databases may differ, as PostgreSQL prints it.
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
UNION ALL SELECT c.oid::regclass::text, coalesce(c.relacl::text, '') || ' ' || coalesce(obj_description(c.oid, 'pg_class'), '')
            FROM pg_class c WHERE relkind IN ('r', 'v', 'S') AND pg_get_userbyid(c.relowner) = 'ls4'
UNION ALL SELECT 'function ' || proname, prosrc FROM pg_proc WHERE pronamespace = 'ls4'::regnamespace
UNION ALL SELECT 'trigger ' || tgname, pg_get_triggerdef(oid) FROM pg_trigger
           WHERE NOT tgisinternal AND tgrelid::regclass::text LIKE 'ls4.%'
"""

# The views as they were before revision 0006.
VIEWS = """
CREATE VIEW public.archive_collections AS
SELECT row_number() OVER (ORDER BY name)::integer AS oid,
       name, table_name, title, shard, agency, year, type, array_to_string(bands, ' ') AS bands, frames,
       index_revision AS version, outline AS geom
  FROM ls4.collection
 WHERE published_at IS NOT NULL AND outline IS NOT NULL;
CREATE VIEW public.archive_frames AS
SELECT frame.id, frame.collection, collection.table_name, collection.year, frame.source_key,
       collection.served_root || frame.served_key AS served_location, frame.footprint AS geom
  FROM ls4.frame JOIN ls4.collection ON collection.name = frame.collection
 WHERE collection.published_at IS NOT NULL AND frame.indexed_revision > 0
   AND frame.served_key IS NOT NULL AND frame.footprint IS NOT NULL AND NOT frame.deleted;
"""


@pytest.fixture(scope="module")
def admin(cluster: Cluster) -> URL:
    """A server with the roles. Each test creates its own databases."""
    bootstrap(cluster.admin_url, PASSWORDS)
    return make_url(cluster.admin_url).set(drivername="postgresql+psycopg2")


@contextmanager
def database(admin: URL, name: str) -> Iterator[URL]:
    """An empty database with PostGIS and schema ls4, as a URL of the pipeline's role."""
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
    """A connection as Alembic requires it, with `public` as the default schema."""
    with create_engine(url, poolclass=NullPool, connect_args={"options": "-csearch_path=public"}).begin() as connection:
        yield connection


def create_baseline(connection: Connection, recorded: bool) -> None:
    """Create the tables and views of the first version, which did not record its revision (`recorded`)."""
    script = ScriptDirectory(str(SCRIPTS)).get_revision(BASELINE)
    connection.exec_driver_sql(Path(script.path).with_suffix(".sql").read_text())
    connection.exec_driver_sql(VIEWS)
    if recorded:
        connection.execute(text("CREATE TABLE ls4.alembic_version (version_num varchar(32) PRIMARY KEY)"))
        connection.execute(text("INSERT INTO ls4.alembic_version VALUES (:now)"), {"now": BASELINE})


def upgrade_to(connection: Connection, revision: str) -> None:
    config = Config()
    config.set_main_option("script_location", str(SCRIPTS))
    config.attributes["connection"] = connection
    command.upgrade(config, revision)


@contextmanager
def upgraded_from_0005(admin: URL, name: str) -> Iterator[URL]:
    """A database with the triggers and rows of revision 0005, upgraded to the newest revision."""
    with database(admin, name) as url:
        with opened(url) as connection:
            create_baseline(connection, recorded=True)
            upgrade_to(connection, "0005")
            connection.exec_driver_sql(AT_0005.read_text(encoding="utf-8"))
        with opened(url) as connection:
            assert upgrade(connection) == Upgrade("0005", newest_revision())
        yield url


def describe(url: URL) -> set[tuple[str, str]]:
    with opened(url) as connection:
        return {(row[0], row[1]) for row in connection.execute(text(DESCRIPTION)) if "alembic_version" not in row[0]}


def newest_revision() -> str:
    return str(ScriptDirectory(str(SCRIPTS)).get_current_head())


def test_revisions_lead_to_the_schema_of_the_code(admin: URL) -> None:
    """A failure means that schema.py was changed without a revision; the message has the operations that are missing."""
    with database(admin, "by_revisions") as old, database(admin, "at_once") as new:
        with opened(old) as connection:
            create_baseline(connection, recorded=False)
            assert upgrade(connection) == Upgrade(BASELINE, newest_revision())
        with opened(new) as connection:
            assert upgrade(connection) == Upgrade(None, newest_revision())
        for url in (old, new):
            with opened(url) as connection:
                context = MigrationContext.configure(connection, opts=ALEMBIC_OPTIONS | {"target_metadata": metadata})
                operations = produce_migrations(context, metadata).upgrade_ops
                assert operations
                missing = render_python_code(operations)
                assert compare_metadata(context, metadata) == [], f"write a revision after {newest_revision()} with:\n{missing}"
        assert describe(old) ^ describe(new) == set()
        assert len(describe(new)) > 100


def test_upgrade_from_the_baseline_keeps_rows_and_privileges(admin: URL) -> None:
    with database(admin, "with_data") as url:
        with opened(url) as connection:
            create_baseline(connection, recorded=True)
            connection.execute(text("INSERT INTO ls4.source (key, state, version, size) VALUES ('a.tif', 'done', 'v', 1)"))
            refused = "INSERT INTO ls4.source (key, state, reason, version, size) VALUES ('b/georef/x', 'refused', 'r', 'v', 1)"
            connection.execute(text(refused))
            collection = "INSERT INTO ls4.collection (name, shard, partition, table_name, published_at, outline) VALUES "
            connection.execute(text(collection + "('A', 'A', 'A', 'a', now(), ST_MakeEnvelope(0, 0, 1, 1, 3857))"))
        with opened(url) as connection:
            assert str(upgrade(connection)) == f"The index database was upgraded from revision {BASELINE} to {newest_revision()}."
        with opened(url) as connection:
            assert connection.scalar(text("SELECT state FROM ls4.source WHERE key = 'a.tif'")) == "done"
            rejections = connection.execute(text("SELECT key, kind, scope, reason FROM ls4.rejection"))
            assert [tuple(row) for row in rejections] == [("b/georef/x", "rejected", "b", "r")]
            assert str(upgrade(connection)) == f"The index database is up to date (revision {newest_revision()})."
        with opened(url.set(username="mapserver", password=PASSWORDS["mapserver"])) as connection:
            assert connection.scalar(text("SELECT name FROM public.archive_collections")) == "A"


def test_folders_that_were_unlisted_before_the_upgrade_are_so_as_a_whole(admin: URL) -> None:
    with database(admin, "at_0008") as url:
        with opened(url) as connection:
            create_baseline(connection, recorded=True)
            upgrade_to(connection, "0008")
            insert = "INSERT INTO ls4.unlisted_folder (folder, reason, since) VALUES ('', 'r', now()), ('bw/Travis/', 'r', now())"
            connection.execute(text(insert))
        with opened(url) as connection:
            upgrade(connection)
            rows = connection.execute(text("SELECT range_start, range_end FROM ls4.unlisted_folder ORDER BY folder"))
            assert [tuple(row) for row in rows] == [("", listing.END), ("bw/Travis/", "bw/Travis0")]


def test_upgrade_from_0005_keeps_rows_under_the_new_names(admin: URL) -> None:
    with upgraded_from_0005(admin, "at_0005") as url, opened(url) as connection:

        def rows(query: str) -> list[tuple[object, ...]]:
            return [tuple(row) for row in connection.execute(text(query))]

        folder = "bw/Travis/USDA_1958/frames/georef"
        columns = "version_count, missing_since::date, deletion_held_at::date, retry_after::date, pending_since IS NULL"
        assert rows(f"SELECT key, state, {columns} FROM ls4.source ORDER BY key") == [
            (f"{folder}/1.tif", "queued", 3, None, None, date(2026, 1, 3), False),
            (f"{folder}/2.tif", "failed", 1, date(2026, 1, 4), date(2026, 1, 5), None, True),
            ("bw/Travis/odd/georef/x.tif", "rejected", 1, None, None, None, True),
        ]
        columns = "kind, scope, reason, version, occurrences, resolved_at IS NULL"
        assert rows(f"SELECT key, {columns} FROM ls4.rejection ORDER BY key") == [
            (f"{folder}/2.tif", "failed", NAME, "It is black.", "v", 1, True),
            ("bw/Travis/odd/georef/x.tif", "rejected", "bw/Travis/odd", "Its name is wrong.", "w", 2, True),
            ("bw/Travis/odd/georef/y.tif", "rejected", "bw/Travis/odd", "Its name is wrong.", "v", 1, False),
        ]
        columns = "film_types, raw_scans_checked_at::date"
        assert rows(f"SELECT {columns} FROM ls4.collection") == [(["bw", "nc"], date(2026, 1, 2))]
        assert rows("SELECT name, bands FROM public.archive_collections") == [(NAME, "bw nc")]
        assert rows("SELECT collection, format_version, zoom FROM ls4.overview_mosaic") == [(NAME, "1-1", 12)]
        assert rows("SELECT kind, scope, run, reason FROM ls4.failed_run") == [("run", "Bastrop", "r1", "no disk")]
        columns = "kind, scope, item_count, latest_at::date, notified_at::date"
        assert rows(f"SELECT {columns} FROM ls4.notification ORDER BY kind") == [
            ("held", NAME, 1, date(2026, 1, 7), date(2026, 1, 8)),
            ("rejected", "bw/Travis/odd", 2, date(2026, 1, 7), date(2026, 1, 8)),
        ]
        assert rows("SELECT * FROM ls4.export_state") == [(NAME, 6, 1, "3", 0)]
        columns = "name, inputs_digest, seconds, started_at::date, compiled_at::date"
        assert rows(f"SELECT {columns} FROM ls4.statewide_build") == [
            ("compiled_historical_indexes", "d1", 2.5, date(2026, 1, 9), date(2026, 1, 10))
        ]
        assert rows("SELECT key, retry_after::date FROM ls4.inbox") == [(f"{folder}/3.tif", date(2026, 1, 11))]


def test_triggers_of_an_upgraded_database_write_the_new_tables(admin: URL) -> None:
    with upgraded_from_0005(admin, "triggers_0005") as url, opened(url) as connection:
        connection.execute(text("UPDATE ls4.source SET state = 'done' WHERE key LIKE '%/2.tif'"))
        connection.execute(text("UPDATE ls4.source SET state = 'rejected', reason = 'Its name.' WHERE key LIKE '%/1.tif'"))
        connection.execute(text("UPDATE ls4.source SET version = 'u', state = 'rejected' WHERE key LIKE '%/x.tif'"))
        columns = "split_part(key, '/georef/', 2), occurrences, resolved_at IS NULL, resolved_by"
        rows = connection.execute(text(f"SELECT {columns} FROM ls4.rejection ORDER BY key")).all()
        assert [tuple(row) for row in rows] == [
            ("1.tif", 1, True, None),
            ("2.tif", 1, False, "v"),
            ("x.tif", 3, True, None),
            ("y.tif", 1, False, None),
        ]
        assert connection.scalar(text("SELECT count(*) FROM ls4.source WHERE pending_since IS NOT NULL")) == 0


def test_failed_revision_leaves_the_database_unchanged(admin: URL) -> None:
    with database(admin, "half_way") as url:
        with opened(url) as connection:
            create_baseline(connection, recorded=True)
            # Conflicts with revision 0002.
            connection.execute(text("CREATE TABLE ls4.inbox (other text)"))
        before = describe(url)
        with pytest.raises(Exception, match="already exists"), opened(url) as connection:
            upgrade(connection)
        assert describe(url) == before


def test_database_of_a_newer_version_is_rejected(admin: URL, monkeypatch: pytest.MonkeyPatch) -> None:
    with database(admin, "newer") as url:
        with opened(url) as connection:
            upgrade(connection)
            connection.execute(text("UPDATE ls4.alembic_version SET version_num = '9999'"))
        for name in ("STORAGE", "PUBLIC_URL", "MAP_URL"):
            monkeypatch.setenv(f"LS4_{name}", "x")
        monkeypatch.setenv("LS4_DATABASE_URL", url.render_as_string(hide_password=False))
        result = CliRunner().invoke(main, ["db", "upgrade"])
        assert result.exit_code == 1
        assert result.output == (
            f"Error: The index database has revision 9999, which is newer than the {newest_revision()} of this version of ls4; "
            "install the newer version, or restore a backup from before the upgrade.\n"
        )


def test_administrator_need_not_be_a_superuser(monkeypatch: pytest.MonkeyPatch) -> None:
    """On RDS another role owns the extension and its tables, and the administrator only has CREATEROLE and CREATEDB."""

    def init() -> str:
        return CliRunner().invoke(main, ["db", "init"]).output

    with new_cluster() as cluster:
        superuser = make_url(cluster.admin_url).set(drivername="postgresql+psycopg2")
        url = superuser.set(username="rds_admin", password="x")
        monkeypatch.setenv("LS4_ADMIN_DATABASE_URL", url.render_as_string(hide_password=False))
        with opened(superuser) as connection:
            connection.execute(text("CREATE ROLE rds_admin LOGIN CREATEROLE CREATEDB PASSWORD 'x'"))
        assert init() == (
            "Error: The database roles need passwords; set LS4_PASSWORD_DAGSTER, LS4_PASSWORD_LS4, LS4_PASSWORD_MAPSERVER.\n"
        )
        for role in ROLES:
            monkeypatch.setenv(f"LS4_PASSWORD_{role.upper()}", PASSWORDS[role])
        assert "The extension PostGIS cannot be created in the database ls4 (permission denied" in init()
        with opened(superuser.set(database="ls4")) as connection:
            connection.execute(text("CREATE EXTENSION postgis"))

        assert init() == f"The index database was created at revision {newest_revision()}.\n"
        monkeypatch.setenv("LS4_PASSWORD_LS4", "rotated")
        assert init() == f"The index database is up to date (revision {newest_revision()}).\n"
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


def test_alembic_command_compares_the_schema(admin: URL) -> None:
    with database(admin, "engineer") as url:
        with opened(url) as connection:
            upgrade(connection)
        settings = {"DATABASE_URL": url.render_as_string(hide_password=False), "STORAGE": "x", "PUBLIC_URL": "x", "MAP_URL": "x"}
        environment = {f"LS4_{name}": value for name, value in settings.items()}
        alembic = [str(Path(sys.executable).parent / "alembic"), "check"]
        result = subprocess.run(alembic, cwd=CHECKOUT, env=environment, capture_output=True, text=True, check=False)
        assert "No new upgrade operations detected." in result.stdout, result.stderr
