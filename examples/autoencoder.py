"""Train a deep autoencoder with Gauss-Newton and first-order optimizers, and compare them.

    python examples/autoencoder.py --dataset curves --out demo

The nets are those of Hinton & Salakhutdinov (2006): a linear code in the middle, Bernoulli logits
at the end, an L2 penalty on the kernels. All optimizers start from the same weights, are fed in the
same way and run for the same time. KFRA, KFLR and KFAC run with their defaults; for Adam and SGD a
grid of learning rates is tried first and printed, and the best one is then trained from the start.

The clock counts everything that `fit` does to train. It stands still while TensorFlow traces the
update for the first time and while the objective is evaluated. A run ends with the first update
that reaches the limit.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import pathlib
import sys
from collections.abc import Callable, Sequence

import keras
import numpy as np
import tensorflow as tf
from _arguments import positive_integer, positive_number, seed
from _autoencoders import ACTIVATIONS, DATASETS, FACES_SOURCE, build_autoencoder, title_of_data
from _methods import GAUSS_NEWTON, Method, adam, trace_update
from _report import Grid, Run, print_grid, print_runs, progress_bar, require_writable, write_report
from _stopwatch import Limit, Point, Stopwatch
from rich.console import Console

PIXELS = 784
NAMES = ("curves", "mnist")  # of the data sets of so many pixels, with Bernoulli outputs
L2_PENALTY = 1e-5

EVALUATION_IMAGES = 5_000
EVALUATIONS = 25
DEFAULT_SECONDS = 22.0
GRID_PART = 1 / 2  # of the limit, for each learning rate that is tried
STRIP_IMAGES = 12


METHODS = {
    **GAUSS_NEWTON,
    "adam": adam(3e-4, 1e-3, 3e-3, 1e-2),
    "sgd": Method(
        "SGD",
        lambda rate: keras.optimizers.SGD(rate, momentum=0.9, nesterov=True),
        (1e-4, 3e-4, 1e-3, 3e-3),
    ),
}


@dataclasses.dataclass(frozen=True)
class Problem:
    """What all optimizers have in common."""

    dataset: str
    data_dir: pathlib.Path | None
    activation: str
    batch_size: int
    seed: int
    train_images: np.ndarray
    test_images: np.ndarray

    @property
    def evaluation_images(self) -> np.ndarray:
        """The training images on which the objective is followed."""
        return self.train_images[:EVALUATION_IMAGES]

    @property
    def batches(self) -> tf.data.Dataset:
        """Shuffled batches of images and, as their targets, the same images.

        Without autotuning: with it, as in `fit` on arrays, an epoch can take seconds to end.
        """
        images = tf.data.Dataset.from_tensor_slices(self.train_images)
        batches = images.shuffle(len(self.train_images), seed=self.seed).batch(self.batch_size)
        options = tf.data.Options()
        options.autotune.enabled = False
        return batches.map(lambda batch: (batch, batch)).prefetch(2).with_options(options)

    @property
    def title(self) -> str:
        """Data and net in a line."""
        net = "-".join(map(str, (PIXELS, *DATASETS[self.dataset].net("literature"))))
        source = title_of_data(self.dataset, self.data_dir)
        return f"Autoencoder {net} and mirrored, {self.activation} units, on {source}"

    def build(self) -> keras.Model:
        """The net, from pixels to the logits of pixels."""
        widths = DATASETS[self.dataset].net("literature")
        return build_autoencoder(PIXELS, widths, self.activation, L2_PENALTY)


def train(
    problem: Problem,
    method: Method,
    learning_rate: float | None,
    limit: Limit,
    *,
    evaluations: int,
    show: Callable[[float, Point], None],
) -> tuple[keras.Model, list[Point]]:
    """Train from the weights that the seed gives; the model and how its objective fell."""
    keras.utils.set_random_seed(problem.seed)
    model = problem.build()
    model.compile(
        optimizer=method.make_for(model, learning_rate),
        loss=keras.losses.BinaryCrossentropy(from_logits=True),  # the mean over pixels ...
        loss_weights=[float(PIXELS)],  # ... times their number: the sum
        jit_compile=False,
    )
    batches = problem.batches
    trace_update(model, batches.take(1))
    stopwatch = Stopwatch(
        limit,
        lambda: evaluate_objective(model, problem.evaluation_images),
        evaluations=evaluations,
        show=show,
    )
    # The stopwatch ends it; the batches are shuffled already.
    model.fit(batches, epochs=sys.maxsize, shuffle=False, callbacks=[stopwatch], verbose=0)
    return model, stopwatch.points


def evaluate_objective(model: keras.Model, images: np.ndarray) -> float:
    """What `fit` minimises: cross-entropy of an image, mean over images, and the L2 penalty."""
    logits = model(images, training=False)
    cross_entropy = keras.losses.BinaryCrossentropy(from_logits=True)(images, logits)
    return float(PIXELS * cross_entropy + sum(model.losses))


def reconstruct(model: keras.Model, images: np.ndarray) -> np.ndarray:
    """The images that the model makes of images, same shape."""
    logits = model(images, training=False)
    return keras.ops.convert_to_numpy(keras.ops.sigmoid(logits))


def reconstruction_error(model: keras.Model, images: np.ndarray) -> float:
    """Squared error summed over the pixels of an image, mean over images."""
    return float(np.square(reconstruct(model, images) - images).sum(axis=1).mean())


def search_learning_rate(
    problem: Problem, method: Method, rates: Sequence[float], limit: Limit, console: Console
) -> Grid:
    """Train with every learning rate for a part of the budget."""
    ends = []
    for rate in rates:
        with progress_bar(console, f"{method.label} {rate:g}") as show:
            _, points = train(problem, method, rate, limit, evaluations=1, show=show)
        ends.append(points[-1])
    return Grid(method.label, tuple(rates), tuple(ends))


def run_method(
    problem: Problem, method: Method, rate: float | None, limit: Limit, console: Console
) -> Run:
    """Train for the whole budget and measure the errors."""
    with progress_bar(console, method.label) as show:
        model, points = train(problem, method, rate, limit, evaluations=EVALUATIONS, show=show)
    return Run(
        label=method.label,
        learning_rate=rate,
        points=points,
        train_error=reconstruction_error(model, problem.evaluation_images),
        test_error=reconstruction_error(model, problem.test_images),
        reconstructions=reconstruct(model, problem.test_images[:STRIP_IMAGES]),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare the optimizers; 0 if all went well."""
    args = parse_arguments(arguments)
    console = Console()
    try:
        require_writable(args.out)
        problem = Problem(
            args.dataset,
            args.data_dir,
            args.activation,
            args.batch_size,
            args.seed,
            *DATASETS[args.dataset].load(args.data_dir, FACES_SOURCE),
        )
    except (ImportError, OSError, ValueError) as error:
        print(f"autoencoder.py: error: {error}", file=sys.stderr)
        return 1

    console.print(problem.title, style="bold", highlight=False)
    console.print(
        f"{len(problem.train_images):,} training images, batches of {problem.batch_size:,}, "
        f"seed {problem.seed}; for each optimizer {args.limit}",
        highlight=False,
    )
    grids, runs = [], []
    for method in (METHODS[name] for name in args.optimizers):
        rates: Sequence[float] = ()
        if method.learning_rates:
            rates = args.learning_rates or method.learning_rates
        rate = rates[0] if rates else None
        if len(rates) > 1:
            grid = search_learning_rate(problem, method, rates, args.grid_limit, console)
            print_grid(console, grid)
            grids.append(grid)
            rate = grid.best_rate
        runs.append(run_method(problem, method, rate, args.limit, console))

    settings = {
        "dataset": problem.dataset,
        "title": problem.title,
        "batch_size": problem.batch_size,
        "seed": problem.seed,
        "train_images": len(problem.train_images),
        "evaluation_images": len(problem.evaluation_images),
        "test_images": len(problem.test_images),
        "limit": str(args.limit),
        "grid_limit": str(args.grid_limit),
    }
    print_runs(console, settings, runs)
    for path in write_report(args.out, settings, grids, runs, problem.test_images[:STRIP_IMAGES]):
        console.print(f"wrote {path}", highlight=False, soft_wrap=True)
    return 0


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line; exits with status 2 if it makes no sense."""
    parser = argparse.ArgumentParser(
        prog="autoencoder.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--dataset", choices=NAMES, default="curves", help="default: curves")
    parser.add_argument(
        "--data-dir",
        type=pathlib.Path,
        metavar="DIR",
        help="where the data are: for mnist a folder with its IDX files (default: Keras downloads "
        "MNIST), for curves the original digs3pts_1.mat or its folder (default: generated)",
    )
    parser.add_argument(
        "--activation",
        choices=tuple(ACTIVATIONS),
        default="tanh",
        help="of the hidden units (default: tanh; logistic ones take long to leave the first "
        "plateau with Keras' initial weights)",
    )
    parser.add_argument(
        "--optimizers",
        nargs="+",
        choices=tuple(METHODS),
        default=["kfra", "adam"],
        metavar="NAME",
        help=f"of {', '.join(METHODS)} (default: kfra adam)",
    )
    parser.add_argument(
        "--seconds",
        type=positive_number,
        help=f"of training for each optimizer (default: {DEFAULT_SECONDS:g}, or no limit if "
        "--updates is given)",
    )
    parser.add_argument(
        "--updates", type=positive_integer, help="of each optimizer at most (default: no limit)"
    )
    parser.add_argument(
        "--grid-seconds",
        type=positive_number,
        metavar="SECONDS",
        help="of training for each learning rate that is tried (default: half of --seconds; "
        "half of --updates holds besides)",
    )
    parser.add_argument(
        "--learning-rates",
        nargs="+",
        type=positive_number,
        metavar="RATE",
        help="to try instead of the default grids, or a single one to use; default grids: "
        + ", ".join(
            f"{name} {' '.join(f'{rate:g}' for rate in method.learning_rates)}"
            for name, method in METHODS.items()
            if method.learning_rates
        ),
    )
    parser.add_argument("--batch-size", type=positive_integer, default=1000, help="default: 1000")
    parser.add_argument("--seed", type=seed, default=0, help="of weights and batches (default: 0)")
    parser.add_argument(
        "--out",
        type=pathlib.Path,
        default=pathlib.Path("autoencoder"),
        metavar="DIR",
        help="folder for the plot and the numbers (default: autoencoder)",
    )
    args = parser.parse_args(arguments)
    args.optimizers = list(dict.fromkeys(args.optimizers))
    if args.seconds is None and args.updates is None:
        args.seconds = DEFAULT_SECONDS
    args.limit = Limit(args.seconds or math.inf, args.updates or math.inf)
    args.grid_limit = Limit(
        args.grid_seconds or GRID_PART * args.limit.seconds, GRID_PART * args.limit.updates
    )
    return args


if __name__ == "__main__":
    sys.exit(main())
