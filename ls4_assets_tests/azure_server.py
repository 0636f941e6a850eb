"""Azurite, Microsoft's own server of Azure Blob Storage for tests, which `deploy/install.sh tests` installs with npm.

It checks signatures, listens on a free port of 127.0.0.1, sends no telemetry and leaves no files behind.
"""

import base64
import hashlib
import hmac
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path
from urllib.parse import quote
from uuid import uuid4

import httpx
import pytest

from ls4_assets.local.state import find_free_port
from ls4_assets_tests.s3_servers import READY_SECONDS, renew_workers
from resources.azure_storage import AzureStorage

AZURITE = Path(__file__).resolve().parents[1] / ".tools/azurite/node_modules/.bin/azurite-blob"
# The emulator's account, which is the same everywhere.
ACCOUNT = "devstoreaccount1"
ACCOUNT_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


@dataclass(frozen=True)
class AzureServer:
    """A running server. `url` includes the account."""

    url: str

    @property
    def connection_string(self) -> str:
        return connection_string(self.url)

    def new_container(self) -> AzureStorage:
        """Create an empty container. obstore has no call for this."""
        container = f"ls4-{uuid4().hex[:12]}"
        self.request("PUT", container, {"restype": "container"})
        return AzureStorage(container)

    def request(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
    ) -> httpx.Response:
        """Send a signed request, for what obstore cannot do: containers, folder markers, tags."""
        sent = {"x-ms-date": format_datetime(datetime.now(UTC), usegmt=True), "x-ms-version": "2021-08-06", **(headers or {})}
        quoted = quote(path)
        canonical_headers = "".join(f"{name}:{sent[name]}\n" for name in sorted(sent))
        canonical_query = "".join(f"\n{name}:{value}" for name, value in sorted((query or {}).items()))
        text = (
            f"{method}\n\n\n{len(body) or ''}\n\n\n\n\n\n\n\n\n{canonical_headers}/{ACCOUNT}/{ACCOUNT}/{quoted}{canonical_query}"
        )
        digest = hmac.new(base64.b64decode(ACCOUNT_KEY), text.encode(), hashlib.sha256).digest()
        sent["Authorization"] = f"SharedKey {ACCOUNT}:{base64.b64encode(digest).decode()}"
        sent["Content-Length"] = str(len(body))
        response = httpx.request(
            method, f"{self.url}/{quoted}", params=query, headers=sent, content=body, timeout=30, trust_env=False
        )
        response.raise_for_status()
        return response


def connection_string(url: str, key: str = ACCOUNT_KEY) -> str:
    return f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT};AccountKey={key};BlobEndpoint={url};"


@contextmanager
def azure_environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set the server's address and credentials in this process and its workers, and remove those of the machine."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("AZURE_")]:
            patch.delenv(name)
        for name, value in variables.items():
            patch.setenv(name, value)
        renew_workers()
        yield
    renew_workers()


@contextmanager
def azurite_server() -> Iterator[AzureServer]:
    """Skips the test when Azurite is not installed."""
    if not AZURITE.exists() or shutil.which("node") is None:
        pytest.skip("Azurite is not installed; it needs npm: install that, and run `deploy/install.sh tests`")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ls4-azurite-")))
        log = stack.enter_context((folder / "log").open("wb"))
        port = find_free_port()
        # obstore uses a newer version of the interface than Azurite declares.
        options = ["--silent", "--disableTelemetry", "--skipApiVersionCheck", "--location", str(folder / "data")]
        server = subprocess.Popen([AZURITE, "--blobPort", str(port), *options], cwd=folder, stdout=log, stderr=log)
        stack.callback(_kill, server)
        _wait_until_ready(server, f"http://127.0.0.1:{port}", folder / "log")
        running = AzureServer(f"http://127.0.0.1:{port}/{ACCOUNT}")
        stack.enter_context(azure_environment({"AZURE_STORAGE_CONNECTION_STRING": running.connection_string}))
        yield running


@pytest.fixture(name="azure_server", scope="module")
def azure_server_fixture() -> Iterator[Callable[[], AzureServer]]:
    """A function that returns the server and starts it on first use."""
    with ExitStack() as stack:
        running: list[AzureServer] = []

        def get_server() -> AzureServer:
            if not running:
                running.append(stack.enter_context(azurite_server()))
            return running[0]

        yield get_server


def _wait_until_ready(server: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while True:
        try:
            httpx.get(url, timeout=5, trust_env=False)
        except httpx.TransportError:
            pass
        else:
            return
        if server.poll() is not None or time.monotonic() > deadline:
            pytest.fail(f"Azurite did not start; the end of its log:\n{log.read_text()[-2000:]}")
        time.sleep(0.2)


def _kill(server: subprocess.Popen[bytes]) -> None:
    server.kill()
    server.wait()
