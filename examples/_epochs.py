"""What a comparison over epochs leaves behind: a table, a plot and a file."""

from __future__ import annotations

import dataclasses
import json
import math
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

from _report import COLOURS, finite_or_none, number, replacing
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table


class Epoch(NamedTuple):
    """Where a run stands after an epoch."""

    seconds: float
    updates: int
    train_loss: float  # mean over the epoch
    loss: float  # of the validation examples, as is the accuracy
    accuracy: float


@dataclasses.dataclass(frozen=True)
class Training:
    """One training run, epoch by epoch."""

    label: str
    learning_rate: float | None
    epochs: list[Epoch]

    @property
    def end(self) -> Epoch:
        """The last epoch."""
        return self.epochs[-1]


def print_trainings(
    console: Console, settings: dict[str, Any], trainings: Sequence[Training]
) -> None:
    """Print the comparison, one row an optimizer."""
    table = Table(
        title="Where each optimizer ended",
        caption="train loss: mean over the last epoch\nloss and accuracy: on "
        f"{settings['validation_examples']:,} examples that were not trained on",
    )
    table.add_column("optimizer")
    headings = ("learning rate", "updates", "seconds", "train loss", "loss", "accuracy")
    for heading in headings:
        table.add_column(heading, justify="right")
    for run in trainings:
        table.add_row(
            run.label,
            "" if run.learning_rate is None else f"{run.learning_rate:g}",
            f"{run.end.updates:,}",
            f"{run.end.seconds:.1f}",
            *(number(value) for value in (run.end.train_loss, run.end.loss)),
            f"{run.end.accuracy:.2%}",
        )
    console.print(table)
    if len(trainings) > 1:
        console.print(verdict(trainings), highlight=False)


def verdict(trainings: Sequence[Training]) -> str:
    """Which optimizer ended best, whichever it is."""
    finite = [run for run in trainings if math.isfinite(run.end.loss)]
    if not finite:
        return "All of them diverged."
    accurate = max(finite, key=lambda run: run.end.accuracy)
    low = min(finite, key=lambda run: run.end.loss)
    return (
        f"Highest validation accuracy: {accurate.label}, {accurate.end.accuracy:.2%}. "
        f"Lowest validation loss: {low.label}, {number(low.end.loss)}."
    )


def write_trainings(
    folder: pathlib.Path,
    name: str,
    settings: dict[str, Any],
    trainings: Sequence[Sequence[Training]],
) -> list[pathlib.Path]:
    """Write plot and results; the paths of the two files.

    Args:
        folder: Where to.
        name: Of the plot.
        settings: Of the comparison.
        trainings: For each optimizer its trainings, the best one first.
    """
    figure = draw(settings, trainings)
    plot, results = folder / f"{name}.png", folder / "results.json"
    with replacing(plot) as partial:
        figure.savefig(partial, format="png", dpi=150)
    plt.close(figure)
    content = {
        "settings": settings,
        "runs": [
            {
                "optimizer": run.label,
                "learning_rate": run.learning_rate,
                "best": run is best,
                "epochs": [finite_or_none(epoch._asdict()) for epoch in run.epochs],
            }
            for best, *others in trainings
            for run in (best, *others)
        ],
    }
    with replacing(results) as partial:
        partial.write_text(json.dumps(content, indent=2) + "\n")
    return [plot, results]


def draw(settings: dict[str, Any], trainings: Sequence[Sequence[Training]]) -> Figure:
    """Validation loss and accuracy after each epoch, against seconds and against updates."""
    with plt.rc_context({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False}):
        figure, axes = plt.subplots(
            2, 2, figsize=(10, 7), sharex="col", sharey="row", layout="constrained"
        )
        figure.suptitle(settings["title"], x=0.015, ha="left", fontsize=12, fontweight="bold")
        for row, measured in zip(axes, ("accuracy", "loss"), strict=True):
            for ax, horizontal in zip(row, ("seconds", "updates"), strict=True):
                _draw_curves(ax, trainings, horizontal, measured)
            row[0].set_ylabel(f"validation {measured}")
        axes[0, 0].yaxis.set_major_formatter(lambda value, _: f"{100 * value:g}%")
        if _span_decades(trainings):
            axes[1, 0].set_yscale("log")
            axes[1, 0].set_ylabel("validation loss (log scale)")
        axes[1, 0].set_xlabel("seconds of training (tracing and validation not counted)")
        axes[1, 1].set_xlabel(f"updates, each on {settings['batch_size']:,} examples")
        figure.legend(
            *axes[0, 0].get_legend_handles_labels(),
            loc="outside lower center",
            ncols=len(trainings),
            frameon=False,
        )
    return figure


def _draw_curves(
    axes: Axes, trainings: Sequence[Sequence[Training]], horizontal: str, measured: str
) -> None:
    """The best run of each optimizer, and pale ones with its other learning rates."""
    for best, *others in trainings:
        for run in (*others, best):
            rate = "" if run.learning_rate is None else f", learning rate {run.learning_rate:g}"
            axes.plot(
                [getattr(epoch, horizontal) for epoch in run.epochs],
                [getattr(epoch, measured) for epoch in run.epochs],
                color=COLOURS[run.label],
                label=run.label + rate if run is best else None,
                linewidth=2 if run is best else 1,
                alpha=1 if run is best else 0.35,
                marker="o" if run is best else None,
                markersize=3,
            )
    axes.set_xlim(left=0)
    axes.grid(axis="y", color="0.9")
    axes.set_axisbelow(True)


def _span_decades(trainings: Sequence[Sequence[Training]]) -> bool:
    losses = [epoch.loss for runs in trainings for run in runs for epoch in run.epochs]
    positive = [loss for loss in losses if 0 < loss < math.inf]
    return bool(positive) and max(positive) > 10 * min(positive)
