"""`python -m mapserver` as a container starts it, configured by arguments and environment only."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest

from ls4_assets.local.state import find_free_port
from ls4_assets_tests.integration.serving_fixtures import (
    BLACK,
    COLLECTION,
    EXTENT,
    FRAMES,
    NAME,
    TABLE,
    IndexDatabase,
    cog_path,
    index_database_fixture,  # noqa: F401
    index_table,
    mapfile_context,
    publish_mapfile,
    wait_until_healthy,
    write_cog,
)
from ls4_assets_tests.platform import CHECKOUT

VALLEY = CHECKOUT / "ls4_assets_tests" / "valley" / "archive.toml"


@dataclass(frozen=True)
class RunningServer:
    process: subprocess.Popen[bytes]
    client: httpx.Client
    stderr: Path
    home: Path

    def children(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)


@pytest.fixture
def running(index_database: IndexDatabase) -> Iterator[RunningServer]:
    """Its archive has one photograph. The folder is directly below the temporary directory, because another account may serve."""
    home = Path(tempfile.mkdtemp(prefix="ls4-maps-"))
    home.chmod(0o755)
    archive = home / "archive"
    left, *halves = FRAMES[BLACK]
    write_cog(cog_path(archive, BLACK), left, (halves[0], halves[1]))
    folders = {"run-dir": home / "serving", "mapfiles": archive / "mapfiles", "collections": home / "c.json", "archive": archive}
    (archive / "mapfiles").mkdir()
    publish_mapfile(archive, mapfile_context(COLLECTION))
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, home)
        stack.enter_context(index_table(index_database, archive, COLLECTION, [BLACK]))
        yield stack.enter_context(start(index_database, home, folders))


@contextmanager
def start(index_database: IndexDatabase, home: Path, options: Mapping[str, object], **variables: str) -> Iterator[RunningServer]:
    service, port = index_database.service, find_free_port()
    environment = {
        "PGHOST": service.host,
        "PGPORT": str(service.port),
        "PGPASSWORD": str(service.password),
        "PGSSLMODE": "prefer",
    }
    argv = [
        sys.executable,
        "-m",
        "mapserver",
        f"--port={port}",
        "--workers=2",
        *(f"--{name}={value}" for name, value in options.items()),
    ]
    with ExitStack() as stack:
        log = stack.enter_context((home / "stderr").open("wb"))
        process = subprocess.Popen(argv, stderr=log, cwd="/", env=os.environ | environment | variables)
        stack.callback(process.wait, 30)
        stack.callback(process.terminate)
        client = stack.enter_context(httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30))
        wait_until_healthy(client, "/health")
        yield RunningServer(process, client, home / "stderr", home)


def wait_until_gone(processes: list[psutil.Process]) -> list[psutil.Process]:
    return psutil.wait_procs(processes, timeout=20)[1]


def test_it_serves_logs_errors_to_stderr_and_stops_all_its_processes(running: RunningServer) -> None:
    box = ",".join(map(str, EXTENT))
    picture = {"SERVICE": "WMS", "VERSION": "1.1.1", "REQUEST": "GetMap", "SRS": "EPSG:3857", "FORMAT": "image/png", "STYLES": ""}
    size = {"BBOX": box, "WIDTH": "256", "HEIGHT": "64"}
    response = running.client.get(f"/wms/{TABLE}", params=picture | size | {"LAYERS": NAME})
    assert response.headers["content-type"] == "image/png"
    running.client.get(f"/wms/{TABLE}", params=picture | size | {"LAYERS": "no_such_layer"})
    deadline = time.monotonic() + 10
    while "no_such_layer" not in running.stderr.read_text() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert "msWMSLoadGetMapParams" in running.stderr.read_text()
    children = running.children()
    assert len(children) >= 4  # the supervisor and two workers, nginx and its workers
    running.process.send_signal(signal.SIGTERM)
    assert running.process.wait(30) == 0
    assert wait_until_gone(children) == []


def test_it_exits_when_nginx_exits(running: RunningServer) -> None:
    """Otherwise nothing would restart nginx."""
    children = running.children()
    master = next(child for child in psutil.Process(running.process.pid).children() if child.name() == "nginx")
    master.terminate()
    assert running.process.wait(30) == 1
    assert wait_until_gone(children) == []


@pytest.mark.parametrize(("file", "title"), [(str(VALLEY), "Photographs of the Valley"), ("", "Aerial photographs")])
def test_archive_file_comes_from_the_pipelines_variable(index_database: IndexDatabase, file: str, title: str) -> None:
    """Compose sets the variable to an empty text when the installation has no archive file of its own."""
    home = Path(tempfile.mkdtemp(prefix="ls4-maps-"))
    home.chmod(0o755)
    folders = {"run-dir": home / "serving", "mapfiles": home / "mapfiles", "collections": home / "c.json"}
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, home)
        server = stack.enter_context(start(index_database, home, folders, LS4_ARCHIVE_FILE=file))
        response = server.client.get("/archive.json")
        assert response.headers["cache-control"] == "no-cache"
        document = response.json()
        assert document["title"] == title
        assert "immutable" in server.client.get(document["base_map"]).headers["cache-control"]


@contextmanager
def read_only(folder: Path, target: Path) -> Iterator[None]:
    """Mount `folder` read-only at `target`, for root too."""
    target.mkdir()
    done = subprocess.run(["mount", "-o", "bind,ro", folder, target], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"this machine does not permit a mount: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", target], check=True)


def test_it_waits_for_the_first_map_of_a_new_read_only_archive(index_database: IndexDatabase) -> None:
    """It exited at once, because it could not write an empty list into the archive."""
    home = Path(tempfile.mkdtemp(prefix="ls4-maps-"))
    home.chmod(0o755)
    writable, archive = home / "written", home / "archive"
    writable.mkdir()
    options = {"run-dir": home / "serving", "mapfiles": archive / "mapfiles", "archive": archive, "staff": "127.0.0.0/8"}
    options |= {"collections": archive / "derived" / "collections.json", "rejections": archive / "staff" / "rejections.json"}
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, home)
        stack.enter_context(read_only(writable, archive))
        running = stack.enter_context(start(index_database, home, options))
        empty = running.client.get("/collections.json")
        assert (empty.json(), empty.headers["content-type"]) == ({"collections": []}, "application/json; charset=utf-8")
        assert empty.headers["cache-control"] == "no-cache"
        assert running.client.get("/staff/rejections.json").status_code == 404
        assert list(writable.iterdir()) == [] and "collections.json" not in running.stderr.read_text()
        for name in ("mapfiles", "derived"):
            (writable / name).mkdir()
        publish_mapfile(writable, mapfile_context(COLLECTION))
        (writable / "derived" / "collections.json").write_text('{"collections": [{"name": "x"}]}')
        assert running.client.get("/collections.json").json()["collections"] == [{"name": "x"}]
        capabilities, deadline = "", time.monotonic() + 20
        while "</WMS_Capabilities>" not in capabilities and time.monotonic() < deadline:
            time.sleep(0.2)
            capabilities = running.client.get(f"/wms/{TABLE}?SERVICE=WMS&VERSION=1.3.0&REQUEST=GetCapabilities").text
        assert f"<Name>{NAME}</Name>" in capabilities


def test_missing_database_error_says_what_to_set(tmp_path: Path) -> None:
    folders = [f"--{name}={tmp_path / name}" for name in ("run-dir", "mapfiles", "collections")]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    done = subprocess.run(
        [sys.executable, "-m", "mapserver", *folders], capture_output=True, text=True, env=environment, timeout=60
    )
    assert done.returncode == 2
    assert "PGHOST is not set: set it to the PostgreSQL server of the tile indexes." in done.stderr
