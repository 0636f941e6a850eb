"""A new column of the tile index: `ls4 db upgrade` on a database with tables of the version before, which serve meanwhile."""

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import URL, Column, Connection, NullPool, Table, Text, create_engine, text

from ls4_assets.db import schema, tile_index, tile_index_columns
from ls4_assets.db.migrate import upgrade, upgrade_database
from ls4_assets.db.tile_index_columns import ADDED_COLUMNS, AddedColumn, upgrade_tile_indexes
from ls4_assets.domain.names import Collection
from ls4_assets.errors import ConfigurationError
from ls4_assets_tests.integration.test_migrations import admin, database, opened  # noqa: F401
from ls4_assets_tests.platform import PASSWORDS, Platform, frame_of
from ls4_assets_tests.rasters import photograph, write_tif

AT_0006 = Path(__file__).with_name("tile_index_at_0006.sql")
NAMES = [f"Travis_USDA_{year}_frames" for year in range(1950, 1956)]
TABLES = [name.lower() for name in NAMES]
FLIGHT = AddedColumn("flight", "text", "flight line")
KEY = "bw/Travis/USDA_1958/frames/georef/02-08-60_6-101.tif"
# What an upgrade killed in the middle did: the same code as `ls4 db upgrade`, with a column that this version does not have.
UPGRADE = """
import sys
from sqlalchemy import create_engine
from ls4_assets.db import migrate, tile_index_columns
tile_index_columns.ADDED_COLUMNS += (tile_index_columns.AddedColumn("flight", "text", "flight line"),)
migrate.upgrade_database(create_engine(sys.argv[1]))
"""
COLLECTION = """
INSERT INTO ls4.collection (name, shard, partition, table_name, attempts) VALUES (:name, 'Travis', :name, :table, 3)
"""
FRAME = """
INSERT INTO ls4.frame (id, shard, collection, partition, source_key, source_version, content_hash, indexed_revision)
VALUES (:name, 'Travis', :name, :name, 'k', 'v', 'h', 1)
"""
DESCRIPTION = """
SELECT replace(line, :name, 'x') FROM (
  SELECT attname || ' ' || format_type(atttypid, atttypmod) || ' ' || attnotnull || ' ' || attidentity::text || ' '
         || coalesce(pg_get_expr(adbin, adrelid), '') || ' ' || coalesce(col_description(attrelid, attnum), '') AS line, attnum
    FROM pg_attribute LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
   WHERE attrelid = to_regclass(:name) AND attnum > 0 AND NOT attisdropped
  UNION ALL SELECT indexdef, 1000 FROM pg_indexes WHERE tablename = :name
  UNION ALL SELECT pg_get_constraintdef(oid), 1000 FROM pg_constraint WHERE conrelid = to_regclass(:name) AND contype <> 'n'
) AS lines ORDER BY attnum, line
"""


def create_old_table(connection: Connection, name: str) -> None:
    connection.exec_driver_sql(AT_0006.read_text().format(name=name))
    values = "'/vsis3/b/k', 'EPSG:3857', 'bw', '/k', 'v', 'h', ST_Multi(ST_MakeEnvelope(0, 0, 1, 1, 3857))"
    columns = "location, src_srs, band, served_location, source_version, profile_hash, geom"
    connection.exec_driver_sql(f"INSERT INTO public.{name} ({columns}) VALUES ({values})")


@contextmanager
def old_database(admin_url: URL, name: str) -> Iterator[URL]:
    """A database of revision 0006 with six collections of one frame each."""
    with database(admin_url, name) as url:
        with opened(url) as connection:
            upgrade(connection)
            for collection, table in zip(NAMES, TABLES, strict=True):
                create_old_table(connection, table)
                connection.execute(text(COLLECTION), {"name": collection, "table": table})
                connection.execute(text(FRAME), {"name": collection})
            connection.exec_driver_sql(f"GRANT SELECT ON public.{TABLES[0]} TO dagster")
        yield url


def columns_of(url: URL, table: str) -> list[str]:
    query = "SELECT attname FROM pg_attribute WHERE attrelid = to_regclass(:t) AND attnum > 0 ORDER BY attnum"
    with opened(url) as connection:
        return list(connection.scalars(text(query), {"t": f"public.{table}"}))


def upgraded_tables(url: URL) -> list[str]:
    return [table for table in TABLES if "flight" in columns_of(url, table)]


def describe(connection: Connection, name: str) -> list[str]:
    return list(connection.scalars(text(DESCRIPTION), {"name": name}))


def difference(url: URL, table: Table, added: tuple[AddedColumn, ...]) -> set[str]:
    """How a table of revision 0006 with the added columns differs from one that this version creates."""
    with opened(url) as connection:
        create_old_table(connection, "old_table")
        if added:
            tile_index_columns._add_columns(connection, "old_table", added)
        table.create(connection)
        old, new = describe(connection, "old_table"), describe(connection, table.name)
        connection.rollback()
    return set(old) ^ set(new) or ({"order"} if old != new else set())


def new_table(*columns: Column[str]) -> Table:
    table = schema.tile_index(Collection("Travis", "USDA_1958", "frames"))
    for column in columns:
        table.append_column(column)
    return table


@dataclass
class Reader:
    """Draws maps as a map server does: one connection that stays open, one query after the other."""

    url: URL
    count: int = 0
    longest_seconds: float = 0.0
    errors: list[Exception] = field(default_factory=list)
    is_done: bool = False

    def run(self) -> None:
        with create_engine(self.url, poolclass=NullPool, isolation_level="AUTOCOMMIT").connect() as connection:
            while not self.is_done:
                started = time.monotonic()
                try:
                    query = f"SELECT served_location, ST_AsBinary(geom) FROM public.{TABLES[self.count % len(TABLES)]}"
                    assert connection.execute(text(query)).all()
                except Exception as error:  # noqa: BLE001  # the test reports it
                    self.errors.append(error)
                    return
                self.longest_seconds = max(self.longest_seconds, time.monotonic() - started)
                self.count += 1


@contextmanager
def reading(url: URL) -> Iterator[Reader]:
    reader = Reader(url.set(username="mapserver", password=PASSWORDS["mapserver"]))
    thread = threading.Thread(target=reader.run)
    thread.start()
    try:
        yield reader
    finally:
        reader.is_done = True
        thread.join()


def become_next_version(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on tile indexes have a column more."""
    original = schema.tile_index

    def tile_index_of_next_version(collection: Collection) -> Table:
        table = original(collection)
        table.append_column(Column("flight", Text, comment="flight line"))
        return table

    monkeypatch.setattr(schema, "tile_index", tile_index_of_next_version)
    monkeypatch.setattr(tile_index_columns, "ADDED_COLUMNS", (*ADDED_COLUMNS, FLIGHT))


@pytest.fixture
def flight(monkeypatch: pytest.MonkeyPatch) -> None:
    become_next_version(monkeypatch)


def test_every_column_has_a_step_for_existing_tables(admin: URL) -> None:  # noqa: F811
    """A column that only `schema.tile_index` had made every table of the archive "not created by ls4"."""
    with database(admin, "columns") as url:
        with opened(url) as connection:
            upgrade(connection)
        assert difference(url, new_table(), ADDED_COLUMNS) == set(), "add the column to ADDED_COLUMNS, and last in tile_index"
        # The comparison finds a forgotten step, another type, another comment and another order.

        def flight() -> Column[str]:
            return Column("flight", Text, comment="flight line")

        assert difference(url, new_table(flight()), ADDED_COLUMNS)
        assert difference(url, new_table(flight()), (*ADDED_COLUMNS, AddedColumn("flight", "integer", "flight line")))
        assert difference(url, new_table(flight()), (*ADDED_COLUMNS, AddedColumn("flight", "text")))
        assert difference(url, new_table(flight()), (*ADDED_COLUMNS, FLIGHT)) == set()


def test_added_columns_do_not_rewrite_tables() -> None:
    """A NOT NULL column without a constant default cannot be added to a table with rows."""
    for column in ADDED_COLUMNS:
        assert "NOT NULL" not in column.definition.upper() or "DEFAULT" in column.definition.upper(), column
        assert "(" not in column.definition.upper().partition("DEFAULT")[2], f"{column}: the default must be a constant"


@pytest.mark.usefixtures("flight")
def test_tables_of_the_version_before_gain_the_column_while_maps_are_drawn(admin: URL) -> None:  # noqa: F811
    with old_database(admin, "served") as url:
        with opened(url) as connection:
            grants = connection.execute(
                text("SELECT relname, relacl::text FROM pg_class WHERE relname ~ '_frames$' ORDER BY 1")
            ).all()
        with reading(url) as reader:
            upgraded = upgrade_database(create_engine(url, poolclass=NullPool))
            time.sleep(0.2)
        assert "6 tile indexes gained columns" in str(upgraded)
        assert reader.errors == [] and reader.count > 20
        assert reader.longest_seconds < 1
        assert upgraded_tables(url) == TABLES
        with opened(url) as connection:
            after = connection.execute(
                text("SELECT relname, relacl::text FROM pg_class WHERE relname ~ '_frames$' ORDER BY 1")
            ).all()
            assert after == grants and any("dagster" in row.relacl for row in after)
            pending = "SELECT count(*) FROM ls4.frame JOIN ls4.collection ON collection = name WHERE attempts = 0 "
            assert connection.scalar(text(pending + "AND revision <> indexed_revision")) == len(TABLES)
            assert tile_index.is_owned_by_ls4(connection, Collection("Travis", "USDA_1950", "frames"))
        again = upgrade_database(create_engine(url, poolclass=NullPool))
        assert again.tile_indexes == 0
        with opened(url) as connection:
            assert connection.scalar(text("SELECT max(revision) FROM ls4.frame")) == 2, "a second upgrade rebuilds nothing"


@pytest.mark.usefixtures("flight")
def test_upgrade_waits_for_a_long_query_without_blocking_others(admin: URL) -> None:  # noqa: F811
    """An ALTER TABLE that waits for one slow request makes every later request of the table wait behind it."""
    with old_database(admin, "slow_query") as url, opened(url) as slow:
        slow.execute(text(f"SELECT * FROM public.{TABLES[2]}"))
        upgrading = threading.Thread(target=upgrade_database, args=(create_engine(url, poolclass=NullPool),))
        with reading(url) as reader:
            upgrading.start()
            time.sleep(3)
            assert upgraded_tables(url) == TABLES[:2]
            slow.rollback()
            upgrading.join(20)
        assert upgraded_tables(url) == TABLES
        assert reader.errors == [] and reader.count > 20
        assert reader.longest_seconds < 1.5


@pytest.mark.usefixtures("flight")
def test_table_that_stays_locked_is_named_and_the_others_are_upgraded(
    admin: URL,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tile_index_columns, "_ATTEMPTS", 2)
    with old_database(admin, "locked") as url, opened(url) as other:
        other.execute(text(f"SELECT * FROM public.{TABLES[2]}"))
        with pytest.raises(ConfigurationError, match=f"5 tile indexes .* have locked {TABLES[2]}; .* `ls4 db upgrade` again"):
            upgrade_database(create_engine(url, poolclass=NullPool))
        other.rollback()
        assert upgraded_tables(url) == [*TABLES[:2], *TABLES[3:]]
        assert upgrade_database(create_engine(url, poolclass=NullPool)).tile_indexes == 1
        assert upgraded_tables(url) == TABLES


@pytest.mark.usefixtures("flight")
def test_killed_upgrade_is_continued(admin: URL) -> None:  # noqa: F811
    with old_database(admin, "killed") as url:
        with opened(url) as other:
            other.execute(text(f"SELECT * FROM public.{TABLES[3]}"))
            command = [sys.executable, "-c", UPGRADE, url.render_as_string(hide_password=False)]
            with subprocess.Popen(command) as process:
                deadline = time.monotonic() + 60
                while TABLES[2] not in upgraded_tables(url) and time.monotonic() < deadline:
                    time.sleep(0.1)
                time.sleep(0.5)
                process.kill()
            assert upgraded_tables(url) == TABLES[:3]
        assert upgrade_database(create_engine(url, poolclass=NullPool)).tile_indexes == 3
        assert upgraded_tables(url) == TABLES
        with opened(url) as connection:
            due = "SELECT count(*) FROM ls4.frame WHERE revision = 2 AND indexed_revision = 1"
            assert connection.scalar(text(due)) == len(TABLES)


@pytest.mark.usefixtures("flight")
def test_tables_of_others_are_not_touched(admin: URL) -> None:  # noqa: F811
    """Tables of lambda-s4 and of people, also when ls4's role owns them or they have the same columns."""
    with old_database(admin, "foreign_tables") as url:
        legacy = "oid integer, location text, src_srs text, date text, roll text, frame_num text, geom geometry"
        with opened(url) as connection:
            connection.exec_driver_sql(f"CREATE TABLE public.bastrop_usda_1950_frames ({legacy})")
            # A copy by hand, without the unique key.
            connection.exec_driver_sql(f"CREATE TABLE public.copy AS SELECT * FROM public.{TABLES[0]}")
        with opened(admin.set(database="foreign_tables")) as connection:
            create_old_table(connection, "of_another_role")
        others = ("bastrop_usda_1950_frames", "copy", "of_another_role")
        before = [columns_of(url, table) for table in others]
        assert upgrade_database(create_engine(url, poolclass=NullPool)).tile_indexes == len(TABLES)
        assert [columns_of(url, table) for table in others] == before
        with opened(url) as connection:
            assert set(tile_index.list_owned_tables(connection)) == set(TABLES)


def test_rebuild_fills_the_new_column(platform: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The table is of the version before: a rebuild says so until `ls4 db upgrade`, and then fills the column."""
    platform.drop(KEY, write_tif(tmp_path / "scan.tif", photograph(300, 300)))
    platform.settle()
    index_row = tile_index._index_row
    collection = frame_of(KEY).collection
    columns = {column.name for column in schema.tile_index(collection).columns if column.name != "oid"}
    filled: list[set[str]] = []
    become_next_version(monkeypatch)

    def index_row_of_next_version(*values: Any) -> dict[str, Any]:
        row = index_row(*values)
        filled.append({*row})
        return {**row, "flight": "A"}

    monkeypatch.setattr(tile_index, "_index_row", index_row_of_next_version)
    advice = "lacks the columns flight of this version; run `ls4 db upgrade`"
    with pytest.raises(ConfigurationError, match=advice), platform.database.begin() as connection:
        tile_index.refresh(connection, collection, platform.storage, "https://example.org")
    with platform.database.connect() as connection:
        assert upgrade_tile_indexes(connection) == 1
    assert platform.rows(f"SELECT flight FROM {collection.table}") == [{"flight": None}]
    assert all(run.success for run in platform.rebuild())
    assert platform.rows(f"SELECT flight FROM {collection.table}") == [{"flight": "A"}]
    assert filled == [columns], "fill every column in tile_index._index_row"
