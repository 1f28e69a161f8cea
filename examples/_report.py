"""What a comparison of optimizers leaves behind: tables, a plot and files."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import json
import math
import os
import pathlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import matplotlib
import numpy as np
from _stopwatch import Point
from rich.console import Console
from rich.measure import Measurement
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

matplotlib.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

COLOURS = {
    "KFRA": "#c8102e",
    "KFLR": "#e98300",
    "KFAC": "#7a4fa3",
    "HessianFree": "#00857c",
    "Adam": "#1f6fb4",
    "AdamW": "#6cace4",
    "Muon": "#2e7d32",
    "Nesterov": "#8c6239",
    "momentum": "#8a8d8f",
    "SGD": "#4a4f55",
}
_TICKS = (1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0)  # on a logarithmic axis


@dataclasses.dataclass(frozen=True)
class Grid:
    """Where training with each of some learning rates ended."""

    label: str
    rates: tuple[float, ...]
    ends: tuple[Point, ...]

    @property
    def best(self) -> int:
        """Position of the lowest objective."""
        objectives = [end.objective for end in self.ends]
        return int(np.argmin([value if math.isfinite(value) else math.inf for value in objectives]))

    @property
    def best_rate(self) -> float:
        """The learning rate that led to the lowest objective."""
        return self.rates[self.best]


@dataclasses.dataclass(frozen=True)
class Run:
    """One training run, start to end."""

    label: str
    learning_rate: float | None
    points: list[Point]
    train_error: float
    test_error: float
    reconstructions: np.ndarray

    @property
    def end(self) -> Point:
        """The last point."""
        return self.points[-1]


@contextlib.contextmanager
def progress_bar(console: Console, label: str) -> Iterator[Callable[[float, Point], None]]:
    """A bar for one training run; gives the function that moves it."""
    columns = (
        TextColumn("{task.description:11}"),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[seconds]:6.1f} s {task.fields[updates]:6,} updates"),
        TextColumn("loss {task.fields[loss]:7.2f}"),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(label, total=1.0, seconds=0.0, updates=0, loss=math.nan)

        def show(part: float, point: Point) -> None:
            progress.update(
                task,
                completed=min(part, 1.0),
                seconds=point.seconds,
                updates=point.updates,
                loss=point.objective,
            )

        yield show


def print_grid(console: Console, grid: Grid, *, objective: str = "objective") -> None:
    """Print where each learning rate led, and say so if the best one is the last of its side."""
    table = Table(title=f"Learning rates for {grid.label}")
    for heading in ("learning rate", "updates", "seconds", objective):
        table.add_column(heading, justify="right")
    table.add_column("")
    for index, (rate, end) in enumerate(zip(grid.rates, grid.ends, strict=True)):
        best = index == grid.best
        table.add_row(
            f"{rate:g}",
            f"{end.updates:,}",
            f"{end.seconds:.1f}",
            number(end.objective),
            "best" if best else "",
            style="bold" if best else None,
        )
    console.print(table)
    if len(grid.rates) > 1 and grid.best_rate in (min(grid.rates), max(grid.rates)):
        console.print(
            "The best learning rate is at the edge of the grid; --learning-rates can widen it."
        )


def print_runs(console: Console, settings: dict[str, Any], runs: Sequence[Run]) -> None:
    """Print the comparison, one row an optimizer."""
    table = Table(
        title="Where each optimizer ended",
        caption="objective: cross-entropy of an image and L2 penalty, on "
        f"{settings['evaluation_images']:,} training images\n"
        "error: squared error summed over an image, on the same and on "
        f"{settings['test_images']:,} test images",
    )
    table.add_column("optimizer")
    headings = ("learning rate", "updates", "seconds", "objective", "train error", "test error")
    for heading in headings:
        table.add_column(heading, justify="right")
    for run in runs:
        table.add_row(
            run.label,
            "" if run.learning_rate is None else f"{run.learning_rate:g}",
            f"{run.end.updates:,}",
            f"{run.end.seconds:.1f}",
            number(run.end.objective),
            number(run.train_error),
            number(run.test_error),
        )
    console.print(table)


def print_in_full(console: Console, table: Table) -> None:
    """Print a table in full also where the console is narrow, as it is in a file."""
    unlimited = console.options.update(max_width=1_000)
    needed = Measurement.get(console, unlimited, table).maximum
    Console(file=console.file, width=max(needed, console.width)).print(table)


def require_writable(folder: pathlib.Path) -> None:
    """Make the folder, and raise an `OSError` now rather than after training if that fails."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(f"cannot write to the folder {folder}: {error.strerror}") from error


def write_report(
    folder: pathlib.Path,
    settings: dict[str, Any],
    grids: Sequence[Grid],
    runs: Sequence[Run],
    inputs: np.ndarray,
) -> list[pathlib.Path]:
    """Write plot, history and results; the paths of the three files."""
    figure = draw(settings, runs, inputs)
    plot, history, results = (
        folder / name for name in ("autoencoder.png", "history.csv", "results.json")
    )
    with replacing(plot) as partial:
        figure.savefig(partial, format="png", dpi=150)
    plt.close(figure)
    with replacing(history) as partial, partial.open("w", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow(("optimizer", *Point._fields))
        rows.writerows((run.label, *point) for run in runs for point in run.points)
    with replacing(results) as partial:
        partial.write_text(json.dumps(_results(settings, grids, runs), indent=2) + "\n")
    return [plot, history, results]


def draw(settings: dict[str, Any], runs: Sequence[Run], inputs: np.ndarray) -> Figure:
    """The objective against seconds and against updates, and a strip of reconstructions."""
    rows = 1 + len(runs)
    strip_height = 0.35 + 0.72 * rows
    with plt.rc_context({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False}):
        figure = plt.figure(figsize=(10, 4.9 + strip_height), layout="constrained")
        cells = figure.add_gridspec(2, 1, height_ratios=[4.9, strip_height])
        top, bottom = (figure.add_subfigure(cells[row]) for row in range(2))
        top.suptitle(settings["title"], x=0.015, ha="left", fontsize=12, fontweight="bold")
        by_time, by_updates = top.subplots(1, 2, sharey=True)
        _draw_curves(by_time, runs, "seconds")
        _draw_curves(by_updates, runs, "updates")
        by_time.set_xlabel("seconds of training (tracing and evaluation not counted)")
        by_updates.set_xlabel(f"updates, each on {settings['batch_size']:,} images")
        by_time.set_ylabel(
            f"objective on {settings['evaluation_images']:,} training images (log scale)"
        )
        by_updates.legend(frameon=False, loc="upper right")
        _draw_strip(bottom, inputs, runs)
    return figure


def _draw_curves(axes: Axes, runs: Sequence[Run], horizontal: str) -> None:
    for run in runs:
        rate = "" if run.learning_rate is None else f", learning rate {run.learning_rate:g}"
        axes.plot(
            [getattr(point, horizontal) for point in run.points],
            [point.objective for point in run.points],
            color=COLOURS[run.label],
            label=run.label + rate,
            linewidth=2,
            marker="o",
            markersize=3,
        )
    axes.set_yscale("log")
    axes.set_ylim(*_limits(runs))
    axes.set_xlim(left=0)
    axes.yaxis.set_major_locator(LogLocator(subs=_TICKS))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.grid(axis="y", color="0.9")
    axes.set_axisbelow(True)


def _limits(runs: Sequence[Run]) -> tuple[float, float]:
    """Leave out the fall of the first few updates, which would squeeze the rest."""
    objectives = [p.objective for run in runs for p in run.points if math.isfinite(p.objective)]
    ends = [run.end.objective for run in runs if math.isfinite(run.end.objective)]
    top = min(max(objectives), 1.7 * max(ends, default=math.inf))
    return 0.93 * min(objectives), 1.05 * top


def _draw_strip(figure: SubFigure, inputs: np.ndarray, runs: Sequence[Run]) -> None:
    figure.suptitle(
        "Test images, their reconstructions, and the mean error over the test set",
        x=0.015,
        ha="left",
        fontsize=10,
    )
    rows = [("input", "black", inputs)]
    for run in runs:
        label = f"{run.label}\nerror {number(run.test_error)}"
        rows.append((label, COLOURS[run.label], run.reconstructions))
    axes = figure.subplots(len(rows), len(inputs), squeeze=False)
    for (label, colour, images), row in zip(rows, axes, strict=True):
        for image, ax in zip(images, row, strict=True):
            ax.imshow(image.reshape(28, 28), cmap="gray_r", vmin=0, vmax=1)
            ax.set(xticks=[], yticks=[])
            for side in ax.spines.values():
                side.set(visible=True, color="0.85")
        row[0].set_ylabel(label, color=colour, rotation=0, ha="right", va="center")


def _results(
    settings: dict[str, Any], grids: Sequence[Grid], runs: Sequence[Run]
) -> dict[str, Any]:
    return {
        "settings": settings,
        "learning_rate_grids": {
            grid.label: [
                {"learning_rate": rate, **finite_or_none(end._asdict())}
                for rate, end in zip(grid.rates, grid.ends, strict=True)
            ]
            for grid in grids
        },
        "runs": [
            {
                "optimizer": run.label,
                "learning_rate": run.learning_rate,
                **finite_or_none(
                    {
                        **run.end._asdict(),
                        "train_error": run.train_error,
                        "test_error": run.test_error,
                    }
                ),
            }
            for run in runs
        ],
    }


def finite_or_none(values: dict[str, float]) -> dict[str, float | None]:
    """JSON knows no NaN and no infinity."""
    return {key: value if math.isfinite(value) else None for key, value in values.items()}


def number(value: float) -> str:
    """For a table: two decimals, or three digits of what is below 1."""
    if not math.isfinite(value):
        return "diverged"
    return f"{value:.2f}" if value >= 1 else f"{value:#.3g}"


@contextlib.contextmanager
def replacing(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A file to write to that takes the place of `path` once it is whole."""
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".partial-") as folder:
        partial = pathlib.Path(folder) / path.name
        yield partial
        os.replace(partial, path)
