"""A published mapfile drawn once by a real mapserv: does it show a photograph?

Where this machine has mapserv and the archive is a folder, the program itself is run over the mapfile, with a service file of its
own; otherwise the map front is asked. A few metres around one point are drawn, so that it costs the same for ten frames and ten
thousand.
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

_PIXELS = 64
_HALF = 50.0
_SECONDS = 30
# A mapfile on S3 reaches the map front after some seconds (mapserver/sync.py).
_PATIENCE = 10.0

_MARKUP = re.compile(r"<!--.*?-->|<TITLE>.*?</TITLE>|<[^>]*>", re.DOTALL)

Point = tuple[float, float]
Ask = Callable[[dict[str, str]], tuple[str, bytes]]


@dataclass(frozen=True)
class Trial:
    """`by`: what drew it, or None when nothing could be asked. `wrong`: what is wrong, empty when it shows a photograph."""

    by: str | None
    wrong: str = ""


def try_mapserv(of: Collection, text: str, point: Point, service: str, database_url: str) -> Trial | None:
    """Run the program of this machine over the mapfile's text. None where there is none."""
    if not MAPSERV.exists():
        return None
    with tempfile.TemporaryDirectory(prefix="ls4-trial-") as name:
        folder = Path(name)
        (folder / "trial.map").write_text(text)
        (folder / "trial.conf").write_text('CONFIG\n  ENV\n    MS_MAP_PATTERN "^trial[.]map$"\n  END\nEND\n')
        (folder / "service.conf").write_text(_service(service, database_url))

        def ask(parameters: dict[str, str]) -> tuple[str, bytes]:
            query = urlencode({"map": "trial.map", **parameters})
            files = {"MAPSERVER_CONFIG_FILE": str(folder / "trial.conf"), "PGSERVICEFILE": str(folder / "service.conf")}
            environment = {"REQUEST_METHOD": "GET", "QUERY_STRING": query, **files}
            done = subprocess.run([MAPSERV], env=environment, cwd=folder, capture_output=True, timeout=_SECONDS, check=False)
            head, _, body = done.stdout.partition(b"\r\n\r\n")
            return head.decode(errors="replace"), body

        try:
            return Trial(str(MAPSERV), _look(of, point, ask))
        except subprocess.TimeoutExpired:
            return Trial(str(MAPSERV), f"mapserv did not answer within {_SECONDS} s")


def try_front(of: Collection, address: str, point: Point) -> Trial:
    """Ask the map front, for some seconds where it does not know the map yet."""
    deadline = time.monotonic() + _PATIENCE
    with httpx.Client(timeout=_PATIENCE, trust_env=False) as client:

        def ask(parameters: dict[str, str]) -> tuple[str, bytes]:
            answer = client.get(f"{address}&{urlencode(parameters)}")
            return f"{answer.status_code} {answer.headers.get('content-type', '')}", answer.content

        while True:
            try:
                wrong = _look(of, point, ask)
            except httpx.TransportError as error:
                return Trial(None, f"the map front does not answer ({type(error).__name__})")
            if not wrong or time.monotonic() > deadline:
                return Trial(address, wrong)
            time.sleep(1)


def _look(of: Collection, point: Point, ask: Ask) -> str:
    """What is wrong with the pictures of both layers."""
    x, y = point
    box = ",".join(str(edge) for edge in (x - _HALF, y - _HALF, x + _HALF, y + _HALF))
    asked = {"SERVICE": "WMS", "VERSION": "1.1.1", "REQUEST": "GetMap", "SRS": "EPSG:3857", "BBOX": box, "STYLES": ""}
    asked |= {"WIDTH": str(_PIXELS), "HEIGHT": str(_PIXELS), "FORMAT": "image/png", "TRANSPARENT": "TRUE"}
    for layer in (of.name, f"{of.name}_index"):
        head, body = ask(asked | {"LAYERS": layer})
        if "image/png" not in head:
            said = " ".join(_MARKUP.sub(" ", body.decode(errors="replace")).split())[:300]
            return f"layer {layer} is not drawn: {said or head}"
        if layer == of.name and not _shows_something(body):
            return f"layer {layer} is empty where a photograph should be"
    return ""


def _shows_something(png: bytes) -> bool:
    try:
        with MemoryFile(png) as memory, memory.open() as picture:
            return bool((picture.read(picture.count) > 0).any())
    except RasterioError:
        return False


def _service(name: str, database_url: str) -> str:
    """For the pipeline's own role, whose transactions here change nothing."""
    url = make_url(database_url)
    given = {"host": url.host, "port": url.port, "dbname": url.database, "user": url.username, "password": url.password}
    lines = [f"{key}={value}" for key, value in given.items() if value is not None]
    return "\n".join([f"[{name}]", *lines, "options=-c default_transaction_read_only=on", ""])
