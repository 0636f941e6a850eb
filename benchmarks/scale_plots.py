"""Plots of the scale benchmark: `scale_collection.png` and `scale_tick.png`."""

from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

_OURS, _LEGACY = "#1b6ca8", "#b5651d"


def write_plots(results: dict[str, Any], folder: Path) -> None:
    """Write one plot for each measured part that has several sizes."""
    mpl.rcParams.update(
        {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.3}
    )
    folder.mkdir(parents=True, exist_ok=True)
    if "index_one_frame_s" in results:
        _collection(results).savefig(folder / "scale_collection.png", dpi=130)
    if "tick" in results:
        _ticks(results["tick"]).savefig(folder / "scale_tick.png", dpi=130)


def _collection(results: dict[str, Any]) -> Figure:
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    lines, bars = figure.subplots(1, 2)
    sizes = [int(size) for size in results["index_one_frame_s"]]
    lines.loglog(sizes, list(results["legacy"]["one_frame_s"].values()), "o-", color=_LEGACY, label="legacy way")
    lines.loglog(sizes, list(results["index_one_frame_s"].values()), "o-", color=_OURS, label="ls4")
    lines.set(xlabel="frames in the collection", ylabel="seconds", title="Adding one frame: index, files, mosaic, map")
    lines.legend()
    names, below = [f"{size:,}" for size in sizes], [0.0] * len(sizes)
    stages = list(results["index_stages_s"].values())
    for stage in stages[0]:
        heights = [by_stage[stage] for by_stage in stages]
        bars.bar(names, heights, bottom=below, label=stage.replace("_", " "))
        below = [bottom + height for bottom, height in zip(below, heights, strict=True)]
    bars.set(xlabel="frames in the collection", ylabel="seconds", title="ls4 by stage")
    bars.set_axisbelow(True)
    bars.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5), reverse=True)
    return figure


def _ticks(ticks: dict[str, dict[str, float]]) -> Figure:
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    seconds, memory = figure.subplots(1, 2)
    sizes = [int(size) for size in ticks]
    for figure_name, label in (("seconds", "nothing new"), ("new_seconds", "100 new"), ("collections_seconds", "collections")):
        seconds.semilogx(sizes, [tick[figure_name] for tick in ticks.values()], "o-", label=label)
    seconds.set(xlabel="recorded frames", ylabel="seconds", title="One tick of the sensors", ylim=(0, None))
    seconds.legend()
    memory.semilogx(sizes, [tick["peak_mb"] for tick in ticks.values()], "o-", color=_OURS)
    memory.set(xlabel="recorded frames", ylabel="MB", title="Peak memory of the process", ylim=(0, None))
    return figure
