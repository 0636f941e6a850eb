"""The whole platform on one machine for the tests that kill its processes: real services, small frames, and readers.

Each frame has one tone, so that a reader can distinguish an old picture, a new one and a mixture of both. The readers run during
the whole test and record errors. The code that kills a process states for how long the map may be down.
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
from ls4_assets.local.services import ServiceUrls, start_services
from ls4_assets.local.state import DATABASE_USER, WEB_USER, StateDirectory
from ls4_assets.local.supervisor import ServiceSupervisor
from ls4_assets.settings import load_settings
from ls4_assets_tests.platform import frame_of
from ls4_assets_tests.rasters import write_tif
from resources.open import open_database

COLLECTION = "Travis_USDA_1958_frames"
FOLDER = "bw/Travis/USDA_1958/frames/georef"
SIDE = 1200
# Frames are numbered from 100, side by side; all are inside their county.
WEST, NORTH = -11_000_000.0, 3_540_000.0
RECOVERY_SECONDS = 15.0


@dataclass
class LocalPlatform:
    """The platform, with all tones that each frame has ever had."""

    state: StateDirectory
    services: ServiceSupervisor
    urls: ServiceUrls
    database: Engine
    tones: dict[int, list[int]] = field(default_factory=dict)
    outages: list[tuple[float, float]] = field(default_factory=list)

    def key(self, number: int) -> str:
        return f"{FOLDER}/02-08-60_6-{number}.tif"

    def frame(self, number: int) -> Frame:
        return frame_of(self.key(number))

    def drop(self, tones: dict[int, int]) -> None:
        """Drop or replace frames, all at the same moment."""
        paths = []
        for number, tone in tones.items():
            place = Affine(1, 0, WEST + SIDE * number, 0, -1, NORTH)
            paths.append(write_tif(self.state.home / f"{number}.tif", np.full((1, SIDE, SIDE), tone, np.uint8), transform=place))
            self.tones.setdefault(number, []).append(tone)
        for number, path in zip(tones, paths, strict=True):
            target = self.state.archive / self.key(number)
            target.parent.mkdir(parents=True, exist_ok=True)
            path.replace(target)

    def rows(self, statement: str) -> list[dict[str, object]]:
        with self.database.connect() as connection:
            return [dict(row._mapping) for row in connection.execute(text(statement))]

    def skip_waits(self) -> None:
        """Skip the backoff before failed work is retried."""
        with self.database.begin() as connection:
            connection.execute(text("UPDATE ls4.source SET retry_after = NULL WHERE retry_after IS NOT NULL"))
            connection.execute(text("UPDATE ls4.collection SET requested_at = NULL WHERE attempts > 1"))

    def main_process(self, name: str) -> psutil.Process:
        (pid,) = (running.process.pid for running in self.services._running if running.service.name == name)
        return psutil.Process(pid)

    def find_processes(self, target: str) -> list[psutil.Process]:
        """The processes that match a target; empty when none runs at this moment."""
        try:
            if target == "run":
                cold = [child for child in self.main_process("code-server").children() if _runs(child, "spawn_main")]
                return cold + [child for child in self.main_process("run-server").children() if child.name() == "ls4-run"]
            if target == "pool worker":
                children = [child for run in self.find_processes("run") for child in run.children()]
                servers = [child for child in children if _runs(child, "forkserver") or child.name() == "ls4-pool"]
                return [worker for server in servers for worker in server.children()]
            if target == "postgres backend":
                return [
                    child for child in self.main_process("postgres").children() if "postgres: ls4" in " ".join(child.cmdline())
                ]
            if target == "mapserv":
                return self.main_process("mapserver").children()
            return [self.main_process(target)]
        except psutil.NoSuchProcess:
            return []

    def kill(self, victim: psutil.Process, interrupts_map: bool) -> None:
        now = time.monotonic()
        if interrupts_map:
            self.outages.append((now - 0.5, now + RECOVERY_SECONDS))
        victim.send_signal(signal.SIGKILL)

    def overlaps_outage(self, since: float) -> bool:
        """Whether a request sent at `since` and answered now overlaps an outage."""
        return any(begin <= time.monotonic() and since <= end for begin, end in self.outages)


def _runs(process: psutil.Process, word: str) -> bool:
    try:
        return word in " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return False


@contextmanager
def running_local_platform(**settings: str) -> Iterator[LocalPlatform]:
    """All services that `make demo` starts, on empty databases and under the same supervisor."""
    # directly under the temporary directory: the users of the services cannot enter pytest's own folders
    home = Path(tempfile.mkdtemp(prefix="ls4-kills-"))
    users = (DATABASE_USER, WEB_USER) if os.geteuid() == 0 else (None, None)
    state = StateDirectory(home, *users)
    before = dict(os.environ)
    for name in [name for name in os.environ if name.startswith("LS4_")]:
        del os.environ[name]
    os.environ.update({f"LS4_{name.upper()}": value for name, value in settings.items()})
    stopped = threading.Event()
    try:
        state.create()
        with ServiceSupervisor(state.logs, home / "processes.json") as services:
            urls = start_services(state, services)
            database = open_database(load_settings().database_url.get_secret_value())
            watch = threading.Thread(target=_watch, args=[services, stopped])
            watch.start()
            try:
                yield LocalPlatform(state, services, urls, database)
            finally:
                stopped.set()
                watch.join()
    finally:
        os.environ.clear()
        os.environ.update(before)
        if os.environ.get("LS4_KILLS_KEEP") is None:
            shutil.rmtree(home)


def _watch(services: ServiceSupervisor, stopped: threading.Event) -> None:
    while not stopped.wait(1):
        services.poll()


class NoPictureError(Exception):
    """The map server returned an error message in place of a picture."""


class Readers:
    """Threads that read map, index and COGs until the end; `errors` has a message for each wrong answer."""

    def __init__(self, local: LocalPlatform) -> None:
        self.local = local
        self.errors: list[str] = []
        self.counts = {"map": 0, "index": 0, "cog": 0, "in an outage": 0}
        self.frames_on_map: list[int] = []
        self._stopped = threading.Event()
        self._threads = [threading.Thread(target=self._loop, args=each) for each in self._readers()]

    def __enter__(self) -> "Readers":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join()

    def _readers(self) -> list[tuple[str, Callable[[], str | None]]]:
        return [("map", self._read_map), ("index", self._read_index), ("cog", self._read_cogs)]

    def _loop(self, name: str, read: Callable[[], str | None]) -> None:
        while not self._stopped.wait(0.2):
            since = time.monotonic()
            error_message: str | None
            try:
                error_message = read()
            except (httpx.HTTPError, psycopg2.Error, NoPictureError) as error:
                # A service may fail to answer during an outage. A wrong answer is always an error.
                excused = self.local.overlaps_outage(since)
                self.counts["in an outage"] += excused
                error_message = None if excused else f"{type(error).__name__}: {error}"
            self.counts[name] += 1
            if error_message:
                self.errors.append(f"{time.strftime('%X')} {name}: {error_message[:600]}")

    def _read_map(self) -> str | None:
        """Request the frames that must be on the map, one after the other."""
        numbers = self.frames_on_map
        if not numbers:
            return None
        number = numbers[self.counts["map"] % len(numbers)]
        west = WEST + SIDE * number
        bounds = f"{west + 100},{NORTH - SIDE + 100},{west + SIDE - 100},{NORTH - 100}"
        query = f"&SERVICE=WMS&VERSION=1.1.1&REQUEST=GetMap&LAYERS={COLLECTION}&STYLES=&SRS=EPSG:3857&FORMAT=image/png"
        address = f"{self.local.urls.wms(COLLECTION)}{query}&TRANSPARENT=TRUE&BBOX={bounds}&WIDTH=256&HEIGHT=256"
        answer = httpx.get(address, timeout=15, trust_env=False)
        if answer.headers.get("content-type") != "image/png":
            raise NoPictureError(f"frame {number}: HTTP {answer.status_code} {answer.text[:300]}")
        pixels = np.asarray(Image.open(BytesIO(answer.content)).convert("RGBA"))
        seen = {tuple(int(value) for value in color) for color in np.unique(pixels.reshape(-1, 4), axis=0)}
        good = {(tone, tone, tone, 255) for tone in self.local.tones[number]}
        return None if len(seen) == 1 and seen <= good else f"frame {number}: {sorted(seen)[:6]} instead of one of {sorted(good)}"

    def _read_index(self) -> str | None:
        """In one snapshot, the table must contain exactly the frames that are recorded as indexed."""
        if not self.frames_on_map:
            return None
        url = self.local.database.url.set(drivername="postgresql").render_as_string(hide_password=False)
        connection = psycopg2.connect(url, connect_timeout=10)
        try:
            connection.set_session(isolation_level="REPEATABLE READ", readonly=True)
            with connection.cursor() as cursor:
                cursor.execute(f"SELECT count(*) FROM {COLLECTION}")
                (rows,) = cursor.fetchone() or (None,)
                indexed = "indexed_revision > 0 AND NOT (deleted AND revision = indexed_revision) AND footprint IS NOT NULL"
                cursor.execute(f"SELECT count(*) FROM ls4.frame WHERE collection = '{COLLECTION}' AND {indexed}")
                (recorded,) = cursor.fetchone() or (None,)
        finally:
            connection.close()
        return None if rows == recorded else f"the table has {rows} rows, but {recorded} frames are recorded as indexed"

    def _read_cogs(self) -> str | None:
        """Every existing public COG must be readable to its end and have one tone of its frame."""
        for number in self.frames_on_map:
            path = self.local.state.archive / self.local.frame(number).cog_key
            try:
                with rasterio.open(path) as tif:
                    seen = {int(tone) for tone in np.unique(tif.read(1))}
            except rasterio.errors.RasterioError as error:
                return f"{path.name}: {error}"
            if len(seen) != 1 or not seen <= set(self.local.tones[number]):
                return f"{path.name}: {sorted(seen)[:6]} instead of one of {self.local.tones[number]}"
        return None


def unfinished_runs() -> dict[str, str]:
    """The status of each unfinished run, by run id."""
    with DagsterInstance.get() as instance:
        return {run.run_id: run.status.value for run in instance.get_runs(limit=200) if not run.is_finished}
