"""A batch of frames through Dagster against the same pixel work in a bare process pool, on the same files.

The batch is found, claimed and requested by the sensor `bucket`, and its run is a process of its own as the launcher starts it
(`dagster api execute_run`). Its wall time has everything in it: the process's start, its imports, the load of all definitions,
planned events, copies from and to the archive, hashes, rows, thumbnails, materialisations. Not in it: the wait in Dagster's
queue.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import dagster as dg
from dagster._core.code_pointer import CodePointer
from dagster._core.origin import JobPythonOrigin, RepositoryPythonOrigin
from dagster._grpc.types import ExecuteRunArgs

from benchmarks.photographs import write_photograph
from benchmarks.scale_pool import bare_pool
from ls4_assets.definitions import defs
from ls4_assets.domain.names import Collection, Frame
from ls4_assets.operations.status import collect
from resources.archive import Archive

_OF = Collection("Travis", "USDA_1958", "frames")
# Photographs that differ; the frames are hard links to them.
_PHOTOGRAPHS = 4


def measure_batch(frames: int, side: int) -> dict[str, float]:
    """The bare pool is measured before and after the run: on a shared machine the mean of the two is the fairer yardstick.

    So is the same pool keeping its files, which the run does: that ratio is what Dagster and the archive cost without the disk.
    """
    archive = Archive()
    paths = _drop(archive, frames, side)
    workers = archive.settings.workers
    keeping = [bare_pool(paths, workers, keep=True)]
    bare = [bare_pool(paths, workers)]
    started = time.perf_counter()
    with dg.DagsterInstance.get() as instance:
        request = _requested(instance, archive, frames)
        sensor_s = time.perf_counter() - started
        command = _launched(instance, request)
        os.sync()
        started = time.perf_counter()
        ended = subprocess.run(command, check=False, stdout=sys.stderr)
        run_s = time.perf_counter() - started
    bare.append(bare_pool(paths, workers))
    keeping.append(bare_pool(paths, workers, keep=True))
    done = collect(archive.settings, _OF.name).collections[0].done
    assert (ended.returncode, done) == (0, frames), f"{done} of {frames} frames are done; look at the run's log above"
    bare_s, keeping_s = sum(bare) / len(bare), sum(keeping) / len(keeping)
    return {
        "frames": frames, "side": side, "workers": workers, "ratio": run_s / bare_s, "run_s": run_s, "bare_s": bare_s,
        "bare_before_s": bare[0], "bare_after_s": bare[1], "ratio_to_keeping": run_s / keeping_s, "keeping_s": keeping_s,
        "sensor_s": sensor_s, **_told_by_log(workers, run_s),
    }  # fmt: skip


def _drop(archive: Archive, frames: int, side: int) -> list[Path]:
    folder = Path(archive.storage.gdal_path(f"{_OF.folder('bw')}/georef"))
    folder.mkdir(parents=True)
    paths = [folder / f"02-08-60_6-{number}.tif" for number in range(frames)]
    for number, path in enumerate(paths):
        if number < _PHOTOGRAPHS:
            write_photograph(path, side, 1, collar=False, seed=58 + number)
        else:
            path.hardlink_to(paths[number % _PHOTOGRAPHS])
    return paths


def _requested(instance: dg.DagsterInstance, archive: Archive, frames: int) -> dg.RunRequest:
    """One tick of the sensor; its events are recorded as the daemon would."""
    definitions = defs()
    context = dg.build_sensor_context(instance=instance, definitions=definitions, resources={"archive": archive})
    result = definitions.resolve_sensor_def("ingest_poll")(context)
    assert isinstance(result, dg.SensorResult), f"the sensor requests nothing: {result}"
    for event in result.asset_events:
        instance.report_runless_asset_event(event)
    (request,) = result.run_requests or ()
    listed = request.run_config["ops"]["Travis_frames"]["config"]["frames"]
    assert listed[0] == Frame(_OF, "bw", "02-08-60_6-0").partition
    assert len(listed) == frames
    return request


def _launched(instance: dg.DagsterInstance, request: dg.RunRequest) -> list[str]:
    """The run in Dagster's database, and the command that carries it out."""
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
    return list(ExecuteRunArgs(origin, run.run_id, instance.get_ref(), set_exit_code_on_failure=True).get_command_args())


def _told_by_log(workers: int, run_s: float) -> dict[str, float]:
    """Where the run's time went, from its own log lines: seconds of wall, the workers' own shared between them."""
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
