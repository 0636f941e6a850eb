"""Measurements of a map server: cold latency, warm latency, and throughput under load.

A process is cold when it has served only another collection: its code is loaded and its database connected, but it has read
nothing of the measured frames. Warm is the same request again.
"""

import random
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from io import BytesIO
from statistics import median

import numpy as np
from PIL import Image

from benchmarks.serve_archive import PIXEL, SIDE, SyntheticCollection
from benchmarks.serve_contenders import Contender, tile_containing
from benchmarks.serve_storage import FarBucket, Traffic

Figures = dict[str, float]

# The number of tiles that the clients of a load test request in random order.
_LOAD_TILES = 24
# Meters. The frames of one tile extend about two frames from it, so tiles at this distance share no frame.
_MIN_DISTANCE = 2.2 * SIDE * PIXEL
_TIMEOUT_SECONDS = 900


@dataclass(frozen=True)
class Effort:
    """The number of measurements. A load test lasts `load_seconds` after at most `warm_seconds` of warm-up."""

    rounds: int
    repeats: int
    load_seconds: float
    warm_seconds: float
    workers: int
    clients: int


def whole_collection(
    contender: Contender, synthetic: SyntheticCollection, warmup: SyntheticCollection, bucket: FarBucket, effort: Effort
) -> Figures:
    """Latency and storage traffic of the map of a whole collection."""
    return _measure_single_client(contender, [contender.whole_collection(synthetic)], warmup, bucket, effort)


def native_zoom(
    contender: Contender, synthetic: SyntheticCollection, warmup: SyntheticCollection, bucket: FarBucket, effort: Effort
) -> Figures:
    """Latency and storage traffic of tiles at native zoom."""
    views = [contender.tile(synthetic, *place) for place in distant_tiles(synthetic)]
    return _measure_single_client(contender, views, warmup, bucket, effort)


def requests_per_s(server: str, views: Sequence[str], warm_s: float, bucket: FarBucket, effort: Effort) -> float:
    """Warm throughput of all clients together. When one view takes longer than the load test: of one client, from its latency."""
    if warm_s > effort.load_seconds:
        return 1 / warm_s
    until = time.monotonic() + effort.warm_seconds
    while time.monotonic() < until:
        before = bucket.traffic()
        answers, _ = _load(server, views, effort.clients, min(2.0, effort.warm_seconds))
        if (bucket.traffic() - before).requests <= answers / 50:
            break
    answers, seconds = _load(server, views, effort.clients, effort.load_seconds)
    return answers / seconds


def load_views(contender: Contender, synthetic: SyntheticCollection) -> tuple[list[str], list[str]]:
    """The paths that the clients of a load test request: whole collection, native zoom."""
    rng = random.Random(synthetic.count)
    places = [_place_in(synthetic, rng) for _ in range(_LOAD_TILES)]
    return [contender.whole_collection(synthetic)], [contender.tile(synthetic, *place) for place in places]


def tile_cache_hit_ms(contender: Contender, synthetic: SyntheticCollection) -> float:
    view = contender.tile(synthetic, *distant_tiles(synthetic)[0])
    with contender.running(1) as server, _connection(server) as connection:
        _request_picture(connection, view)
        return 1000 * median(_request_picture(connection, view) for _ in range(200))


def distant_tiles(synthetic: SyntheticCollection) -> list[tuple[int, int]]:
    """Up to four tiles (column, row) that share no frame."""
    rng = random.Random(synthetic.number)
    chosen: list[tuple[float, float]] = []
    for x, y in rng.sample(synthetic.corners, len(synthetic.corners)):
        if len(chosen) < 4 and all(max(abs(x - other), abs(y - another)) > _MIN_DISTANCE for other, another in chosen):
            chosen.append((x, y))
    return [tile_containing(x + SIDE * PIXEL / 2, y - SIDE * PIXEL / 2) for x, y in chosen]


def _place_in(synthetic: SyntheticCollection, rng: random.Random) -> tuple[int, int]:
    x, y = rng.choice(synthetic.corners)
    inside = (SIDE * PIXEL * rng.uniform(0.2, 0.8) for _ in range(2))
    return tile_containing(x + next(inside), y - next(inside))


def _measure_single_client(
    contender: Contender, views: Sequence[str], warmup: SyntheticCollection, bucket: FarBucket, effort: Effort
) -> Figures:
    """Figures for one client and one worker, which is restarted in each round."""
    cold: list[float] = []
    warm: list[float] = []
    traffic: list[Traffic] = []
    for _ in range(effort.rounds):
        with contender.running(1) as server, _connection(server) as connection:
            _request_picture(connection, contender.tile(warmup, *distant_tiles(warmup)[0]))
            for view in views:
                before = bucket.traffic()
                cold.append(_request_picture(connection, view, check_content=True))
                traffic.append(bucket.traffic() - before)
            # A view that takes a minute is requested only once more: it varies less than a fast one.
            for _ in range(effort.repeats if cold[-1] < effort.load_seconds else 1):
                warm += [_request_picture(connection, view) for view in views]
        if cold[-1] > 2 * effort.load_seconds:
            break
    return {
        "storage_requests": median(each.requests for each in traffic),
        "storage_bytes": median(each.size for each in traffic),
        "cold_s": round(median(cold), 4),
        "warm_s": round(median(warm), 4),
    }


def _load(server: str, views: Sequence[str], clients: int, seconds: float) -> tuple[int, float]:
    """The number of answers, and the seconds until the last one."""
    answers = [0] * clients
    errors: list[Exception] = []
    started = time.monotonic()

    def send_requests(number: int) -> None:
        rng = random.Random(number)
        try:
            with _connection(server) as connection:
                while time.monotonic() < started + seconds:
                    _request_picture(connection, rng.choice(views))
                    answers[number] += 1
        except Exception as error:  # noqa: BLE001  # raised again below, in the main thread
            errors.append(error)

    threads = [threading.Thread(target=send_requests, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return sum(answers), time.monotonic() - started


@contextmanager
def _connection(server: str) -> Iterator[HTTPConnection]:
    with closing(HTTPConnection(server, timeout=_TIMEOUT_SECONDS)) as connection:
        yield connection


def _request_picture(connection: HTTPConnection, path: str, *, check_content: bool = False) -> float:
    """Seconds for an answer, which must be a PNG; with `check_content` it must also show imagery."""
    started = time.perf_counter()
    connection.request("GET", path)
    answer = connection.getresponse()
    body = answer.read()
    seconds = time.perf_counter() - started
    if answer.status != 200 or answer.getheader("Content-Type") != "image/png":
        raise RuntimeError(f"{path} returned status {answer.status}, {body[:500]!r}: check the server's log.")
    if check_content:
        pixels = np.asarray(Image.open(BytesIO(body)).convert("LA"))
        gray = pixels[..., 0][pixels[..., 1] > 0]
        # For any shape of the collection, at least a tenth of its map is imagery, and no frame has a single tone.
        if gray.size < pixels[..., 0].size / 10 or np.ptp(gray) < 20:
            raise RuntimeError(f"{path} shows almost no imagery: {gray.size} opaque pixels; check the server's log.")
    return seconds
