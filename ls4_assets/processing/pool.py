"""The pool of worker processes of a run: each carries out one order at a time, within bounds of its own.

What befalls a worker costs its own frame only; and no worker outlives its run.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, as_completed
from concurrent.futures.process import BrokenProcessPool

from pebble import ProcessPool

from ls4_assets.processing import admission
from ls4_assets.processing.tasks import Order, Outcome
from ls4_assets.settings import Settings

Work = Callable[[Order], Outcome]

# A worker that is killed before it has said which order it took breaks its pool; the next one takes what is left.
_POOLS = 3


def run_tasks(work: Work, orders: Sequence[Order], settings: Settings) -> Iterator[tuple[Order, Outcome | BaseException]]:
    """Each order with its outcome, as they finish. A worker that is killed, or hangs, costs its own frame only."""
    for pools_left in reversed(range(_POOLS)):
        lost = []
        for order, outcome in _in_one_pool(work, orders, settings):
            if isinstance(outcome, BrokenProcessPool) and pools_left:
                lost.append(order)
            else:
                yield order, outcome
        if not lost:
            return
        orders = lost


def _in_one_pool(work: Work, orders: Sequence[Order], settings: Settings) -> Iterator[tuple[Order, Outcome | BaseException]]:
    # Not fork: the run process has threads. The server process imports the pixel code once for all workers.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["ls4_assets.processing.worker"])
    memory = settings.worker_memory_mb
    workers = admission.workers_that_fit(min(settings.workers, len(orders)), memory)
    pool = ProcessPool(max_workers=workers, context=context, initializer=_begin, initargs=[memory])
    try:
        futures: dict[Future[Outcome], Order] = {
            pool.schedule(work, args=[order], timeout=settings.frame_timeout_seconds): order for order in orders
        }
        for future in as_completed(futures):
            error = future.exception()
            yield futures[future], error if error is not None else future.result()
        pool.close()
    finally:
        pool.stop()
        pool.join()


def _begin(memory: int) -> None:
    """What a worker does first."""
    admission.bound_memory(memory)
    end_with_parent()


def end_with_parent() -> None:
    """From now on this worker dies with the process that made its pool: that one, killed, cannot stop its workers, and they would
    publish, or hang, behind the back of whoever comes next."""
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGKILL)
