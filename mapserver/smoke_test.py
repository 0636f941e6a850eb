"""Smoke test of a published mapfile: a real mapserv draws both layers once, and the imagery must not be empty.

Validating the mapfile's text is in `mapfile`; the asset check that reports the result is in `ls4_assets.assets.checks`.
The map covers 100 m around one point, so the cost does not grow with the number of frames.
"""

import re
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode

import httpx
from rasterio.errors import RasterioError
from rasterio.io import MemoryFile
from sqlalchemy import make_url

from ls4_assets.domain.names import Collection
from mapserver.config import MAPSERV

_SIZE_PX = 64
_HALF_WIDTH_METERS = 50.0
_MAPSERV_TIMEOUT_SECONDS = 30
# On S3 a new mapfile reaches the web front end after some seconds (mapserver/sync.py).
_RETRY_SECONDS = 10.0

_MARKUP = re.compile(r"<!--.*?-->|<TITLE>.*?</TITLE>|<[^>]*>", re.DOTALL)

# Easting and northing in EPSG:3857 meters.
Point = tuple[float, float]
# Sends WMS parameters; returns the response's header (or status and content type) and its body.
SendRequest = Callable[[dict[str, str]], tuple[str, bytes]]


@dataclass(frozen=True)
class SmokeTest:
    """The result. renderer: what drew the map; None when nothing could. error: empty when the map shows a photograph."""

    renderer: str | None
    error: str = ""


def smoke_test_mapserv(collection: Collection, mapfile: str, point: Point, service: str, database_url: str) -> SmokeTest | None:
    """Draw with this machine's mapserv, as a CGI program. None where mapserv is not installed.

    mapfile: the text of the mapfile. service: the PostgreSQL service that the mapfile names.
    """
    if not MAPSERV.exists():
        return None
    with tempfile.TemporaryDirectory(prefix="ls4-smoke-test-") as name:
        folder = Path(name)
        (folder / "test.map").write_text(mapfile)
        (folder / "mapserver.conf").write_text('CONFIG\n  ENV\n    MS_MAP_PATTERN "^test[.]map$"\n  END\nEND\n')
        (folder / "service.conf").write_text(_service_file(service, database_url))

        def send(parameters: dict[str, str]) -> tuple[str, bytes]:
            query = urlencode({"map": "test.map", **parameters})
            files = {"MAPSERVER_CONFIG_FILE": str(folder / "mapserver.conf"), "PGSERVICEFILE": str(folder / "service.conf")}
            environment = {"REQUEST_METHOD": "GET", "QUERY_STRING": query, **files}
            process = subprocess.run(
                [MAPSERV], env=environment, cwd=folder, capture_output=True, timeout=_MAPSERV_TIMEOUT_SECONDS, check=False
            )
            header, _, body = process.stdout.partition(b"\r\n\r\n")
            return header.decode(errors="replace"), body

        try:
            return SmokeTest(str(MAPSERV), _find_error(collection, point, send))
        except subprocess.TimeoutExpired:
            return SmokeTest(str(MAPSERV), f"mapserv did not answer within {_MAPSERV_TIMEOUT_SECONDS} s")


def smoke_test_web(collection: Collection, address: str, point: Point) -> SmokeTest:
    """Draw through the web front end (nginx). Failures are retried for 10 s: the mapfile may still be on its way.

    address: the map's URL, with its `map` parameter.
    """
    deadline = time.monotonic() + _RETRY_SECONDS
    with httpx.Client(timeout=_RETRY_SECONDS, trust_env=False) as client:

        def send(parameters: dict[str, str]) -> tuple[str, bytes]:
            response = client.get(f"{address}&{urlencode(parameters)}")
            return f"{response.status_code} {response.headers.get('content-type', '')}", response.content

        while True:
            try:
                error = _find_error(collection, point, send)
            except httpx.TransportError as failure:
                return SmokeTest(None, f"the web front end does not answer ({type(failure).__name__})")
            if not error or time.monotonic() > deadline:
                return SmokeTest(address, error)
            time.sleep(1)


def _find_error(collection: Collection, point: Point, send: SendRequest) -> str:
    """The first error in the maps of both layers; empty when there is none."""
    x, y = point
    bbox = ",".join(
        str(edge) for edge in (x - _HALF_WIDTH_METERS, y - _HALF_WIDTH_METERS, x + _HALF_WIDTH_METERS, y + _HALF_WIDTH_METERS)
    )
    parameters = {"SERVICE": "WMS", "VERSION": "1.1.1", "REQUEST": "GetMap", "SRS": "EPSG:3857", "BBOX": bbox, "STYLES": ""}
    parameters |= {"WIDTH": str(_SIZE_PX), "HEIGHT": str(_SIZE_PX), "FORMAT": "image/png", "TRANSPARENT": "TRUE"}
    for layer in (collection.name, f"{collection.name}_index"):
        header, body = send(parameters | {"LAYERS": layer})
        if "image/png" not in header:
            message = " ".join(_MARKUP.sub(" ", body.decode(errors="replace")).split())[:300]
            return f"layer {layer} is not drawn: {message or header}"
        if layer == collection.name and _is_empty(body):
            return f"layer {layer} is empty where a photograph should be"
    return ""


def _is_empty(png: bytes) -> bool:
    """Whether no pixel is visible; True for an unreadable file too."""
    try:
        with MemoryFile(png) as memory, memory.open() as dataset:
            return not (dataset.read(dataset.count) > 0).any()
    except RasterioError:
        return True


def _service_file(name: str, database_url: str) -> str:
    """A libpq service file for the pipeline's role, in read-only transactions."""
    url = make_url(database_url)
    fields = {"host": url.host, "port": url.port, "dbname": url.database, "user": url.username, "password": url.password}
    lines = [f"{key}={value}" for key, value in fields.items() if value is not None]
    return "\n".join([f"[{name}]", *lines, "options=-c default_transaction_read_only=on", ""])
