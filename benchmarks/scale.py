"""What does it cost when the archive is large? `python -m benchmarks.scale [--json] [--quick] [--plots docs/images] [PART ...]`

batch: 100 frames through Dagster against their pixels alone. collection: one frame more in a collection of 100 to 10,000, ours
and the legacy way. adopt: finished COGs taken over. tick: the sensors with up to a million known frames. dagit: definitions and
partition pages at a million partitions. Each part runs in a process of its own on real parts: PostgreSQL, Dagster, files.
"""

import argparse
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.scale_bench import Bench, workbench

# By part: what it measures, in full and with --quick.
_SIZES: dict[str, tuple[list[int], list[int]]] = {
    # the frames of a batch, and the sides of its photographs in pixels
    "batch": ([100, 5000, 7200], [6, 400]),
    "collection": ([100, 1_000, 10_000], [9, 25]),
    "adopt": ([2_000], [12]),
    "tick": ([1_000, 100_000, 1_000_000], [500, 1_000]),
    "dagit": ([1_000_000], [2_000]),
}
PARTS = tuple(_SIZES)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)}; all without any")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON on the last line")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: whether it works, no figures to rely on")
    parser.add_argument("--plots", type=Path, metavar="FOLDER", help="write plots there as PNG (needs matplotlib)")
    arguments = parser.parse_args()
    # Ended from outside, it still stops its cluster and removes its folder.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    if unknown := set(arguments.parts) - set(PARTS):
        parser.error(f"{', '.join(sorted(unknown))} is no part; name some of {', '.join(PARTS)}")
    results: dict[str, Any] = {}
    with workbench() as bench:
        for part in arguments.parts or PARTS:
            results |= _RESULTS[part](_measured(bench, part, _SIZES[part][arguments.quick]))
            print("\n".join(_LINES[part](results)), flush=True)
    if arguments.plots:
        from benchmarks.scale_plots import write_plots

        write_plots(results, arguments.plots)
    if arguments.json:
        print(json.dumps(_rounded(results)))


def _measured(bench: Bench, part: str, sizes: list[int]) -> dict[str, Any]:
    """The figures of a part, by size where it takes one size after the other; those of batches and collections each on
    fresh databases."""
    if part == "batch":
        frames, *sides = sizes
        return {str(side): _in_own_process(bench, part, [frames, side]) for side in sides}
    if part == "collection":
        return {str(size): _in_own_process(bench, part, [size]) for size in sizes}
    return _in_own_process(bench, part, sizes)


def _in_own_process(bench: Bench, part: str, sizes: list[int]) -> dict[str, Any]:
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.scale", "--in-own-process", part, *map(str, sizes)]
    with bench.place(part) as environment:
        # Log lines of the platform go to stderr, into a file that is shown only when something is wrong.
        log = bench.home / f"{part}.log"
        with log.open("w") as errors:
            done = subprocess.run(command, check=False, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment)
        if done.returncode:
            raise SystemExit(f"The part {part} failed: {log.read_text()[-3000:]}\nMend that and start it again.")
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


def _job(part: str, sizes: list[int]) -> dict[str, Any]:
    """Imported here: the first process needs neither Dagster nor GDAL."""
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
    from benchmarks.scale_dagster_ui import measure_dagit

    return dict(measure_dagit(*sizes))


def _collection_results(figures: dict[str, Any]) -> dict[str, Any]:
    ours = {size: one["ours"] for size, one in figures.items()}
    legacy = {size: one["legacy"]["all"] for size, one in figures.items()}
    return {
        "index_one_frame_s": {size: one["all"] for size, one in ours.items()},
        "index_stages_s": {size: {stage: s for stage, s in one.items() if stage != "all"} for size, one in ours.items()},
        "index_growth": ours[max(ours, key=int)]["all"] / ours[min(ours, key=int)]["all"],
        "legacy": {
            "one_frame_s": legacy,
            "stages_s": {size: one["legacy"] for size, one in figures.items()},
            "ratio": {size: legacy[size] / one["all"] for size, one in ours.items()},
        },
    }


_RESULTS = {
    "batch": lambda figures: {"batch_overhead_ratio": next(iter(figures.values()))["ratio"], "batch": figures},
    "collection": _collection_results,
    "adopt": lambda figures: {"adopt": figures},
    "tick": lambda figures: {"tick": figures},
    "dagit": lambda figures: {
        "definitions_load_s": figures["definitions_load_s"], "partition_page_s": figures["partition_page_s"], "dagit": figures,
    },
}  # fmt: skip


def _batch_lines(results: dict[str, Any]) -> list[str]:
    lines = []
    for one in results["batch"].values():
        shares = {what: one[f"{what}_s"] for what in ("pixels", "fetch", "publish", "outside_pool")}
        lines += [
            f"batch of {one['frames']} frames, bw {one['side']} x {one['side']} px, {one['workers']} workers (goal 1.10)",
            f"  through Dagster {one['run_s']:6.1f} s   bare pool {one['bare_s']:6.1f} s   ratio {one['ratio']:.2f}",
            f"  bare pool that keeps its files {one['keeping_s']:6.1f} s   ratio {one['ratio_to_keeping']:.2f}",
            "  of the run: " + "   ".join(f"{what.replace('_', ' ')} {seconds:.1f} s" for what, seconds in shares.items()),
        ]
    return lines


def _collection_lines(results: dict[str, Any]) -> list[str]:
    lines = [f"one frame more, largest : smallest collection {results['index_growth']:.2f} (goal 2), seconds"]
    for size, stages in results["index_stages_s"].items():
        told = "   ".join(f"{stage} {seconds:.3f}" for stage, seconds in stages.items())
        lines.append(f"  {int(size):6,d} frames: {results['index_one_frame_s'][size]:6.3f}   ({told})")
        ratio, legacy = results["legacy"]["ratio"][size], results["legacy"]["one_frame_s"][size]
        lines.append(f"         legacy: {legacy:6.3f}   ({ratio:.1f} times ours)")
    return lines


def _adopt_lines(results: dict[str, Any]) -> list[str]:
    one = results["adopt"]
    return [f"adopting {one['cogs']:,} COGs with {one['workers']} workers: {one['cogs_per_s']:.0f} a second (goal 100)"]


def _tick_lines(results: dict[str, Any]) -> list[str]:
    lines = ["one tick of the sensors, by known frames"]
    for size, one in results["tick"].items():
        lines.append(
            f"  {int(size):9,d}: nothing new {one['seconds']:6.2f} s   100 new {one['new_seconds']:6.2f} s   "
            f"collections {one['collections_seconds']:6.2f} s   peak {one['peak_mb']:5.0f} MB"
        )
    return lines


def _dagit_lines(results: dict[str, Any]) -> list[str]:
    one = results["dagit"]
    return [
        f"Dagster with {one['shards']} shards and {one['partitions']:,} partitions",
        f"  definitions {one['definitions_load_s']:.2f} s (goal 3), with imports {one['definitions_process_s']:.2f} s, "
        f"the Dagster UI up in {one['up_s']:.1f} s",
        f"  partition page after a change {one['partition_page_s']:.2f} s (goal 1), again {one['partition_page_again_s']:.2f} s",
    ]


_LINES = {
    "batch": _batch_lines, "collection": _collection_lines, "adopt": _adopt_lines, "tick": _tick_lines, "dagit": _dagit_lines,
}  # fmt: skip


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(one) for key, one in value.items()}
    return round(value, 4) if isinstance(value, float) else value


if __name__ == "__main__":
    if sys.argv[1:2] == ["--in-own-process"]:
        print(json.dumps(_job(sys.argv[2], [int(size) for size in sys.argv[3:]])))
    else:
        main()
