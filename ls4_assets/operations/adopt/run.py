"""`ls4 adopt` as a whole: choose the collections, adopt them, say what became of them."""

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack

from ls4_assets.operations.adopt.archive import adopt, chosen_collections, scans_paused
from ls4_assets.operations.adopt.collection import Report
from ls4_assets.operations.adopt.messages import Told
from ls4_assets.runtime.instance import open_instance
from ls4_assets.settings import Settings


def run(settings: Settings, paths: Sequence[str], say: Callable[[str], None], *, apply: bool, ignore_times: bool) -> bool:
    """Plan, or adopt. Returns whether no collection failed as a whole: single COGs that cannot be adopted are usual."""
    started = time.monotonic()
    collections, rejected = chosen_collections(settings, paths)
    for sentence in rejected:
        say(f"passed over: {sentence}")
    told = Told(apply, len(collections))
    with ExitStack() as stack:
        instance = stack.enter_context(open_instance()) if apply else None
        if apply:
            stack.enter_context(scans_paused(settings))
        ref = instance.get_ref() if instance else None
        for done in adopt(settings, collections, ref, ignore_times=ignore_times):
            for line in told.of(done) if isinstance(done, Report) else told.failure(done[0].name, done[1]):
                say(line)
    for line in told.end(time.monotonic() - started):
        say(line)
    return not told.failed
