"""Figure 2 of Botev, Ritter & Barber (2017): deep autoencoders, second order against first order.

    python examples/figure2.py --dataset curves

Trains D-1000-500-250-30 and mirrored, as the paper does, or the net that the literature has for the
data set. KFRA and KFAC run with their defaults, which average the curvature over updates as far as
batches disagree (the paper's curvature momentum, dashed), and without that average; HessianFree
runs with its defaults.
SGD, momentum, Nesterov, Adam, AdamW and Muon are searched over learning rates, at full length, and
the grid is widened until the best rate is inside; AdamW and Muon have a warm-up and cosine decay.
The best rate then runs with the other seeds.

What an update takes is measured once, all methods in turns, and kept in `paces.json`. Seconds are
updates at that pace, so that other work on the machine slows a run down but changes no result, and
nobody's tracing counts.

Every finished run is a line of `runs.jsonl` in a folder below --out; one that was begun is kept
every minute. What was killed goes on from there when it is started again. The curves go to
`history.csv`, the ends of all runs to `runs.csv`, both to TensorBoard, and the figure to
`figure2.png`; `examples/report.py` puts the figures of several data sets side by side.

Budgets: `smoke` does a few updates of a narrow net on a few images; `hour` gives all runs the same
seconds, so few that a data set takes about an hour on two cores; `paper` makes the paper's numbers
of updates.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf
from _arguments import positive_number, seed
from _autoencoders import ACTIVATIONS, DATASETS, FACES_SOURCE, build_autoencoder, title_of_data
from _contest import Budget, Contest
from _contest_files import check_same_problem
from _contest_progress import leave_files, print_results, run_contest
from _methods import Method, adam, adamw, muon, sgd
from _panels import Panel, draw
from _report import replacing, require_writable
from _task import Data, Metric, Task
from matplotlib import pyplot as plt
from rich.console import Console

import tf_kfgn

BATCH_SIZE = 1_000
L2 = 1e-5  # η of (η/2)‖θ‖² in the objective
EVALUATION_IMAGES = 5_000
SMOKE_IMAGES, SMOKE_BATCH, SMOKE_PART = 300, 100, 20  # and of the widths one in twenty
WARM_COSINE = "warm-up, cosine"

METHODS = {
    "kfra": Method("KFRA, curvature momentum", tf_kfgn.KFRA, needs_curvature=True, dashed=True),
    "kfra-plain": Method("KFRA", lambda: tf_kfgn.KFRA(curvature_decay=0.0), needs_curvature=True),
    "kfac": Method("KFAC, curvature momentum", tf_kfgn.KFAC, needs_curvature=True, dashed=True),
    "kfac-plain": Method("KFAC", lambda: tf_kfgn.KFAC(curvature_decay=0.0), needs_curvature=True),
    "hessian-free": Method("HessianFree", tf_kfgn.HessianFree, needs_curvature=True, varying=True),
    "sgd": sgd("SGD", 0.0, False, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1),
    "momentum": sgd("momentum", 0.9, False, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2),
    "nesterov": sgd("Nesterov", 0.9, True, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2),
    "adam": adam(1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2),
    "adamw": adamw(1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2)._replace(schedule=WARM_COSINE),
    "muon": muon(3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)._replace(schedule=WARM_COSINE),
}

HOUR_SECONDS = 30.0
PAPER_UPDATES = {"curves": (40_000, 5_000), "mnist": (40_000, 5_000), "faces": (160_000, 20_000)}
SMOKE_METHODS = ("kfra", "kfac-plain", "momentum", "muon")
NOT_IN_PAPER = ("hessian-free",)  # its updates are a hundred times as long


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is missing and report; 0 if all went well."""
    args = parse_arguments(arguments)
    console = Console()
    tf.get_logger().setLevel("ERROR")  # it would warn that each model has a function of its own
    folder = args.out / "-".join((args.dataset, args.net, args.activation, args.budget.name))
    try:
        require_writable(folder)
        task = make_task(args)
        problem = describe(args, task)
        check_same_problem(folder, problem)
        contest = Contest(
            task,
            problem["batch_size"],
            {name: METHODS[name] for name in args.methods},
            args.budget,
            folder,
            evaluation_examples=EVALUATION_IMAGES,
        )
        console.print(f"{problem['title']}: {task.title}", style="bold", highlight=False)
        results = run_contest(console, contest, args.budget)
    except (ImportError, OSError, ValueError) as error:
        print(f"figure2.py: error: {error}", file=sys.stderr)
        return 1
    print_results(console, results, problem["error"])
    leave_files(console, folder, contest, problem, args.command, results)
    figure = draw([Panel(problem["title"], problem["error"], results)])
    with replacing(folder / "figure2.png") as partial:
        figure.savefig(partial, format="png", dpi=150)
    plt.close(figure)
    console.print(f"wrote {folder / 'figure2.png'}", highlight=False, soft_wrap=True)
    return 0


def make_task(args: argparse.Namespace) -> Task:
    """Images, net and loss."""
    dataset = DATASETS[args.dataset]
    widths, pixels = dataset.net(args.net), dataset.pixels
    most = None
    if args.budget.name == "smoke":
        most, widths = SMOKE_IMAGES, tuple(max(2, width // SMOKE_PART) for width in widths)

    @functools.cache
    def data() -> Data:
        images = dataset.load(args.data_dir, args.faces)
        # Tensors, since each method has its trainer: all of them hold the same ones.
        train, test = (tf.constant(part[:most]) for part in images)
        return Data((train, train), (test, test))

    data()  # what cannot be read is said before anything is built
    if dataset.gaussian:
        loss, weight = keras.losses.MeanSquaredError(), pixels / 2
        head = tf.identity
    else:
        loss, weight = keras.losses.BinaryCrossentropy(from_logits=True), float(pixels)
        head = tf.sigmoid

    def squared_error(images: tf.Tensor, outputs: tf.Tensor) -> tf.Tensor:
        return tf.reduce_sum(tf.square(images - head(outputs)), axis=-1)

    return Task(
        name=f"{args.dataset} {args.net} {args.activation}",
        title=f"{'-'.join(map(str, (pixels, *widths)))} and mirrored, {args.activation} units",
        data=data,
        # Keras' penalty is a factor of the squares, without the half.
        build=lambda: build_autoencoder(pixels, widths, args.activation, L2 / 2, biases=True),
        loss=loss,
        metric=Metric("squared error of an image", squared_error),
        batch_sizes=(),
        updates=(),
        seconds=(),
        loss_weight=weight,
    )


def describe(args: argparse.Namespace, task: Task) -> dict[str, Any]:
    """What distinguishes this problem from others."""
    (train, _), (test, _) = task.data()
    gaussian = DATASETS[args.dataset].gaussian
    kind = "half the squared error" if gaussian else "cross-entropy"
    return {
        "kind": "figure2",
        "dataset": args.dataset,
        "title": title_of_data(args.dataset, args.data_dir, args.faces),
        "net": task.title,
        "nets": args.net,
        "activation": args.activation,
        "budget": args.budget.name,
        "run": str(args.budget),
        "error": f"{kind} of an image, and L2 penalty",
        "metric": task.metric.name,
        "train_images": len(train),
        "test_images": len(test),
        "evaluation_images": min(EVALUATION_IMAGES, len(train)),
        "batch_size": SMOKE_BATCH if args.budget.name == "smoke" else BATCH_SIZE,
        "seeds": list(args.budget.seeds),
    }


def make_budget(args: argparse.Namespace) -> Budget:
    """From the arguments."""
    first, second = PAPER_UPDATES[args.dataset]
    budget = {
        "smoke": Budget(
            "smoke",
            first_order=4,
            second_order=3,
            seeds=(0, 1),
            widenings=1,
            rounds=1,
            paced_updates=1,
            evaluations=1,
        ),
        "hour": Budget("hour", seconds=HOUR_SECONDS),
        "paper": Budget("paper", first_order=first, second_order=second, evaluations=40),
    }[args.budget]
    if args.seconds is not None:
        budget = dataclasses.replace(budget, seconds=args.seconds)
    if args.seeds is not None:
        budget = dataclasses.replace(budget, seeds=tuple(dict.fromkeys(args.seeds)))
    return budget


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line; exits with status 2 if it makes no sense."""
    parser = argparse.ArgumentParser(
        prog="figure2.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--dataset", choices=tuple(DATASETS), required=True)
    parser.add_argument(
        "--net",
        choices=("paper", "literature"),
        default="paper",
        help="paper: 1000-500-250-30 on all data sets (default); literature: "
        + ", ".join(
            f"{name} {'-'.join(map(str, data.net('literature')))}"
            for name, data in DATASETS.items()
        ),
    )
    parser.add_argument(
        "--activation", choices=tuple(ACTIVATIONS), default="tanh", help="default: tanh"
    )
    parser.add_argument(
        "--budget",
        choices=("smoke", "hour", "paper"),
        default="hour",
        help="how long runs are (default: hour)",
    )
    parser.add_argument(
        "--seconds",
        type=positive_number,
        help=f"of each run, in place of the budget's ({HOUR_SECONDS:g} of hour)",
    )
    parser.add_argument(
        "--seeds",
        nargs="+",
        type=seed,
        metavar="SEED",
        help="the first one is that of the search (default: 0 1 2, of smoke 0 1)",
    )
    parser.add_argument(
        "--methods",
        nargs="+",
        choices=tuple(METHODS),
        metavar="NAME",
        help=f"of {', '.join(METHODS)} (default: all, with paper all but {NOT_IN_PAPER[0]}, with "
        f"smoke {' '.join(SMOKE_METHODS)})",
    )
    parser.add_argument(
        "--data-dir",
        type=pathlib.Path,
        metavar="PATH",
        help="where the data are: for mnist a folder with IDX files (default: that of MNIST_DIR, "
        "or Keras downloads MNIST), for curves and faces the original file (default: made)",
    )
    parser.add_argument(
        "--faces",
        choices=("olivetti", "stand-in"),
        default=FACES_SOURCE,
        help="photographs that faces are made of (default: olivetti, which scikit-learn "
        "downloads; stand-in needs no network)",
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
    args.command = " ".join(("python examples/figure2.py", *given))
    if args.methods is None:
        args.methods = SMOKE_METHODS if args.budget == "smoke" else METHODS
        if args.budget == "paper":
            args.methods = [name for name in METHODS if name not in NOT_IN_PAPER]
    args.methods = list(dict.fromkeys(args.methods))
    args.budget = make_budget(args)
    return args


if __name__ == "__main__":
    sys.exit(main())
