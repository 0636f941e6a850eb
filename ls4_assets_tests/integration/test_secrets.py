"""Secrets in files, the privileges of the map server's role, and the mapfile check in the Dagster UI."""

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

from ls4_assets.local.postgres import Cluster
from ls4_assets_tests.integration.serving_fixtures import (
    MapServer,
    index_database_fixture,  # noqa: F401
    map_server_fixture,  # noqa: F401
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
    """A platform with one frame on the map, with its archive in a folder or, by parameter, on S3."""
    storage, settings = None, {}
    if getattr(request, "param", "folder") != "folder":
        server = s3_server(request.param)
        storage, settings = f"s3://{server.new_bucket().bucket}", {"s3_endpoint_url": server.endpoint_url, "s3_region": REGION}
    with running_platform(cluster, tmp_path, storage, **settings) as running:
        running.drop(KEY, write_tif(tmp_path / "x.tif", photograph(300, 320)))
        assert all(run.success for run in running.settle())
        yield running


# Files


@pytest.mark.parametrize("platform", ["folder", "moto"], indirect=True)
def test_no_object_in_the_bucket_has_a_secret(platform: Platform) -> None:
    keys = [stored.key for stored in platform.storage.list("")]
    assert COLLECTION.map_key in keys and "derived/collections.json" in keys and len(keys) > 8
    for key in keys:
        data = platform.storage.read(key)
        assert not [word for word in (SECRET, ACCESS_KEY, "password") if word.encode() in data], key


def test_only_files_of_the_server_user_have_a_secret(tmp_path: Path) -> None:
    """The keys are for an S3 server without roles. On AWS there are none."""
    database = PostgresService("127.0.0.1", 5432, "ls4", "mapserver", "s3cret")
    options = {"AWS_ACCESS_KEY_ID": "ls4-key", "AWS_SECRET_ACCESS_KEY": "s3cret-key"}
    mapfiles, run_dir = tmp_path / "mapfiles", tmp_path / "run"
    config = write_config(run_dir, port=8080, mapfiles_dir=mapfiles, database=database, gdal_options=options)
    paths = {path for path in tmp_path.rglob("*") if path.is_file() and "s3cret" in path.read_text(errors="replace")}
    assert {path.relative_to(run_dir).as_posix() for path in paths} == {"conf/pg_service.conf", "conf/mapserver.conf"}
    # Root owns them, so that the server cannot change them; an ordinary user runs the server itself.
    is_root = os.geteuid() == 0
    for path in paths:
        assert path.stat().st_uid == os.geteuid()
        assert stat.S_IMODE(path.stat().st_mode) == (0o640 if is_root else 0o600)
        assert not is_root or path.stat().st_gid == pwd.getpwnam("www-data").pw_gid
    assert "s3cret" not in " ".join(config.workers_argv + config.nginx_argv)


# The role


@pytest.fixture
def reader(platform: Platform, cluster: Cluster) -> Iterator[Engine]:
    """The database with the role of the map server."""
    url = URL.create("postgresql+psycopg2", "mapserver", SECRET, host="127.0.0.1", port=cluster.port, database="ls4")
    engine = create_engine(url, poolclass=NullPool)
    with engine.connect() as connection:
        assert connection.scalar(text(f"SELECT count(*) FROM {COLLECTION.table}")) == 1
    yield engine
    engine.dispose()


def test_transactions_of_the_map_server_are_read_only_by_default(reader: Engine) -> None:
    with reader.connect() as connection, pytest.raises(InternalError, match="read-only transaction"):
        connection.execute(text("CREATE TABLE x (y int)"))


def test_role_of_the_map_server_can_only_read_indexes(reader: Engine) -> None:
    table = COLLECTION.table
    # A compromised worker can switch off the read-only default, so the privileges must suffice without it.
    engine = create_engine(reader.url, poolclass=NullPool, connect_args={"options": "-c default_transaction_read_only=off"})
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
        with engine.connect() as connection, pytest.raises(ProgrammingError, match="permission denied|must be|aborted"):
            connection.execute(text(statement))


def test_role_of_the_map_server_cannot_connect_to_other_databases(cluster: Cluster, reader: Engine) -> None:
    with pytest.raises(Exception, match="permission denied for database"):
        create_engine(reader.url.set(database="dagster"), poolclass=NullPool).connect()


# The check in the Dagster UI


def latest_evaluation(platform: Platform) -> tuple[bool, Mapping[str, dg.MetadataValue]]:
    """Returns result and metadata of the last check of the collection's partition."""
    key = dg.AssetCheckKey(dg.AssetKey(["Travis", "mapfile"]), "mapfile_valid")
    partition = PartitionKeyFilter(key=COLLECTION.partition)
    store = platform.instance.event_log_storage
    record = store.get_latest_asset_check_execution_by_key([key], partition)[key]
    assert record.event and record.event.dagster_event
    evaluation = record.event.dagster_event.asset_check_evaluation_data
    assert evaluation.partition == COLLECTION.partition
    return evaluation.passed, evaluation.metadata


def test_published_mapfile_passes_its_check(platform: Platform) -> None:
    passed, metadata = latest_evaluation(platform)
    assert passed and metadata["state"].value == "published"
    platform.storage.delete(KEY)
    assert all(run.success for run in platform.settle())
    passed, metadata = latest_evaluation(platform)
    assert passed and metadata["state"].value == "withdrawn"


def test_secret_in_a_setting_fails_the_check_and_keeps_the_last_map(platform: Platform) -> None:
    before = platform.storage.read(COLLECTION.map_key)
    careless = platform.with_settings(postgres_service="ls4 password=hunter2")
    run = careless.run([dg.AssetKey(["Travis", "mapfile"])], partition_key=COLLECTION.partition)
    assert not run.success
    passed, metadata = latest_evaluation(platform)
    assert not passed and metadata["state"].value == "rejected; the last good mapfile stays"
    assert platform.storage.read(COLLECTION.map_key) == before
    logs = platform.instance.all_logs(run.run_id)
    assert any("was not published" in str(event) for event in logs)
    assert not [event for event in logs if "hunter2" in str(event)]

    assert platform.run([dg.AssetKey(["Travis", "mapfile"])], partition_key=COLLECTION.partition).success
    assert latest_evaluation(platform)[0]


# The error log


def test_errors_are_logged_immediately_with_their_request(map_server: MapServer) -> None:
    """The log of MapServer was buffered in blocks of 4 KB, which a killed worker lost."""
    log = map_server.config.log_dir / "mapserv.log"
    before = len(log.read_text())
    (map_server.archive / "mapfiles" / "broken.map").write_text("MAP\nNAME x\nLAYER\nTYPE NOTHING\nEND\nEND\n")
    assert map_server.get("/wms/broken?SERVICE=WMS&REQUEST=GetCapabilities").status_code == 200
    logged = log.read_text()[before:]
    assert "Parsing error near (NOTHING):(line 4)" in logged and "GET /wms/broken?" in logged
    workers = {Path(f"/proc/{pid}").stat().st_uid for pid in map_server.workers()}
    assert workers == {log.stat().st_uid} and stat.S_IMODE(log.stat().st_mode) == 0o644
    assert os.geteuid() != 0 or workers != {0}
