"""The pool of worker processes of a run. Each worker processes one task at a time, with a timeout and a memory limit.

A crashed worker fails only its own frame, and no worker survives its run. `worker` has the work itself.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import TypeVar

from pebble import ProcessPool

from ls4_assets.processing import admission
from ls4_assets.raster import proj_setup
from ls4_assets.settings import FrameSettings
from resources.scratch import scratch_folder

Task = TypeVar("Task")
Outcome = TypeVar("Outcome")

# A worker that is killed before it reports which task it took breaks its pool; the next pool processes the remaining tasks.
_MAX_POOLS = 3
_PROJ_PREFIX = "ls4-proj-"


def run_tasks(
    process: Callable[[Task], Outcome], tasks: Sequence[Task], settings: FrameSettings
) -> Iterator[tuple[Task, Outcome | BaseException]]:
    """Yield each task with its outcome, in the order of completion.

    A worker that crashes or exceeds `frame_timeout_seconds` yields its exception for its own task only.
    """
    with scratch_folder(_PROJ_PREFIX, settings.work_dir) as folder:
        proj_data = proj_setup.link_grids(settings.proj_grids, folder)
        for pools_left in reversed(range(_MAX_POOLS)):
            lost = []
            for task, outcome in _run_pool(process, tasks, settings, proj_data):
                if isinstance(outcome, BrokenProcessPool) and pools_left:
                    lost.append(task)
                else:
                    yield task, outcome
            if not lost:
                return
            tasks = lost


def _run_pool(
    process: Callable[[Task], Outcome], tasks: Sequence[Task], settings: FrameSettings, proj_data: Path | None
) -> Iterator[tuple[Task, Outcome | BaseException]]:
    # Not fork: the run process has threads. The server process imports the pixel code once for all workers.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["ls4_assets.processing.worker"])
    memory_mb = settings.worker_memory_mb
    workers = admission.limit_workers(min(settings.workers, len(tasks)), memory_mb)
    pool = ProcessPool(max_workers=workers, context=context, initializer=_initialize_worker, initargs=[settings, proj_data])
    try:
        futures: dict[Future[Outcome], Task] = {
            pool.schedule(process, args=[task], timeout=settings.frame_timeout_seconds): task for task in tasks
        }
        for future in as_completed(futures):
            error = future.exception()
            yield futures[future], error if error is not None else future.result()
        pool.close()
    finally:
        pool.stop()
        pool.join()


def _initialize_worker(settings: FrameSettings, proj_data: Path | None) -> None:
    # Unless the setting allows it, PROJ must not fetch grids that the CRS of a scan names, or wait for a network that is closed.
    proj_setup.use_grids(settings.proj_grids, proj_data, is_network_on=settings.proj_network)
    admission.limit_memory(settings.worker_memory_mb)
    exit_with_parent()


def exit_with_parent() -> None:
    """Kill this worker when the process that created its pool exits.

    A run that is killed cannot stop its workers. They would keep publishing, or hang, while the next run works on their frames.
    """
    threading.Thread(target=_wait_for_parent, daemon=True).start()


def _wait_for_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGKILL)
