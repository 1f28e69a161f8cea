"""The page, the tables in files and the figure."""

from __future__ import annotations

import csv
import dataclasses
import math
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from _report import COLOURS, plt, replacing
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from _peers import nets
from _peers.summary import BESIDE, Cost, Trained, costs, largest_difference, trained

OURS = "tf_kfgn"
GOAL = 0.5  # of BackPACK's cost
PROGRAMS = {OURS: "#c8102e", "BackPACK": "#1f6fb4", "curvlinops": "#6cace4"}
RUNS = {
    "tf_kfgn KFRA": COLOURS["KFRA"],
    "tf_kfgn KFAC": COLOURS["KFAC"],
    BESIDE: COLOURS["Adam"],
}
HEAD = """# Beside other packages

Written by `make bench-peers` (`examples/benchmarks/peers.py --publish`); edit that, not this.
"""


@dataclasses.dataclass(frozen=True)
class Found:
    """All that was measured.

    Attributes:
        factors: What `measure_factors` gave, by net.
        training: What `measure_training` gave, if it was run.
        nets: By name.
        missing: Peers that were not there, for a reader.
    """

    factors: Mapping[str, Mapping[str, Any]]
    training: Mapping[str, Any] | None
    nets: Mapping[str, nets.Net]
    missing: Sequence[str] = ()

    @property
    def costs(self) -> list[Cost]:
        """Of all nets."""
        return [cost for net, measured in self.factors.items() for cost in costs(net, measured)]

    @property
    def trained(self) -> list[Trained]:
        """Of all runs."""
        return trained(self.training) if self.training else []


def write(folder: pathlib.Path, figure: pathlib.Path, link: str, found: Found) -> list[str]:
    """Write everything; the paths.

    Args:
        folder: For tables and page.
        figure: Path of the figure.
        link: To the figure, from the page.
        found: What was measured.
    """
    tables = {"peers-factors.csv": found.costs, "peers-training.csv": found.trained}
    written = []
    for name, rows in tables.items():
        if rows:
            with replacing(folder / name) as partial, partial.open("w", newline="") as stream:
                writer = csv.DictWriter(stream, [f.name for f in dataclasses.fields(rows[0])])
                writer.writeheader()
                writer.writerows(map(dataclasses.asdict, rows))
            written.append(str(folder / name))
    drawn = draw(found)
    with replacing(figure) as partial:
        drawn.savefig(partial, format="png", dpi=130)
    plt.close(drawn)
    with replacing(folder / "PEERS.md") as partial:
        partial.write_text(as_markdown(found, link))
    return [*written, str(figure), str(folder / "PEERS.md")]


def as_markdown(found: Found, link: str) -> str:
    """The page."""
    parts = [HEAD, *(f"Left out: {reason}." for reason in found.missing)]
    parts.append(f"![Cost of factors, and the objective over time]({link})")
    if found.factors:
        parts += ["## Gradient and factors, in gradients", *_factors(found)]
    if found.training:
        parts += ["## Training", *_training(found)]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _factors(found: Found) -> Iterable[str]:
    yield (
        "What a gradient and new factors of all layers take together, over that program's own "
        "gradient alone (ours in a `tf.function`, theirs in torch's eager mode, which both need): "
        "in the CPU time of all threads, and in brackets by the clock. Same weights and batch, "
        "losses and gradients agree; the programs take turns, medians over rounds. The last "
        "columns are our quotient over BackPACK's, and the same of the factors alone (quotients "
        f"less 1), whose goal is {GOAL:g}."
    )
    for net, measured in found.factors.items():
        own = [cost for cost in found.costs if cost.net == net]
        programs = list(dict.fromkeys(cost.program for cost in own))
        by_place = {(cost.program, cost.method): cost for cost in own}
        gradients = ", ".join(
            f"{program} {1e3 * next(c.gradient for c in own if c.program == program):.1f} ms"
            for program in programs
        )
        lines = _heading(net, *programs, f"{OURS} / BackPACK", "factors alone")
        for method in found.nets[net].methods:
            row = [by_place.get((program, method)) for program in programs]
            ours, theirs = (by_place.get((program, method)) for program in (OURS, "BackPACK"))
            both = ours and theirs
            lines.append(
                _line(
                    method,
                    *(f"{c.ratio:.2f} ({c.clock_ratio:.2f})" if c else "-" for c in row),
                    f"{ours.ratio / theirs.ratio:.2f}" if both else "-",
                    f"{(ours.ratio - 1) / (theirs.ratio - 1):.2f}" if both else "-",
                )
            )
        yield "\n".join(lines)
        notes = [f"{name}: {reason}" for name, reason in measured["left_out"].items()]
        yield "\n".join(
            [
                f"{net}: {nets.in_words(found.nets[net])}. Gradients: {gradients}. "
                + "".join(f"Left out: {note}. " for note in notes),
                _about(measured),
            ]
        )


def _training(found: Found) -> Iterable[str]:
    measured, net = found.training, found.nets[nets.TRAINED]
    key = measured["key"]
    yield (
        f"{nets.in_words(net)}, {key['images']:,} training images, seed {key['seed']}, "
        f"{key['budget']:g} s a run in {key['slices']} turns. Ours with nothing but defaults; "
        f"{BESIDE} with the settings of its own example for this net and objective. Same initial "
        "weights and order of batches. The clock stands still for tracing and for measuring the "
        f"objective, on {key['evaluated']:,} training images; measured anew by one program from "
        f"the last weights, objectives differ by {largest_difference(measured):.0e} at most. An "
        "update is compared with the program's own compiled gradient, in CPU time, and in brackets "
        f"by the clock. The last columns are what it takes to reach the last objective of {BESIDE}."
    )
    headings = (
        "ms per update", "median", "99 % / median", "over gradient", "first update",
        "updates", "objective", "updates needed", "s needed", "CPU s needed",
    )  # fmt: skip
    lines = _heading("", *headings)
    for run in found.trained:
        lines.append(
            _line(
                run.label,
                f"{1e3 * run.mean:.1f}",
                f"{1e3 * run.median:.1f}",
                f"{run.slow:.2f}",
                f"{run.ratio:.2f} ({run.clock_ratio:.2f})",
                f"{run.first:.1f} s",
                f"{run.updates:,}",
                f"{run.objective:.2f}",
                _needed(run.updates_needed, ",.0f"),
                _needed(run.seconds_needed, ".1f"),
                _needed(run.cpu_needed, ".1f"),
            )
        )
    yield "\n".join(lines)
    beside = next((run for run in found.trained if run.label == BESIDE), None)
    if beside:
        yield "\n".join(
            f"- {run.label} needs {beside.seconds_needed / run.seconds_needed:.1f} times fewer "
            f"seconds, {beside.cpu_needed / run.cpu_needed:.1f} times less CPU time and "
            f"{beside.updates_needed / run.updates_needed:.1f} times fewer updates "
            f"than {BESIDE}."
            for run in found.trained
            if run.label != BESIDE and math.isfinite(run.seconds_needed)
        )
    yield _about(measured)


def _about(measured: Mapping[str, Any]) -> str:
    of_peers = measured["key"]["versions"].values()
    versions = ", ".join(f"{name} {version}" for of in of_peers for name, version in of.items())
    return f"{measured['date']}, {measured['machine']}; {versions}."


def _needed(value: float, form: str) -> str:
    return format(value, form) if math.isfinite(value) else "-"


def _heading(first: str, *others: str) -> list[str]:
    return [_line(first, *others), _line("---", *("---:" for _ in others))]


def _line(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"


def draw(found: Found) -> Figure:
    """Costs of factors as bars, and objectives over seconds and updates."""
    with plt.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        figure, axes = plt.subplots(1, 3, figsize=(13, 4.2), layout="constrained")
        _draw_costs(axes[0], found.costs)
        for panel, (column, label) in zip(axes[1:], ((0, "seconds"), (1, "updates")), strict=True):
            for name, run in (found.training or {"runs": {}})["runs"].items():
                points = np.array(run["points"][1:] or run["points"])
                panel.plot(points[:, column], points[:, 2], color=RUNS[name], label=name)
            panel.set(xlabel=label, ylabel="objective", yscale="log")
            panel.yaxis.set_major_locator(LogLocator(subs=(1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 7.0)))
            panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            panel.yaxis.set_minor_locator(NullLocator())
            panel.grid(axis="y", color="0.92")
        if found.training:
            axes[2].legend(frameon=False)
    return figure


def _draw_costs(axes: Axes, costs: Sequence[Cost]) -> None:
    places = list(dict.fromkeys((cost.net, cost.method) for cost in costs))
    height = 0.8 / len(PROGRAMS)
    for number, (program, colour) in enumerate(PROGRAMS.items()):
        own = [cost for cost in costs if cost.program == program]
        heights = [places.index((cost.net, cost.method)) + number * height for cost in own]
        axes.barh(heights, [c.ratio for c in own], height, color=colour, label=program)
    axes.set_yticks(
        [place + height for place in range(len(places))],
        [f"{net}, {method}" for net, method in places],
    )
    axes.invert_yaxis()
    axes.axvline(1, color="0.4", linewidth=1)
    axes.set(xscale="log", xlabel="gradient and factors / own gradient")
    axes.legend(frameon=False, fontsize="small")
