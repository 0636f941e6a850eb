"""A batch of frames through Dagster, compared with the same pixel work in a bare process pool on the same files.

The sensor `ingest_poll` finds, claims and requests the batch, and its run is forked from a warm run server, as by the launcher of
one machine. The wall time of the run, from the request to the end of its process, includes planned events, copies from and to
the archive, hashes, rows, thumbnails and materializations, but not the wait in Dagster's queue.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
from dagster._core.code_pointer import CodePointer
from dagster._core.origin import JobPythonOrigin, RepositoryPythonOrigin
from dagster._grpc.types import ExecuteRunArgs
from dagster._serdes import serialize_value

from benchmarks.photographs import write_photograph
from benchmarks.scale_definitions import load_definitions
from benchmarks.scale_pool import bare_pool
from ls4_assets.definitions import defs
from ls4_assets.domain.names import Collection, Frame
from ls4_assets.operations.status import collect
from ls4_assets.runtime import run_client
from resources.archive import Archive

_COLLECTION = Collection("Travis", "USDA_1958", "frames")
# The number of different photographs; the frames are hard links to them.
_PHOTOGRAPHS = 4
_POLL_SECONDS = 0.05


def measure_batch(frames: int, side: int) -> dict[str, float]:
    """Seconds of the run and of the bare pool, and their ratio.

    The bare pool is measured before and after the run, because the mean of both is a fairer baseline on a shared machine. The
    pool that keeps its files, as the run does, is a second baseline: that ratio is the cost of Dagster and the archive without
    the disk.
    """
    archive = Archive()
    paths = _drop(archive, frames, side)
    workers = archive.settings.workers
    keeping = [bare_pool(paths, workers, keep=True)]
    bare = [bare_pool(paths, workers)]
    with dg.DagsterInstance.get() as instance:
        _begin_shard(instance, archive)
        started = time.perf_counter()
        request = _request_batch(instance, archive, frames)
        sensor_s = time.perf_counter() - started
        arguments = _create_run(instance, request)
        with _run_server(Path(os.environ["LS4_WORK_DIR"])) as server:
            os.sync()
            started = time.perf_counter()
            run_client.start_run(server, arguments.run_id, serialize_value(arguments), {_COLLECTION.shard})
            while run_client.list_runs(server):
                time.sleep(_POLL_SECONDS)
            run_s = time.perf_counter() - started
    bare.append(bare_pool(paths, workers))
    keeping.append(bare_pool(paths, workers, keep=True))
    done = collect(archive.settings, _COLLECTION.name).collections[0].done
    assert done == frames, f"{done} of {frames} frames are done; check the run's log above"
    bare_s, keeping_s = sum(bare) / len(bare), sum(keeping) / len(keeping)
    return {
        "frames": frames, "side": side, "workers": workers, "ratio": run_s / bare_s, "run_s": run_s, "bare_s": bare_s,
        "bare_before_s": bare[0], "bare_after_s": bare[1], "ratio_to_keeping": run_s / keeping_s, "keeping_s": keeping_s,
        "sensor_s": sensor_s, **_run_seconds_from_log(workers, run_s),
    }  # fmt: skip


def _drop(archive: Archive, frames: int, side: int) -> list[Path]:
    folder = Path(archive.storage.gdal_path(f"{_COLLECTION.folder('bw')}/georef"))
    folder.mkdir(parents=True)
    paths = [folder / f"02-08-60_6-{number}.tif" for number in range(frames)]
    for number, path in enumerate(paths):
        if number < _PHOTOGRAPHS:
            write_photograph(path, side, 1, collar=False, seed=58 + number)
        else:
            path.hardlink_to(paths[number % _PHOTOGRAPHS])
    return paths


def _begin_shard(instance: dg.DagsterInstance, archive: Archive) -> None:
    """The first tick finds the frames, whose shard has no assets yet."""
    _tick(instance, archive)
    load_definitions()


def _tick(instance: dg.DagsterInstance, archive: Archive) -> object:
    definitions = defs()
    context = dg.build_sensor_context(instance=instance, definitions=definitions, resources={"archive": archive})
    return definitions.resolve_sensor_def("ingest_poll")(context)


def _request_batch(instance: dg.DagsterInstance, archive: Archive, frames: int) -> dg.RunRequest:
    """The run request of one sensor tick, whose events are recorded as the daemon does."""
    result = _tick(instance, archive)
    assert isinstance(result, dg.SensorResult), f"the sensor requests no run: {result}"
    for event in result.asset_events:
        instance.report_runless_asset_event(event)
    (request,) = result.run_requests or ()
    listed = request.run_config["ops"]["Travis_frames"]["config"]["frames"]
    assert listed[0] == Frame(_COLLECTION, "bw", "02-08-60_6-0").partition
    assert len(listed) == frames
    return request


@contextmanager
def _run_server(folder: Path) -> Iterator[Path]:
    """Start a run server, which the platform has before a run begins; yields its socket."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "runs.sock"
    # A thread would not survive the fork.
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "ls4_assets.runtime.run_server", str(path)]
    server = subprocess.Popen(command, stdout=sys.stderr, env=environment)
    try:
        while not run_client.is_running(path):
            assert server.poll() is None, "the run server has stopped; check the log above"
            time.sleep(_POLL_SECONDS)
        yield path
    finally:
        server.terminate()
        server.wait()


def _create_run(instance: dg.DagsterInstance, request: dg.RunRequest) -> ExecuteRunArgs:
    """Create the run in Dagster's database; returns what its process needs to know."""
    job = defs().resolve_implicit_global_asset_job_def()
    selection = frozenset(request.asset_selection or ())
    pointer = CodePointer.from_module("ls4_assets.definitions", "defs", working_directory=None)
    repository = RepositoryPythonOrigin(sys.executable, pointer, entry_point=[sys.executable, "-m", "dagster"])
    origin = JobPythonOrigin(job.name, repository)
    run = instance.create_run_for_job(
        job.get_subset(asset_selection=selection),
        run_config=request.run_config,
        tags={**request.tags, "dagster/partition": str(request.partition_key)},
        asset_selection=selection,
        job_code_origin=origin,
    )
    return ExecuteRunArgs(origin, run.run_id, instance.get_ref(), set_exit_code_on_failure=True)


def _run_seconds_from_log(workers: int, run_s: float) -> dict[str, float]:
    """The parts of the run's time from its log lines, in seconds of wall time; work of the workers is divided by their number."""
    lines = [json.loads(line) for line in Path(os.environ["LS4_LOG_FILE"]).read_text().splitlines()]
    (batch,) = (line for line in lines if line["event"] == "batch")
    frames = [line for line in lines if line["event"] == "frame"]
    pixels = sum(stage["seconds"] for line in frames for stage in line["stages"].values())
    return {
        "outside_pool_s": run_s - batch["seconds"],
        "pixels_s": pixels / workers,
        "fetch_s": sum(line["fetch_seconds"] for line in frames) / workers,
        "publish_s": sum(line["publish_seconds"] for line in frames) / workers,
        "frames_s": sum(line["seconds"] for line in frames) / workers,
    }
