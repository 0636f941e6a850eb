"""Both images, built from their Dockerfiles and run as who they are, without a Docker daemon: buildah, in a chroot.

The base is a Debian of mmdebstrap's own making in place of debian:bookworm-slim, as no registry of images is needed for it.
"""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from ls4_assets.local.state import free_port
from ls4_assets_tests.integration.serving_fixtures import (
    IndexDatabase,
    index_database_fixture,  # noqa: F401
    wait_until_healthy,
)
from ls4_assets_tests.platform import CHECKOUT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


@dataclass(frozen=True)
class Buildah:
    """With a storage of its own, gone at the end."""

    folder: Path

    def argv(self, *arguments: str) -> list[str]:
        root = ("--root", str(self.folder / "storage"), "--runroot", str(self.folder / "run"), "--storage-driver", "vfs")
        return ["buildah", *root, *arguments]

    def __call__(self, *arguments: str) -> str:
        done = subprocess.run(self.argv(*arguments), capture_output=True, text=True, timeout=1100)
        assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done.stdout.strip()

    def build(self, dockerfile: str) -> str:
        file = CHECKOUT / "deploy" / dockerfile
        options = ["--isolation", "chroot", "--network", "host", "--pull-never", "--layers=false", "--format", "docker"]
        ignored = ["--ignorefile", f"{file}.dockerignore", "--build-arg", "BASE_IMAGE=localhost/base"]
        return self("build", "--quiet", *options, *ignored, "--file", str(file), str(CHECKOUT)).splitlines()[-1]

    def running(self, container: str, command: Sequence[str], environment: Mapping[str, str] | None = None) -> list[str]:
        """A command in a container as ECS would start it: with the image's user and only the given environment."""
        given = [word for name, value in (environment or {}).items() for word in ("--env", f"{name}={value}")]
        return self.argv("run", "--isolation", "chroot", "--network", "host", *given, container, "--", *command)


@pytest.fixture(scope="module")
def buildah() -> Iterator[Buildah]:
    missing = [name for name in ("buildah", "mmdebstrap") if shutil.which(name) is None]
    if missing or os.geteuid() != 0:
        pytest.skip(f"images are built by root with buildah and mmdebstrap; missing here: {', '.join(missing) or 'root'}")
    folder = Path(tempfile.mkdtemp(prefix="ls4-images-"))
    made = Buildah(folder)
    try:
        rootfs = folder / "rootfs.tar"
        debian = ["mmdebstrap", "--quiet", "--variant=minbase", "--include=ca-certificates", "bookworm", str(rootfs)]
        subprocess.run(debian, check=True, timeout=600, capture_output=True)
        container = made("from", "scratch")
        made("add", container, str(rootfs), "/")
        rootfs.unlink()
        if bundle := os.environ.get("SSL_CERT_FILE"):
            # A network whose certificates are signed by an authority of its own.
            made("copy", container, bundle, "/etc/ssl/certs/ca-certificates.crt")
            made("config", "--env", "SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt", container)
        made("commit", "--quiet", "--rm", container, "localhost/base")
        yield made
    finally:
        subprocess.run(made.argv("rm", "--all"), capture_output=True)
        shutil.rmtree(folder, ignore_errors=True)


def is_nobody_special(buildah: Buildah, container: str, own: str) -> None:
    """It runs as uid 1000 and can write to its own folders and nowhere else."""
    closed = "/ /opt /opt/venv /opt/dagster /etc /usr"
    script = f"id -u; touch {own}/x /tmp/x && echo wrote; for each in {closed}; do test -w $each && echo $each; done; true"
    done = subprocess.run(buildah.running(container, ["sh", "-c", script]), capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == ["1000", "wrote"], done.stderr


def test_the_image_of_dagster(buildah: Buildah, index_database: IndexDatabase) -> None:
    image = buildah.build("Dockerfile")
    container = buildah("from", image)
    is_nobody_special(buildah, container, "/work")
    environment = {
        "LS4_STORAGE": "s3://bucket",
        "LS4_DATABASE_URL": "postgresql+psycopg2://ls4@/ls4",
        "LS4_PUBLIC_URL": "https://files.test",
        "LS4_MAP_URL": "https://maps.test",
        "PGHOST": index_database.service.host,
        "PGPORT": str(index_database.service.port),
        "PGPASSWORD": "only-for-tests",
    }
    # The settings are read, every asset is defined, and the status comes from the database that libpq's variables name.
    port = free_port()
    serving = ["dagster", "api", "grpc", "--module-name", "ls4_assets.definitions", "--location-name", "ls4", "--port", str(port)]
    server = subprocess.Popen(
        buildah.running(container, serving, environment), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        health = buildah.running(container, ["dagster", "api", "grpc-health-check", "--port", str(port)], environment)
        deadline = time.monotonic() + 120
        while subprocess.run(health, capture_output=True, timeout=60).returncode != 0:
            assert time.monotonic() < deadline
            assert server.poll() is None
            time.sleep(2)
        status = subprocess.run(
            buildah.running(container, ["ls4", "status"], environment), capture_output=True, text=True, timeout=120
        )
        assert status.returncode == 0, status.stderr
    finally:
        server.terminate()
        server.wait(60)


def test_the_image_of_the_map_server(buildah: Buildah, index_database: IndexDatabase) -> None:
    image = buildah.build("mapserver.Dockerfile")
    container = buildah("from", image)
    is_nobody_special(buildah, container, "/srv/ls4")
    service, port = index_database.service, free_port()
    environment = {"PGHOST": service.host, "PGPORT": str(service.port), "PGPASSWORD": str(service.password)}
    folders = ["--run-dir", "/srv/ls4/serving", "--mapfiles", "/srv/ls4/mapfiles", "--collections", "/srv/ls4/run/c.json"]
    argv = buildah.running(container, ["python", "-m", "mapserver", "--port", str(port), *folders], environment)
    log = buildah.folder / "maps.log"
    with log.open("wb") as output:
        server = subprocess.Popen(argv, stderr=output)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
            wait_until_healthy(client, "/health", 60)
            assert "<html" in client.get("/").text
            wms = {"SERVICE": "WMS", "VERSION": "1.1.1", "REQUEST": "GetMap", "LAYERS": "no_such_layer"}
            assert client.get("/wms/catalog", params=wms).status_code == 200
        # What MapServer says of it is on stderr, where a container's log driver takes it.
        deadline = time.monotonic() + 10
        while "no_such_layer" not in log.read_text() and time.monotonic() < deadline:
            time.sleep(0.2)
        assert "no_such_layer" in log.read_text()
    finally:
        server.terminate()
        server.wait(60)
    sync = subprocess.run(
        buildah.running(container, ["python", "-m", "mapserver.sync", "--help"]), capture_output=True, timeout=60
    )
    assert sync.returncode == 0
