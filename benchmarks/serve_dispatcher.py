"""Cost of the dispatcher: `python -m benchmarks.serve dispatcher [--json] [--quick]`

Two map servers run over the same small archive in a folder: one whose dispatcher gives each request to an idle worker, and one
whose workers accept from a shared socket (`serve_shared_socket`). Both have the same nginx and the same MapServer. The requests
are the smallest that there are, so the share of the dispatcher is the largest. The two take turns in short rounds, because the
load of a machine changes; the figures are medians of rounds, and CPU time is counted of every process of a server.
"""

import asyncio
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from statistics import median, quantiles

import httpx
import psutil

from ls4_assets.local.state import find_free_port
from ls4_assets_tests.conftest import new_cluster
from ls4_assets_tests.integration import serving_fixtures as fixtures
from mapserver.config import PostgresService, ServingConfig, write_config

CLIENTS = (1, 8, 32)
_WORKERS = 4
_PROXIES = ("127.0.0.1",)
_SIDE = 32
REQUESTS = {
    "capabilities": f"/wms/{fixtures.TABLE}?SERVICE=WMS&VERSION=1.1.1&REQUEST=GetCapabilities",
    "small map": (
        f"/wms/{fixtures.TABLE}?SERVICE=WMS&VERSION=1.1.1&REQUEST=GetMap&LAYERS={fixtures.NAME}&STYLES=&SRS=EPSG:3857"
        f"&FORMAT=image/png&WIDTH={_SIDE}&HEIGHT={_SIDE}&BBOX={fixtures.LEFT + 300},{fixtures.MIDDLE},"
        f"{fixtures.LEFT + 300 + _SIDE * fixtures.RESOLUTION},{fixtures.MIDDLE + _SIDE * fixtures.RESOLUTION}"
    ),
}


@dataclass(frozen=True)
class _Server:
    """A running map server. `processes`: what its requests use CPU of, by the name of the part."""

    port: int
    processes: Mapping[str, psutil.Process]

    def cpu_seconds(self) -> dict[str, float]:
        """User and system seconds of each part so far. Their children count as workers."""
        seconds = {}
        for name, process in self.processes.items():
            seconds[name] = _seconds(process)
            if name == "supervisor":
                seconds["workers"] = sum(map(_seconds, process.children(recursive=True)))
            else:
                seconds[name] += sum(map(_seconds, process.children(recursive=True)))
        return seconds


@dataclass
class _Rounds:
    """The rounds of one server: requests per second, milliseconds of each request, and CPU milliseconds per request and part."""

    rates: list[float] = field(default_factory=list)
    latencies_ms: list[float] = field(default_factory=list)
    cpu_ms: dict[str, list[float]] = field(default_factory=dict)

    def figures(self) -> dict[str, float]:
        percentiles = quantiles(self.latencies_ms, n=100)
        cpu = {f"{name}_cpu_ms": round(median(values), 3) for name, values in self.cpu_ms.items()}
        return {
            "requests_per_s": round(median(self.rates), 1),
            "p50_ms": round(percentiles[49], 2),
            "p99_ms": round(percentiles[98], 2),
            **cpu,
        }


def run(as_json: bool, quick: bool) -> None:
    """Measure, and print a table and the ratios."""
    rounds, seconds = (2, 0.5) if quick else (10, 1.5)
    results: dict[str, dict[str, dict[str, dict[str, float]]]] = {}
    with _servers() as servers:
        for request, path in REQUESTS.items():
            results[request] = {}
            for clients in CLIENTS:
                measured = _measure(servers, path, clients, rounds, seconds)
                results[request][str(clients)] = measured
                print(_row(request, clients, measured), flush=True)
    if as_json:
        print(json.dumps(results))


def _measure(servers: Mapping[str, _Server], path: str, clients: int, rounds: int, seconds: float) -> dict[str, dict[str, float]]:
    """The figures of each server, and the median ratio of the rates of neighboring rounds."""
    measured = {name: _Rounds() for name in servers}
    for number in range(rounds + 1):
        for name in sorted(servers, reverse=bool(number % 2)):
            server = servers[name]
            before = server.cpu_seconds()
            latencies, elapsed = asyncio.run(_load(server.port, path, clients, seconds))
            if number == 0:
                continue  # the caches are cold
            spent = {part: total - before[part] for part, total in server.cpu_seconds().items()}
            measured[name].rates.append(len(latencies) / elapsed)
            measured[name].latencies_ms += [1000 * latency for latency in latencies]
            for part, value in spent.items():
                measured[name].cpu_ms.setdefault(part, []).append(1000 * value / len(latencies))
    pairs = zip(measured["dispatcher"].rates, measured["shared socket"].rates, strict=True)
    return {name: each.figures() for name, each in measured.items()} | {
        "ratio": {"requests_per_s": round(median(ours / theirs for ours, theirs in pairs), 3)}
    }


async def _load(port: int, path: str, clients: int, seconds: float) -> tuple[list[float], float]:
    """Seconds of each request of all clients, which send one after another for `seconds`, and the time until the last answer."""
    latencies: list[float] = []
    started = time.perf_counter()

    async def send(client: int) -> None:
        # Each client has an address of its own: one client must not occupy all workers.
        request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nX-Forwarded-For: 198.51.100.{client}\r\n\r\n".encode()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while (before := time.perf_counter()) < started + seconds:
            writer.write(request)
            await _read_response(reader)
            latencies.append(time.perf_counter() - before)
        writer.close()

    await asyncio.gather(*map(send, range(clients)))
    return latencies, time.perf_counter() - started


async def _read_response(reader: asyncio.StreamReader) -> None:
    head = await reader.readuntil(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200"):
        raise RuntimeError(f"The map server responded {head[:200]!r}: check its logs.")
    if b"Transfer-Encoding: chunked" not in head:
        await reader.readexactly(int(head.partition(b"Content-Length: ")[2].partition(b"\r\n")[0]))
        return
    while size := int(await reader.readuntil(b"\r\n"), 16):
        await reader.readexactly(size + 2)
    await reader.readexactly(2)


@contextmanager
def _servers() -> Iterator[dict[str, _Server]]:
    with ExitStack() as stack:
        cluster = stack.enter_context(new_cluster())
        database = stack.enter_context(fixtures.open_index_database(cluster))
        ours = stack.enter_context(fixtures.serve_frames(database, workers=_WORKERS, client_rate=0, proxies=_PROXIES))
        (nginx,) = (process for process in psutil.Process().children() if "nginx" in process.name())
        servers = {"dispatcher": _Server(ours.port, {"supervisor": psutil.Process(ours.supervisor.pid), "nginx": nginx})}
        config = _shared_socket_config(ours, database.service)
        log = stack.enter_context((ours.archive.parent / "shared.log").open("wb"))
        processes = {}
        for name, argv in (("supervisor", _shared_socket_argv(config)), ("nginx", config.nginx_argv)):
            process = stack.enter_context(fixtures.running(argv, log))
            processes[name] = psutil.Process(process.pid)
        client = stack.enter_context(httpx.Client(base_url=config.base_url, timeout=30))
        fixtures.wait_until_healthy(client, config.health_url)
        servers["shared socket"] = _Server(int(config.base_url.rsplit(":", 1)[1]), processes)
        yield servers


def _shared_socket_config(ours: fixtures.MapServer, database: PostgresService) -> ServingConfig:
    return write_config(
        ours.archive.parent / "shared",
        port=find_free_port(),
        mapfiles_dir=ours.archive / "mapfiles",
        archive_dir=ours.archive,
        database=database,
        workers=_WORKERS,
        client_rate=0,
        proxies=_PROXIES,
    )


def _shared_socket_argv(config: ServingConfig) -> list[str]:
    return [argument.replace("mapserver.workers", "benchmarks.serve_shared_socket") for argument in config.workers_argv]


def _seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


def _row(request: str, clients: int, measured: Mapping[str, Mapping[str, float]]) -> str:
    lines = [f"{request}, {clients} clients: {measured['ratio']['requests_per_s']:.3f} x the requests of a shared socket"]
    for name in ("dispatcher", "shared socket"):
        lines.append(f"  {name:14s}" + "".join(f"{figure:>12g} {key}" for key, figure in measured[name].items()))
    return "\n".join(lines)
