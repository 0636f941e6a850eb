"""`ls4 adopt` from start to end: select the collections, adopt them, and report on each."""

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack

from ls4_assets.operations.adopt.archive import adopt, scans_paused, select_collections
from ls4_assets.operations.adopt.messages import AdoptSummary
from ls4_assets.runtime.instance import open_instance
from ls4_assets.settings import Settings


def run(
    settings: Settings,
    paths: Sequence[str],
    echo: Callable[[str], None],
    *,
    apply: bool,
    ignore_times: bool,
    on_progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> bool:
    """Plan, or adopt when `apply` is set. Return False when a whole collection failed.

    `on_progress` gets the number of finished collections, and of all.
    Single COGs that cannot be adopted are common and do not count as a failure.
    """
    started = time.monotonic()
    collections, invalid_folders = select_collections(settings, paths)
    for sentence in invalid_folders:
        echo(f"skipped: {sentence}")
    summary = AdoptSummary(apply, len(collections))
    with ExitStack() as stack:
        instance = stack.enter_context(open_instance()) if apply else None
        if apply:
            stack.enter_context(scans_paused(settings))
        ref = instance.get_ref() if instance else None
        on_progress(0, len(collections))
        for number, result in enumerate(adopt(settings, collections, ref, ignore_times=ignore_times), start=1):
            for line in summary.add(result):
                echo(line)
            on_progress(number, len(collections))
    for line in summary.final_lines(time.monotonic() - started):
        echo(line)
    return not summary.failed
