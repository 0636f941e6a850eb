"""Who serves the archive: this platform's front, lambda-s4's mapfile under CGI, and titiler over MosaicJSON.

All read the same COGs through the same far bucket. Each is started as its manual says, with its own recommended GDAL options, and
answers the same two questions: a map of a whole collection, and a tile of native zoom.
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

from benchmarks.serve_archive import NATIVE_ZOOM, Box, Survey
from ls4_assets.local.state import free_port
from ls4_assets.raster.overview_grid import TILE, resolution
from mapserver.config import MAPSERV, PostgresService, write_config

WIDTH, HEIGHT = 1024, 768
# The interpreter that has titiler.mosaic[mosaicjson] and uvicorn, where it is not the one that runs the benchmark.
TITILER_PYTHON = "TITILER_PYTHON"
_READY_WITHIN = 120.0
_HALF_WORLD = resolution(0) * 128

# Of titiler's manual, "performance tuning"; HTTP/2 is left out, which no S3 server speaks without TLS.
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

# What lambda-s4 wrote: no overview mosaic, a path and a spatial reference of each frame, credentials and address of the database.
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
    def running(self, workers: int) -> AbstractContextManager[str]:
        """Serve with nothing in memory; yields host and port."""

    def whole(self, survey: Survey) -> str:
        """Address of the map of all frames."""

    def tile(self, survey: Survey, x: int, y: int) -> str:
        """Address of a tile of native zoom."""


@dataclass(frozen=True)
class Ours:
    """nginx before the FastCGI workers, configured by the platform. `cache_mb`: 0 draws every tile."""

    home: Path
    mapfiles: Path
    database: PostgresService
    options: Mapping[str, str]
    cache_mb: int = 0

    @contextmanager
    def running(self, workers: int) -> Iterator[str]:
        config = write_config(
            self.home / "serving",
            port=free_port(),
            mapfiles_dir=self.mapfiles,
            database=self.database,
            workers=workers,
            gdal_options=self.options,
            tile_cache_mb=self.cache_mb,
        )
        with ExitStack() as stack:
            for argv in (config.workers_argv, config.nginx_argv):
                stack.enter_context(_process(argv, self.home / "ours.log"))
            server = config.base_url.removeprefix("http://")
            _wait_until_healthy(server)
            yield server

    def whole(self, survey: Survey) -> str:
        return f"/wms/{survey.of.table}?{_get_map(survey.of.name, view_of(survey), WIDTH, HEIGHT)}"

    def tile(self, survey: Survey, x: int, y: int) -> str:
        return f"/tiles/{survey.of.table}/{NATIVE_ZOOM}/{x}/{y}.png"


@dataclass(frozen=True)
class Legacy:
    """lambda-s4's mapfile; a new mapserv for each request, however many workers are asked for."""

    home: Path
    database: PostgresService
    options: Mapping[str, str]

    def publish(self, survey: Survey) -> None:
        base, name = self.database, survey.of.name
        connection = f"host={base.host} port={base.port} dbname={base.dbname} user={base.user} password={base.password}"
        extent = " ".join(map(str, survey.extent))
        text = _LEGACY_MAPFILE.format(extent=extent, name=name, connection=connection, table=survey.of.table)
        self._mapfile(survey).write_text(text)

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

    def whole(self, survey: Survey) -> str:
        return self._address(survey, view_of(survey), WIDTH, HEIGHT)

    def tile(self, survey: Survey, x: int, y: int) -> str:
        return self._address(survey, _box_of_tile(x, y), TILE // 2, TILE // 2)

    def _address(self, survey: Survey, box: Box, width: int, height: int) -> str:
        return f"/?map={self._mapfile(survey)}&{_get_map(survey.of.name, box, width, height)}"

    def _mapfile(self, survey: Survey) -> Path:
        return self.home / f"legacy_{survey.of.table}.map"


@dataclass(frozen=True)
class Titiler:
    home: Path
    python: str
    options: Mapping[str, str]

    def publish(self, survey: Survey, features: Sequence[object]) -> None:
        # The zooms that titiler itself would find in these COGs.
        given = {"features": features, "minzoom": NATIVE_ZOOM - 2, "maxzoom": NATIVE_ZOOM}
        source = self.home / "features.json"
        source.write_text(json.dumps(given))
        subprocess.run([self.python, str(_TITILER), str(source), str(self._mosaic(survey))], check=True)

    @contextmanager
    def running(self, workers: int) -> Iterator[str]:
        server = f"127.0.0.1:{free_port()}"
        program = [self.python, "-W", "ignore", "-m", "uvicorn", "--app-dir", str(_TITILER.parent), "--log-level", "error"]
        program += ["--no-access-log", "--port", server.partition(":")[2], "--workers", str(workers), f"{_TITILER.stem}:app"]
        with _process(program, self.home / "titiler.log", _environment({**_TITILER_OPTIONS, **self.options})):
            _wait_until_healthy(server)
            yield server

    def whole(self, survey: Survey) -> str:
        box = ",".join(map(str, view_of(survey)))
        return f"/bbox/{box}/{WIDTH}x{HEIGHT}.png?coord_crs=epsg:3857&dst_crs=epsg:3857&url={self._mosaic(survey)}"

    def tile(self, survey: Survey, x: int, y: int) -> str:
        return f"/tiles/WebMercatorQuad/{NATIVE_ZOOM}/{x}/{y}.png?tilesize=256&url={self._mosaic(survey)}"

    def _mosaic(self, survey: Survey) -> Path:
        return self.home / f"{survey.of.table}.json"


_TITILER = Path(__file__).with_name("serve_titiler.py")


def titiler_python() -> str:
    """The interpreter that has titiler. Raises LookupError, in a sentence for people, when there is none."""
    named = os.environ.get(TITILER_PYTHON)
    if named:
        return named
    if importlib.util.find_spec("titiler") and importlib.util.find_spec("cogeo_mosaic"):
        return sys.executable
    raise LookupError(
        "titiler is not installed: make a virtual environment with 'titiler.mosaic[mosaicjson]' and uvicorn, "
        f"and name its python in {TITILER_PYTHON}."
    )


def view_of(survey: Survey) -> Box:
    """The smallest box around all frames that has the picture's shape."""
    minx, miny, maxx, maxy = survey.extent
    pixel = max((maxx - minx) / WIDTH, (maxy - miny) / HEIGHT)
    x, y, across, down = (minx + maxx) / 2, (miny + maxy) / 2, pixel * WIDTH / 2, pixel * HEIGHT / 2
    return x - across, y - down, x + across, y + down


def tile_at(x: float, y: float) -> tuple[int, int]:
    """Column and row of the tile of native zoom at a place in EPSG:3857."""
    span = 256 * resolution(NATIVE_ZOOM)
    return int((x + _HALF_WORLD) // span), int((_HALF_WORLD - y) // span)


def _box_of_tile(x: int, y: int) -> Box:
    span = 256 * resolution(NATIVE_ZOOM)
    left, top = x * span - _HALF_WORLD, _HALF_WORLD - y * span
    return left, top - span, left + span, top


def _get_map(layer: str, box: Box, width: int, height: int) -> str:
    asked = {"SERVICE": "WMS", "VERSION": "1.1.1", "REQUEST": "GetMap", "LAYERS": layer, "STYLES": "", "SRS": "EPSG:3857"}
    picture = {"BBOX": ",".join(map(str, box)), "WIDTH": width, "HEIGHT": height, "FORMAT": "image/png", "TRANSPARENT": "TRUE"}
    return urlencode({**asked, **picture})


def _environment(more: Mapping[str, str]) -> dict[str, str]:
    """This process's own, without what would reach GDAL by chance."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "GDAL_", "CPL_", "VSI_"))} | dict(
        more
    )


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
    deadline = time.monotonic() + _READY_WITHIN
    while True:
        try:
            connection = HTTPConnection(server, timeout=10)
            connection.request("GET", "/health")
            if connection.getresponse().status == 200:
                return
        except (OSError, HTTPException):
            pass
        if time.monotonic() > deadline:
            raise RuntimeError(f"{server} does not answer: look at the logs beside its configuration.")
        time.sleep(0.1)
