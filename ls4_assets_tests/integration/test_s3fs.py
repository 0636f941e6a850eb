"""Mapfiles read through an s3fs mount (docs/reference/map-services.md), which lambda-s4 used instead of the sidecar.

Needs the program s3fs and permission to mount; skipped without them.
"""

import os
import pwd
import shutil
import stat
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest

from ls4_assets.domain.names import Collection
from ls4_assets.local.state import find_free_port
from ls4_assets.settings import load_settings
from ls4_assets_tests.integration.serving_fixtures import (
    TABLE,
    IndexDatabase,
    index_database_fixture,  # noqa: F401
    mapfile_context,
    running,
    wait_until_healthy,
)
from ls4_assets_tests.s3_servers import ACCESS_KEY, REGION, SECRET_KEY, SERVERS, S3Server, s3_server_fixture  # noqa: F401
from mapserver.config import write_config
from mapserver.mapfile import render
from mapserver.rendering import TEMPLATES
from resources.open import open_storage
from resources.storage import Storage

pytestmark = pytest.mark.timeout(120)

KEY = f"mapfiles/{TABLE}.map"
MAP = render(mapfile_context(Collection("Travis", "USDA_1958", "frames"))).encode()
WEB_USER = "www-data"


@pytest.fixture
def home() -> Iterator[Path]:
    """Directly in the temporary directory: the user of the map server has no access to pytest's folders."""
    folder = Path(tempfile.mkdtemp(prefix="ls4-s3fs-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(params=["moto", pytest.param("seaweedfs", marks=pytest.mark.slow)])
def server(request: pytest.FixtureRequest, s3_server: Callable[[str], S3Server]) -> S3Server:
    if shutil.which("s3fs") is None:
        pytest.skip("s3fs is not installed; run `apt-get install s3fs`")
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        pytest.skip("/dev/fuse is not accessible on this machine")
    return s3_server(request.param)


def open_bucket(server: S3Server, **settings: object) -> Storage:
    """A new bucket, opened as in the pipeline."""
    required = {
        "database_url": "x",
        "public_url": "x",
        "map_url": "x",
        "s3_endpoint_url": server.endpoint_url,
        "s3_region": REGION,
    }
    return open_storage(load_settings(storage=f"s3://{server.new_bucket().bucket}", **required, **settings))


@contextmanager
def mounted(server: S3Server, bucket: str, home: Path, *options: str, path: str = ":/mapfiles") -> Iterator[Path]:
    """Mount `mapfiles/` of the bucket, or another `path`, as a folder."""
    folder, secret, log = home / "mapfiles", home / "passwd-s3fs", home / "s3fs.log"
    folder.mkdir(exist_ok=True)
    secret.touch(mode=0o600)
    secret.write_text(f"{ACCESS_KEY}:{SECRET_KEY}\n")
    required = (f"passwd_file={secret}", f"url={server.endpoint_url}", "use_path_request_style", f"endpoint={REGION}")
    with log.open("wb") as stream:
        command = ["s3fs", f"{bucket}{path}", str(folder), "-f", "-o", ",".join((*required, *options))]
        process = subprocess.Popen(command, stdout=stream, stderr=stream)
    try:
        deadline = time.monotonic() + 15
        while not folder.is_mount():
            if process.poll() is not None and "Operation not permitted" in log.read_text():
                pytest.skip(f"mounting is not permitted on this machine: {log.read_text().strip().splitlines()[-1]}")
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        yield folder
    finally:
        # After a signal s3fs only unmounts with the next request to the mount.
        subprocess.run(["fusermount", "-u", "-z", folder], check=False, capture_output=True)
        process.terminate()
        process.wait(20)


def test_mapfile_metadata_has_owner_mode_and_time(server: S3Server, home: Path) -> None:
    """Without the metadata s3fs mounted every mapfile as owned by root and unreadable for others."""
    bucket = open_bucket(server, mapfile_uid=1234, mapfile_gid=2345)
    bucket.put(KEY, MAP)
    with mounted(server, bucket.bucket, home) as folder:
        status = (folder / f"{TABLE}.map").stat()
        assert (folder / f"{TABLE}.map").read_bytes() == MAP
    assert (status.st_mode, status.st_uid, status.st_gid) == (stat.S_IFREG | 0o664, 1234, 2345)
    assert abs(status.st_mtime - time.time()) < 60


def test_only_mapfiles_have_metadata(server: S3Server) -> None:
    """State is never in object metadata."""
    bucket = open_bucket(server)
    bucket.put("derived/collections.json", b"{}")
    client = server.new_bucket().client
    assert client.head_object(Bucket=bucket.bucket, Key="derived/collections.json")["Metadata"] == {}


def run_as(name: str, *command: str) -> int:
    account = pwd.getpwnam(name)
    setpriv = ["setpriv", f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--clear-groups"]
    return subprocess.run([*setpriv, *command], capture_output=True, check=False).returncode


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount for another user and start the server as one")
def test_maps_are_served_from_a_mount(server: S3Server, home: Path, index_database: IndexDatabase) -> None:
    """The mount of docs/reference/map-services.md: read-only, owned by the server's user, closed to all others."""
    bucket, web = open_bucket(server), pwd.getpwnam(WEB_USER)
    bucket.put("mapfiles/footprint.html", (TEMPLATES / "footprint.html").read_bytes())
    options = ("ro", "allow_other", f"uid={web.pw_uid}", f"gid={web.pw_gid}", "umask=0227", "stat_cache_expire=2")
    with ExitStack() as stack:
        folder = stack.enter_context(mounted(server, bucket.bucket, home, *options))
        config = write_config(
            home / "serving",
            port=find_free_port(),
            mapfiles_dir=folder,
            database=index_database.service,
            user=WEB_USER,
            workers=1,
        )
        log = stack.enter_context((home / "processes.log").open("wb"))
        stack.enter_context(running(config.workers_argv, log))
        stack.enter_context(running(config.nginx_argv, log))
        client = stack.enter_context(httpx.Client(base_url=config.base_url, timeout=30))
        wait_until_healthy(client, config.health_url)

        def title() -> str:
            response = client.get(f"/wms/{TABLE}?SERVICE=WMS&VERSION=1.1.1&REQUEST=GetCapabilities")
            return response.text.partition("<Title>")[2].partition("</Title>")[0] if response.status_code == 200 else "none"

        def title_becomes(expected: str) -> bool:
            deadline = time.monotonic() + 20
            while title() != expected and time.monotonic() < deadline:
                time.sleep(0.2)
            return title() == expected

        assert title() == "none"
        bucket.put(KEY, MAP)
        assert title_becomes("Travis Usda 1958 Frames")
        assert run_as(WEB_USER, "cat", str(folder / f"{TABLE}.map")) == 0
        assert run_as("nobody", "cat", str(folder / f"{TABLE}.map")) != 0
        assert run_as(WEB_USER, "touch", str(folder / f"{TABLE}.map")) != 0
        bucket.put(KEY, MAP.replace(b"Travis Usda 1958 Frames", b"Another Title"))
        assert title_becomes("Another Title")
        bucket.delete(KEY)
        assert title_becomes("none")
