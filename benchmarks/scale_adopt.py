"""Taking over finished COGs: how many a second become rows and materialisations, with all workers."""

import time
from pathlib import Path

import dagster as dg

from benchmarks.scale_collection import small_cog
from ls4_assets.domain.names import Collection, Frame
from ls4_assets.operations.adopt.archive import adopt
from ls4_assets.operations.adopt.collection import Report
from resources.archive import Archive

# A process takes over one collection after the other.
_COLLECTIONS = 4


def measure_adopt(cogs: int) -> dict[str, float]:
    """Seconds from the start of the processes to the last report. The COGs are one file of 512 px under many names."""
    archive = Archive()
    collections = [Collection("Travis", f"USDA_{1950 + number}", "frames") for number in range(_COLLECTIONS)]
    first: Path | None = None
    for number in range(cogs):
        one = Frame(collections[number % _COLLECTIONS], "bw", f"02-08-60_{number // 1000 + 1}-{number % 1000 + 1}")
        path = Path(archive.storage.gdal_path(one.cog_key))
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
    adopted = sum(report.adopted for report in reports if isinstance(report, Report))
    assert adopted == cogs, f"{adopted} of {cogs} COGs were adopted: {reports}"
    return {"cogs": cogs, "workers": archive.settings.workers, "seconds": seconds, "cogs_per_s": cogs / seconds}
