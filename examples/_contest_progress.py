"""Runs a contest, shows how far it is, and leaves its files."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import Any

from _clock import Clock, in_words
from _contest import Budget, Contest, Result
from _contest_files import write_about, write_csv, write_tensorboard
from _methods import Method
from _report import number, print_in_full
from _runs import Key
from _stopwatch import Point
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

EDGE = "at the edge"


def run_contest(console: Console, contest: Contest, budget: Budget) -> list[Result]:
    """Make the runs that are missing; what came of them."""
    methods = contest.methods
    console.print("measuring what an update takes by each method, in turns", highlight=False)
    paces = contest.paces()
    seconds = {
        name: budget.horizon(method, paces[name]) * paces[name] for name, method in methods.items()
    }
    expected = {name: _runs(method, budget) * seconds[name] for name, method in methods.items()}
    places = {name: place for place, name in enumerate(methods)}
    clock = Clock(list(expected.values()))
    console.print(
        f"about {sum(_runs(method, budget) for method in methods.values())} runs and "
        f"{in_words(clock.seconds_left)} of training, less what is there already",
        highlight=False,
    )
    here = None
    with Progress(
        TextColumn("{task.description:44}"),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[loss]:>14}  {task.fields[left]} left"),
        console=console,
    ) as progress:
        bar = progress.add_task("", total=1.0, loss="", left="")

        def show(key: Key, part: float, point: Point) -> None:
            rate = "" if key.learning_rate is None else f" {key.learning_rate:g}"
            progress.update(
                bar,
                description=f"{methods[key.method].label}{rate}, seed {key.seed}, {part:.0%}",
                loss=f"loss {point.objective:.5g}",
            )

        def finished(key: Key, new: bool) -> None:
            nonlocal here
            if key.method != here:
                here = key.method
                clock.begin(places[here])
            clock.finished(seconds[here], new)
            progress.update(bar, completed=clock.part, left=in_words(clock.seconds_left))

        contest.show, contest.finished = show, finished
        contest.run()
    return contest.results()


def _runs(method: Method, budget: Budget) -> int:
    """About how many runs a method has: its grid is often widened once."""
    rates = len(method.learning_rates)
    return len(budget.seeds) + (rates if rates else 0)


def print_results(console: Console, results: Sequence[Result], objective: str) -> None:
    """Print the grids, and where each method ended."""
    grids = Table(title="Learning rates, and the objective that each led to")
    grids.add_column("method")
    grids.add_column("tried with the first seed")
    for result in results:
        if result.grid:
            tried = "  ".join(
                f"[bold]{rate:g}: {number(end)}[/bold]"
                if rate == result.candidate.learning_rate
                else f"{rate:g}: {number(end)}"
                for rate, end in result.grid.items()
            )
            grids.add_row(result.label, tried + (f"  ({EDGE})" if result.at_edge else ""))
    if grids.row_count:
        print_in_full(console, grids)
    ends = Table(title="Where each method ended", caption=f"objective: {objective}; over seeds")
    ends.add_column("method")
    headings = ("learning rate", "updates", "seconds", "objective", "lowest", "highest", "test")
    for heading in headings:
        ends.add_column(heading, justify="right")
    for result in sorted(results, key=lambda result: result.objective):
        rate = result.candidate.learning_rate
        objectives = [run.objective for run in result.runs]
        ends.add_row(
            result.label,
            "" if rate is None else f"{rate:g}",
            f"{result.updates:,}",
            f"{result.updates * result.pace:.1f}",
            *(number(value) for value in (result.objective, min(objectives), max(objectives))),
            number(result.test_metric),
        )
    print_in_full(console, ends)


def leave_files(
    console: Console,
    folder: pathlib.Path,
    contest: Contest,
    problem: dict[str, Any],
    command: str,
    results: Sequence[Result],
) -> None:
    """Write everything but the figure."""
    written = write_csv(folder, contest)
    written.append(write_tensorboard(folder, list(contest.store)))
    write_about(folder, problem, command, results)
    for path in written:
        console.print(f"wrote {path}", highlight=False, soft_wrap=True)
