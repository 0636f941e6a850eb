"""Adopting finished COGs: how many per second become rows and materializations, with all workers."""

import time
from pathlib import Path

import dagster as dg

from benchmarks.scale_collection import small_cog
from ls4_assets.domain.names import Collection, Frame
from ls4_assets.operations.adopt.archive import adopt
from ls4_assets.operations.adopt.collection import AdoptReport
from resources.archive import Archive

# Each worker process adopts one collection after the other, so several collections keep all workers busy.
_COLLECTIONS = 4


def measure_adopt(cogs: int) -> dict[str, float]:
    """Seconds from the start of the processes to the last report. All COGs are hard links to one file of 512 px."""
    archive = Archive()
    collections = [Collection("Travis", f"USDA_{1950 + number}", "frames") for number in range(_COLLECTIONS)]
    first: Path | None = None
    for number in range(cogs):
        frame = Frame(collections[number % _COLLECTIONS], "bw", f"02-08-60_{number // 1000 + 1}-{number % 1000 + 1}")
        path = Path(archive.storage.gdal_path(frame.cog_key))
        path.parent.mkdir(parents=True, exist_ok=True)
        if first is None:
            path.write_bytes(small_cog())
            first = path
        else:
            path.hardlink_to(first)
    with dg.DagsterInstance.get() as instance:
        started = time.perf_counter()
        reports = list(adopt(archive.settings, collections, instance.get_ref()))
        seconds = time.perf_counter() - started
    adopted = sum(report.adopted for report in reports if isinstance(report, AdoptReport))
    assert adopted == cogs, f"{adopted} of {cogs} COGs were adopted: {reports}"
    return {"cogs": cogs, "workers": archive.settings.workers, "seconds": seconds, "cogs_per_s": cogs / seconds}
