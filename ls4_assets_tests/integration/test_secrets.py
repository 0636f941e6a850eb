"""No file that is written holds a secret, MapServer's role can only read, and the Dagster UI shows that each mapfile was looked over."""

import os
import pwd
import stat
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.event_api import PartitionKeyFilter
from sqlalchemy import URL, Engine, NullPool, create_engine, text
from sqlalchemy.exc import InternalError, ProgrammingError

from ls4_assets.assets import checks
from ls4_assets.local.postgres import Cluster
from ls4_assets_tests.integration.serving_fixtures import (
    Served,
    index_database_fixture,  # noqa: F401
    served_fixture,  # noqa: F401
)
from ls4_assets_tests.platform import PASSWORDS, Platform, frame_of, running_platform
from ls4_assets_tests.rasters import photograph, write_tif
from ls4_assets_tests.s3_servers import ACCESS_KEY, REGION, S3Server, s3_server_fixture  # noqa: F401
from mapserver.config import PostgresService, write_config

KEY = "bw/Travis/USDA_1958/frames/georef/02-08-60_6-107.tif"
FRAME = frame_of(KEY)
COLLECTION = FRAME.collection
SECRET = PASSWORDS["mapserver"]


@pytest.fixture
def platform(
    request: pytest.FixtureRequest, s3_server: Callable[[str], S3Server], cluster: Cluster, tmp_path: Path
) -> Iterator[Platform]:
    """A platform with one frame on the map, its archive in a folder or, when asked for, on S3."""
    storage, more = None, {}
    if getattr(request, "param", "folder") != "folder":
        server = s3_server(request.param)
        storage, more = f"s3://{server.new_bucket().bucket}", {"s3_endpoint_url": server.endpoint_url, "s3_region": REGION}
    with running_platform(cluster, tmp_path, storage, **more) as running:
        running.drop(KEY, write_tif(tmp_path / "x.tif", photograph(300, 320)))
        assert all(run.success for run in running.settle())
        yield running


# Files


@pytest.mark.parametrize("platform", ["folder", "moto"], indirect=True)
def test_nothing_in_the_bucket_holds_a_secret(platform: Platform) -> None:
    found = [stored.key for stored in platform.storage.list("")]
    assert COLLECTION.map_key in found and "derived/collections.json" in found and len(found) > 8
    for key in found:
        data = platform.storage.read(key)
        assert not [word for word in (SECRET, ACCESS_KEY, "password") if word.encode() in data], key


def test_of_the_server_s_files_only_those_of_its_user_hold_one(tmp_path: Path) -> None:
    """Keys are an S3 server's that knows no roles; on AWS there are none."""
    database = PostgresService("127.0.0.1", 5432, "ls4", "mapserver", "s3cret")
    options = {"AWS_ACCESS_KEY_ID": "ls4-key", "AWS_SECRET_ACCESS_KEY": "s3cret-key"}
    mapfiles, run_dir = tmp_path / "mapfiles", tmp_path / "run"
    config = write_config(run_dir, port=8080, mapfiles_dir=mapfiles, database=database, gdal_options=options)
    holding = {path for path in tmp_path.rglob("*") if path.is_file() and "s3cret" in path.read_text(errors="replace")}
    assert {path.relative_to(run_dir).as_posix() for path in holding} == {"conf/pg_service.conf", "conf/mapserver.conf"}
    reader = pwd.getpwnam("www-data").pw_uid if os.geteuid() == 0 else os.geteuid()
    for path in holding:
        assert path.stat().st_uid == reader
        assert stat.S_IMODE(path.stat().st_mode) & 0o007 == 0, f"{path} is open to all"
    assert stat.S_IMODE((run_dir / "conf" / "pg_service.conf").stat().st_mode) == 0o600
    assert "s3cret" not in " ".join(config.workers_argv + config.nginx_argv)


# The role


@pytest.fixture
def reader(platform: Platform, cluster: Cluster) -> Iterator[Engine]:
    """The database as MapServer sees it."""
    url = URL.create("postgresql+psycopg2", "mapserver", SECRET, host="127.0.0.1", port=cluster.port, database="ls4")
    engine = create_engine(url, poolclass=NullPool)
    with engine.connect() as connection:
        assert connection.scalar(text(f"SELECT count(*) FROM {COLLECTION.table}")) == 1
    yield engine
    engine.dispose()


def test_the_map_server_s_transactions_are_read_only_to_begin_with(reader: Engine) -> None:
    with reader.connect() as connection, pytest.raises(InternalError, match="read-only transaction"):
        connection.execute(text("CREATE TABLE x (y int)"))


def test_the_map_server_s_role_can_only_read_indexes(reader: Engine) -> None:
    table = COLLECTION.table
    # Whoever has taken a worker over can switch that off: the rights must hold by themselves.
    able = create_engine(reader.url, poolclass=NullPool, connect_args={"options": "-c default_transaction_read_only=off"})
    for statement in (
        f"INSERT INTO {table} SELECT * FROM {table}",
        f"UPDATE {table} SET date = ''",
        f"DELETE FROM {table}",
        f"TRUNCATE {table}",
        f"DROP TABLE {table}",
        f"ALTER TABLE {table} ADD COLUMN x int",
        "CREATE TABLE x (y int)",
        "CREATE TEMPORARY TABLE x (y int)",
        "CREATE SCHEMA x",
        "CREATE ROLE x",
        "SELECT * FROM ls4.source",
        "SELECT * FROM ls4.frame",
        "SELECT * FROM ls4.collection",
        "SELECT rolpassword FROM pg_authid",
        "SELECT pg_read_file('/etc/passwd')",
        "COPY (SELECT 1) TO '/tmp/x'",
        "COPY (SELECT 1) TO PROGRAM 'true'",
        "SET ROLE ls4",
    ):
        with able.connect() as connection, pytest.raises(ProgrammingError, match="permission denied|must be|aborted"):
            connection.execute(text(statement))


def test_the_map_server_s_role_reaches_no_other_database(cluster: Cluster, reader: Engine) -> None:
    with pytest.raises(Exception, match="permission denied for database"):
        create_engine(reader.url.set(database="dagster"), poolclass=NullPool).connect()


# The check in the Dagster UI


def evaluation(platform: Platform) -> tuple[bool, Mapping[str, dg.MetadataValue]]:
    """The latest of the collection's own partition."""
    key = dg.AssetCheckKey(dg.AssetKey(["Travis", "mapfile"]), checks.NAME)
    wanted = PartitionKeyFilter(key=COLLECTION.partition)
    store = platform.instance.event_log_storage
    record = store.get_latest_asset_check_execution_by_key([key], wanted)[key]
    assert record.event and record.event.dagster_event
    found = record.event.dagster_event.asset_check_evaluation_data
    assert found.partition == COLLECTION.partition
    return found.passed, found.metadata


def test_a_published_mapfile_has_passed_its_check(platform: Platform) -> None:
    passed, metadata = evaluation(platform)
    assert passed and metadata["state"].value == "published"
    platform.storage.delete(KEY)
    assert all(run.success for run in platform.settle())
    passed, metadata = evaluation(platform)
    assert passed and metadata["state"].value == "withdrawn"


def test_a_secret_in_a_setting_fails_the_check_and_the_last_good_map_stays(platform: Platform) -> None:
    before = platform.storage.read(COLLECTION.map_key)
    careless = platform.with_settings(postgres_service="ls4 password=hunter2")
    run = careless.run([dg.AssetKey(["Travis", "mapfile"])], partition_key=COLLECTION.partition)
    assert not run.success
    passed, metadata = evaluation(platform)
    assert not passed and metadata["state"].value == "rejected, the last good one stays"
    assert platform.storage.read(COLLECTION.map_key) == before
    logs = platform.instance.all_logs(run.run_id)
    assert any("was not published" in str(event) for event in logs)
    assert not [event for event in logs if "hunter2" in str(event)]

    assert platform.run([dg.AssetKey(["Travis", "mapfile"])], partition_key=COLLECTION.partition).success
    assert evaluation(platform)[0]


# The error log


def test_errors_reach_the_log_at_once_with_their_request(served: Served) -> None:
    """Written by MapServer itself the log stayed empty until a worker had four kilobytes to say; a killed one took them along."""
    log = served.config.log_dir / "mapserv.log"
    before = len(log.read_text())
    (served.archive / "mapfiles" / "broken.map").write_text("MAP\nNAME x\nLAYER\nTYPE NOTHING\nEND\nEND\n")
    assert served.get("/wms/broken?SERVICE=WMS&REQUEST=GetCapabilities").status_code == 200
    said = log.read_text()[before:]
    assert "Parsing error near (NOTHING):(line 4)" in said and "GET /wms/broken?" in said
    workers = {Path(f"/proc/{pid}").stat().st_uid for pid in served.workers()}
    assert workers == {log.stat().st_uid} and stat.S_IMODE(log.stat().st_mode) == 0o644
    assert os.geteuid() != 0 or workers != {0}
