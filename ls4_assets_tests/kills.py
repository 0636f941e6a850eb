"""A laptop's whole platform for the tests that kill its processes: real services, small frames of one tone each, and readers.

A frame is of one tone, so that a reader sees whether a picture is the old one, the new one, or a mixture. Readers run all the
while and note what they should not have seen; whoever kills says for how long the map may be down.
"""

import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

import httpx
import numpy as np
import psutil
import psycopg2
import rasterio
from affine import Affine
from dagster import DagsterInstance
from PIL import Image
from sqlalchemy import Engine, text

from ls4_assets.domain.names import Frame
from ls4_assets.local.services import Addresses, start_services
from ls4_assets.local.state import DATABASE_USER, WEB_USER, State
from ls4_assets.local.supervisor import Supervisor
from ls4_assets.settings import load_settings
from ls4_assets_tests.platform import frame_of
from ls4_assets_tests.rasters import write_tif
from resources.open import open_database

COLLECTION = "Travis_USDA_1958_frames"
FOLDER = "bw/Travis/USDA_1958/frames/georef"
SIDE = 1200
# Frames are numbered from 100 on, side by side: all of them lie in their county.
WEST, NORTH = -11_000_000.0, 3_540_000.0
RECOVERY_SECONDS = 15.0


@dataclass
class Laptop:
    """The platform, and what is known of its frames: the tones that each was ever given."""

    state: State
    services: Supervisor
    addresses: Addresses
    database: Engine
    tones: dict[int, list[int]] = field(default_factory=dict)
    down: list[tuple[float, float]] = field(default_factory=list)

    def key(self, number: int) -> str:
        return f"{FOLDER}/02-08-60_6-{number}.tif"

    def frame(self, number: int) -> Frame:
        return frame_of(self.key(number))

    def drop(self, tones: dict[int, int]) -> None:
        """Drop or replace frames, all of them in one moment."""
        made = []
        for number, tone in tones.items():
            place = Affine(1, 0, WEST + SIDE * number, 0, -1, NORTH)
            made.append(write_tif(self.state.home / f"{number}.tif", np.full((1, SIDE, SIDE), tone, np.uint8), transform=place))
            self.tones.setdefault(number, []).append(tone)
        for number, path in zip(tones, made, strict=True):
            target = self.state.archive / self.key(number)
            target.parent.mkdir(parents=True, exist_ok=True)
            path.replace(target)

    def rows(self, statement: str) -> list[dict[str, object]]:
        with self.database.connect() as connection:
            return [dict(row._mapping) for row in connection.execute(text(statement))]

    def skip_waits(self) -> None:
        """As if the time had passed after which something that died is tried again."""
        with self.database.begin() as connection:
            connection.execute(text("UPDATE ls4.source SET retry_after = NULL WHERE retry_after IS NOT NULL"))
            connection.execute(text("UPDATE ls4.collection SET requested_at = NULL WHERE attempts > 1"))

    def main(self, name: str) -> psutil.Process:
        (pid,) = (one.process.pid for one in self.services._running if one.service.name == name)
        return psutil.Process(pid)

    def victims(self, target: str) -> list[psutil.Process]:
        """The processes that may be meant; none when there is none at this moment."""
        try:
            if target == "run":
                return [child for child in self.main("code-server").children() if _runs(child, "spawn_main")]
            if target == "pool worker":
                servers = [child for run in self.victims("run") for child in run.children() if _runs(child, "forkserver")]
                return [worker for server in servers for worker in server.children()]
            if target == "postgres backend":
                return [child for child in self.main("postgres").children() if "postgres: ls4" in " ".join(child.cmdline())]
            if target == "mapserv":
                return self.main("mapserver").children()
            return [self.main(target)]
        except psutil.NoSuchProcess:
            return []

    def kill(self, victim: psutil.Process, takes_the_map_down: bool) -> None:
        now = time.monotonic()
        if takes_the_map_down:
            self.down.append((now - 0.5, now + RECOVERY_SECONDS))
        victim.send_signal(signal.SIGKILL)

    def may_be_down(self, since: float) -> bool:
        """Whether something asked at `since` and answered now may have met with an outage."""
        return any(begin <= time.monotonic() and since <= end for begin, end in self.down)


def _runs(process: psutil.Process, word: str) -> bool:
    try:
        return word in " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return False


@contextmanager
def running_laptop(**settings: str) -> Iterator[Laptop]:
    """Everything that `make demo` starts, on empty databases, watched over as there."""
    # straight under the temporary directory: pytest's own folders are closed to the users that serve
    home = Path(tempfile.mkdtemp(prefix="ls4-kills-"))
    users = (DATABASE_USER, WEB_USER) if os.geteuid() == 0 else (None, None)
    state = State(home, *users)
    before = dict(os.environ)
    for name in [name for name in os.environ if name.startswith("LS4_")]:
        del os.environ[name]
    os.environ.update({f"LS4_{name.upper()}": value for name, value in settings.items()})
    over = threading.Event()
    try:
        state.make()
        with Supervisor(state.logs, home / "processes.json") as services:
            addresses = start_services(state, services)
            database = open_database(load_settings().database_url.get_secret_value())
            watch = threading.Thread(target=_watch, args=[services, over])
            watch.start()
            try:
                yield Laptop(state, services, addresses, database)
            finally:
                over.set()
                watch.join()
    finally:
        os.environ.clear()
        os.environ.update(before)
        if os.environ.get("LS4_KILLS_KEEP") is None:
            shutil.rmtree(home)


def _watch(services: Supervisor, over: threading.Event) -> None:
    while not over.wait(1):
        services.poll()


class UnansweredError(Exception):
    """No picture, but words that say so."""


class Readers:
    """Threads that read map, index and COGs until the end; `complaints` is what none of them should have seen."""

    def __init__(self, laptop: Laptop) -> None:
        self.laptop = laptop
        self.complaints: list[str] = []
        self.counts = {"map": 0, "index": 0, "cog": 0, "in an outage": 0}
        self.shown: dict[int, float] = {}
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._loop, args=each) for each in self._readers()]

    def __enter__(self) -> "Readers":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _readers(self) -> list[tuple[str, Callable[[], str | None]]]:
        return [("map", self._read_map), ("index", self._read_index), ("cog", self._read_cogs)]

    def _loop(self, name: str, read: Callable[[], str | None]) -> None:
        while not self._over.wait(0.2):
            since = time.monotonic()
            wrong: str | None
            try:
                wrong = read()
            except (httpx.HTTPError, psycopg2.Error, UnansweredError) as error:
                # Who is down may give no answer. A wrong one is wrong at any time.
                excused = self.laptop.may_be_down(since)
                self.counts["in an outage"] += excused
                wrong = None if excused else f"{type(error).__name__}: {error}"
            self.counts[name] += 1
            if wrong:
                self.complaints.append(f"{time.strftime('%X')} {name}: {wrong[:600]}")

    def _read_map(self) -> str | None:
        """Each frame that is known to be on the map, one after the other."""
        shown = list(self.shown)
        if not shown:
            return None
        number = shown[self.counts["map"] % len(shown)]
        west = WEST + SIDE * number
        bounds = f"{west + 100},{NORTH - SIDE + 100},{west + SIDE - 100},{NORTH - 100}"
        question = f"&SERVICE=WMS&VERSION=1.1.1&REQUEST=GetMap&LAYERS={COLLECTION}&STYLES=&SRS=EPSG:3857&FORMAT=image/png"
        address = f"{self.laptop.addresses.wms(COLLECTION)}{question}&TRANSPARENT=TRUE&BBOX={bounds}&WIDTH=256&HEIGHT=256"
        answer = httpx.get(address, timeout=15, trust_env=False)
        if answer.headers.get("content-type") != "image/png":
            raise UnansweredError(f"frame {number}: HTTP {answer.status_code} {answer.text[:300]}")
        pixels = np.asarray(Image.open(BytesIO(answer.content)).convert("RGBA"))
        seen = {tuple(int(value) for value in colour) for colour in np.unique(pixels.reshape(-1, 4), axis=0)}
        good = {(tone, tone, tone, 255) for tone in self.laptop.tones[number]}
        return None if len(seen) == 1 and seen <= good else f"frame {number}: {sorted(seen)[:6]} instead of one of {sorted(good)}"

    def _read_index(self) -> str | None:
        """In one snapshot: the table holds exactly the frames that are noted as shown by it."""
        if not self.shown:
            return None
        url = self.laptop.database.url.set(drivername="postgresql").render_as_string(hide_password=False)
        connection = psycopg2.connect(url, connect_timeout=10)
        try:
            connection.set_session(isolation_level="REPEATABLE READ", readonly=True)
            with connection.cursor() as cursor:
                cursor.execute(f"SELECT count(*) FROM {COLLECTION}")
                (rows,) = cursor.fetchone() or (None,)
                indexed = "indexed_revision > 0 AND NOT (deleted AND revision = indexed_revision) AND footprint IS NOT NULL"
                cursor.execute(f"SELECT count(*) FROM ls4.frame WHERE collection = '{COLLECTION}' AND {indexed}")
                (noted,) = cursor.fetchone() or (None,)
        finally:
            connection.close()
        return None if rows == noted else f"{rows} rows, and {noted} frames are noted as indexed"

    def _read_cogs(self) -> str | None:
        """Every public COG that is there can be read to its end and is one tone of its frame."""
        for number in list(self.shown):
            path = self.laptop.state.archive / self.laptop.frame(number).cog_key
            try:
                with rasterio.open(path) as tif:
                    seen = {int(tone) for tone in np.unique(tif.read(1))}
            except rasterio.errors.RasterioError as error:
                return f"{path.name}: {error}"
            if len(seen) != 1 or not seen <= set(self.laptop.tones[number]):
                return f"{path.name}: {sorted(seen)[:6]} instead of one of {self.laptop.tones[number]}"
        return None


def runs_under_way() -> dict[str, str]:
    """Runs that are not over, by id, with their status."""
    with DagsterInstance.get() as instance:
        return {run.run_id: run.status.value for run in instance.get_runs(limit=200) if not run.is_finished}
