"""Where the time of a drop goes: the platform's log and Dagster's run records, put in order."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median

import dagster as dg

from benchmarks.drop_platform import LogLine, RunningDemo
from ls4_assets.assets import keys

CHANGED = ("scanned", "queued", "run started", "COG", "rebuild requested", "rebuild started", "on the map")
DELETED = ("scanned", "deletion confirmed", "rebuild requested", "rebuild started", "on the map")
STAGES = tuple(dict.fromkeys(("scanned", "deletion confirmed", *CHANGED)))
_WORK = ("frame", "tile_index", "overview_mosaic", "mapfile", "exports")


@dataclass(frozen=True)
class Change:
    """One measured change: `drop`, `replace` or `delete`. `stages`: seconds from the end of the stage before, in order."""

    kind: str
    seconds: float
    stages: dict[str, float]


def measure_stages(demo: RunningDemo, kind: str, collection_name: str, started: float, shown: float) -> Change:
    """The stages of a change that began and was on the map at these times. A stage that left no trace is part of the next one."""
    trace = _Trace(demo.log_lines(started), _runs_since(demo, started), collection_name)
    names = DELETED if kind == "delete" else CHANGED
    stages, previous = {}, started
    for name in names:
        time = shown if name == "on the map" else _TIMES[name](trace)
        if time is not None:
            time = min(max(time, previous), shown)
            stages[name], previous = time - previous, time
    return Change(kind, shown - started, stages)


def median_stages(changes: Sequence[Change]) -> dict[str, dict[str, float]]:
    """By kind of change, the median seconds of each stage. The medians of stages do not add up to the median of the whole."""
    return {
        kind: {
            stage: median(values)
            for stage in STAGES
            if (values := [change.stages[stage] for change in changes if change.kind == kind and stage in change.stages])
        }
        for kind in dict.fromkeys(change.kind for change in changes)
    }


def median_work(demo: RunningDemo, since: float) -> dict[str, float]:
    """The median seconds that frames and the assets of collections took, without the start of their runs."""
    seconds = {event: [line["seconds"] for line in demo.log_lines(since) if line["event"] == event] for event in _WORK}
    return {event: median(values) for event, values in seconds.items() if values}


@dataclass(frozen=True)
class _Trace:
    lines: list[LogLine]
    runs: list[dg.RunRecord]
    collection_name: str

    def times(self, event: str) -> Iterator[float]:
        """The times of an event that concerns this collection, or none in particular."""
        for line in self.lines:
            if line["event"] == event and line.get("collection", self.collection_name) == self.collection_name:
                yield line["time"]

    def start_of_run(self, tag: str, value: str | None) -> float | None:
        starts = [run.start_time for run in self.runs if run.dagster_run.tags.get(tag) == value and run.start_time]
        return min(starts, default=None) if value else None

    def batch(self) -> str | None:
        return next((line["batch"] for line in self.lines if line["event"] == "batch_requested"), None)

    def deletion_confirmed(self) -> float | None:
        requested = next(self.times("rebuild_requested"), float("inf"))
        return max((time for time in self.times("scan") if time < requested), default=None)


# When each stage ended.
_TIMES: dict[str, Callable[[_Trace], float | None]] = {
    "scanned": lambda trace: next(trace.times("scan"), None),
    "queued": lambda trace: next(trace.times("batch_requested"), None),
    "deletion confirmed": _Trace.deletion_confirmed,
    "run started": lambda trace: trace.start_of_run(keys.BATCH_TAG, trace.batch()),
    "COG": lambda trace: next(trace.times("frame"), None),
    "rebuild requested": lambda trace: next(trace.times("rebuild_requested"), None),
    "rebuild started": lambda trace: trace.start_of_run(keys.COLLECTION_TAG, trace.collection_name),
}


def _runs_since(demo: RunningDemo, started: float) -> list[dg.RunRecord]:
    """The latest runs; those that were created before a change are not its own."""
    records = demo.instance.get_run_records(limit=20)
    return [record for record in records if record.create_timestamp.timestamp() >= started]
