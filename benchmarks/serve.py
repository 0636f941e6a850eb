"""Benchmark of map serving: `python -m benchmarks.serve [--json] [--quick]`; for `dispatcher` and `formats`, see
`serve_dispatcher` and `serve_formats`.

It compares this platform's web front end, lambda-s4's mapfile under CGI, and titiler over MosaicJSON (if installed, see
docs/explanation/performance.md) on the same COGs. A real S3 server holds them, behind a proxy that delays each request. The views
are maps of whole collections and tiles at native zoom, in collections of 10, 100 and 1000 frames. The figures are cold and warm
latency, requests per second, and requests to storage.
"""

import argparse
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks import serve_archive, serve_dispatcher, serve_formats, serve_measure
from benchmarks.serve_archive import SampleCog, SyntheticCollection
from benchmarks.serve_contenders import Contender, Legacy, Ours, Titiler, titiler_python
from benchmarks.serve_measure import Effort, Figures
from benchmarks.serve_storage import FarBucket, far_bucket
from ls4_assets.db.bootstrap import bootstrap
from ls4_assets.db.roles import ROLES
from ls4_assets.local.postgres import Cluster
from ls4_assets.local.state import find_free_port
from ls4_assets_tests.s3_servers import ACCESS_KEY, REGION, SECRET_KEY, aws_environment, seaweedfs_server
from mapserver.config import PostgresService
from mapserver.sync import MapfileSync
from resources.archive import Archive
from resources.s3_storage import S3Storage

DELAY_SECONDS = 0.020
_CORES = len(os.sched_getaffinity(0))
# Eight clients keep all workers busy on a small machine, and their process uses little CPU itself.
_THOROUGH = Effort(rounds=3, repeats=5, load_seconds=5, warm_seconds=16, workers=4 * _CORES, clients=8)
_QUICK = Effort(rounds=1, repeats=3, load_seconds=2, warm_seconds=4, workers=_CORES, clients=4)

# By view, number of frames and contender; None for a contender that is not installed.
Results = dict[str, dict[str, dict[str, Figures | None]]]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serve", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print the figures as JSON on the last line")
    parser.add_argument("--quick", action="store_true", help="10 and 100 frames, one round, short loads: rough ratios")
    parser.add_argument(
        "part", nargs="?", choices=["dispatcher", "formats"], help="measure the dispatcher or the formats of tiles only"
    )
    arguments = parser.parse_args()
    if arguments.part == "formats":
        collection = SyntheticCollection(10, 1)
        with _test_bed([collection]) as test_bed:
            serve_formats.compare(test_bed.ours, collection, 2 if arguments.quick else 10, arguments.json)
        return
    if arguments.part:
        serve_dispatcher.run(arguments.json, arguments.quick)
        return
    counts, effort = ((10, 100), _QUICK) if arguments.quick else ((10, 100, 1000), _THOROUGH)
    collections = [SyntheticCollection(count, number) for number, count in enumerate(counts, 1)]
    with _test_bed(collections) as test_bed:
        results = test_bed.compare(collections, effort)
        hit_ms = round(serve_measure.tile_cache_hit_ms(replace(test_bed.ours, cache_mb=64), collections[0]), 3)
    print(f"tile cache hit: {hit_ms} ms")
    for line in _goals(results, hit_ms):
        print(line)
    if arguments.json:
        missing = {"titiler": None, "reason": test_bed.titiler_missing} if test_bed.titiler_missing else {}
        print(json.dumps({**results, "tile_cache_hit_ms": hit_ms, **missing}))


@dataclass(frozen=True)
class _TestBed:
    """The contenders over the published collections, ready to be started.

    `warmup` is a collection that is not measured. `titiler_missing` is the reason why titiler is not measured.
    """

    ours: Ours
    contenders: Mapping[str, Contender | None]
    bucket: FarBucket
    warmup: SyntheticCollection
    titiler_missing: str | None

    def compare(self, collections: list[SyntheticCollection], effort: Effort) -> Results:
        results: Results = {"whole_collection": {}, "native_zoom": {}}
        for view in results:
            for synthetic in collections:
                measured = {
                    name: self._measure_single_client(view, contender, synthetic, effort)
                    for name, contender in self.contenders.items()
                }
                results[view][str(synthetic.count)] = measured
                cold = ", ".join(f"{name} {figures['cold_s']:.3f} s" for name, figures in measured.items() if figures)
                print(f"{view.replace('_', ' ')}, {synthetic.count} frames, cold: {cold}", flush=True)
        for name, contender in self.contenders.items():
            if contender is not None:
                self._measure_load(name, contender, collections, effort, results)
        for view, by_count in results.items():
            print(_table(view, by_count), flush=True)
        return results

    def _measure_single_client(
        self, view: str, contender: Contender | None, synthetic: SyntheticCollection, effort: Effort
    ) -> Figures | None:
        if contender is None:
            return None
        measure = serve_measure.whole_collection if view == "whole_collection" else serve_measure.native_zoom
        return measure(contender, synthetic, self.warmup, self.bucket, effort)

    def _measure_load(
        self, name: str, contender: Contender, collections: list[SyntheticCollection], effort: Effort, results: Results
    ) -> None:
        for synthetic in collections:
            with contender.running(effort.workers) as server:
                for view, addresses in zip(results, serve_measure.load_views(contender, synthetic), strict=True):
                    figures = results[view][str(synthetic.count)][name]
                    assert figures is not None
                    rate = serve_measure.requests_per_s(server, addresses, figures["warm_s"], self.bucket, effort)
                    figures["requests_per_s"] = round(rate, 3)


@contextmanager
def _test_bed(collections: list[SyntheticCollection]) -> Iterator[_TestBed]:
    with ExitStack() as stack:
        # Directly under the temporary directory: the users of the services must be able to enter it.
        home = Path(tempfile.mkdtemp(prefix="ls4-serve-"))
        home.chmod(0o755)
        stack.callback(shutil.rmtree, home)
        stack.enter_context(aws_environment())
        server = stack.enter_context(seaweedfs_server())
        storage = server.new_bucket()
        passwords = {role: secrets.token_urlsafe(16) for role in ROLES}
        cluster = stack.enter_context(_cluster(home))
        bootstrap(cluster.admin_url, passwords)
        options = {"s3_endpoint_url": server.endpoint_url, "s3_region": REGION, "work_dir": str(home / "work")}
        (home / "work").mkdir()
        address = f"postgresql+psycopg2://ls4:{passwords['ls4']}@127.0.0.1:{cluster.port}/ls4"
        archive = Archive(
            overrides={
                "storage": f"s3://{storage.bucket}",
                "database_url": address,
                "public_url": "http://maps.test/archive",
                "map_url": "http://maps.test",
                **options,
            }
        )
        warmup = SyntheticCollection(1, 0)
        scan = serve_archive.make_sample_cog()
        for synthetic in [warmup, *collections]:
            serve_archive.publish(archive, scan, synthetic)
            print(f"{synthetic.count} frames of {len(scan.data) / 1e6:.1f} MB on the map", flush=True)
        archive.database.dispose()
        port = urlsplit(server.endpoint_url).port
        assert port
        bucket = stack.enter_context(far_bucket(port, DELAY_SECONDS))
        yield _create_test_bed(home, storage, cluster, passwords["mapserver"], bucket, scan, warmup, collections)


def _create_test_bed(
    home: Path,
    storage: S3Storage,
    cluster: Cluster,
    password: str,
    bucket: FarBucket,
    scan: SampleCog,
    warmup: SyntheticCollection,
    collections: list[SyntheticCollection],
) -> _TestBed:
    """The three contenders over the published collections."""
    options = {
        "AWS_S3_ENDPOINT": bucket.server,
        "AWS_HTTPS": "NO",
        "AWS_VIRTUAL_HOSTING": "FALSE",
        "AWS_REGION": REGION,
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
    }
    (home / "mapfiles").mkdir()
    MapfileSync(storage, home / "mapfiles", home / "collections.json", home / "state.json").sync_once()
    database = PostgresService("127.0.0.1", cluster.port, "ls4", "mapserver", password)
    ours, legacy = Ours(home, home / "mapfiles", database, options), Legacy(home, database, options)
    titiler, titiler_missing = None, None
    try:
        titiler = Titiler(home, titiler_python(), options)
    except LookupError as error:
        titiler_missing = str(error)
        print(titiler_missing)
    for synthetic in [warmup, *collections]:
        legacy.publish(synthetic)
        if titiler:
            titiler.publish(synthetic, serve_archive.features(synthetic, scan, storage.bucket))
    return _TestBed(ours, {"ours": ours, "legacy": legacy, "titiler": titiler}, bucket, warmup, titiler_missing)


@contextmanager
def _cluster(home: Path) -> Iterator[Cluster]:
    folder = home / "postgres"
    folder.mkdir()
    folder.chmod(0o711)
    cluster = Cluster(folder / "data", find_free_port(), secrets.token_urlsafe(16), "postgres" if os.geteuid() == 0 else None)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


def _table(view: str, by_count: Mapping[str, Mapping[str, Figures | None]]) -> str:
    lines = [view.replace("_", " ")]
    for count, contenders in by_count.items():
        for name, figures in contenders.items():
            if figures:
                lines.append(
                    f"  {count:>4s} frames  {name:8s} cold {figures['cold_s']:8.3f} s   warm {figures['warm_s']:8.3f} s   "
                    f"{figures['requests_per_s']:8.2f} requests/s   storage {figures['storage_requests']:6.0f} requests "
                    f"{figures['storage_bytes'] / 1e6:8.2f} MB"
                )
    return "\n".join(lines)


def _goals(results: Results, hit_ms: float) -> Iterator[str]:
    """One line for each goal with its figure."""
    whole, native = results["whole_collection"], results["native_zoom"]
    ours = {count: figures["ours"] for count, figures in whole.items() if figures["ours"]}
    requests = [figures["storage_requests"] for figures in ours.values()]
    yield _goal(
        "storage requests for a whole collection, most frames : fewest frames", requests[-1] / requests[0], 1, at_most=True
    )
    legacy = whole["100"]["legacy"]
    assert legacy
    yield _goal("whole collection of 100 frames, cold, legacy : ours", legacy["cold_s"] / ours["100"]["cold_s"], 25)
    yield _goal("tile cache hit, milliseconds", hit_ms, 2, at_most=True)
    for count, figures in native.items():
        ls4, titiler = figures["ours"], figures["titiler"]
        if ls4 and titiler:
            view = f"native zoom, {count} frames"
            yield _goal(f"{view}, requests/s, ours : titiler", ls4["requests_per_s"] / titiler["requests_per_s"], 3)
            yield _goal(f"{view}, cold, ours : titiler", ls4["cold_s"] / titiler["cold_s"], 1.3, at_most=True)


def _goal(name: str, figure: float, target: float, *, at_most: bool = False) -> str:
    is_met = figure <= target if at_most else figure >= target
    return f"{'met   ' if is_met else 'MISSED'}  {name}: {figure:.2f} (goal: {'at most' if at_most else 'at least'} {target:g})"


if __name__ == "__main__":
    main()
