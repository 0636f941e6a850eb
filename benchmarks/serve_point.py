"""Cost of the point query: `python -m benchmarks.serve point [--json] [--quick]`

The archive has a million synthetic photographs (ten thousand with --quick): counties with ten surveys each, flown with 60 %
overlap in both directions, so that about sixty photographs cover a point. One client sends requests for random points through
nginx and MapServer to PostgreSQL, each of them new to the cache, then again. CPU time is that of all processes of the server; it
depends less on the load of the machine than latency does.
"""

import json
import random
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, quantiles

import httpx
import psutil
from pyproj import Transformer
from sqlalchemy import Connection, text

from ls4_assets.local.state import find_free_port
from ls4_assets_tests.conftest import new_cluster
from ls4_assets_tests.integration import serving_fixtures as fixtures
from mapserver.config import write_config

_SURVEYS, _ROWS = 10, 20
_FRAMES_OF_COUNTY = _SURVEYS * _ROWS**2
_SIDE, _STEP, _SPACING = 4000, 1600, 36_000
_LEFT, _BOTTOM, _COUNTIES_IN_ROW = -11_800_000, 3_000_000, 20
_GOAL_MS = 50

_COLLECTIONS = """
INSERT INTO ls4.collection (name, shard, partition, table_name, title, agency, year, type, frames, film_types, index_revision,
                            served_root, public_url, published_at, outline)
SELECT format('County%s_USDA_%s_frames', county, year), 'County' || county, format('USDA_%s/frames', year),
       format('county%s_usda_%s_frames', county, year), format('County%s Usda %s Frames', county, year), 'USDA', year, 'frames',
       :rows * :rows, '{bw}', 1, '/archive/', 'https://archive.example.org', now(),
       ST_MakeEnvelope(west, south, west + :spacing, south + :spacing, 3857)
  FROM generate_series(0, :counties - 1) AS county, generate_series(1930, 1930 + 5 * (:surveys - 1), 5) AS year,
       LATERAL (SELECT :left + county % :in_row * :spacing AS west, :bottom + county / :in_row * :spacing AS south) AS place
"""
# Footprints have forty corners, as those of rotated frames do.
_FRAMES = """
INSERT INTO ls4.frame (id, shard, collection, partition, source_key, source_version, content_hash, width, transform, scan_file,
                       served_key, indexed_revision, footprint)
SELECT 'bw/' || path, shard, name, path, path, '1', 'c', 7200, '{0.55,0,0,0,-0.55,0}', stem || '.tif', path || '.tif', 1,
       ST_Multi(ST_Rotate(ST_Segmentize(ST_MakeEnvelope(west, south, west + :side, south + :side, 3857), :side / 10.0),
                          0.05 * (row - 10), ST_SetSRID(ST_MakePoint(west + :side / 2, south + :side / 2), 3857)))
  FROM ls4.collection, generate_series(0, :rows - 1) AS row, generate_series(0, :rows - 1) AS number,
       LATERAL (SELECT format('02-08-%s_%s-%s', year % 100, row, number) AS stem) AS stems,
       LATERAL (SELECT format('%s/USDA_%s/frames/%s', shard, year, stem) AS path,
                       ST_XMin(outline) + number * :step AS west, ST_YMin(outline) + row * :step AS south) AS place
"""


def run(as_json: bool, quick: bool) -> None:
    """Measure, and print the figures."""
    counties, requests = (3, 100) if quick else (1_000_000 // _FRAMES_OF_COUNTY, 1000)
    with _server(counties) as server:
        points = _random_points(counties, requests)
        server.ask(_random_points(counties, 50, seed=1))  # the caches of PostgreSQL and its first plans
        new, new_cpu = server.ask(points)
        again, again_cpu = server.ask(points)
        figures = {
            "footprints": counties * _FRAMES_OF_COUNTY,
            "requests": requests,
            "photographs_at_a_point": round(mean(count for _, _, count in new), 1),
            "response_kb": round(mean(size for _, size, _ in new) / 1000, 1),
            "new": _percentiles(new) | {"cpu_ms": new_cpu},
            "cached": _percentiles(again) | {"cpu_ms": again_cpu},
        }
    is_met = _percentiles(new)["p95_ms"] < _GOAL_MS
    print(f"{'met   ' if is_met else 'MISSED'}  point query, p95 of new points: less than {_GOAL_MS} ms")
    print(json.dumps(figures) if as_json else "\n".join(f"{name}: {value}" for name, value in figures.items()))


Answer = tuple[float, int, int]
"""Seconds, bytes and number of photographs."""


@dataclass(frozen=True)
class _Server:
    """A running map server. `processes`: nginx, the supervisor of the workers, and PostgreSQL."""

    client: httpx.Client
    processes: Sequence[psutil.Process]

    def ask(self, points: Sequence[str]) -> tuple[list[Answer], float]:
        """The answers, and the CPU milliseconds of one."""
        answers, before = [], self._cpu_seconds()
        for point in points:
            started = time.perf_counter()
            response = self.client.get(f"/photographs?point={point}")
            seconds = time.perf_counter() - started
            answers.append((seconds, len(response.content), response.raise_for_status().json()["numberReturned"]))
        return answers, round(1000 * (self._cpu_seconds() - before) / len(points), 2)

    def _cpu_seconds(self) -> float:
        trees = ([process, *process.children(recursive=True)] for process in self.processes)
        times = (process.cpu_times() for tree in trees for process in tree)
        return sum(each.user + each.system for each in times)


def _percentiles(answers: Sequence[Answer]) -> dict[str, float]:
    percentiles = quantiles((1000 * seconds for seconds, _, _ in answers), n=100)
    return {f"p{percent}_ms": round(percentiles[percent - 1], 2) for percent in (5, 50, 95, 99)}


def _random_points(counties: int, count: int, seed: int = 0) -> list[str]:
    """Points that photographs cover from all sides."""
    generator, transformer = random.Random(seed), Transformer.from_crs(3857, 4326, always_xy=True)
    inside = (_SIDE, _ROWS * _STEP - _SIDE)
    points = []
    for _ in range(count):
        row, column = divmod(generator.randrange(counties), _COUNTIES_IN_ROW)
        x, y = (corner + generator.uniform(*inside) for corner in (_LEFT + column * _SPACING, _BOTTOM + row * _SPACING))
        points.append("{:.5f},{:.5f}".format(*transformer.transform(x, y)))
    return points


@contextmanager
def _server(counties: int) -> Iterator[_Server]:
    """nginx and MapServer over the synthetic archive."""
    with ExitStack() as stack:
        cluster = stack.enter_context(new_cluster())
        database = stack.enter_context(fixtures.open_index_database(cluster))
        with database.owner.begin() as connection:
            _fill(connection, counties)
        with database.owner.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("VACUUM ANALYZE ls4.frame"))
        # Directly below the temporary directory: the account that serves must be able to enter it.
        home = Path(tempfile.mkdtemp(prefix="ls4-point-"))
        home.chmod(0o755)
        stack.callback(shutil.rmtree, home)
        config = write_config(
            home / "serving",
            port=find_free_port(),
            mapfiles_dir=home / "archive" / "mapfiles",
            archive_dir=home / "archive",
            database=database.service,
            workers=2,
            client_rate=0,
        )
        log = stack.enter_context((home / "processes.log").open("wb"))
        services = [stack.enter_context(fixtures.running(argv, log)) for argv in (config.workers_argv, config.nginx_argv)]
        postmaster = int((cluster.data_dir / "postmaster.pid").read_text().split()[0])
        client = stack.enter_context(httpx.Client(base_url=config.base_url, timeout=60))
        fixtures.wait_until_healthy(client, config.health_url)
        yield _Server(client, [psutil.Process(pid) for pid in (postmaster, *(service.pid for service in services))])


def _fill(connection: Connection, counties: int) -> None:
    sizes = {"counties": counties, "surveys": _SURVEYS, "rows": _ROWS, "side": _SIDE, "step": _STEP, "spacing": _SPACING}
    place = {"left": _LEFT, "bottom": _BOTTOM, "in_row": _COUNTIES_IN_ROW}
    for statement in (_COLLECTIONS, _FRAMES):
        connection.execute(text(statement), sizes | place)
