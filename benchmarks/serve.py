"""How fast are maps? `python -m benchmarks.serve [--json] [--quick]`

This platform's front, lambda-s4's mapfile under CGI, and titiler over MosaicJSON (where it is installed: docs/performance.md),
side by side over the same COGs on a real S3 server that is made farther away by a fixed delay of each request. A whole collection
on one map, and tiles of native zoom, in collections of 10, 100 and 1000 frames: latency cold and warm, requests a second, and
requests to storage.
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

from benchmarks import serve_archive, serve_measure
from benchmarks.serve_archive import Scan, Survey
from benchmarks.serve_contenders import Contender, Legacy, Ours, Titiler, titiler_python
from benchmarks.serve_measure import Effort, Figures
from benchmarks.serve_storage import FarBucket, far_bucket
from ls4_assets.db.bootstrap import ROLES, bootstrap
from ls4_assets.local.postgres import Cluster
from ls4_assets.local.state import free_port
from ls4_assets_tests.s3_servers import ACCESS_KEY, REGION, SECRET_KEY, aws_environment, seaweedfs_server
from mapserver.config import PostgresService
from mapserver.sync import Sync
from resources.archive import Archive
from resources.s3_storage import S3Storage

DELAY = 0.020
_CORES = len(os.sched_getaffinity(0))
# Eight clients keep all workers busy on a small machine, and their own process stays small beside them.
_THOROUGH = Effort(rounds=3, repeats=5, load_seconds=5, warm_seconds=16, workers=4 * _CORES, clients=8)
_QUICK = Effort(rounds=1, repeats=3, load_seconds=2, warm_seconds=4, workers=_CORES, clients=4)

# By view, number of frames, contender; None: a contender that is not installed.
Results = dict[str, dict[str, dict[str, Figures | None]]]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serve", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print the figures as JSON on the last line")
    parser.add_argument("--quick", action="store_true", help="10 and 100 frames, one round, short loads: rough ratios")
    arguments = parser.parse_args()
    counts, effort = ((10, 100), _QUICK) if arguments.quick else ((10, 100, 1000), _THOROUGH)
    surveys = [Survey(count, number) for number, count in enumerate(counts, 1)]
    with _stand(surveys) as stand:
        results = stand.compare(surveys, effort)
        hit = round(serve_measure.tile_cache_hit_ms(replace(stand.ours, cache_mb=64), surveys[0]), 3)
    print(f"tile cache hit: {hit} ms")
    for sentence in _goals(results, hit):
        print(sentence)
    if arguments.json:
        absent = {"titiler": None, "reason": stand.absent} if stand.absent else {}
        print(json.dumps({**results, "tile_cache_hit_ms": hit, **absent}))


@dataclass(frozen=True)
class _Stand:
    """Everything that is measured, ready to be started; `beside` is a collection that no figure is about."""

    ours: Ours
    contenders: Mapping[str, Contender | None]
    bucket: FarBucket
    beside: Survey
    absent: str | None

    def compare(self, surveys: list[Survey], effort: Effort) -> Results:
        results: Results = {"whole_collection": {}, "native_zoom": {}}
        for view in results:
            for survey in surveys:
                measured = {name: self._alone(view, one, survey, effort) for name, one in self.contenders.items()}
                results[view][str(survey.count)] = measured
                cold = ", ".join(f"{name} {one['cold_s']:.3f} s" for name, one in measured.items() if one)
                print(f"{view.replace('_', ' ')}, {survey.count} frames, cold: {cold}", flush=True)
        for name, contender in self.contenders.items():
            if contender is not None:
                self._under_load(name, contender, surveys, effort, results)
        for view, by_count in results.items():
            print(_table(view, by_count), flush=True)
        return results

    def _alone(self, view: str, contender: Contender | None, survey: Survey, effort: Effort) -> Figures | None:
        if contender is None:
            return None
        measure = serve_measure.whole_collection if view == "whole_collection" else serve_measure.native_zoom
        return measure(contender, survey, self.beside, self.bucket, effort)

    def _under_load(self, name: str, contender: Contender, surveys: list[Survey], effort: Effort, results: Results) -> None:
        for survey in surveys:
            with contender.running(effort.workers) as server:
                for view, addresses in zip(results, serve_measure.load_views(contender, survey), strict=True):
                    figures = results[view][str(survey.count)][name]
                    assert figures is not None
                    rate = serve_measure.requests_per_s(server, addresses, figures["warm_s"], self.bucket, effort)
                    figures["requests_per_s"] = round(rate, 3)


@contextmanager
def _stand(surveys: list[Survey]) -> Iterator[_Stand]:
    with ExitStack() as stack:
        # Straight under the temporary directory: the users that serve must be able to enter.
        home = Path(tempfile.mkdtemp(prefix="ls4-serve-"))
        home.chmod(0o755)
        stack.callback(shutil.rmtree, home)
        stack.enter_context(aws_environment())
        server = stack.enter_context(seaweedfs_server())
        storage = server.new_bucket()
        passwords = {role: secrets.token_urlsafe(16) for role in ROLES}
        cluster = stack.enter_context(_cluster(home))
        bootstrap(cluster.admin_url, passwords)
        near = {"s3_endpoint_url": server.endpoint_url, "s3_region": REGION, "work_dir": str(home / "work")}
        (home / "work").mkdir()
        address = f"postgresql+psycopg2://ls4:{passwords['ls4']}@127.0.0.1:{cluster.port}/ls4"
        archive = Archive(
            overrides={
                "storage": f"s3://{storage.bucket}",
                "database_url": address,
                "public_url": "http://maps.test/archive",
                "map_url": "http://maps.test",
                **near,
            }
        )
        beside = Survey(1, 0)
        scan = serve_archive.make_scan()
        for survey in [beside, *surveys]:
            serve_archive.publish(archive, scan, survey)
            print(f"{survey.count} frames of {len(scan.data) / 1e6:.1f} MB on the map", flush=True)
        archive.database.dispose()
        port = urlsplit(server.endpoint_url).port
        assert port
        bucket = stack.enter_context(far_bucket(port, DELAY))
        yield _made(home, storage, cluster, passwords["mapserver"], bucket, scan, beside, surveys)


def _made(
    home: Path,
    storage: S3Storage,
    cluster: Cluster,
    password: str,
    bucket: FarBucket,
    scan: Scan,
    beside: Survey,
    surveys: list[Survey],
) -> _Stand:
    """The three contenders over what is published."""
    options = {
        "AWS_S3_ENDPOINT": bucket.server,
        "AWS_HTTPS": "NO",
        "AWS_VIRTUAL_HOSTING": "FALSE",
        "AWS_REGION": REGION,
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
    }
    (home / "mapfiles").mkdir()
    Sync(storage, home / "mapfiles", home / "collections.json", home / "state.json").look()
    database = PostgresService("127.0.0.1", cluster.port, "ls4", "mapserver", password)
    ours, legacy = Ours(home, home / "mapfiles", database, options), Legacy(home, database, options)
    titiler, absent = None, None
    try:
        titiler = Titiler(home, titiler_python(), options)
    except LookupError as reason:
        absent = str(reason)
        print(absent)
    for survey in [beside, *surveys]:
        legacy.publish(survey)
        if titiler:
            titiler.publish(survey, serve_archive.features(survey, scan, storage.bucket))
    return _Stand(ours, {"ours": ours, "legacy": legacy, "titiler": titiler}, bucket, beside, absent)


@contextmanager
def _cluster(home: Path) -> Iterator[Cluster]:
    folder = home / "postgres"
    folder.mkdir()
    folder.chmod(0o711)
    cluster = Cluster(folder / "data", free_port(), secrets.token_urlsafe(16), "postgres" if os.geteuid() == 0 else None)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


def _table(view: str, by_count: Mapping[str, Mapping[str, Figures | None]]) -> str:
    lines = [view.replace("_", " ")]
    for count, contenders in by_count.items():
        for name, one in contenders.items():
            if one:
                lines.append(
                    f"  {count:>4s} frames  {name:8s} cold {one['cold_s']:8.3f} s   warm {one['warm_s']:8.3f} s   "
                    f"{one['requests_per_s']:8.2f} requests/s   storage {one['storage_requests']:6.0f} requests "
                    f"{one['storage_bytes'] / 1e6:8.2f} MB"
                )
    return "\n".join(lines)


def _goals(results: Results, hit: float) -> Iterator[str]:
    """What is wanted of the figures, and what they are."""
    whole, native = results["whole_collection"], results["native_zoom"]
    ours = {count: figures["ours"] for count, figures in whole.items() if figures["ours"]}
    requests = [figures["storage_requests"] for figures in ours.values()]
    yield _goal("storage requests of a whole collection, most frames : fewest", requests[-1] / requests[0], 1, smaller=True)
    legacy = whole["100"]["legacy"]
    assert legacy
    yield _goal("whole collection of 100 frames, cold, legacy : ours", legacy["cold_s"] / ours["100"]["cold_s"], 25)
    yield _goal("tile cache hit, milliseconds", hit, 2, smaller=True)
    for count, figures in native.items():
        mine, other = figures["ours"], figures["titiler"]
        if mine and other:
            of = f"native zoom, {count} frames"
            yield _goal(f"{of}, requests/s, ours : titiler", mine["requests_per_s"] / other["requests_per_s"], 3)
            yield _goal(f"{of}, cold, ours : titiler", mine["cold_s"] / other["cold_s"], 1.3, smaller=True)


def _goal(what: str, found: float, wanted: float, *, smaller: bool = False) -> str:
    met = found <= wanted if smaller else found >= wanted
    return f"{'met   ' if met else 'MISSED'}  {what}: {found:.2f} (wanted: {'at most' if smaller else 'at least'} {wanted:g})"


if __name__ == "__main__":
    main()
