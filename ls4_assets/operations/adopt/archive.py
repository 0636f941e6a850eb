"""Many collections adopted at once: which they are, the pool of processes, and what is said meanwhile."""

import multiprocessing
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, as_completed
from contextlib import contextmanager

from dagster._core.instance.ref import InstanceRef
from pebble import ProcessExpired, ProcessPool

from ls4_assets.domain.names import Collection, parse_collection_path
from ls4_assets.errors import ConfigurationError, Ls4Error
from ls4_assets.ingest.scan import scan_lock
from ls4_assets.operations.adopt.collection import Order, Report, adopt_collection
from ls4_assets.operations.adopt.inventory import find_collections
from ls4_assets.processing.pool import end_with_parent
from ls4_assets.settings import Settings
from resources.open import open_database, open_storage

_SCAN_LOCK_TIMEOUT = 120.0


def chosen_collections(settings: Settings, paths: Sequence[str]) -> tuple[list[Collection], list[str]]:
    """Those that an operator names by path, else all that have a folder; with a sentence for each folder that is none.

    Raises NameRejected for a path that is none.
    """
    if paths:
        return sorted({parse_collection_path(path, settings.shards)[0] for path in paths}), []
    return find_collections(open_storage(settings), settings.shards)


def adopt(
    settings: Settings, collections: Sequence[Collection], instance: InstanceRef | None, *, ignore_times: bool = False
) -> Iterator[Report | tuple[Collection, str]]:
    """One report for each collection as it is done, or the sentence that says why it could not be.

    `instance`: Dagster's; None to plan only.
    """
    orders = [Order(settings, of, ignore_times, instance) for of in collections]
    # The processes start from one that has no threads, and imports everything once.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["ls4_assets.operations.adopt.collection"])
    pool = ProcessPool(max_workers=min(settings.workers, len(orders)) or 1, context=context, initializer=end_with_parent)
    try:
        futures: dict[Future[Report], Order] = {pool.schedule(adopt_collection, args=[order]): order for order in orders}
        for future in as_completed(futures):
            error = future.exception()
            yield future.result() if error is None else (futures[future].of, _explain(futures[future].of, error))
        pool.close()
    finally:
        pool.stop()
        pool.join()


@contextmanager
def scans_paused(settings: Settings) -> Iterator[None]:
    """Keep the sensor from queueing the very tifs whose COGs are being adopted. Raises ConfigurationError."""
    engine = open_database(settings.database_url.get_secret_value())
    deadline = time.monotonic() + _SCAN_LOCK_TIMEOUT
    while True:
        with scan_lock(engine) as alone:
            if alone:
                yield
                return
        if time.monotonic() > deadline:
            raise ConfigurationError("The bucket is being looked at, or adopted, by another process; try again later.")
        time.sleep(0.5)


def _explain(of: Collection, error: BaseException) -> str:
    if isinstance(error, Ls4Error):
        return str(error)
    if isinstance(error, ProcessExpired):
        return f"The process that adopted {of.name} was killed (exit code {error.exitcode}); adopt again: it goes on from there."
    what = " ".join(f"{type(error).__name__}: {error}".split())
    return f"{of.name} met an unexpected {what}; adopt again, and report it if it stays."
