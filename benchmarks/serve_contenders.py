"""The map servers of the serving benchmark: this platform, lambda-s4's mapfile under CGI, and titiler over MosaicJSON.

All read the same COGs through the same delayed bucket. Each runs as its manual recommends, with the GDAL options of its manual,
and serves the same two views: a map of a whole collection, and a tile at native zoom.
"""

import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Protocol
from urllib.parse import urlencode

from benchmarks.serve_archive import NATIVE_ZOOM, Bounds, SyntheticCollection
from ls4_assets.local.state import find_free_port
from ls4_assets.raster.overview_grid import TILE_PX, zoom_resolution
from mapserver.config import MAPSERV, PostgresService, write_config

WIDTH, HEIGHT = 1024, 768
# The variable with the Python interpreter that has titiler.mosaic[mosaicjson] and uvicorn, if it is not the benchmark's own.
TITILER_PYTHON = "TITILER_PYTHON"
_START_TIMEOUT_SECONDS = 120.0
_HALF_WORLD = zoom_resolution(0) * 128

# From titiler's manual, "performance tuning", without HTTP/2, which S3 servers support only over TLS.
_TITILER_OPTIONS = {
    "CPL_VSIL_CURL_CACHE_SIZE": "200000000",
    "GDAL_BAND_BLOCK_CACHE": "HASHSET",
    "GDAL_CACHEMAX": "200",
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    "GDAL_HTTP_MERGE_CONSECUTIVE_RANGES": "YES",
    "GDAL_INGESTED_BYTES_AT_OPEN": "32768",
    "VSI_CACHE": "TRUE",
    "VSI_CACHE_SIZE": "5000000",
}

# As lambda-s4 wrote it: no overview mosaic, path and spatial reference of each frame, address and credentials of the database.
_LEGACY_MAPFILE = """\
MAP
  NAME "LEGACY"
  UNITS DD
  IMAGECOLOR 255 255 255
  EXTENT {extent}
  WEB
    METADATA
      "wms_title" "Legacy"
      "wms_enable_request" "*"
    END
  END
  PROJECTION
    "init=epsg:3857"
  END
  LAYER
    NAME "{name}"
    TYPE RASTER
    STATUS ON
    TILEINDEX "{name}_index"
    TILEITEM "location"
    TILESRS "src_srs"
    PROJECTION
      "init=epsg:3857"
    END
  END
  LAYER
    NAME "{name}_index"
    TYPE POLYGON
    STATUS ON
    CONNECTIONTYPE POSTGIS
    CONNECTION "{connection}"
    DATA "geom FROM {table}"
    PROJECTION
      "init=epsg:3857"
    END
  END
END
"""


class Contender(Protocol):
    """A map server that the benchmark measures."""

    def running(self, workers: int) -> AbstractContextManager[str]:
        """Start the server with empty caches; yields host and port."""

    def whole_collection(self, synthetic: SyntheticCollection) -> str:
        """The path of the map of all frames."""

    def tile(self, synthetic: SyntheticCollection, x: int, y: int) -> str:
        """The path of a tile at native zoom."""


@dataclass(frozen=True)
class Ours:
    """nginx and FastCGI workers with the platform's configuration. `cache_mb`: size of the tile cache; 0 disables it."""

    home: Path
    mapfiles: Path
    database: PostgresService
    options: Mapping[str, str]
    cache_mb: int = 0

    @contextmanager
    def running(self, workers: int) -> Iterator[str]:
        config = write_config(
            self.home / "serving",
            port=find_free_port(),
            mapfiles_dir=self.mapfiles,
            database=self.database,
            workers=workers,
            client_rate=0,
            gdal_options=self.options,
            tile_cache_mb=self.cache_mb,
        )
        with ExitStack() as stack:
            for argv in (config.workers_argv, config.nginx_argv):
                stack.enter_context(_process(argv, self.home / "ours.log"))
            server = config.base_url.removeprefix("http://")
            _wait_until_healthy(server)
            yield server

    def whole_collection(self, synthetic: SyntheticCollection) -> str:
        return f"/wms/{synthetic.collection.table}?{_get_map(synthetic.collection.name, map_bounds(synthetic), WIDTH, HEIGHT)}"

    def tile(self, synthetic: SyntheticCollection, x: int, y: int) -> str:
        return f"/tiles/{synthetic.collection.table}/{NATIVE_ZOOM}/{x}/{y}.png"


@dataclass(frozen=True)
class Legacy:
    """lambda-s4's mapfile with a new mapserv process for each request; the number of workers has no effect."""

    home: Path
    database: PostgresService
    options: Mapping[str, str]

    def publish(self, synthetic: SyntheticCollection) -> None:
        base, name = self.database, synthetic.collection.name
        connection = f"host={base.host} port={base.port} dbname={base.dbname} user={base.user} password={base.password}"
        extent = " ".join(map(str, synthetic.extent))
        text = _LEGACY_MAPFILE.format(extent=extent, name=name, connection=connection, table=synthetic.collection.table)
        self._mapfile(synthetic).write_text(text)

    @contextmanager
    def running(self, workers: int) -> Iterator[str]:
        config = self.home / "legacy.conf"
        config.write_text('CONFIG\n  ENV\n    MS_MAP_PATTERN "."\n  END\nEND\n')
        environment = _environment({"MAPSERVER_CONFIG_FILE": str(config), **self.options})
        with _process(
            [sys.executable, "-m", "benchmarks.serve_cgi", str(MAPSERV)], self.home / "legacy.log", environment
        ) as process:
            assert process.stdout
            yield f"127.0.0.1:{int(process.stdout.readline())}"

    def whole_collection(self, synthetic: SyntheticCollection) -> str:
        return self._address(synthetic, map_bounds(synthetic), WIDTH, HEIGHT)

    def tile(self, synthetic: SyntheticCollection, x: int, y: int) -> str:
        return self._address(synthetic, _tile_bounds(x, y), TILE_PX // 2, TILE_PX // 2)

    def _address(self, synthetic: SyntheticCollection, box: Bounds, width: int, height: int) -> str:
        return f"/?map={self._mapfile(synthetic)}&{_get_map(synthetic.collection.name, box, width, height)}"

    def _mapfile(self, synthetic: SyntheticCollection) -> Path:
        return self.home / f"legacy_{synthetic.collection.table}.map"


@dataclass(frozen=True)
class Titiler:
    """titiler over MosaicJSON, in the interpreter `python`."""

    home: Path
    python: str
    options: Mapping[str, str]

    def publish(self, synthetic: SyntheticCollection, features: Sequence[object]) -> None:
        # The zoom levels that titiler would determine from these COGs.
        document = {"features": features, "minzoom": NATIVE_ZOOM - 2, "maxzoom": NATIVE_ZOOM}
        source = self.home / "features.json"
        source.write_text(json.dumps(document))
        subprocess.run([self.python, str(_TITILER), str(source), str(self._mosaic(synthetic))], check=True)

    @contextmanager
    def running(self, workers: int) -> Iterator[str]:
        server = f"127.0.0.1:{find_free_port()}"
        program = [self.python, "-W", "ignore", "-m", "uvicorn", "--app-dir", str(_TITILER.parent), "--log-level", "error"]
        program += ["--no-access-log", "--port", server.partition(":")[2], "--workers", str(workers), f"{_TITILER.stem}:app"]
        with _process(program, self.home / "titiler.log", _environment({**_TITILER_OPTIONS, **self.options})):
            _wait_until_healthy(server)
            yield server

    def whole_collection(self, synthetic: SyntheticCollection) -> str:
        box = ",".join(map(str, map_bounds(synthetic)))
        return f"/bbox/{box}/{WIDTH}x{HEIGHT}.png?coord_crs=epsg:3857&dst_crs=epsg:3857&url={self._mosaic(synthetic)}"

    def tile(self, synthetic: SyntheticCollection, x: int, y: int) -> str:
        return f"/tiles/WebMercatorQuad/{NATIVE_ZOOM}/{x}/{y}.png?tilesize=256&url={self._mosaic(synthetic)}"

    def _mosaic(self, synthetic: SyntheticCollection) -> Path:
        return self.home / f"{synthetic.collection.table}.json"


_TITILER = Path(__file__).with_name("serve_titiler.py")


def titiler_python() -> str:
    """The interpreter that has titiler. Raises LookupError with a message for the user when there is none."""
    configured = os.environ.get(TITILER_PYTHON)
    if configured:
        return configured
    if importlib.util.find_spec("titiler") and importlib.util.find_spec("cogeo_mosaic"):
        return sys.executable
    raise LookupError(
        "titiler is not installed: create a virtual environment with 'titiler.mosaic[mosaicjson]' and uvicorn, "
        f"and set {TITILER_PYTHON} to its python."
    )


def map_bounds(synthetic: SyntheticCollection) -> Bounds:
    """The smallest bounds that contain all frames and have the picture's aspect ratio, in EPSG:3857."""
    minx, miny, maxx, maxy = synthetic.extent
    pixel = max((maxx - minx) / WIDTH, (maxy - miny) / HEIGHT)
    x, y, across, down = (minx + maxx) / 2, (miny + maxy) / 2, pixel * WIDTH / 2, pixel * HEIGHT / 2
    return x - across, y - down, x + across, y + down


def tile_containing(x: float, y: float) -> tuple[int, int]:
    """Column and row of the tile at native zoom that contains a point in EPSG:3857."""
    span = 256 * zoom_resolution(NATIVE_ZOOM)
    return int((x + _HALF_WORLD) // span), int((_HALF_WORLD - y) // span)


def _tile_bounds(x: int, y: int) -> Bounds:
    span = 256 * zoom_resolution(NATIVE_ZOOM)
    left, top = x * span - _HALF_WORLD, _HALF_WORLD - y * span
    return left, top - span, left + span, top


def _get_map(layer: str, box: Bounds, width: int, height: int) -> str:
    request = {"SERVICE": "WMS", "VERSION": "1.1.1", "REQUEST": "GetMap", "LAYERS": layer, "STYLES": "", "SRS": "EPSG:3857"}
    picture = {"BBOX": ",".join(map(str, box)), "WIDTH": width, "HEIGHT": height, "FORMAT": "image/png", "TRANSPARENT": "TRUE"}
    return urlencode({**request, **picture})


def _environment(additional: Mapping[str, str]) -> dict[str, str]:
    """The environment of this process without variables that affect GDAL, plus `additional`."""
    gdal_prefixes = ("AWS_", "GDAL_", "CPL_", "VSI_")
    return {name: value for name, value in os.environ.items() if not name.startswith(gdal_prefixes)} | dict(additional)


@contextmanager
def _process(argv: Sequence[str], log: Path, environment: Mapping[str, str] | None = None) -> Iterator[subprocess.Popen[str]]:
    with log.open("a") as errors:
        process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
        process.communicate()


def _wait_until_healthy(server: str) -> None:
    deadline = time.monotonic() + _START_TIMEOUT_SECONDS
    while True:
        try:
            connection = HTTPConnection(server, timeout=10)
            connection.request("GET", "/health")
            if connection.getresponse().status == 200:
                return
        except (OSError, HTTPException):
            pass
        if time.monotonic() > deadline:
            raise RuntimeError(f"{server} is not healthy: check the logs next to its configuration.")
        time.sleep(0.1)
