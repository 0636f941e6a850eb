"""Both images, built from their Dockerfiles and run as their users with buildah in a chroot, without a Docker daemon.

The base is a Debian that mmdebstrap creates in place of debian:bookworm-slim, so the test needs no image registry.
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

from ls4_assets.local.state import find_free_port
from ls4_assets_tests.integration.serving_fixtures import (
    IndexDatabase,
    index_database_fixture,  # noqa: F401
    wait_until_healthy,
)
from ls4_assets_tests.platform import CHECKOUT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


@dataclass(frozen=True)
class Buildah:
    """The buildah command with its own storage, which is removed at the end."""

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

    def run_argv(self, container: str, command: Sequence[str], environment: Mapping[str, str] | None = None) -> list[str]:
        """The command line that runs a command in a container as ECS does: as the image's user with only this environment."""
        env_options = [word for name, value in (environment or {}).items() for word in ("--env", f"{name}={value}")]
        return self.argv("run", "--isolation", "chroot", "--network", "host", *env_options, container, "--", *command)


@pytest.fixture(scope="module")
def buildah() -> Iterator[Buildah]:
    missing = [name for name in ("buildah", "mmdebstrap") if shutil.which(name) is None]
    if missing or os.geteuid() != 0:
        pytest.skip(f"building images needs root, buildah and mmdebstrap; missing: {', '.join(missing) or 'root'}")
    folder = Path(tempfile.mkdtemp(prefix="ls4-images-"))
    buildah_command = Buildah(folder)
    try:
        rootfs = folder / "rootfs.tar"
        debian = ["mmdebstrap", "--quiet", "--variant=minbase", "--include=ca-certificates", "bookworm", str(rootfs)]
        subprocess.run(debian, check=True, timeout=600, capture_output=True)
        container = buildah_command("from", "scratch")
        buildah_command("add", container, str(rootfs), "/")
        rootfs.unlink()
        if bundle := os.environ.get("SSL_CERT_FILE"):
            # For a network with its own certificate authority.
            buildah_command("copy", container, bundle, "/etc/ssl/certs/ca-certificates.crt")
            buildah_command("config", "--env", "SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt", container)
        buildah_command("commit", "--quiet", "--rm", container, "localhost/base")
        yield buildah_command
    finally:
        subprocess.run(buildah_command.argv("rm", "--all"), capture_output=True)
        shutil.rmtree(folder, ignore_errors=True)


def assert_unprivileged(buildah: Buildah, container: str, writable: str) -> None:
    """The container runs as uid 1000 and can write only to its own folders."""
    closed = "/ /opt /opt/venv /opt/dagster /etc /usr"
    script = f"id -u; touch {writable}/x /tmp/x && echo wrote; for each in {closed}; do test -w $each && echo $each; done; true"
    done = subprocess.run(buildah.run_argv(container, ["sh", "-c", script]), capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == ["1000", "wrote"], done.stderr


def test_dagster_image(buildah: Buildah, index_database: IndexDatabase) -> None:
    image = buildah.build("Dockerfile")
    container = buildah("from", image)
    assert_unprivileged(buildah, container, "/work")
    environment = {
        "LS4_STORAGE": "s3://bucket",
        "LS4_DATABASE_URL": "postgresql+psycopg2://ls4@/ls4",
        "LS4_PUBLIC_URL": "https://files.test",
        "LS4_MAP_URL": "https://maps.test",
        "PGHOST": index_database.service.host,
        "PGPORT": str(index_database.service.port),
        "PGPASSWORD": "only-for-tests",
    }
    # The settings are valid, the definitions load, and `ls4 status` connects to the database through libpq's variables.
    port = find_free_port()
    serving = ["dagster", "api", "grpc", "--module-name", "ls4_assets.definitions", "--location-name", "ls4", "--port", str(port)]
    server = subprocess.Popen(
        buildah.run_argv(container, serving, environment), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        health = buildah.run_argv(container, ["dagster", "api", "grpc-health-check", "--port", str(port)], environment)
        deadline = time.monotonic() + 120
        while subprocess.run(health, capture_output=True, timeout=60).returncode != 0:
            assert time.monotonic() < deadline
            assert server.poll() is None
            time.sleep(2)
        status = subprocess.run(
            buildah.run_argv(container, ["ls4", "status"], environment), capture_output=True, text=True, timeout=120
        )
        assert status.returncode == 0, status.stderr
    finally:
        server.terminate()
        server.wait(60)


def test_map_server_image(buildah: Buildah, index_database: IndexDatabase) -> None:
    image = buildah.build("mapserver.Dockerfile")
    container = buildah("from", image)
    assert_unprivileged(buildah, container, "/srv/ls4")
    service, port = index_database.service, find_free_port()
    environment = {"PGHOST": service.host, "PGPORT": str(service.port), "PGPASSWORD": str(service.password)}
    folders = ["--run-dir", "/srv/ls4/serving", "--mapfiles", "/srv/ls4/mapfiles", "--collections", "/srv/ls4/run/c.json"]
    argv = buildah.run_argv(container, ["python", "-m", "mapserver", "--port", str(port), *folders], environment)
    log = buildah.folder / "maps.log"
    with log.open("wb") as output:
        server = subprocess.Popen(argv, stderr=output)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
            wait_until_healthy(client, "/health", 60)
            assert "<html" in client.get("/").text
            wms = {"SERVICE": "WMS", "VERSION": "1.1.1", "REQUEST": "GetMap", "LAYERS": "no_such_layer"}
            assert client.get("/wms/catalog", params=wms).status_code == 200
        # MapServer logs the error on stderr, which the container's log driver reads.
        deadline = time.monotonic() + 10
        while "no_such_layer" not in log.read_text() and time.monotonic() < deadline:
            time.sleep(0.2)
        assert "no_such_layer" in log.read_text()
    finally:
        server.terminate()
        server.wait(60)
    sync = subprocess.run(
        buildah.run_argv(container, ["python", "-m", "mapserver.sync", "--help"]), capture_output=True, timeout=60
    )
    assert sync.returncode == 0
