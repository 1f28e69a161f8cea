"""A script that compares methods on one task: its command line, its runs, its files."""

from __future__ import annotations

import argparse
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf
from _arguments import add_names
from _contest import Budget, Contest
from _contest_files import check_same_problem
from _contest_progress import leave_files, print_results, run_contest
from _methods import Method
from _report import require_writable
from _task import Task
from rich.console import Console

EVALUATION_EXAMPLES = 5_000


def compare(
    args: argparse.Namespace,
    task: Task,
    batch_size: int,
    methods: Mapping[str, Method],
    budget: Budget,
    about: Mapping[str, Any],
) -> int:
    """Run what is missing and report; 0 if all went well.

    Args:
        args: Of `parser_of`, with the command in `command`.
        task: The task.
        batch_size: Examples in an update.
        methods: By their keys.
        budget: How long runs are.
        about: What else the report needs: `kind`, `dataset`, `title` and `error`.
    """
    console = Console()
    tf.get_logger().setLevel("ERROR")  # it would warn that each model has a function of its own
    folder = args.out / f"{task.name}-{budget.name}"
    try:
        require_writable(folder)
        (train, _), (test, _) = task.data()
        problem = {
            **about,
            "net": task.title,
            "budget": budget.name,
            "run": str(budget),
            "metric": task.metric.name,
            "train_images": len(train),
            "test_images": len(test),
            "evaluation_images": min(EVALUATION_EXAMPLES, len(train)),
            "batch_size": batch_size,
            "seeds": list(budget.seeds),
        }
        check_same_problem(folder, problem)
        contest = Contest(
            task, batch_size, methods, budget, folder, evaluation_examples=EVALUATION_EXAMPLES
        )
        console.print(f"{problem['title']}: {task.title}", style="bold", highlight=False)
        results = run_contest(console, contest, budget)
    except (ImportError, OSError) as error:
        print(f"{args.prog}: error: {error}", file=sys.stderr)
        return 1
    print_results(console, results, problem["error"])
    leave_files(console, folder, contest, problem, args.command, results)
    return 0


def parser_of(
    prog: str, description: str, methods: Sequence[str], budgets: Mapping[str, Budget]
) -> argparse.ArgumentParser:
    """The arguments that such scripts have in common."""
    parser = argparse.ArgumentParser(
        prog=prog, description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--budget",
        choices=tuple(budgets),
        default="hour",
        help=f"smoke: a few updates; hour: {budgets['hour'].seconds:g} s for each run (default)",
    )
    add_names(parser, "--methods", methods)
    parser.add_argument(
        "--out",
        type=pathlib.Path,
        default=pathlib.Path("figure2"),
        metavar="DIR",
        help="folder of the folders of runs (default: figure2)",
    )
    return parser


def parse(parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line; exits with status 2 if it makes no sense."""
    args = parser.parse_args(arguments)
    given = sys.argv[1:] if arguments is None else list(arguments)
    args.prog = parser.prog
    args.command = " ".join((f"python examples/{parser.prog}", *given))
    return args
