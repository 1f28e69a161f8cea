"""The picture of a `CurvatureMonitor`'s history."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tf_kfgn.callbacks.timing import PARTS
from tf_kfgn.optimizers.damping import BAD, GOOD

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

History = Mapping[str, Sequence[Any]]

RED, ORANGE, PURPLE, BLUE, GREY = "#c8102e", "#e98300", "#7a4fa3", "#1f6fb4", "#4a4f55"

# More blocks than this are told apart by a scale of colours instead of a legend.
MAX_LEGEND = 10

# Letters of a block's name.
MAX_NAME = 26

# Where ρ is shown; after a bad step it may be anything.
RATIO_LIMITS = (-1.0, 2.0)

_STYLES: dict[str, Any] = {"A": "-", "G": "--", "diagonal": ":"}


def draw(history: History) -> Figure:
    """Draw a history, see `CurvatureMonitor.history`.

    Args:
        history: The history.

    Returns:
        A figure that belongs to no window; `savefig` and notebooks show it.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If the history is empty.
    """
    try:
        from matplotlib.figure import Figure
        from matplotlib.layout_engine import ConstrainedLayoutEngine
    except ImportError as error:
        raise ImportError(
            "CurvatureMonitor.figure() needs matplotlib, which is not installed: "
            'pip install "tf_kfgn[examples]".'
        ) from error
    if not history.get("update"):
        raise ValueError(
            "CurvatureMonitor has recorded no update that could be drawn. Pass it to "
            "fit(..., callbacks=[monitor]) first."
        )
    figure = Figure(figsize=(14, 8.5), layout=ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08))
    # A group of axes for each place: one layout for all would let legends squeeze the others.
    [[top], [bottom]] = figure.subfigures(2, 1, height_ratios=(2, 3), squeeze=False)
    [[left, right]] = bottom.subfigures(1, 2, width_ratios=(2, 1), squeeze=False)
    places = (*top.subplots(1, 3), left.subplots(), *right.subplots(2, 1))
    panels = (
        _draw_damping,
        _draw_ratio,
        _draw_coefficients,
        _draw_conditions,
        _draw_failures,
        _draw_seconds,
    )
    for axes, panel in zip(places, panels, strict=True):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="0.9")
        axes.set_axisbelow(True)
        panel(axes, history)
    return figure


def _draw_damping(axes: Axes, history: History) -> None:
    _title(axes, "Damping τ", legend=True)
    axes.plot(history["update"], history["damping"], color=RED, drawstyle="steps-post")
    if min(history["damping"]) > 0:
        axes.set_yscale("log")
    _count_updates(axes)


def _draw_ratio(axes: Axes, history: History) -> None:
    _title(axes, "Reduction ratio ρ", legend=True)
    ratios = np.array(history["reduction_ratio"], float)
    _count_updates(axes)
    if not ratios.any():
        _say(axes, "not measured")
        return
    low, high = RATIO_LIMITS
    updates, shown = np.array(history["update"]), np.clip(ratios, low, high)
    axes.plot(updates, shown, color=BLUE, drawstyle="steps-post")
    for marker, outside in (("v", ratios < low), ("^", ratios > high)):
        if outside.any():  # a line without points has no place in a layout
            axes.plot(updates[outside], shown[outside], marker, color=BLUE)
    for threshold, label in ((BAD, None), (GOOD, f"τ grows below {BAD}, shrinks above {GOOD}")):
        axes.axhline(threshold, color=GREY, linewidth=1, linestyle=":", label=label)
    _legend_above(axes)
    axes.set_ylim(min(0.0, shown.min()) - 0.05, max(1.05, shown.max() + 0.05))


def _draw_coefficients(axes: Axes, history: History) -> None:
    _title(axes, "Step size α and momentum μ", legend=True)
    axes.plot(history["update"], history["step_size"], color=RED, label="α")
    axes.plot(history["update"], history["momentum"], color=BLUE, label="μ")
    axes.set_yscale("symlog", linthresh=0.1)
    _legend_above(axes)
    _count_updates(axes)


def _draw_failures(axes: Axes, history: History) -> None:
    from matplotlib.ticker import MaxNLocator

    _title(axes, "Failures so far", legend=True)
    series = (
        ("rejected_steps", "rejected", ORANGE, "-"),
        ("nonfinite_steps", "not finite", RED, "--"),
        ("failed_inversions", "inversions", PURPLE, ":"),
    )
    for name, label, colour, style in series:
        axes.plot(history["update"], history[name], style, color=colour, label=label)
    axes.set_ylim(bottom=0, top=max(1.0, 1.05 * max(max(history[name]) for name, *_ in series)))
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    _legend_above(axes)
    _count_updates(axes)


def _draw_seconds(axes: Axes, history: History) -> None:
    _title(axes, "Time of each part of an update")
    columns = {part: history.get(f"seconds/{part}") for part in PARTS}
    known = {
        part.replace("_", " "): column[-1]
        for part, column in columns.items()
        if column and np.isfinite(column[-1])
    }
    if not known:
        axes.set(xticks=[], yticks=[])
        _say(axes, "not measured")
        return
    longest = max(known.values())
    unit, factor = ("seconds", 1) if longest >= 1 else ("milliseconds", 1000)
    bars = axes.barh(list(known), [factor * time for time in known.values()], 0.6, color=BLUE)
    axes.bar_label(bars, fmt="%.3g", padding=4)
    axes.set_xlim(0, 1.15 * factor * longest or 1)
    axes.set_xlabel(f"{unit}, when it runs")
    axes.grid(visible=False, axis="y")
    axes.invert_yaxis()


def _draw_conditions(axes: Axes, history: History) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.ticker import MaxNLocator

    _title(axes, "Condition numbers of the damped factors", legend=True)
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    found = {}
    for name, column in history.items():
        values = np.array(column, float)
        if name.startswith("condition/") and np.isfinite(values).any():
            block, factor = name.removeprefix("condition/").rsplit("/", 1)
            found[block, factor] = values
    if not found:
        _say(axes, "not measured")
        return
    blocks = list(dict.fromkeys(block for block, _ in found))
    colours = _colours(axes, blocks)
    epochs = np.array(history["epoch"])
    for (block, factor), values in found.items():
        there = np.isfinite(values)
        line = axes.plot(epochs[there], values[there], marker=".", markersize=5, linewidth=1.2)
        line[0].set(color=colours[block], linestyle=_STYLES[factor])
    axes.set_yscale("log")
    factors = [factor for factor in _STYLES if any(factor == other for _, other in found)]
    handles = [Line2D([], [], color=GREY, ls=_STYLES[factor], label=factor) for factor in factors]
    _legend_above(axes, handles)


def _colours(axes: Axes, blocks: Sequence[str]) -> dict[str, Any]:
    """A colour for each block, explained on the right of the axes."""
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.lines import Line2D

    names = [_short(block) for block in blocks]
    if len(blocks) <= MAX_LEGEND:
        colours = [colormaps["tab10"](position) for position in range(len(blocks))]
        lines = [Line2D([], [], color=c, label=n) for c, n in zip(colours, names, strict=True)]
        axes.figure.legend(handles=lines, loc="outside right upper", frameon=False, fontsize=9)
    else:
        scale = ScalarMappable(Normalize(0, len(blocks) - 1), colormaps["viridis"])
        colours = scale.to_rgba(np.arange(len(blocks))).tolist()
        bar = axes.figure.colorbar(scale, ax=axes, pad=0.01, aspect=40)
        ticks = np.linspace(0, len(blocks) - 1, MAX_LEGEND).round().astype(int).tolist()
        bar.set_ticks(ticks, labels=[names[tick] for tick in ticks], fontsize=8)
        bar.outline.set_visible(False)
        bar.ax.invert_yaxis()
    return dict(zip(blocks, colours, strict=True))


def _count_updates(axes: Axes) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel("updates")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))


def _title(axes: Axes, text: str, *, legend: bool = False) -> None:
    """A title on the left, with room for a row of a legend below it."""
    axes.set_title(text, loc="left", pad=22 if legend else 6)


def _legend_above(axes: Axes, handles: Sequence[Any] | None = None) -> None:
    """A legend in one row, between the title and the axes."""
    legend = axes.legend(
        handles=axes.get_legend_handles_labels()[0] if handles is None else handles,
        loc="lower left",
        bbox_to_anchor=(0, 1),
        borderaxespad=0.1,
        borderpad=0.1,
        ncols=4,
        columnspacing=1.2,
        handlelength=1.8,
        frameon=False,
        fontsize=9,
    )
    legend.set_in_layout(False)


def _short(name: str) -> str:
    """The end of a long name."""
    return name if len(name) <= MAX_NAME else "…" + name[1 - MAX_NAME :]


def _say(axes: Axes, text: str) -> None:
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color=GREY)
