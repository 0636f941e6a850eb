"""The map server as a container starts it: `python -m mapserver`, told by arguments and environment alone."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest

from ls4_assets.laptop.state import free_port
from ls4_assets_tests.integration.serving_fixtures import (
    BLACK,
    COLLECTION,
    EXTENT,
    FRAMES,
    NAME,
    TABLE,
    IndexDatabase,
    cog_path,
    context_for,
    index_database_fixture,  # noqa: F401
    indexed,
    publish_mapfile,
    wait_until_healthy,
    write_cog,
)


@dataclass(frozen=True)
class Running:
    process: subprocess.Popen[bytes]
    client: httpx.Client
    stderr: Path
    home: Path

    def children(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)


@pytest.fixture
def running(index_database: IndexDatabase) -> Iterator[Running]:
    """Over an archive with one photograph; the folder is straight under the temporary one, as another user may serve."""
    home = Path(tempfile.mkdtemp(prefix="ls4-maps-"))
    home.chmod(0o755)
    archive, port = home / "archive", free_port()
    left, *halves = FRAMES[BLACK]
    write_cog(cog_path(archive, BLACK), left, (halves[0], halves[1]))
    service = index_database.service
    environment = {
        "PGHOST": service.host,
        "PGPORT": str(service.port),
        "PGPASSWORD": str(service.password),
        "PGSSLMODE": "prefer",
    }
    folders = {"run-dir": home / "serving", "mapfiles": archive / "mapfiles", "collections": home / "c.json", "archive": archive}
    argv = [
        sys.executable,
        "-m",
        "mapserver",
        f"--port={port}",
        "--workers=2",
        *(f"--{name}={path}" for name, path in folders.items()),
    ]
    (archive / "mapfiles").mkdir()
    publish_mapfile(archive, context_for(COLLECTION))
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, home)
        stack.enter_context(indexed(index_database, archive, COLLECTION, [BLACK]))
        log = stack.enter_context((home / "stderr").open("wb"))
        process = subprocess.Popen(argv, stderr=log, cwd="/", env=os.environ | environment)
        stack.callback(process.wait, 30)
        stack.callback(process.terminate)
        client = stack.enter_context(httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30))
        wait_until_healthy(client, "/health")
        yield Running(process, client, home / "stderr", home)


def wait_gone(processes: list[psutil.Process]) -> list[psutil.Process]:
    return psutil.wait_procs(processes, timeout=20)[1]


def test_it_serves_tells_faults_on_stderr_and_ends_with_everything_it_started(running: Running) -> None:
    box = ",".join(map(str, EXTENT))
    picture = {"SERVICE": "WMS", "VERSION": "1.1.1", "REQUEST": "GetMap", "SRS": "EPSG:3857", "FORMAT": "image/png", "STYLES": ""}
    size = {"BBOX": box, "WIDTH": "256", "HEIGHT": "64"}
    answer = running.client.get(f"/wms/{TABLE}", params=picture | size | {"LAYERS": NAME})
    assert answer.headers["content-type"] == "image/png"
    running.client.get(f"/wms/{TABLE}", params=picture | size | {"LAYERS": "no_such_layer"})
    deadline = time.monotonic() + 10
    while "no_such_layer" not in running.stderr.read_text() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert "msWMSLoadGetMapParams" in running.stderr.read_text()
    children = running.children()
    assert len(children) >= 4  # the supervisor and two workers, nginx and its own
    running.process.send_signal(signal.SIGTERM)
    assert running.process.wait(30) == 0
    assert wait_gone(children) == []


def test_when_nginx_ends_the_container_does(running: Running) -> None:
    """Nobody else would start it again."""
    children = running.children()
    master = next(child for child in psutil.Process(running.process.pid).children() if child.name() == "nginx")
    master.terminate()
    assert running.process.wait(30) == 1
    assert wait_gone(children) == []


def test_without_a_database_it_says_what_to_set(tmp_path: Path) -> None:
    folders = [f"--{name}={tmp_path / name}" for name in ("run-dir", "mapfiles", "collections")]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    done = subprocess.run(
        [sys.executable, "-m", "mapserver", *folders], capture_output=True, text=True, env=environment, timeout=60
    )
    assert done.returncode == 2
    assert "PGHOST names no database: set it to the server of the tile indexes." in done.stderr
