"""The complete pipeline with a container of Azure Blob Storage: from the drop to the picture of a map server without a folder."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest
import rasterio

from ls4_assets.db.tile_index import find_point_on_frame
from ls4_assets.domain.products import STEPS
from ls4_assets.local.postgres import Cluster
from ls4_assets.local.state import find_free_port
from ls4_assets_tests.azure_server import AzureServer, azure_server_fixture  # noqa: F401
from ls4_assets_tests.integration.serving_fixtures import rgba, running, wait_until_healthy
from ls4_assets_tests.platform import PASSWORDS, Platform, frame_of, running_platform
from ls4_assets_tests.rasters import photograph, write_tif
from mapserver.config import PostgresService, write_config
from mapserver.sync import MapfileSync
from resources.azure_storage import AzureStorage

KEY = "bw/Travis/USDA_1958/frames/georef/02-08-60_6-107.tif"
FRAME = frame_of(KEY)
COLLECTION = FRAME.collection
GET_MAP = {
    "SERVICE": "WMS",
    "VERSION": "1.1.1",
    "REQUEST": "GetMap",
    "LAYERS": COLLECTION.name,
    "STYLES": "",
    "SRS": "EPSG:3857",
    "WIDTH": "64",
    "HEIGHT": "64",
    "FORMAT": "image/png",
    "TRANSPARENT": "TRUE",
}


@pytest.fixture
def server(azure_server: Callable[[], AzureServer]) -> AzureServer:
    return azure_server()


@pytest.fixture
def platform(server: AzureServer, cluster: Cluster, tmp_path: Path) -> Iterator[Platform]:
    """A platform whose archive is an empty container."""
    with running_platform(cluster, tmp_path, f"az://{server.new_container().container}") as platform:
        yield platform


@contextmanager
def map_server(storage: AzureStorage, connection_string: str, cluster: Cluster, home: Path) -> Iterator[httpx.Client]:
    """nginx and mapserv over the container, with the files that `mapserver.sync` copies."""
    config = write_config(
        home / "run",
        port=find_free_port(),
        mapfiles_dir=home / "mapfiles",
        database=PostgresService("127.0.0.1", cluster.port, "ls4", "mapserver", PASSWORDS["mapserver"]),
        workers=1,
        gdal_options={**storage.gdal_options(), "AZURE_STORAGE_CONNECTION_STRING": connection_string},
    )
    MapfileSync(storage, home / "mapfiles", config.collections_file, home / "state.json").sync_once()
    with ExitStack() as stack:
        log = stack.enter_context((home / "serving.log").open("ab"))
        stack.enter_context(running(config.workers_argv, log))
        stack.enter_context(running(config.nginx_argv, log))
        client = stack.enter_context(httpx.Client(base_url=config.base_url, timeout=60))
        wait_until_healthy(client, config.health_url)
        yield client


@pytest.fixture
def home() -> Iterator[Path]:
    # Directly below the temporary directory: pytest's folders are closed to the account that serves.
    folder = Path(tempfile.mkdtemp(prefix="ls4-azure-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def test_dropped_frame_is_drawn_from_the_container(
    platform: Platform, server: AzureServer, cluster: Cluster, home: Path, tmp_path: Path
) -> None:
    storage, pixels = platform.storage, photograph(1300, 1400)
    assert isinstance(storage, AzureStorage)
    platform.drop(KEY, write_tif(tmp_path / "x.tif", pixels))
    assert [run.success for run in platform.settle()] == [True, True]
    assert platform.state(KEY) == ("done", None)
    assert [step for step in STEPS if storage.head(FRAME.product_key(step)) is None] == []
    assert storage.head(COLLECTION.tile_index_key("bw", "_idx.zip"))

    (row,) = platform.rows(f"SELECT location, served_location FROM {COLLECTION.table}")
    assert row == {
        "location": f"/vsis3/{platform.settings.legacy_bucket}/{FRAME.cog_key}",
        "served_location": f"/vsiaz/{storage.container}/{FRAME.cog_key}",
    }
    with rasterio.Env(**storage.gdal_options()), rasterio.open(str(row["served_location"])) as cog:
        assert np.array_equal(cog.read(1), pixels[0])
    (mosaic,) = platform.rows("SELECT served_location FROM public.overview_mosaics")
    assert str(mosaic["served_location"]).startswith(f"/vsiaz/{storage.container}/derived/")

    with platform.database.connect() as connection:
        point = find_point_on_frame(connection, COLLECTION)
    assert point
    box = (point[0] - 50, point[1] - 50, point[0] + 50, point[1] + 50)
    with map_server(storage, server.connection_string, cluster, home) as client:
        picture = rgba(client.get(f"/wms/{COLLECTION.table}", params=GET_MAP | {"BBOX": ",".join(map(str, box))}))
    assert (picture[:, :, 3] == 255).all()
    assert picture[:, :, 0].std() > 1


def test_frame_is_replaced_and_deleted(platform: Platform, tmp_path: Path) -> None:
    platform.drop(KEY, write_tif(tmp_path / "x.tif", photograph(200, 220)))
    platform.settle()
    platform.drop(KEY, write_tif(tmp_path / "y.tif", photograph(300, 320, seed=8)))
    assert [run.success for run in platform.settle()] == [True, True]
    assert platform.rows("SELECT width, height FROM ls4.frame") == [{"width": 320, "height": 300}]
    platform.storage.delete(KEY)
    assert all(run.success for run in platform.settle())
    left = ["derived/catalog.json", "derived/collections.json", "mapfiles/footprint.html"]
    assert [stored.key for stored in platform.storage.list("")] == left
