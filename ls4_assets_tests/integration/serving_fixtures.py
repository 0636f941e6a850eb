"""Fixtures of the serving tests: an index database, a small archive of COGs, nginx and mapserv.

Nothing is mocked: mapserv reads the index through the same service name and SELECT-only role as in production.
"""

import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import httpx
import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray
from PIL import Image
from rasterio.io import MemoryFile
from rasterio.shutil import copy
from rasterio.transform import from_origin
from shapely.geometry import MultiPolygon, box
from sqlalchemy import URL, Engine, create_engine

from ls4_assets.db.bootstrap import bootstrap
from ls4_assets.db.schema import tile_index
from ls4_assets.domain.archive_file import read_archive_file
from ls4_assets.domain.export_keys import COLLECTIONS_KEY
from ls4_assets.domain.names import Collection
from ls4_assets.local.postgres import Cluster
from ls4_assets.local.state import find_free_port
from ls4_assets_tests.platform import PASSWORDS
from mapserver.config import PostgresService, ServingConfig, write_config
from mapserver.mapfile import MapfileContext, render
from mapserver.rendering import Extent

CAPABILITIES = read_archive_file(None).capabilities
COLLECTION = Collection("Travis", "USDA_1958", "frames")
NAME, TABLE = COLLECTION.name, COLLECTION.table
LINKS = "https://archive.example.org"

# In Travis county, EPSG:3857 meters. Frames have SIZE x SIZE pixels of RESOLUTION meters and a COLLAR of pixels.
LEFT, TOP = -10_880_000.0, 3_540_000.0
SIZE, RESOLUTION, COLLAR = 1200, 2.0, 120
SPAN = SIZE * RESOLUTION

# The left edge of each frame, and the values of its two halves: pure black and pure white are among them.
FRAMES: Mapping[str, tuple[float, tuple[int, ...], tuple[int, ...]]] = {
    "02-08-60_6-107": (LEFT, (0,), (90,)),
    "02-08-60_6-108": (LEFT + 2 * SPAN, (255,), (160,)),
    "11-30-60_7-1": (LEFT + 4 * SPAN, (200, 40, 40), (40, 40, 200)),
}
BLACK, WHITE, RED = FRAMES
MIDDLE = TOP - SPAN / 2
EXTENT: Extent = (LEFT, TOP - SPAN, LEFT + 5 * SPAN, TOP)


def left_half(stem: str) -> float:
    """Easting of the middle of a frame's left half."""
    return FRAMES[stem][0] + SPAN / 4


@dataclass(frozen=True)
class IndexDatabase:
    """owner: connects as the pipeline's role. service: what mapserv connects to."""

    owner: Engine
    service: PostgresService


@pytest.fixture(scope="session", name="index_database")
def index_database_fixture(cluster: Cluster) -> Iterator[IndexDatabase]:
    with open_index_database(cluster) as database:
        yield database


@contextmanager
def open_index_database(cluster: Cluster) -> Iterator[IndexDatabase]:
    """The index database with its three roles, as an administrator creates it."""
    bootstrap(cluster.admin_url, PASSWORDS)
    url = URL.create("postgresql+psycopg2", "ls4", PASSWORDS["ls4"], host="127.0.0.1", port=cluster.port, database="ls4")
    # Pre-ping: a test restarts the server. Search path: the role's own schema has its name and would come first.
    owner = create_engine(url, pool_pre_ping=True, connect_args={"options": "-csearch_path=public"})
    yield IndexDatabase(owner, PostgresService("127.0.0.1", cluster.port, "ls4", "mapserver", PASSWORDS["mapserver"]))
    owner.dispose()


@dataclass(frozen=True)
class MapServer:
    """A running map server and its archive."""

    archive: Path
    config: ServingConfig
    supervisor: subprocess.Popen[bytes]
    client: httpx.Client

    @property
    def port(self) -> int:
        return int(self.config.base_url.rsplit(":", 1)[1])

    def get(self, address: str, **headers: str) -> httpx.Response:
        return self.client.get(address, headers=headers)

    def wms(self, request: str, *, version: str = "1.1.1", address: str = f"/wms/{TABLE}", **parameters: str) -> httpx.Response:
        fixed = {"SERVICE": "WMS", "VERSION": version, "REQUEST": request}
        return self.client.get(address, params=fixed | parameters)

    def get_map(self, extent: Extent, resolution: float, layer: str = NAME, **parameters: str) -> NDArray[np.uint8]:
        """RGBA, (rows, columns, 4), of an extent in EPSG:3857 at `resolution` meters per pixel."""
        width, height = (extent[2] - extent[0]) / resolution, (extent[3] - extent[1]) / resolution
        size = {"WIDTH": f"{width:.0f}", "HEIGHT": f"{height:.0f}", "BBOX": ",".join(map(str, extent))}
        fixed = {"SRS": "EPSG:3857", "FORMAT": "image/png", "TRANSPARENT": "TRUE", "STYLES": ""}
        return rgba(self.wms("GetMap", LAYERS=layer, **(size | fixed | parameters)))

    def color_at(self, x: float, y: float, resolution: float = RESOLUTION) -> tuple[int, ...]:
        """RGBA of the imagery at a position, from a map of 32 x 32 pixels around it."""
        half = 16 * resolution
        pixels = self.get_map((x - half, y - half, x + half, y + half), resolution)
        return tuple(int(value) for value in pixels[16, 16])

    def workers(self) -> list[int]:
        """Process ids of the running mapserv workers."""
        children = Path(f"/proc/{self.supervisor.pid}/task/{self.supervisor.pid}/children").read_text()
        return [int(pid) for pid in children.split()]


def rgba(response: httpx.Response) -> NDArray[np.uint8]:
    """The pixels of a PNG or WebP response, (rows, columns, 4)."""
    assert response.headers["content-type"] in ("image/png", "image/webp"), response.text
    return np.asarray(Image.open(BytesIO(response.content)).convert("RGBA"))


def cog_path(archive: Path, stem: str) -> Path:
    film_type = "nc" if len(FRAMES[stem][1]) == 3 else "bw"
    return archive / film_type / COLLECTION.shard / COLLECTION.survey / COLLECTION.type / "cog" / f"{stem}.tif"


def write_cog(path: Path, left: float, halves: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    """Write a COG in EPSG:3857 with an internal mask, atomically."""
    bands = len(halves[0])
    pixels = np.zeros((bands, SIZE, SIZE), np.uint8)
    mask = np.zeros((SIZE, SIZE), np.uint8)
    inside = slice(COLLAR, SIZE - COLLAR)
    for columns, values in zip((slice(0, SIZE // 2), slice(SIZE // 2, SIZE)), halves, strict=True):
        pixels[:, :, columns] = np.array(values, np.uint8)[:, None, None]
    mask[inside, inside] = 255
    profile = {"driver": "GTiff", "width": SIZE, "height": SIZE, "count": bands, "dtype": "uint8"}
    georeference = {"crs": "EPSG:3857", "transform": from_origin(left, TOP, RESOLUTION, RESOLUTION)}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".new")
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), MemoryFile() as memory:
        with memory.open(**profile, **georeference) as dataset:
            dataset.write(pixels)
            dataset.write_mask(mask)
        with memory.open() as dataset:
            copy(dataset, temporary, driver="COG", compress="JPEG" if bands == 3 else "DEFLATE")
    temporary.replace(path)


def index_row(archive: Path, stem: str) -> dict[str, object]:
    """The index row of a frame as the pipeline writes it; its footprint covers the valid pixels."""
    date, rest = stem.split("_")
    roll, frame_num = rest.split("-")
    path = cog_path(archive, stem)
    key, left, collar = path.relative_to(archive), FRAMES[stem][0], COLLAR * RESOLUTION
    valid = box(left + collar, TOP - SPAN + collar, left + SPAN - collar, TOP - collar)
    return {
        "location": f"/vsis3/bucket/{key}",
        "served_location": str(path),
        "src_srs": "EPSG:3857",
        "date": date,
        "roll": roll,
        "frame_num": frame_num,
        "dl_orig": f"{LINKS}/{key}".replace("/cog/", "/scanned/"),
        "dl_georef": f"{LINKS}/{key}",
        "dl_index": f"{LINKS}/{key.parent}/tile_index/{NAME}_idx.zip",
        "band": key.parts[0],
        "acquired": f"1960-{date[:5]}",
        "source_version": "1",
        "profile_hash": "p",
        "geom": f"SRID=3857;{MultiPolygon([valid]).wkt}",
    }


@contextmanager
def index_table(database: IndexDatabase, archive: Path, collection: Collection, stems: Iterable[str]) -> Iterator[None]:
    """An index table that the pipeline's role creates, with that role's default grants."""
    table = tile_index(collection)
    rows = [index_row(archive, stem) for stem in stems]
    with database.owner.begin() as connection:
        table.create(connection)
        connection.execute(table.insert(), rows)
    try:
        yield
    finally:
        with database.owner.begin() as connection:
            table.drop(connection)


def publish_mapfile(archive: Path, context: MapfileContext) -> None:
    path = archive / "mapfiles" / f"{context.table}.map"
    temporary = path.with_suffix(".new")
    temporary.write_text(render(context))
    temporary.replace(path)


def mapfile_context(collection: Collection) -> MapfileContext:
    words = collection.name.split("_")
    title = " ".join(word.capitalize() for word in words)
    return MapfileContext(collection.name, "".join(words).upper(), title, collection.table, EXTENT, CAPABILITIES)


@pytest.fixture(scope="module", name="map_server")
def map_server_fixture(index_database: IndexDatabase) -> Iterator[MapServer]:
    """nginx and three mapserv workers; the archive has one collection of three frames, two bw and one nc."""
    with serve_frames(index_database, workers=3, client_rate=0) as server:
        yield server


@contextmanager
def serve_frames(
    database: IndexDatabase,
    *,
    workers: int,
    client_rate: int,
    proxies: Sequence[str] = (),
    change_config: Callable[[ServingConfig], None] = lambda config: None,
    proj_grids: Path | None = None,
) -> Iterator[MapServer]:
    """nginx and mapserv over the collection of FRAMES. `change_config` is called before they start."""
    # Directly below the temporary directory: pytest's folders are closed to the account that serves.
    home = Path(tempfile.mkdtemp(prefix="ls4-serving-"))
    home.chmod(0o755)
    archive = home / "archive"
    for stem, (left, *halves) in FRAMES.items():
        write_cog(cog_path(archive, stem), left, (halves[0], halves[1]))
    config = write_config(
        home / "serving",
        port=find_free_port(),
        mapfiles_dir=archive / "mapfiles",
        archive_dir=archive,
        database=database.service,
        workers=workers,
        client_rate=client_rate,
        proxies=proxies,
        proj_grids=proj_grids,
    )
    change_config(config)
    publish_mapfile(archive, mapfile_context(COLLECTION))
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, home)
        stack.enter_context(index_table(database, archive, COLLECTION, FRAMES))
        log = stack.enter_context((home / "processes.log").open("wb"))
        supervisor = stack.enter_context(running(config.workers_argv, log))
        stack.enter_context(running(config.nginx_argv, log))
        client = stack.enter_context(httpx.Client(base_url=config.base_url, timeout=30))
        wait_until_healthy(client, config.health_url)
        yield MapServer(archive, config, supervisor, client)


@contextmanager
def serve_archive(home: Path, cluster: Cluster, archive_file: Path | None = None) -> Iterator[httpx.Client]:
    """Run nginx and two mapserv workers over the archive in `home`; yields a client."""
    archive = home / "archive"
    config = write_config(
        home / "serving",
        port=find_free_port(),
        mapfiles_dir=archive / "mapfiles",
        archive_dir=archive,
        archive_file=archive_file,
        collections_file=archive / COLLECTIONS_KEY,
        database=PostgresService("127.0.0.1", cluster.port, "ls4", "mapserver", PASSWORDS["mapserver"]),
        workers=2,
        client_rate=0,
    )
    with ExitStack() as stack:
        log = stack.enter_context((home / "processes.log").open("wb"))
        stack.enter_context(running(config.workers_argv, log))
        stack.enter_context(running(config.nginx_argv, log))
        client = stack.enter_context(httpx.Client(base_url=config.base_url, timeout=60))
        wait_until_healthy(client, config.health_url)
        yield client


@contextmanager
def running(argv: Sequence[str], log: BinaryIO) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(argv, stdout=log, stderr=log)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(20)


def wait_until_healthy(client: httpx.Client, url: str, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            response = client.get(url)
            if response.status_code == 200:
                return
            message = response.text
        except httpx.TransportError as error:
            message = str(error)
        assert time.monotonic() < deadline, message
        time.sleep(0.2)
