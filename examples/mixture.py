"""A loss outside the exponential family: the lower half of a digit, given its upper half.

    python examples/mixture.py

A dense net gives a mixture of Bernoullis over the 32 lower pixels of scikit-learn's digits, made
black and white. Its 264 outputs are more than curvature by automatic differentiation is for; the
loss states its own, as a diagonal plus low rank. That Hessian is not the Fisher matrix, nor
semi-definite: KFRA, KFLR and our KFAC take it with its negative curvature clipped. `sampled Fisher`
is KFAC as its paper has it, from gradients for targets that the model draws. Adam, AdamW and Muon
are searched as in `figure2.py`, whose way with runs, seconds and files this has too.
"""

from __future__ import annotations

import argparse
import functools
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from _contest import Budget, Contest
from _contest_files import check_same_problem
from _contest_progress import leave_files, print_results, run_contest
from _methods import GAUSS_NEWTON, Method, adam, adamw, muon
from _mixture import MixtureOfBernoullis, SampledFisher
from _report import require_writable
from _task import Data, Metric, Task
from rich.console import Console

import tf_kfgn

COMPONENTS, PIXELS = 8, 32
BATCH_SIZE, TEST_DIGITS = 500, 297
COLUMNS = 32
SCHEDULE = "warm-up, cosine"
METHODS = {
    **GAUSS_NEWTON,
    "kflr": Method(
        f"KFLR, {COLUMNS} columns",
        lambda: tf_kfgn.KFLR(num_columns=COLUMNS),
        needs_curvature=True,
    ),
    "fisher": Method(
        "KFAC, sampled Fisher",
        lambda: SampledFisher(components=COMPONENTS),
        needs_curvature=True,
    ),
    "adam": adam(3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1),
    "adamw": adamw(3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)._replace(schedule=SCHEDULE),
    "muon": muon(3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)._replace(schedule=SCHEDULE),
}
BUDGETS = {
    "smoke": Budget("smoke", None, 4, 3, (0,), widenings=0, rounds=1, paced_updates=1),
    "hour": Budget("hour", seconds=10.0),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is missing and report; 0 if all went well."""
    args = parse_arguments(arguments)
    budget = BUDGETS[args.budget]
    console = Console()
    tf.get_logger().setLevel("ERROR")  # it would warn that each model has a function of its own
    folder = args.out / f"mixture-{args.budget}"
    try:
        require_writable(folder)
        task = make_task()
        problem = describe(task, budget)
        check_same_problem(folder, problem)
        methods = {name: METHODS[name] for name in dict.fromkeys(args.methods)}
        contest = Contest(task, BATCH_SIZE, methods, budget, folder)
        console.print(f"{problem['title']}: {task.title}", style="bold", highlight=False)
        results = run_contest(console, contest, budget)
    except (ImportError, OSError) as error:
        print(f"mixture.py: error: {error}", file=sys.stderr)
        return 1
    print_results(console, results, problem["error"])
    leave_files(console, folder, contest, problem, args.command, results)
    return 0


def make_task() -> Task:
    """Halves of digits, net and loss."""
    loss = MixtureOfBernoullis(COMPONENTS)

    @functools.cache
    def data() -> Data:
        from sklearn import datasets

        digits = (datasets.load_digits().data > 8).astype(np.float32)
        digits = digits[np.random.default_rng(0).permutation(len(digits))]
        pairs = (digits[:-TEST_DIGITS], digits[-TEST_DIGITS:])
        return Data(*((tf.constant(x[:, :PIXELS]), tf.constant(x[:, PIXELS:])) for x in pairs))

    def build() -> keras.Model:
        def dense(width: int, **options: Any) -> keras.Layer:
            return keras.layers.Dense(
                width, kernel_regularizer=keras.regularizers.L2(1e-5), **options
            )

        outputs = dense(COMPONENTS * (PIXELS + 1), name="outputs")
        hidden = [dense(64, activation="tanh") for _ in range(2)]
        return keras.Sequential([keras.Input((PIXELS,)), *hidden, outputs])

    return Task(
        name="mixture",
        title=f"32-64-64-{COMPONENTS} times 1 + {PIXELS}, tanh units",
        data=data,
        build=build,
        loss=loss,
        metric=Metric("negative log-likelihood", loss.call),
        batch_sizes=(),
        updates=(),
        seconds=(),
    )


def describe(task: Task, budget: Budget) -> dict[str, Any]:
    """What distinguishes this problem from others."""
    (train, _), (test, _) = task.data()
    return {
        "kind": "mixture",
        "dataset": "digits",
        "title": "Lower halves of scikit-learn's digits",
        "net": task.title,
        "budget": budget.name,
        "run": str(budget),
        "error": "negative log-likelihood of a lower half, and L2 penalty",
        "metric": task.metric.name,
        "train_images": len(train),
        "test_images": len(test),
        "evaluation_images": min(1_000, len(train)),
        "batch_size": BATCH_SIZE,
        "seeds": list(budget.seeds),
    }


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line; exits with status 2 if it makes no sense."""
    parser = argparse.ArgumentParser(
        prog="mixture.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--budget",
        choices=tuple(BUDGETS),
        default="hour",
        help=f"smoke: a few updates; hour: {BUDGETS['hour'].seconds:g} s for each run (default)",
    )
    parser.add_argument(
        "--methods",
        nargs="+",
        choices=tuple(METHODS),
        default=list(METHODS),
        metavar="NAME",
        help=f"of {', '.join(METHODS)} (default: all)",
    )
    parser.add_argument(
        "--out",
        type=pathlib.Path,
        default=pathlib.Path("figure2"),
        metavar="DIR",
        help="folder of the folders of runs (default: figure2)",
    )
    args = parser.parse_args(arguments)
    given = sys.argv[1:] if arguments is None else list(arguments)
    args.command = " ".join(("python examples/mixture.py", *given))
    return args


if __name__ == "__main__":
    sys.exit(main())
