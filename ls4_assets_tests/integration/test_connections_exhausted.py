"""A client takes every connection of PostgreSQL: ticks, runs, commands and maps say so in a sentence, and continue afterwards."""

import gc
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg2
import pytest
from click.testing import CliRunner
from dagster_postgres.utils import DagsterPostgresException
from sqlalchemy import Engine
from sqlalchemy.exc import OperationalError

from ls4_assets.assets import frames
from ls4_assets.cli.main import main
from ls4_assets.local.postgres import Cluster
from ls4_assets.processing.tasks import FrameOutcome, FrameTask
from ls4_assets.processing.worker import process_frame
from ls4_assets_tests.conftest import new_cluster
from ls4_assets_tests.integration.ingest_fixtures import tif
from ls4_assets_tests.integration.serving_fixtures import (
    MIDDLE,
    WHITE,
    left_half,
    open_index_database,
    serve_frames,
    wait_until_healthy,
)
from ls4_assets_tests.platform import PASSWORDS, Platform, running_platform

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

KEYS = [tif(number) for number in range(3)]
TABLE = "travis_usda_1958_frames"
# Of the index database, and of Dagster's own.
OUTAGES = (OperationalError, DagsterPostgresException)
MESSAGE = "connection slots are reserved"


@pytest.fixture(scope="module")
def small_cluster() -> Iterator[Cluster]:
    with new_cluster(max_connections="30") as cluster:
        yield cluster


@pytest.fixture
def platform(small_cluster: Cluster, tmp_path: Path) -> Iterator[Platform]:
    with running_platform(small_cluster, tmp_path) as running:
        yield running


@contextmanager
def all_connections(port: int) -> Iterator[None]:
    """Take all connections but those that PostgreSQL reserves for superusers."""
    # Connections of this process that are open already would serve it.
    for engine in [each for each in gc.get_objects() if type(each) is Engine]:
        engine.dispose()
    taken = []
    try:
        with suppress(psycopg2.OperationalError):
            while True:
                taken.append(psycopg2.connect(host="127.0.0.1", port=port, user="ls4", password=PASSWORDS["ls4"], dbname="ls4"))
        assert taken
        yield
    finally:
        for connection in taken:
            connection.close()
        time.sleep(0.2)  # the server ends a session a moment after its client


@contextmanager
def failing_for_connections() -> Iterator[None]:
    """The daemon records such an error as a failed tick, and evaluates the sensor again."""
    with pytest.raises(OUTAGES) as raised:
        yield
    assert MESSAGE in f"{raised.value} {raised.value.__cause__}"


def is_one_sentence(message: str) -> bool:
    return MESSAGE in message and "Traceback" not in message and len(message.strip().splitlines()) == 1


def test_tick_without_a_connection_loses_nothing(platform: Platform, small_cluster: Cluster, good: Path) -> None:
    for key in KEYS:
        platform.drop(key, good)
    with all_connections(small_cluster.port):
        for sensor in ("ingest_poll", "publish_collections", "notifications"):
            with failing_for_connections():
                platform.tick(sensor)
    requested = [platform.tick("ingest_poll"), platform.tick("ingest_poll")]
    with all_connections(small_cluster.port), failing_for_connections():
        platform.tick("publish_collections")
    for result in requested:
        platform.execute(result)
    platform.settle()
    assert [platform.state(key) for key in KEYS] == [("done", None)] * 3
    assert len(platform.rows(f"SELECT 1 FROM {TABLE}")) == 3


def process_without_connections(task: FrameTask) -> FrameOutcome:
    """In a worker process of a run."""
    with all_connections(int(task.settings.database_url.get_secret_value().rsplit(":", 1)[1].partition("/")[0])):
        return process_frame(task)


def test_run_without_a_connection_is_repeated(platform: Platform, good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    platform.drop(KEYS[0], good)
    requested = platform.tick("ingest_poll")
    with monkeypatch.context() as patch:
        patch.setattr(frames, "process_frame", process_without_connections)
        (run,) = platform.execute(requested)
    assert not run.success
    state, reason = platform.state(KEYS[0])
    assert state == "requested", (state, reason)
    platform.ingest()
    platform.skip_waits()
    platform.settle()
    assert platform.state(KEYS[0]) == ("done", None)


def test_rebuild_without_a_connection_is_repeated(platform: Platform, small_cluster: Cluster, good: Path) -> None:
    platform.drop(KEYS[0], good)
    platform.ingest()
    requested = platform.tick("publish_collections")
    with all_connections(small_cluster.port), suppress(*OUTAGES):
        assert not all(run.success for run in platform.execute(requested))
    assert platform.rows(f"SELECT to_regclass('public.{TABLE}') AS it") == [{"it": None}]
    platform.skip_waits()
    platform.settle()
    assert len(platform.rows(f"SELECT 1 FROM {TABLE}")) == 1


def test_command_without_a_connection_says_so(platform: Platform, small_cluster: Cluster) -> None:
    environment = {f"LS4_{name.upper()}": value for name, value in platform.archive.overrides.items()}
    with all_connections(small_cluster.port):
        result = CliRunner().invoke(main, ["status"], env=environment)
    assert result.exit_code == 1 and is_one_sentence(result.output), result.output
    assert CliRunner().invoke(main, ["status"], env=environment).exit_code == 0


def test_map_without_a_connection_is_a_503_and_then_a_map(small_cluster: Cluster) -> None:
    """A new MapServer worker has no connection yet: its maps were empty pictures or exceptions with status 200."""
    half = 16.0
    extent = ",".join(map(str, (left_half(WHITE) - half, MIDDLE - half, left_half(WHITE) + half, MIDDLE + half)))
    picture = {
        "LAYERS": "Travis_USDA_1958_frames",
        "SRS": "EPSG:3857",
        "STYLES": "",
        "WIDTH": "32",
        "HEIGHT": "32",
        "BBOX": extent,
    }
    with open_index_database(small_cluster) as database, serve_frames(database, workers=2, client_rate=0) as server:
        database.owner.dispose()
        for pid in server.workers():
            os.kill(pid, signal.SIGKILL)
        with all_connections(small_cluster.port):
            for kind in ("image/png", "image/jpeg"):
                for exceptions in ("", "application/vnd.ogc.se_inimage", "application/vnd.ogc.se_blank"):
                    response = server.wms("GetMap", FORMAT=kind, EXCEPTIONS=exceptions, **picture)
                    assert response.status_code == 503, (response.status_code, response.text[:300])
                    assert len(response.text.strip().splitlines()) == 1 and response.text.strip().endswith(".")
            assert server.get(server.config.health_url).status_code == 503
        wait_until_healthy(server.client, server.config.health_url)
        assert server.color_at(left_half(WHITE), MIDDLE) == (255, 255, 255, 255)
