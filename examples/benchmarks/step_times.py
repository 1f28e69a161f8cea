"""How long the updates of a task take beside those of Adam, and how even they are.

    python examples/benchmarks/step_times.py [--tasks NAME ...] [--methods NAME ...] [--batch SIZE]

Takes tasks of `everyday.py` with their larger batch, or their smaller one (`--batch small`), and
times single updates, all methods in turns, after the first ones, which invert every new estimate.
The columns are the median in milliseconds; mean and median over those of Adam; the 99th percentile
over the median, which says how much longer the updates are that estimate factors, invert them or
compare; and the first update, with tracing, over that of Adam. Other work on the machine shows up
in the 99th percentile first: Adam's says how much there is.
"""

from __future__ import annotations

import argparse
import pathlib
import sys
import time
from collections.abc import Iterable, Sequence
from typing import NamedTuple

sys.path.append(str(pathlib.Path(__file__).resolve().parents[1]))  # where the helpers lie

import numpy as np
from _arguments import add_names, positive_integer
from _methods import GAUSS_NEWTON, Method, adam
from _paces import ROUNDS, times_in_turns
from _report import print_in_full
from _tasks import TASKS, Task
from _trainer import Trainer
from rich.console import Console
from rich.table import Table

METHODS = {"adam": adam(1e-3), **GAUSS_NEWTON}
DEFAULT_TASKS = ("autoencoder", "batchnorm_convnet", "character_transformer", "adding_lstm")
BATCHES = ("small", "large")  # of a task, in the order of its `batch_sizes`
EARLY = 25  # updates that are not counted


class Times(NamedTuple):
    """Of one method on one task.

    Attributes:
        first: Seconds until the first update was made, tracing included.
        later: Seconds of each update after the early ones, a row for each turn.
    """

    first: float
    later: np.ndarray

    @property
    def median(self) -> float:
        """Seconds of a usual update."""
        return float(np.median(self.later))

    @property
    def mean(self) -> float:
        """Seconds of an update."""
        return float(np.mean(self.later))

    @property
    def unevenness(self) -> float:
        """The 99th percentile over the median."""
        return float(np.percentile(self.later, 99)) / self.median


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a row for each task and method."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_names(parser, "--tasks", TASKS, DEFAULT_TASKS)
    add_names(parser, "--methods", GAUSS_NEWTON, ("kfac", "kfra"))
    parser.add_argument(
        "--batch",
        choices=BATCHES,
        default="large",
        help="which of the two batches of a task (default: large)",
    )
    parser.add_argument(
        "--updates",
        type=positive_integer,
        default=100,
        help="that are counted, of each method in each of three turns (default: 100)",
    )
    args = parser.parse_args(arguments)
    table = Table("task", "batch", "method", "ms", "mean / Adam", "median / Adam", "99 %", "first")
    console = Console()
    try:
        for name in args.tasks:
            task = TASKS[name]
            methods = [method for method in args.methods if method not in task.left_out]
            batch_size = task.batch_sizes[BATCHES.index(args.batch)]
            times = time_updates(task, batch_size, ("adam", *methods), args.updates)
            for method, found in times.items():
                table.add_row(*row(task, batch_size, METHODS[method], found, times["adam"]))
    except (ImportError, OSError) as error:
        print(f"step_times.py: error: {error}", file=sys.stderr)
        return 1
    print_in_full(console, table)
    return 0


def time_updates(
    task: Task, batch_size: int, methods: Iterable[str], updates: int
) -> dict[str, Times]:
    """Time all methods in turns, each from new weights.

    Args:
        task: What they train.
        batch_size: Examples in an update.
        methods: Keys of `METHODS`.
        updates: That count, of a turn.
    """
    trainers, first = {}, {}
    for method in methods:
        trainers[method] = Trainer(task, batch_size, METHODS[method])
        start = time.perf_counter()
        trainers[method].seconds_of_updates(1)
        first[method] = time.perf_counter() - start
    measured = times_in_turns(trainers, rounds=ROUNDS, updates=EARLY + updates)
    return {
        method: Times(first[method], np.array(turns)[:, EARLY:])
        for method, turns in measured.items()
    }


def row(
    task: Task, batch_size: int, method: Method, times: Times, beside: Times
) -> tuple[str, ...]:
    """Cells of the table."""
    return (
        task.name,
        f"{batch_size:,}",
        method.label,
        f"{1e3 * times.median:.1f}",
        f"{times.mean / beside.mean:.2f}",
        f"{times.median / beside.median:.2f}",
        f"{times.unevenness:.2f}",
        f"{times.first / beside.first:.1f}",
    )


if __name__ == "__main__":
    sys.exit(main())
