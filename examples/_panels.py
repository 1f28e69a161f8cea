"""Panels as in Figure 2 of Botev et al. (2017): the error against seconds, and against updates."""

from __future__ import annotations

import dataclasses
import math
import statistics
import textwrap
from collections.abc import Sequence

from _contest import Result
from _report import COLOURS
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

HIGHEST = (
    4.0  # times the highest end that is near the lowest: the first fall would squeeze the rest
)
NEAR = 10.0  # times the lowest end
FIRST_ORDER_WIDTH, SECOND_ORDER_WIDTH = 1.2, 1.8


@dataclasses.dataclass(frozen=True)
class Panel:
    """What was trained on one data set.

    Attributes:
        title: Of the data.
        error: What falls, with its unit.
        results: Of the methods.
    """

    title: str
    error: str
    results: Sequence[Result]


def draw(panels: Sequence[Panel]) -> Figure:
    """Seconds above, updates below, a column for each data set.

    A line is the median over seeds, a band reaches from the lowest to the highest of them.
    """
    with plt.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        figure, axes = plt.subplots(
            2,
            len(panels),
            figsize=(1.6 + 4.2 * len(panels), 7.4),
            squeeze=False,
            layout="constrained",
        )
        for column, panel in enumerate(panels):
            for row, horizontal in enumerate(("seconds", "updates")):
                _draw_panel(axes[row][column], panel, horizontal)
            axes[0][column].set_title(panel.title, loc="left", fontsize=10, fontweight="bold")
        handles = {
            label: handle
            for ax in axes.flat
            for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)
        }
        figure.legend(
            list(handles.values()),
            list(handles),
            loc="outside lower center",
            ncols=min(4, 2 * len(panels)),
            frameon=False,
            fontsize=8,
        )
    return figure


def _draw_panel(axes: Axes, panel: Panel, horizontal: str) -> None:
    shown = []
    for result in panel.results:
        lines = [run.losses for run in result.runs if run.losses]
        if not lines:
            continue
        points = list(zip(*lines, strict=False))  # one that ended early ends the line
        factor = result.pace if horizontal == "seconds" else 1.0
        places = [factor * point[0][0] for point in points]
        losses = [[loss for _, loss in point] for point in points]
        medians = [statistics.median(values) for values in losses]
        name = result.label.split(",")[0]
        colour = COLOURS[name]
        ours = result.method.needs_curvature
        axes.plot(
            places,
            medians,
            color=colour,
            linestyle="--" if result.method.dashed else "-",
            linewidth=SECOND_ORDER_WIDTH if ours else FIRST_ORDER_WIDTH,
            marker="o" if len(places) < 10 else None,
            markersize=3,
            label=result.label,
            zorder=3 if ours else 2,
        )
        lows, highs = map(min, losses), map(max, losses)
        axes.fill_between(places, list(lows), list(highs), color=colour, alpha=0.15, linewidth=0)
        shown.append(medians)
    axes.set_yscale("log")
    axes.set_ylim(*_limits(shown))
    axes.set_xlim(left=0)
    axes.set_xlabel("seconds" if horizontal == "seconds" else "updates")
    axes.set_ylabel(textwrap.fill(panel.error, 30))
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 7.0)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.grid(axis="y", color="0.92")
    axes.set_axisbelow(True)


def _limits(lines: Sequence[Sequence[float]]) -> tuple[float, float]:
    positive = [value for line in lines for value in line if value > 0]
    if not positive:
        return 0.1, 1.0
    lowest = min(positive)
    ends = [line[-1] for line in lines if 0 < line[-1] < NEAR * lowest]
    return 0.93 * lowest, min(1.05 * max(positive), HIGHEST * max(ends, default=math.inf))
