"""The baseline of a batch: the pixel work of its frames in a bare process pool, without archive and Dagster.

It is a separate module, because its workers import it: imports that the pixel work does not need would slow their start.
"""

import multiprocessing
import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

from ls4_assets.domain.profiles import PROFILES
from ls4_assets.raster.frame import process
from ls4_assets.raster.source import Limits


def bare_pool(paths: Sequence[Path], workers: int, keep: bool = False) -> float:
    """Seconds from the start of the pool to the last frame.

    `keep` keeps all files until the end, as real processing does: files that are deleted at once are never written to disk.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.scale_pool"])
    with tempfile.TemporaryDirectory(dir=os.environ["LS4_WORK_DIR"]) as kept:
        os.sync()
        started = time.perf_counter()
        with ProcessPoolExecutor(workers, mp_context=context) as pool:
            for _ in pool.map(partial(_pixels, Path(kept), keep), paths):
                pass
        return time.perf_counter() - started


def _pixels(kept: Path, keep: bool, path: Path) -> None:
    folder = kept / path.stem
    folder.mkdir()
    process(path, folder, path.stem, "bw", PROFILES["bw"], Limits(10**9, 10**10))
    if not keep:
        shutil.rmtree(folder)
