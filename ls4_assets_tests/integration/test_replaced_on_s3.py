"""A frame replaced while map servers read it from S3: no error, no mixed pixels, new pixels within seconds.

All parts are real: the platform writes COGs to SeaweedFS, the sidecar syncs the mapfile, and nginx and mapserv serve it.
"""

import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest

from ls4_assets.local.postgres import Cluster
from ls4_assets.local.state import find_free_port
from ls4_assets_tests.integration.serving_fixtures import (
    IndexDatabase,
    index_database_fixture,  # noqa: F401
    rgba,
    running,
    wait_until_healthy,
)
from ls4_assets_tests.platform import Platform, frame_of, running_platform
from ls4_assets_tests.rasters import NORTH, WEST, Pixels, write_tif
from ls4_assets_tests.s3_servers import ACCESS_KEY, REGION, SECRET_KEY, S3Server, s3_server_fixture  # noqa: F401
from mapserver.config import write_config
from mapserver.sync import MapfileSync
from resources.s3_storage import S3Storage

pytestmark = pytest.mark.timeout(300)

KEY = "bw/Travis/USDA_1958/frames/georef/02-08-60_6-107.tif"
COLLECTION = frame_of(KEY).collection
SIZE = 1800  # pixels of 1 m: several blocks, and overviews
FIRST, SECOND, THIRD = 40, 120, 200
GRAIN = 12


def shade(value: int) -> Pixels:
    """A frame of one gray with grain, so that its blocks have other offsets in the file than those of another shade."""
    grain = np.random.default_rng(value).integers(0, GRAIN, (1, SIZE, SIZE))
    return (value + grain).astype(np.uint8)


@dataclass
class Viewer:
    """A client that requests maps continuously. `shades`: in order of arrival; `errors`: all other results."""

    client: httpx.Client
    shades: list[int] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def request_map(self, corner: float, resolution: float) -> None:
        """Request a map of 256 pixels inside the frame, `corner` meters from its upper left corner."""
        side = 256 * resolution
        west, north = WEST + corner, NORTH - corner
        query = {
            "SERVICE": "WMS",
            "VERSION": "1.1.1",
            "REQUEST": "GetMap",
            "LAYERS": COLLECTION.name,
            "STYLES": "",
            "SRS": "EPSG:3857",
            "BBOX": f"{west},{north - side},{west + side},{north}",
            "WIDTH": "256",
            "HEIGHT": "256",
            "FORMAT": "image/png",
            "TRANSPARENT": "TRUE",
        }
        response = self.client.get(f"/wms/{COLLECTION.table}", params=query)
        if response.headers["content-type"] != "image/png":
            self.errors.append(response.text)
            return
        pixels = rgba(response)
        found = {
            value for value in (FIRST, SECOND, THIRD) if (abs(pixels[..., 0].astype(int) - value - GRAIN / 2) <= GRAIN).any()
        }
        if len(found) != 1 or (pixels[..., 3] != 255).any():
            self.errors.append(f"shades {found}, {(pixels[..., 3] != 255).sum()} pixels empty, at {corner}, {resolution}")
        else:
            self.shades += found

    def wait_for(self, count: int) -> None:
        """Wait until `count` maps have arrived."""
        while len(self.shades) < count:
            assert not self.errors, self.errors[0]
            time.sleep(0.1)

    def request_maps_until(self, stopped: threading.Event) -> None:
        for corner, resolution in cycle([(100, 1), (700, 1), (100, 2), (1200, 1), (400, 4), (1500, 1), (900, 2)]):
            if stopped.is_set():
                return
            self.request_map(corner, resolution)


@pytest.fixture
def platform(s3_server: Callable[[str], S3Server], cluster: Cluster, tmp_path: Path) -> Iterator[Platform]:
    server = s3_server("seaweedfs")
    settings = {"s3_endpoint_url": server.endpoint_url, "s3_region": REGION, "reader_grace_seconds": "3"}
    with running_platform(cluster, tmp_path, f"s3://{server.new_bucket().bucket}", **settings) as running_on_s3:
        yield running_on_s3


@pytest.fixture
def front(platform: Platform, index_database: IndexDatabase) -> Iterator[tuple[httpx.Client, MapfileSync]]:
    """A client of three mapserv processes on the platform's bucket, and the sidecar that syncs its mapfiles."""
    home = Path(tempfile.mkdtemp(prefix="ls4-replaced-"))
    home.chmod(0o755)
    options = {
        "AWS_S3_ENDPOINT": urlsplit(str(platform.settings.s3_endpoint_url)).netloc,
        "AWS_HTTPS": "NO",
        "AWS_VIRTUAL_HOSTING": "FALSE",
        "AWS_REGION": REGION,
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
    }
    config = write_config(
        home / "serving",
        port=find_free_port(),
        mapfiles_dir=home / "mapfiles",
        database=index_database.service,
        workers=3,
        gdal_options=options,
    )
    assert isinstance(platform.storage, S3Storage)
    sidecar = MapfileSync(platform.storage, home / "mapfiles", home / "collections.json", home / "state.json")
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, home)
        log = stack.enter_context((home / "processes.log").open("wb"))
        stack.enter_context(running(config.workers_argv, log))
        stack.enter_context(running(config.nginx_argv, log))
        client = stack.enter_context(httpx.Client(base_url=config.base_url, timeout=60))
        wait_until_healthy(client, config.health_url, 60)
        yield client, sidecar


def test_replaced_frame_is_served_whole_within_seconds(
    platform: Platform, front: tuple[httpx.Client, MapfileSync], tmp_path: Path
) -> None:
    client, sidecar = front
    viewer = Viewer(client)
    platform.drop(KEY, write_tif(tmp_path / "first.tif", shade(FIRST)))
    assert all(run.success for run in platform.settle())
    sidecar.sync_once()
    stopped = threading.Event()
    requests = threading.Thread(target=viewer.request_maps_until, args=(stopped,))
    requests.start()
    try:
        viewer.wait_for(30)
        for name, value in (("second", SECOND), ("third", THIRD)):
            platform.drop(KEY, write_tif(tmp_path / f"{name}.tif", shade(value)))
            assert all(run.success for run in platform.settle())
            count = len(viewer.shades)
            viewer.wait_for(count + 20)
            # One request from before the change of the index may have been answered afterwards.
            assert set(viewer.shades[count + 1 :]) == {value}
    finally:
        stopped.set()
        requests.join()
    assert viewer.errors == []
    assert viewer.shades == sorted(viewer.shades), "an older image arrived after a newer one"
    assert set(viewer.shades) == {FIRST, SECOND, THIRD}
