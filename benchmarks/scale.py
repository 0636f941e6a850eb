"""Benchmark of large archives: `python -m benchmarks.scale [--json] [--quick] [--plots docs/images] [PART ...]`

batch: 100 frames through Dagster, compared with their pixel work alone. collection: adding one frame to a collection of 100 to
10,000 frames, with ls4 and the legacy way. adopt: adopting finished COGs. tick: the sensors with up to a million recorded frames.
ui: the Dagster UI with few and with all counties in use, and with a million partitions. Each part runs in its own process with a
real PostgreSQL, a real Dagster instance and real files.
"""

import argparse
import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.scale_bench import BenchmarkEnvironment, benchmark_environment

# The sizes of each part: full, and with --quick.
_SIZES: dict[str, tuple[list[int], list[int]]] = {
    # the number of frames of a batch, then the sides of its photographs in pixels
    "batch": ([100, 5000, 7200], [6, 400]),
    "collection": ([100, 1_000, 10_000], [9, 25]),
    "adopt": ([2_000], [12]),
    "tick": ([1_000, 100_000, 1_000_000], [500, 1_000]),
    # the number of partitions, then numbers of shards in use
    "ui": ([1_000_000, 3, 254], [2_000, 2, 3]),
}
PARTS = tuple(_SIZES)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)}; default: all")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON on the last line")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: only check that it works; the figures mean nothing")
    parser.add_argument("--plots", type=Path, metavar="FOLDER", help="write plots there as PNG (needs matplotlib)")
    arguments = parser.parse_args()
    # On SIGTERM, too, stop the cluster and remove its folder.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    if unknown := set(arguments.parts) - set(PARTS):
        parser.error(f"unknown part: {', '.join(sorted(unknown))}; choose from {', '.join(PARTS)}")
    results: dict[str, Any] = {}
    with benchmark_environment() as environment:
        for part in arguments.parts or PARTS:
            results |= _RESULTS[part](_measure(environment, part, _SIZES[part][arguments.quick]))
            print("\n".join(_LINES[part](results)), flush=True)
    if arguments.plots:
        from benchmarks.scale_plots import write_plots

        write_plots(results, arguments.plots)
    if arguments.json:
        print(json.dumps(_rounded(results)))


def _measure(environment: BenchmarkEnvironment, part: str, sizes: list[int]) -> dict[str, Any]:
    """The figures of a part. Batches and collections have figures by size, and fresh databases for each size."""
    if part == "batch":
        frames, *sides = sizes
        return {str(side): _run_in_own_process(environment, part, [frames, side]) for side in sides}
    if part == "collection":
        return {str(size): _run_in_own_process(environment, part, [size]) for size in sizes}
    return _run_in_own_process(environment, part, sizes)


def _run_in_own_process(environment: BenchmarkEnvironment, part: str, sizes: list[int]) -> dict[str, Any]:
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.scale", "--in-own-process", part, *map(str, sizes)]
    with environment.fresh_archive(part) as variables:
        # The platform logs to stderr; the file is printed only when the part fails.
        log = environment.home / f"{part}.log"
        with log.open("w") as errors:
            result = subprocess.run(command, check=False, stdout=subprocess.PIPE, stderr=errors, text=True, env=variables)
        if result.returncode:
            raise SystemExit(f"The part {part} failed: {log.read_text()[-3000:]}\nFix the error and start it again.")
    figures: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return figures


def _run_part(part: str, sizes: list[int]) -> dict[str, Any]:
    """The figures of a part. Imports are local, because the parent process needs neither Dagster nor GDAL."""
    if part == "batch":
        from benchmarks.scale_batch import measure_batch

        return dict(measure_batch(*sizes))
    if part == "collection":
        from benchmarks.scale_collection import measure_collection

        return dict(measure_collection(*sizes))
    if part == "adopt":
        from benchmarks.scale_adopt import measure_adopt

        return dict(measure_adopt(*sizes))
    if part == "tick":
        from benchmarks.scale_tick import measure_ticks

        return dict(measure_ticks(sizes))
    from benchmarks.scale_dagster_ui import measure_dagster_ui

    return dict(measure_dagster_ui(*sizes))


def _collection_results(figures: dict[str, Any]) -> dict[str, Any]:
    ours = {size: stages["ours"] for size, stages in figures.items()}
    legacy = {size: stages["legacy"]["all"] for size, stages in figures.items()}
    return {
        "index_one_frame_s": {size: stages["all"] for size, stages in ours.items()},
        "index_stages_s": {
            size: {stage: seconds for stage, seconds in stages.items() if stage != "all"} for size, stages in ours.items()
        },
        "index_growth": ours[max(ours, key=int)]["all"] / ours[min(ours, key=int)]["all"],
        "legacy": {
            "one_frame_s": legacy,
            "stages_s": {size: stages["legacy"] for size, stages in figures.items()},
            "ratio": {size: legacy[size] / stages["all"] for size, stages in ours.items()},
        },
    }


_RESULTS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "batch": lambda figures: {"batch_overhead_ratio": next(iter(figures.values()))["ratio"], "batch": figures},
    "collection": _collection_results,
    "adopt": lambda figures: {"adopt": figures},
    "tick": lambda figures: {"tick": figures},
    "ui": lambda figures: {
        "definitions_load_s": figures["definitions_load_s"], "partition_page_s": figures["partition_page_s"], "ui": figures,
    },
}  # fmt: skip


def _batch_lines(results: dict[str, Any]) -> list[str]:
    lines = []
    for batch in results["batch"].values():
        shares = {part: batch[f"{part}_s"] for part in ("pixels", "fetch", "publish", "outside_pool")}
        lines += [
            f"batch of {batch['frames']} frames, bw {batch['side']} x {batch['side']} px, {batch['workers']} workers (goal 1.10)",
            f"  through Dagster {batch['run_s']:6.1f} s   bare pool {batch['bare_s']:6.1f} s   ratio {batch['ratio']:.2f}",
            f"  bare pool that keeps its files {batch['keeping_s']:6.1f} s   ratio {batch['ratio_to_keeping']:.2f}",
            "  in the run: " + "   ".join(f"{part.replace('_', ' ')} {seconds:.1f} s" for part, seconds in shares.items()),
        ]
    return lines


def _collection_lines(results: dict[str, Any]) -> list[str]:
    lines = [f"adding one frame, largest : smallest collection {results['index_growth']:.2f} (goal 2), seconds"]
    for size, stages in results["index_stages_s"].items():
        by_stage = "   ".join(f"{stage} {seconds:.3f}" for stage, seconds in stages.items())
        lines.append(f"  {int(size):6,d} frames: {results['index_one_frame_s'][size]:6.3f}   ({by_stage})")
        ratio, legacy = results["legacy"]["ratio"][size], results["legacy"]["one_frame_s"][size]
        lines.append(f"         legacy: {legacy:6.3f}   ({ratio:.1f} times ours)")
    return lines


def _adopt_lines(results: dict[str, Any]) -> list[str]:
    adopt = results["adopt"]
    return [f"adopting {adopt['cogs']:,} COGs with {adopt['workers']} workers: {adopt['cogs_per_s']:.0f} per second (goal 100)"]


def _tick_lines(results: dict[str, Any]) -> list[str]:
    lines = ["one tick of the sensors, by recorded frames"]
    for size, tick in results["tick"].items():
        lines.append(
            f"  {int(size):9,d}: nothing new {tick['seconds']:6.2f} s   100 new {tick['new_seconds']:6.2f} s   "
            f"collections {tick['collections_seconds']:6.2f} s   peak {tick['peak_mb']:5.0f} MB"
        )
    return lines


def _ui_lines(results: dict[str, Any]) -> list[str]:
    ui = results["ui"]
    return [
        f"Dagster with {ui['shards']} shards and {ui['partitions']:,} partitions",
        f"  definitions {ui['definitions_load_s']:.2f} s (goal 3), with imports {ui['definitions_process_s']:.2f} s, "
        f"the Dagster UI up in {ui['up_s']:.1f} s",
        *(
            f"  {shards} of {page['shards_of_archive']} shards in use, {page['collections']:,} collections: first load "
            f"{page['first_load_data_bytes'] / 1e3:.0f} kB of data (goal 300) and "
            f"{page['first_load_static_bytes'] / 1e3:,.0f} kB static in {page['first_load_s']:.1f} s, "
            f"Automation {page['automation_s']:.2f} s (goal 1)"
            for shards, page in ui["browser"].items()
        ),
        f"  partition page after a change {ui['partition_page_s']:.2f} s (goal 1), again {ui['partition_page_again_s']:.2f} s",
    ]


_LINES = {
    "batch": _batch_lines, "collection": _collection_lines, "adopt": _adopt_lines, "tick": _tick_lines, "ui": _ui_lines,
}  # fmt: skip


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return round(value, 4) if isinstance(value, float) else value


if __name__ == "__main__":
    if sys.argv[1:2] == ["--in-own-process"]:
        print(json.dumps(_run_part(sys.argv[2], [int(size) for size in sys.argv[3:]])))
    else:
        main()
