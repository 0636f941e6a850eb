"""How the answers are timed: cold (a process that never read anything of the collection), warm (the same again), and under load.

A process is cold when it has answered for another collection and nothing else: its code is loaded and its database connected, and
nothing of the frames is known to it.
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

from benchmarks.serve_archive import PIXEL, SIDE, Survey
from benchmarks.serve_contenders import Contender, tile_at
from benchmarks.serve_storage import FarBucket, Traffic

Figures = dict[str, float]

# Tiles that the clients of a load look at, in any order.
_PLACES = 24
# Frames of one tile end about so many frames from it: tiles that are this far apart have none in common.
_FAR = 2.2 * SIDE * PIXEL
_ANSWER_WITHIN = 900


@dataclass(frozen=True)
class Effort:
    """How often is measured. A load lasts `load_seconds` and is warmed up for `warm_seconds` at most."""

    rounds: int
    repeats: int
    load_seconds: float
    warm_seconds: float
    workers: int
    clients: int


def whole_collection(contender: Contender, survey: Survey, beside: Survey, bucket: FarBucket, effort: Effort) -> Figures:
    return _alone(contender, [contender.whole(survey)], beside, bucket, effort)


def native_zoom(contender: Contender, survey: Survey, beside: Survey, bucket: FarBucket, effort: Effort) -> Figures:
    views = [contender.tile(survey, *place) for place in far_places(survey)]
    return _alone(contender, views, beside, bucket, effort)


def requests_per_s(server: str, views: Sequence[str], warm_s: float, bucket: FarBucket, effort: Effort) -> float:
    """Of all clients together, warm. Where one view takes longer than the load lasts: of one client, from its latency."""
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


def load_views(contender: Contender, survey: Survey) -> tuple[list[str], list[str]]:
    """What the clients of a load ask for: whole collection, native zoom."""
    rng = random.Random(survey.count)
    places = [_place_in(survey, rng) for _ in range(_PLACES)]
    return [contender.whole(survey)], [contender.tile(survey, *place) for place in places]


def tile_cache_hit_ms(contender: Contender, survey: Survey) -> float:
    view = contender.tile(survey, *far_places(survey)[0])
    with contender.running(1) as server, _connection(server) as connection:
        _get(connection, view)
        return 1000 * median(_get(connection, view) for _ in range(200))


def far_places(survey: Survey) -> list[tuple[int, int]]:
    """Up to four tiles of which no two show the same frame."""
    rng = random.Random(survey.number)
    chosen: list[tuple[float, float]] = []
    for x, y in rng.sample(survey.places, len(survey.places)):
        if len(chosen) < 4 and all(max(abs(x - other), abs(y - another)) > _FAR for other, another in chosen):
            chosen.append((x, y))
    return [tile_at(x + SIDE * PIXEL / 2, y - SIDE * PIXEL / 2) for x, y in chosen]


def _place_in(survey: Survey, rng: random.Random) -> tuple[int, int]:
    x, y = rng.choice(survey.places)
    inside = (SIDE * PIXEL * rng.uniform(0.2, 0.8) for _ in range(2))
    return tile_at(x + next(inside), y - next(inside))


def _alone(contender: Contender, views: Sequence[str], beside: Survey, bucket: FarBucket, effort: Effort) -> Figures:
    """One client and one worker, started anew in each round."""
    cold: list[float] = []
    warm: list[float] = []
    traffic: list[Traffic] = []
    for _ in range(effort.rounds):
        with contender.running(1) as server, _connection(server) as connection:
            _get(connection, contender.tile(beside, *far_places(beside)[0]))
            for view in views:
                before = bucket.traffic()
                cold.append(_get(connection, view, look=True))
                traffic.append(bucket.traffic() - before)
            # What takes a minute is not asked for again and again: it varies less than what takes a moment.
            for _ in range(effort.repeats if cold[-1] < effort.load_seconds else 1):
                warm += [_get(connection, view) for view in views]
        if cold[-1] > 2 * effort.load_seconds:
            break
    return {
        "storage_requests": median(one.requests for one in traffic),
        "storage_bytes": median(one.size for one in traffic),
        "cold_s": round(median(cold), 4),
        "warm_s": round(median(warm), 4),
    }


def _load(server: str, views: Sequence[str], clients: int, seconds: float) -> tuple[int, float]:
    """Answers, and the seconds up to the last of them."""
    answers = [0] * clients
    faults: list[Exception] = []
    started = time.monotonic()

    def ask(number: int) -> None:
        rng = random.Random(number)
        try:
            with _connection(server) as connection:
                while time.monotonic() < started + seconds:
                    _get(connection, rng.choice(views))
                    answers[number] += 1
        except Exception as fault:  # noqa: BLE001 - told by the thread that waits for this one
            faults.append(fault)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if faults:
        raise faults[0]
    return sum(answers), time.monotonic() - started


@contextmanager
def _connection(server: str) -> Iterator[HTTPConnection]:
    with closing(HTTPConnection(server, timeout=_ANSWER_WITHIN)) as connection:
        yield connection


def _get(connection: HTTPConnection, path: str, *, look: bool = False) -> float:
    """Seconds for an answer, which must be a picture; `look`: one that shows something."""
    started = time.perf_counter()
    connection.request("GET", path)
    answer = connection.getresponse()
    body = answer.read()
    seconds = time.perf_counter() - started
    if answer.status != 200 or answer.getheader("Content-Type") != "image/png":
        raise RuntimeError(f"{path} is answered with {answer.status}, {body[:500]!r}: look at the server's log.")
    if look:
        shown = np.asarray(Image.open(BytesIO(body)).convert("LA"))
        grey = shown[..., 0][shown[..., 1] > 0]
        # Whatever the collection's shape, a tenth of its map is frames, and no frame is of one grey.
        if grey.size < shown[..., 0].size / 10 or np.ptp(grey) < 20:
            raise RuntimeError(f"{path} shows next to nothing: {grey.size} pixels; look at the server's log.")
    return seconds
