"""A frame that is replaced while warm map servers read it from S3: never an error, never a mixture, new pixels in seconds.

All parts are real: the platform makes the COGs on SeaweedFS, the sidecar brings the mapfile, nginx and mapserv serve it.
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
from ls4_assets.local.state import free_port
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
from mapserver.sync import Sync
from resources.s3_storage import S3Storage

pytestmark = pytest.mark.timeout(300)

KEY = "bw/Travis/USDA_1958/frames/georef/02-08-60_6-107.tif"
COLLECTION = frame_of(KEY).collection
SIZE = 1800  # pixels of a metre: several blocks, and overviews
FIRST, SECOND, THIRD = 40, 120, 200
GRAIN = 12


def shade(value: int) -> Pixels:
    """A frame of one grey with grain, so that its blocks lie at other places in the file than those of another shade."""
    grain = np.random.default_rng(value).integers(0, GRAIN, (1, SIZE, SIZE))
    return (value + grain).astype(np.uint8)


@dataclass
class Viewer:
    """Somebody who looks at the map all the time. `seen` are shades in the order in which they came; `wrong`: all else."""

    client: httpx.Client
    seen: list[int] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def look(self, corner: float, resolution: float) -> None:
        """A map of 256 pixels inside the frame, `corner` metres from its upper left."""
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
        answer = self.client.get(f"/wms/{COLLECTION.table}", params=query)
        if answer.headers["content-type"] != "image/png":
            self.wrong.append(answer.text)
            return
        pixels = rgba(answer)
        shades = {
            value for value in (FIRST, SECOND, THIRD) if (abs(pixels[..., 0].astype(int) - value - GRAIN / 2) <= GRAIN).any()
        }
        if len(shades) != 1 or (pixels[..., 3] != 255).any():
            self.wrong.append(f"shades {shades}, {(pixels[..., 3] != 255).sum()} pixels empty, at {corner}, {resolution}")
        else:
            self.seen += shades

    def wait_for(self, count: int) -> None:
        """Until so many maps have come."""
        while len(self.seen) < count:
            assert not self.wrong, self.wrong[0]
            time.sleep(0.1)

    def look_until(self, stopped: threading.Event) -> None:
        for corner, resolution in cycle([(100, 1), (700, 1), (100, 2), (1200, 1), (400, 4), (1500, 1), (900, 2)]):
            if stopped.is_set():
                return
            self.look(corner, resolution)


@pytest.fixture
def platform(s3_server: Callable[[str], S3Server], cluster: Cluster, tmp_path: Path) -> Iterator[Platform]:
    server = s3_server("seaweedfs")
    places = {"s3_endpoint_url": server.endpoint_url, "s3_region": REGION, "reader_grace_seconds": "3"}
    with running_platform(cluster, tmp_path, f"s3://{server.new_bucket().bucket}", **places) as made:
        yield made


@pytest.fixture
def front(platform: Platform, index_database: IndexDatabase) -> Iterator[tuple[httpx.Client, Sync]]:
    """Three mapserv that read the platform's bucket, and the sidecar that brings its mapfiles."""
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
        port=free_port(),
        mapfiles_dir=home / "mapfiles",
        database=index_database.service,
        workers=3,
        gdal_options=options,
    )
    assert isinstance(platform.storage, S3Storage)
    sidecar = Sync(platform.storage, home / "mapfiles", home / "collections.json", home / "state.json")
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, home)
        log = stack.enter_context((home / "processes.log").open("wb"))
        stack.enter_context(running(config.workers_argv, log))
        stack.enter_context(running(config.nginx_argv, log))
        client = stack.enter_context(httpx.Client(base_url=config.base_url, timeout=60))
        wait_until_healthy(client, config.health_url, 60)
        yield client, sidecar


def test_a_replaced_frame_is_seen_whole_and_soon(platform: Platform, front: tuple[httpx.Client, Sync], tmp_path: Path) -> None:
    client, sidecar = front
    viewer = Viewer(client)
    platform.drop(KEY, write_tif(tmp_path / "first.tif", shade(FIRST)))
    assert all(run.success for run in platform.settle())
    sidecar.look()
    stopped = threading.Event()
    watching = threading.Thread(target=viewer.look_until, args=(stopped,))
    watching.start()
    try:
        viewer.wait_for(30)
        for name, value in (("second", SECOND), ("third", THIRD)):
            platform.drop(KEY, write_tif(tmp_path / f"{name}.tif", shade(value)))
            assert all(run.success for run in platform.settle())
            made = len(viewer.seen)
            viewer.wait_for(made + 20)
            # What was asked for before the index changed over may still have come afterwards, but no more.
            assert set(viewer.seen[made + 1 :]) == {value}
    finally:
        stopped.set()
        watching.join()
    assert viewer.wrong == []
    assert viewer.seen == sorted(viewer.seen), "an older picture came after a newer one"
    assert set(viewer.seen) == {FIRST, SECOND, THIRD}
