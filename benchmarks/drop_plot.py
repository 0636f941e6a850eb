"""The plot of the drop benchmark: the stages of every change, stacked."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from benchmarks.drop_stages import STAGES, Change

_TITLES = {"drop": "drops", "replace": "replacements", "delete": "deletions"}


def write_plot(changes: Sequence[Change], path: Path) -> None:
    """Write one bar for each change, grouped by kind, as PNG."""
    mpl.rcParams.update(
        {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.3}
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    by_kind = {kind: [change for change in changes if change.kind == kind] for kind in _TITLES}
    by_kind = {kind: of_kind for kind, of_kind in by_kind.items() if of_kind}
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    widths = [len(of_kind) + 2 for of_kind in by_kind.values()]
    all_axes = figure.subplots(1, len(by_kind), sharey=True, width_ratios=widths, squeeze=False)[0]
    colors = {stage: f"C{number}" for number, stage in enumerate(STAGES)}
    for axes, (kind, of_kind) in zip(all_axes, by_kind.items(), strict=True):
        numbers = range(1, len(of_kind) + 1)
        below = [0.0] * len(of_kind)
        for stage in STAGES:
            heights = [change.stages.get(stage, 0.0) for change in of_kind]
            axes.bar(numbers, heights, bottom=below, color=colors[stage], label=stage)
            below = [bottom + height for bottom, height in zip(below, heights, strict=True)]
        axes.set(title=_TITLES[kind], xlim=(0.3, len(of_kind) + 0.7), xticks=[])
        axes.set_axisbelow(True)
    all_axes[0].set_ylabel("seconds until the map shows it")
    handles, labels = all_axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", fontsize=7, reverse=True)
    figure.savefig(path, dpi=130)
