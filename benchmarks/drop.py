"""Benchmark of one change at a time: `python -m benchmarks.drop [--json] [--plot docs/images/drop.png]`

How long is it from the rename of a tif into the folder to the first GetMap that shows it? The platform is `ls4 demo` without its
sample data, on an archive that this benchmark creates and removes. Single drops, replacements and deletions each begin when the
platform is quiet, at a random moment of the daemon's loop; then one drop of many small frames. The figures are seconds with the
stages between, CPU of the idle platform and of a run that does nothing, memory, and bytes that Dagster's event log keeps.
"""

import argparse
import json
import random
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks import drop_costs
from benchmarks.drop_pixels import Photograph, Survey
from benchmarks.drop_platform import RunningDemo, running_demo, wait_until
from benchmarks.drop_stages import Change, measure_stages, median_stages, median_work
from benchmarks.drop_storm import MOST_COLLECTIONS, Storm, measure_storm

_SEED = 58
_POLL_SECONDS = 0.1
# The daemon evaluates its sensors every five seconds.
_LOOP_SECONDS = 5.0
_MANY = Survey("USDA_1966", columns=20, span=256.0, side=256)
# One drop of so many begins a collection.
_EVERY_NEW_COLLECTION = 5
_EMPTY_RUNS = 3
# More deletions of a collection in one day wait for a person (LS4_DELETION_GUARD_FRAMES).
_MAX_DELETIONS = 20
_GOAL_SECONDS = {"p50": 10.0, "p95": 15.0}
_GOAL_RUN_START_CPU_SECONDS = 0.5


def main() -> None:
    arguments = _parse_arguments()
    # On SIGTERM, too, stop the platform and remove its folder.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with running_demo() as demo:
        results = _DropBenchmark(demo, arguments).run()
    print("\n".join(results.lines(arguments.batch)))
    if arguments.json:
        print(json.dumps(_rounded(results.figures(arguments.batch))))
    if arguments.plot:
        from benchmarks.drop_plot import write_plot

        write_plot(results.changes, arguments.plot)


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.drop", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--drops", type=int, default=20, help="single drops, one in five into a new collection")
    parser.add_argument("--replacements", type=int, default=10)
    parser.add_argument("--deletions", type=int, default=10)
    parser.add_argument("--batch", type=int, default=200, help="small frames in one drop; 0: none")
    parser.add_argument("--batch-side", type=int, default=_MANY.side, help="pixels of a side of each of them")
    parser.add_argument("--collections", type=int, default=0, help="collections with one frame each, in one more drop")
    parser.add_argument("--side", type=int, default=2000, help="pixels of a side of a single photograph")
    parser.add_argument("--idle-seconds", type=float, default=60.0)
    parser.add_argument("--json", action="store_true", help="print the figures as JSON on the last line")
    parser.add_argument("--plot", type=Path, metavar="PATH", help="write the stages as PNG (needs matplotlib)")
    arguments = parser.parse_args()
    deletable = sum(not _begins_collection(number) for number in range(arguments.drops))
    if arguments.deletions > min(deletable, _MAX_DELETIONS):
        parser.error(f"choose at most {min(deletable, _MAX_DELETIONS)} deletions, or more drops")
    if arguments.collections > MOST_COLLECTIONS:
        parser.error(f"choose at most {MOST_COLLECTIONS} collections")
    if arguments.replacements and not deletable:
        parser.error("replacements need a drop")
    return arguments


def _begins_collection(number: int) -> bool:
    return number % _EVERY_NEW_COLLECTION == 1


@dataclass
class _Results:
    """All that was measured. `growths`: seconds after the drop of many, and frames on the map, each time there were more."""

    memory_mb: dict[str, float] = field(default_factory=dict)
    idle_cpu_percent: dict[str, float] = field(default_factory=dict)
    run_start_cpu_s: list[float] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    run_cpu_s: dict[str, list[float]] = field(default_factory=dict)
    work_s: dict[str, float] = field(default_factory=dict)
    growths: list[tuple[float, int]] = field(default_factory=list)
    event_bytes: dict[str, int] = field(default_factory=dict)
    storm: Storm | None = None

    def figures(self, batch: int) -> dict[str, Any]:
        return {
            **{f"{kind}_s": _percentiles(self.changes, kind) for kind in ("drop", "replace", "delete")},
            f"drop_{batch}_s": self.growths[-1][0] if self.growths else None,
            "idle_cpu_percent": sum(self.idle_cpu_percent.values()),
            "memory_pss_mb": sum(self.memory_mb.values()),
            "run_start_cpu_s": median(self.run_start_cpu_s),
            "event_bytes_per_frame": sum(self.event_bytes.values()) / batch if batch else None,
            f"first_of_{batch}_s": self.growths[0][0] if self.growths else None,
            f"longest_pause_of_{batch}_s": self._longest_pause(),
            "stages_s": median_stages(self.changes),
            "work_s": self.work_s,
            "storm": self.storm.figures() if self.storm else None,
            "run_cpu_s": {kind: median(seconds) for kind, seconds in self.run_cpu_s.items()},
        }

    def _longest_pause(self) -> float | None:
        """The longest time in which no further frame of the drop of many reached the map, from the drop on."""
        times = [0.0, *(seconds for seconds, _ in self.growths)]
        return max((later - earlier for earlier, later in pairwise(times)), default=None)

    def lines(self, batch: int) -> list[str]:
        figures = self.figures(batch)
        lines = [f"{'service':18s} {'MB PSS, fresh':>14s} {'% of a core, idle':>18s}"]
        for service in dict.fromkeys([*self.memory_mb, *self.idle_cpu_percent]):
            memory, cpu = self.memory_mb.get(service, 0.0), self.idle_cpu_percent.get(service, 0.0)
            lines.append(f"  {service:16s} {memory:14.0f} {cpu:18.2f}")
        lines.append(f"  {'all':16s} {figures['memory_pss_mb']:14.0f} {figures['idle_cpu_percent']:18.2f}")
        for kind, stages in figures["stages_s"].items():
            lines.append(_goal_line(f"{kind}, seconds", figures[f"{kind}_s"], _GOAL_SECONDS))
            lines.append("  median of each stage: " + _by_name(stages))
        lines.append("median work, seconds: " + _by_name(self.work_s))
        lines.append("median CPU of a run, seconds: " + _by_name(figures["run_cpu_s"]))
        start = {"median": figures["run_start_cpu_s"]}
        lines.append(_goal_line("CPU of a run that does nothing, seconds", start, {"median": _GOAL_RUN_START_CPU_SECONDS}))
        if self.growths:
            lines.append(f"drop of {batch}: " + ", ".join(f"{count} after {seconds:.1f} s" for seconds, count in self.growths))
            tables = _by_name({name: size / batch for name, size in self.event_bytes.items()}, digits=0)
            lines.append(f"bytes of events per frame: {tables}")
        if self.storm:
            lines.append(self.storm.line())
        return lines


@dataclass
class _DropBenchmark:
    """`draw`: the random moments of the changes, and their pixels."""

    demo: RunningDemo
    arguments: argparse.Namespace
    draw: random.Random = field(default_factory=lambda: random.Random(_SEED))

    def run(self) -> _Results:
        results = _Results()
        self.demo.wait_until_quiet()
        results.memory_mb = drop_costs.memory_mb_by_service(self.demo)
        # The collection of the single drops is on the map before they begin.
        first = self._survey(1958).photograph(0)
        self._drop(first)
        results.idle_cpu_percent = drop_costs.idle_cpu_percent_by_service(self.demo, self.arguments.idle_seconds)
        for _ in range(_EMPTY_RUNS):
            results.run_start_cpu_s.append(drop_costs.measure_empty_run(self.demo, first))
        self.demo.wait_until_quiet()
        started = time.time()
        results.changes = self._measure_changes()
        self.demo.wait_until_quiet()
        results.run_cpu_s = drop_costs.cpu_seconds_by_kind(self.demo, started)
        results.work_s = median_work(self.demo, started)
        if self.arguments.batch:
            results.growths, results.event_bytes = self._measure_batch()
        if self.arguments.collections:
            other = self._survey(1958).photograph(self.arguments.drops + 1)
            results.storm = measure_storm(self.demo, self.arguments.collections, other, self.draw.randrange(2**31))
        return results

    def _measure_changes(self) -> list[Change]:
        changes, dropped = [], []
        for number in range(self.arguments.drops):
            is_new = _begins_collection(number)
            year = 1967 + number // _EVERY_NEW_COLLECTION if is_new else 1958
            item = self._survey(year).photograph(number + 1)
            changes.append(self._drop(item))
            if not is_new:
                dropped.append(item)
        for number in range(self.arguments.replacements):
            place = number % len(dropped)
            dropped[place] = dropped[place].with_other_pixels()
            changes.append(self._drop(dropped[place], "replace"))
        for item in dropped[: self.arguments.deletions]:
            changes.append(self._delete(item))
        return changes

    def _survey(self, year: int) -> Survey:
        return Survey(f"USDA_{year}", columns=6, span=1000.0, side=self.arguments.side)

    def _drop(self, item: Photograph, kind: str = "drop") -> Change:
        self._wait_for_random_moment()
        started = self.demo.drop([item], seed=self.draw.randrange(2**31))
        shown = wait_until(lambda: self.demo.maps.shows(item), f"The map did not show {item.key}", _POLL_SECONDS)
        return self._finish(kind, item, started, shown)

    def _delete(self, item: Photograph) -> Change:
        self._wait_for_random_moment()
        started = self.demo.delete(item)
        shown = wait_until(lambda: self.demo.maps.shows_nothing(item), f"The map still showed {item.key}", _POLL_SECONDS)
        return self._finish("delete", item, started, shown)

    def _finish(self, kind: str, item: Photograph, started: float, shown: float) -> Change:
        change = measure_stages(self.demo, kind, item.collection_name, started, shown)
        print(f"{kind} {item.key}: {change.seconds:.1f} s ({_by_name(change.stages)})", flush=True)
        return change

    def _measure_batch(self) -> tuple[list[tuple[float, int]], dict[str, int]]:
        """The growths of the map, and the bytes by which Dagster's event tables grew."""
        survey = replace(_MANY, side=self.arguments.batch_side)
        grid = [survey.photograph(number) for number in range(self.arguments.batch)]
        self._wait_for_random_moment()
        before = drop_costs.event_bytes_by_table()
        growths: list[tuple[float, int]] = []
        started = self.demo.drop(grid, seed=self.draw.randrange(2**31))

        def is_complete() -> bool:
            shown = self.demo.maps.count_shown(grid)
            if shown > (growths[-1][1] if growths else 0):
                growths.append((time.time() - started, shown))
            return shown == len(grid)

        wait_until(is_complete, f"The map did not show all of {len(grid)} frames", _POLL_SECONDS)
        self.demo.wait_until_quiet()
        after = drop_costs.event_bytes_by_table()
        return growths, {name: after[name] - before[name] for name in after}

    def _wait_for_random_moment(self) -> None:
        self.demo.wait_until_quiet()
        time.sleep(self.draw.uniform(0, _LOOP_SECONDS))


def _percentiles(changes: Sequence[Change], kind: str) -> dict[str, float] | None:
    seconds = [change.seconds for change in changes if change.kind == kind]
    return {f"p{percent}": float(np.percentile(seconds, percent)) for percent in (50, 95)} if seconds else None


def _goal_line(title: str, figures: dict[str, float], goals: dict[str, float]) -> str:
    is_met = all(figures[name] <= goal for name, goal in goals.items())
    parts = [f"{name} {figures[name]:.2f} (goal {goal:g})" for name, goal in goals.items()]
    return f"{'met   ' if is_met else 'MISSED'}  {title}: {', '.join(parts)}"


def _by_name(values: dict[str, float], digits: int = 2) -> str:
    return ", ".join(f"{name} {value:.{digits}f}" for name, value in values.items())


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return round(value, 3) if isinstance(value, float) else value


if __name__ == "__main__":
    main()
