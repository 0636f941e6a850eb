"""Adopt many collections at once: select them, run the process pool, and keep the sensors from scanning.

Adopting one collection is in `collection`; what the operator reads is in `messages`.
"""

import multiprocessing
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, as_completed
from contextlib import contextmanager

from pebble import ProcessExpired, ProcessPool

from ls4_assets.domain.key_parser import parse_collection_path
from ls4_assets.domain.names import Collection
from ls4_assets.errors import ConfigurationError, Ls4Error
from ls4_assets.ingest.scan import scan_lock
from ls4_assets.operations.adopt.collection import AdoptReport, AdoptTask, adopt_collection
from ls4_assets.operations.adopt.inventory import find_collections
from ls4_assets.processing.pool import exit_with_parent
from ls4_assets.runtime.instance import InstanceReference
from ls4_assets.settings import Settings
from resources.open import open_database, open_storage

_SCAN_LOCK_TIMEOUT_SECONDS = 120.0


def select_collections(settings: Settings, paths: Sequence[str]) -> tuple[list[Collection], list[str]]:
    """Return the collections at `paths`, or every collection that has a folder, and a sentence for each invalid folder.

    Raises InvalidNameError for a path that is not a collection's.
    """
    if paths:
        return sorted({parse_collection_path(path, settings.naming)[0] for path in paths}), []
    return find_collections(open_storage(settings), settings.naming)


def adopt(
    settings: Settings, collections: Sequence[Collection], instance: InstanceReference | None, *, ignore_times: bool = False
) -> Iterator[AdoptReport | tuple[Collection, str]]:
    """Yield a report for each collection as it finishes, or the collection with the sentence that explains its failure.

    `instance`: the Dagster instance; None to plan only.
    """
    tasks = [AdoptTask(settings, collection, ignore_times, instance) for collection in collections]
    # Workers fork from a server process that has no threads and imports everything once.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["ls4_assets.operations.adopt.collection"])
    pool = ProcessPool(max_workers=min(settings.workers, len(tasks)) or 1, context=context, initializer=exit_with_parent)
    try:
        futures: dict[Future[AdoptReport], AdoptTask] = {pool.schedule(adopt_collection, args=[task]): task for task in tasks}
        for future in as_completed(futures):
            error = future.exception()
            yield future.result() if error is None else (futures[future].collection, _explain_failure(error))
        pool.close()
    finally:
        pool.stop()
        pool.join()


@contextmanager
def scans_paused(settings: Settings) -> Iterator[None]:
    """Hold the scan lock, so that no sensor queues the tifs whose COGs are being adopted.

    Raises ConfigurationError when another process keeps the lock for two minutes.
    """
    engine = open_database(settings.database_url.get_secret_value())
    deadline = time.monotonic() + _SCAN_LOCK_TIMEOUT_SECONDS
    while True:
        with scan_lock(engine) as is_locked:
            if is_locked:
                yield
                return
        if time.monotonic() > deadline:
            raise ConfigurationError("Another process is scanning the bucket or adopting collections; try again later.")
        time.sleep(0.5)


def _explain_failure(error: BaseException) -> str:
    if isinstance(error, Ls4Error):
        return str(error)
    if isinstance(error, ProcessExpired):
        return f"The process was killed (exit code {error.exitcode}); adopt again to resume where it stopped."
    reason = " ".join(f"{type(error).__name__}: {error}".split())
    return f"An unexpected error occurred ({reason}); adopt again, and report the error if it persists."
