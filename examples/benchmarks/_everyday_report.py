"""What the bench prints and writes: who won which task, by how much, and what went wrong."""

from __future__ import annotations

import csv
import math
import pathlib
import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from _comparison import MEASURES, Measure, Row, share_won
from _report import COLOURS, print_in_full, replacing
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from rich.console import Console
from rich.table import Table

BEST, RECOMMENDED = "best of ours", "recommended"
OBJECTIVES = [measure for measure in MEASURES if measure.quantity == "objective"]
STATES = ("runs", "failed", "diverged", "stalled")
PACE = "times Adam's update"
FARTHEST = 10.0  # ratios beyond this are drawn at the edge of the figure


def print_rows(console: Console, rows: Sequence[Row]) -> None:
    """Print the ratios, one row for a task and batch size."""
    table = Table(
        title="Ours / best first-order run: below 1 is won",
        caption="medians over seeds; training objective and best validation metric, at equal "
        "updates and at equal seconds;\nthe best of ours on the left, then the one that "
        "`recommend` names; first-order: the best at equal updates / seconds",
    )
    table.add_column("task")
    table.add_column("batch", justify="right")
    for chosen in ("best", "recommended"):
        table.add_column(chosen)
        for measure in MEASURES:
            table.add_column(_short(measure), justify="right")
    table.add_column("first-order", no_wrap=True)
    for row in rows:
        table.add_row(
            row.task,
            f"{row.batch_size:,}",
            _best(row),
            *(_text(row.ratio(row.best(measure.comparison), measure)) for measure in MEASURES),
            _recommended(row),
            *(_text(row.ratio(row.recommended, measure)) for measure in MEASURES),
            "\n".join(_champion(row, comparison) for comparison in row.first_order),
        )
    print_in_full(console, table)


def print_summary(console: Console, rows: Sequence[Row]) -> None:
    """Print a row for the best of ours, the recommended one, and each."""
    table = Table(
        title="Won / equal / lost, and the geometric mean of the ratios",
        caption="failed: not finite, or an error; diverged: rose to twice its lowest objective;\n"
        "stalled: no progress in the last half where Adam made some;\n"
        "taken back: steps in the last half, mean over runs;\n"
        f"{PACE}: what an update takes beside one of Adam, median over tasks",
    )
    table.add_column("ours")
    for measure in MEASURES:
        table.add_column(_heading(measure), justify="right")
    for heading in (*STATES, "taken back", PACE):
        table.add_column(heading, justify="right")
    for line in summarise(rows):
        table.add_row(
            line["ours"],
            *(
                "{} / {} / {}  ".format(*line[f"won_{measure}"]) + _text(line[f"mean_{measure}"])
                for measure in MEASURES
            ),
            *(str(line[name]) for name in STATES),
            f"{line['rejected']:.1f}",
            _paces_text(line),
        )
    print_in_full(console, table)


def summarise(rows: Sequence[Row]) -> list[dict]:
    """The summary measures of the best of ours on each task, the recommended one, and each."""
    methods = sorted({method for row in rows for method in row.ours["updates"]})
    lines = [_summary(BEST, rows, lambda row, comparison: row.best(comparison))]
    if any(row.recommended for row in rows):
        lines.append(_summary(RECOMMENDED, rows, lambda row, comparison: row.recommended))
    for name in methods:
        lines.append(_summary(name.upper(), rows, lambda row, comparison, name=name: name))
    return lines


def _summary(
    name: str, rows: Sequence[Row], choose: Callable[[Row, str], str | None]
) -> dict[str, Any]:
    """The line of one choice of a method for each row and comparison."""
    chosen = [(row, choose(row, "updates")) for row in rows]
    chosen = [(row, method) for row, method in chosen if method in row.ours["updates"]]
    runs = [run for row, method in chosen for run in row.ours["updates"][method].runs]
    line: dict[str, Any] = {
        "ours": name,
        "runs": len(runs),
        "failed": sum(run.failed for run in runs),
        "diverged": sum(run.diverged for run in runs),
        "stalled": sum(row.stalled(method) for row, method in chosen),
        "rejected": statistics.fmean([run.rejected for run in runs]) if runs else 0.0,
    }
    for measure in MEASURES:
        ratios = [row.ratio(choose(row, measure.comparison), measure) for row in rows]
        line[f"won_{measure}"] = share_won(ratios)
        line[f"mean_{measure}"] = _geometric_mean(ratios)
    beside_adam = [row.pace(method) / row.pace("adam") for row, method in chosen]
    line["paces"] = sorted(ratio for ratio in beside_adam if not math.isnan(ratio))
    return line


def _paces_text(line: dict) -> str:
    """The median of how long an update takes beside one of Adam, the least and the most."""
    paces = line["paces"]
    if not paces:
        return "-"
    return f"{statistics.median(paces):.2f} ({paces[0]:.2f} to {paces[-1]:.2f})"


def write_results(folder: pathlib.Path, rows: Sequence[Row]) -> list[pathlib.Path]:
    """Write ratios, a page and a figure of them; the paths of the three files."""
    table, page, plot = (folder / f"everyday.{kind}" for kind in ("csv", "md", "png"))
    with replacing(table) as partial, partial.open("w", newline="") as stream:
        lines = csv.writer(stream)
        states = (
            "objective",
            "metric",
            "seconds_per_update",
            "failed",
            "diverged",
            "stalled",
            "rejected",
        )
        theirs = ("first_order_updates", "first_order_seconds")  # their objectives
        ours = ("ours", "best", "recommended")
        lines.writerow(("task", "batch_size", *ours, *map(str, MEASURES), *states, *theirs))
        for row in rows:
            for method, group in row.ours["updates"].items():
                lines.writerow(
                    (
                        row.task,
                        row.batch_size,
                        method,
                        method == row.best("updates"),
                        method == row.recommended,
                        *(row.ratio(method, measure) for measure in MEASURES),
                        group.objective,
                        group.metric,
                        row.pace(method),
                        sum(run.failed for run in group.runs),
                        sum(run.diverged for run in group.runs),
                        row.stalled(method),
                        sum(run.rejected for run in group.runs),
                        row.lowest_objective("updates"),
                        row.lowest_objective("seconds"),
                    )
                )
    with replacing(page) as partial:
        partial.write_text(as_markdown(rows))
    figure = draw(rows)
    with replacing(plot) as partial:
        figure.savefig(partial, format="png", dpi=150)
    plt.close(figure)
    return [table, page, plot]


def as_markdown(rows: Sequence[Row]) -> str:
    """The ratios of the best of ours, and the summary, as a page."""
    measures = [_heading(measure) for measure in MEASURES]
    lines = [
        "# Everyday tasks",
        "",
        "Written by `python examples/benchmarks/everyday.py`; edit that, not this. Objectives of "
        "training examples in",
        "the end, and best validation metrics, at equal updates and at equal seconds: ours with "
        "nothing but defaults over",
        "the best first-order run; below 1 is won. Medians over seeds; `-` has not been run. "
        "Ours is the one with the",
        "lowest objective at equal updates, and behind the stroke the one at equal seconds if it "
        "is another; then comes",
        "the one that `recommend` names, in brackets where it names Adam first.",
        "",
        *_head(
            "task",
            "batch",
            "ours",
            *measures,
            RECOMMENDED,
            *(f"its {_heading(measure)}" for measure in OBJECTIVES),
            "objective",
            "first-order",
            "its best",
        ),
    ]
    for row in rows:
        best = row.best("updates")
        lines.append(
            _line(
                row.task,
                f"{row.batch_size:,}",
                _best(row),
                *(_text(row.ratio(row.best(measure.comparison), measure)) for measure in MEASURES),
                _recommended(row),
                *(_text(row.ratio(row.recommended, measure)) for measure in OBJECTIVES),
                _text(row.ours["updates"][best].objective) if best else "-",
                _text(row.lowest_objective("updates")),
                _champion(row, "updates"),
            )
        )
    lines += ["", "Won / equal / lost, and the geometric mean of the ratios:", ""]
    lines += _head("ours", *measures, *STATES, "taken back", PACE)
    for found in summarise(rows):
        won = (
            "{} / {} / {}, ".format(*found[f"won_{name}"]) + _text(found[f"mean_{name}"])
            for name in MEASURES
        )
        counts = (str(found[state]) for state in STATES)
        taken_back = f"{found['rejected']:.1f}"
        lines.append(_line(found["ours"], *won, *counts, taken_back, _paces_text(found)))
    return "\n".join(lines) + "\n"


def _heading(measure: Measure) -> str:
    quantity = "validation, " if measure.quantity == "validation" else ""
    return f"{quantity}equal {measure.comparison}"


def _short(measure: Measure) -> str:
    return f"{measure.quantity[:3]}.\n{measure.comparison[:3]}."


def _best(row: Row) -> str:
    """The best of ours at equal updates, and the one at equal seconds if it is another."""
    names = (row.best(comparison) for comparison in row.ours)
    return " / ".join(dict.fromkeys(name.upper() for name in names if name))


def _recommended(row: Row) -> str:
    """The method of ours that is recommended, in brackets if Adam is recommended before it."""
    found = row.recommendation
    if found is None or found.method is None:
        return "-"
    return found.method if found.name == found.method else f"({found.method})"


def _head(first: str, *others: str) -> list[str]:
    return [_line(first, *others), _line("---", *("---:" for _ in others))]


def _line(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"


def draw(rows: Sequence[Row]) -> Figure:
    """The ratio of each method of ours, a panel for each measure."""
    with plt.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        figure, panels = plt.subplots(
            1,
            len(MEASURES),
            figsize=(11, 1.6 + 0.24 * len(rows)),
            sharey=True,
            layout="constrained",
        )
        figure.suptitle(
            "Ours / best first-order run; left of the line is won", x=0.01, ha="left", fontsize=11
        )
        for panel, measure in zip(panels, MEASURES, strict=True):
            panel.axvline(1, color="0.4", linewidth=1)
            for method, offset in (("kfac", -0.2), ("kflr", 0.0), ("kfra", 0.2)):
                places = [
                    (_inside(row.ratio(method, measure)), place + offset)
                    for place, row in enumerate(rows)
                    if not math.isnan(row.ratio(method, measure))
                ]
                if places:
                    label = method.upper()
                    panel.plot(
                        *zip(*places, strict=True),
                        "o",
                        color=COLOURS[label],
                        label=label,
                        markersize=4,
                    )
            panel.set_xscale("log")
            panel.set_xlim(0.9 / FARTHEST, 1.1 * FARTHEST)
            panel.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            panel.xaxis.set_minor_locator(NullLocator())
            panel.set_title(_heading(measure), loc="left", fontsize=10)
            panel.grid(axis="y", color="0.92")
            panel.set_axisbelow(True)
        panels[0].set_yticks(range(len(rows)), [f"{row.task}  {row.batch_size:,}" for row in rows])
        panels[0].set_ylim(len(rows) - 0.4, -0.6)
        handles, labels = panels[0].get_legend_handles_labels()
        if handles:
            figure.legend(handles, labels, loc="upper right", ncols=len(labels), frameon=False)
    return figure


def _champion(row: Row, comparison: str) -> str:
    """The best first-order run, as "adam 0.003 cosine"."""
    groups = row.finalists(comparison)
    if not groups:
        return "-"
    method, rate, schedule = min(groups, key=lambda group: group.objective).candidate
    return f"{method} {rate:g} {schedule}"


def _geometric_mean(ratios: Iterable[float]) -> float:
    """Of the ratios that are known, each no farther from 1 than the figure reaches."""
    known = [math.log(_inside(ratio)) for ratio in ratios if not math.isnan(ratio)]
    return math.exp(statistics.fmean(known)) if known else math.nan


def _inside(ratio: float) -> float:
    return min(max(ratio, 1 / FARTHEST), FARTHEST)


def _text(ratio: float) -> str:
    if math.isnan(ratio):
        return "-"
    return "failed" if math.isinf(ratio) else f"{ratio:#.3g}"
