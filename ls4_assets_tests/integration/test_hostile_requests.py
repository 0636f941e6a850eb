"""Thousands of requests of the kinds that crashed mapserv, and the load of ten clients that crash it all the time.

`test_request_guards.py` has the faults one by one. The load runs without the guards, as if MapServer had a fault that nobody
knows yet: then only the dispatcher and the limits of nginx protect the other clients.
"""

import asyncio
import http.client
import itertools
import multiprocessing
import statistics
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace

import pytest

from ls4_assets_tests.integration.crash_requests import crash_addresses, get_map, similar_addresses
from ls4_assets_tests.integration.serving_fixtures import (
    COLLECTION,
    EXTENT,
    MIDDLE,
    WHITE,
    IndexDatabase,
    MapServer,
    index_database_fixture,  # noqa: F401
    left_half,
    map_server_fixture,  # noqa: F401
    mapfile_context,
    publish_mapfile,
    serve_frames,
)
from mapserver.config import ServingConfig

CONTEXT = replace(mapfile_context(COLLECTION), overview_resolution=16.0)
CLIENTS, RATE = 10, 10.0
POLLS_PER_SECOND = 5.0
CALM_SECONDS, ATTACK_SECONDS = 15.0, 40.0


# First, because both tests serve the same table, and `map_server` keeps it until the last test of this file.
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_ten_clients_that_crash_workers_hardly_disturb_another(index_database: IndexDatabase) -> None:
    """Forty crashing requests took all maps down for three minutes."""
    with without_guards(index_database) as server:
        for _ in range(3):
            Client(server, "203.0.113.9").get(next(pictures()))
        calm = poll(server, "203.0.113.1", CALM_SECONDS)
        # In a process of its own: its work must not delay the client that is measured.
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            hostile = pool.submit(attack, server.port, ATTACK_SECONDS)
            disturbed = poll(server, "203.0.113.1", ATTACK_SECONDS)
            sent = hostile.result(60)
    errors = 1 - disturbed.statuses[200] / disturbed.statuses.total()
    before, during = (statistics.median(each.latencies) for each in (calm, disturbed))
    slowest = [statistics.quantiles(each.latencies, n=20)[-1] for each in (calm, disturbed)]
    report = (
        f"{sent} hostile requests in {ATTACK_SECONDS:.0f} s. Another client: {errors:.1%} errors, "
        f"median {before * 1000:.0f} -> {during * 1000:.0f} ms, "
        f"95th percentile {slowest[0] * 1000:.0f} -> {slowest[1] * 1000:.0f} ms, {disturbed.messages}"
    )
    sys.stdout.write(f"\n{report}\n")
    assert set(calm.statuses) == {200}
    assert errors <= 0.01, report
    assert during <= 2 * before + 0.01, report


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", range(5))
def test_thousand_requests_of_the_crash_grammar_lose_no_worker(map_server: MapServer, seed: int) -> None:
    publish_mapfile(map_server.archive, CONTEXT)
    before, statuses = map_server.workers(), Counter[int]()
    for address in similar_addresses(seed, 1000):
        response = map_server.get(address.encode("ascii", "replace").decode())
        assert response.status_code < 500, (address, response.text)
        statuses[response.status_code] += 1
    assert map_server.workers() == before
    assert min(statuses[200], statuses[400]) > 100, statuses
    assert map_server.color_at(left_half(WHITE), MIDDLE) == (255, 255, 255, 255)


@contextmanager
def without_guards(database: IndexDatabase) -> Iterator[MapServer]:
    """A map server whose mapfile and web front end let the known crashes through. Each client has an address of its own."""
    with serve_frames(database, workers=4, client_rate=100, proxies=["127.0.0.1"], change_config=remove_guards) as server:
        mapfile = server.archive / "mapfiles" / f"{CONTEXT.table}.map"
        publish_mapfile(server.archive, CONTEXT)
        text = mapfile.read_text()
        assert "MAXSCALEDENOM" in text
        mapfile.write_text("\n".join(line for line in text.splitlines() if "MAXSCALEDENOM" not in line))
        yield server


def remove_guards(config: ServingConfig) -> None:
    script = config.log_dir.parent / "conf" / "front_end.js"
    text, start = script.read_text(), "function rejection(r) {"
    assert start in text
    script.write_text(text.replace(start, f"{start}\n    return '';"))


@dataclass
class Client:
    """A client with an address of its own. latencies: seconds of each request. statuses: 0 is a connection that failed."""

    server: MapServer
    address: str
    latencies: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    messages: Counter[str] = field(default_factory=Counter)

    def get(self, path: str) -> None:
        started = time.monotonic()
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=30)
        try:
            connection.request("GET", path, headers={"X-Forwarded-For": self.address})
            response = connection.getresponse()
            body = response.read()
            is_picture = body.startswith(b"\x89PNG")
            if not is_picture:
                self.messages[body[:100].decode(errors="replace")] += 1
            self.statuses[response.status if is_picture or response.status != 200 else 0] += 1
        except (OSError, http.client.HTTPException):
            self.statuses[0] += 1
        finally:
            connection.close()
        self.latencies.append(time.monotonic() - started)


def pictures() -> Iterator[str]:
    """Maps of 256 x 256 pixels, each at another place."""
    for number in itertools.count():
        left, bottom = EXTENT[0] + number * 37 % 9000, EXTENT[1]
        yield get_map(256, 256, f"{left},{bottom},{left + 2000},{bottom + 2000}")


def poll(server: MapServer, address: str, seconds: float) -> Client:
    """Request pictures at a fixed rate, whether the last one has been answered or not."""
    client, paths, due = Client(server, address), pictures(), time.monotonic()
    end = due + seconds
    with ThreadPoolExecutor(20) as pool:
        while due < end:
            pool.submit(client.get, next(paths))
            due += 1 / POLLS_PER_SECOND
            time.sleep(max(0.0, due - time.monotonic()))
    return client


def attack(port: int, seconds: float) -> int:
    """Ten clients send a hundred requests per second that crash mapserv. Returns the number of requests."""
    crashes = [address for name, address in crash_addresses().items() if "infinite" in name or "hits as" in name]

    async def send(client: str, path: str) -> None:
        with suppress(OSError):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(f"GET {path} HTTP/1.0\r\nHost: localhost\r\nX-Forwarded-For: {client}\r\n\r\n".encode())
            await reader.read()
            writer.close()

    async def run() -> int:
        paths, tasks, due = itertools.cycle(crashes), set(), time.monotonic()
        count = round(seconds * CLIENTS * RATE)
        for number in range(count):
            task = asyncio.create_task(send(f"198.51.100.{number % CLIENTS}", next(paths)))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            due += 1 / (CLIENTS * RATE)
            await asyncio.sleep(max(0.0, due - time.monotonic()))
        return count

    return asyncio.run(run())
