"""Train a classifier with several optimizers for the same time or epochs, and compare them.

A method with a grid of learning rates is trained in full with each of them; the one with the lowest
validation loss at the end stands for it. Every run starts from the same weights and is fed the same
batches in the same order.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import pathlib
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from _arguments import positive_integer, positive_number, seed
from _epochs import Epoch, Training, print_trainings, write_trainings
from _methods import GAUSS_NEWTON, Method, adam, trace_update
from _report import Grid, print_grid, progress_bar, require_writable
from _stopwatch import Limit, Point
from rich.console import Console

Show = Callable[[float, Point], None]


@dataclasses.dataclass(frozen=True)
class Problem:
    """What all optimizers have in common.

    Attributes:
        title: Data and net in a line.
        build: Makes the stock Keras model, which returns logits.
        train: Inputs, integer targets and, if wanted, weights of the targets.
        validation: The same of other examples.
        batch_size: Examples in an update; what is left over of an epoch is not used.
        seconds: Of training; a run ends with the first update that reaches them.
        epochs: Passes over the training examples at most.
        seed: Of the weights and of the batches.
    """

    title: str
    build: Callable[[], keras.Model]
    train: tuple[np.ndarray, ...]
    validation: tuple[np.ndarray, ...]
    batch_size: int
    seconds: float
    epochs: float
    seed: int

    def __post_init__(self) -> None:
        """Raise a `ValueError` if there is not a single batch."""
        if self.batch_size > len(self.train[0]):
            raise ValueError(
                f"--batch-size {self.batch_size:,} is more than the {len(self.train[0]):,} "
                "training examples"
            )

    @property
    def limit(self) -> Limit:
        """When a run ends."""
        return Limit(self.seconds, self.epochs * (len(self.train[0]) // self.batch_size))

    @property
    def batches(self) -> tf.data.Dataset:
        """Shuffled batches of full size, in an order that the seed gives."""
        examples = tf.data.Dataset.from_tensor_slices(self.train)
        shuffled = examples.shuffle(len(self.train[0]), seed=self.seed)
        options = tf.data.Options()
        options.autotune.enabled = False  # with it, an epoch can take seconds to end
        batches = shuffled.batch(self.batch_size, drop_remainder=True)
        return batches.prefetch(2).with_options(options)


class EpochClock(keras.callbacks.Callback):
    """Notes what `fit` measures after each epoch; the time of the validation is not counted.

    Ends `fit` at the limit, or when the loss is no longer finite.

    Args:
        limit: When to stop.
        show: Called after every update with the part of the limit used up, and a point that has the
            running loss of the epoch for its objective.

    Attributes:
        epochs: What was noted.
    """

    def __init__(self, limit: Limit, show: Show) -> None:
        """See the class."""
        super().__init__()
        self.epochs: list[Epoch] = []
        self._limit, self._show = limit, show
        self._seconds, self._updates = 0.0, 0

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Start the clock."""
        self._started = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Add the time of the update."""
        loss = float((logs or {})["loss"])  # waits for the update to be complete
        self._seconds += time.perf_counter() - self._started
        self._updates += 1
        part = self._limit.part_used(self._seconds, self._updates)
        self._show(part, Point(self._seconds, self._updates, loss))
        if part >= 1 or not math.isfinite(loss):
            self.model.stop_training = True
        self._started = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Note what was measured."""
        values = [float((logs or {})[name]) for name in ("loss", "val_loss", "val_accuracy")]
        self.epochs.append(Epoch(self._seconds, self._updates, *values))


def train(problem: Problem, method: Method, learning_rate: float | None, show: Show) -> Training:
    """Train from the weights that the seed gives."""
    keras.utils.set_random_seed(problem.seed)
    model = problem.build()
    model.compile(
        optimizer=method.make_for(model, learning_rate),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        weighted_metrics=["accuracy"],
        jit_compile=False,
    )
    batches = problem.batches
    trace_update(model, batches.take(1))
    clock = EpochClock(problem.limit, show)
    model.fit(
        batches,
        epochs=sys.maxsize,  # the clock ends it
        shuffle=False,  # the batches are shuffled already
        validation_data=tf.data.Dataset.from_tensor_slices(problem.validation).batch(1000),
        callbacks=[clock],
        verbose=0,
    )
    return Training(method.label, learning_rate, clock.epochs)


def run_method(
    problem: Problem, method: Method, rates: Sequence[float], console: Console
) -> list[Training]:
    """Train with every learning rate, print where they led; the trainings, the best one first."""
    trainings = []
    for rate in rates or [None]:
        name = method.label if rate is None else f"{method.label} {rate:g}"
        with progress_bar(console, name) as show:
            trainings.append(train(problem, method, rate, show))
    if len(rates) < 2:
        return trainings
    ends = tuple(Point(run.end.seconds, run.end.updates, run.end.loss) for run in trainings)
    grid = Grid(method.label, tuple(rates), ends)
    print_grid(console, grid, objective="validation loss")
    return [trainings.pop(grid.best), *trainings]


def compare(name: str, args: argparse.Namespace, make_problem: Callable[[], Problem]) -> int:
    """Train, print and write `<name>.png` and `results.json`; 0 if all went well."""
    console = Console()
    try:
        require_writable(args.out)
        problem = make_problem()
    except (ImportError, OSError, ValueError) as error:
        print(f"{name}.py: error: {error}", file=sys.stderr)
        return 1

    settings = {
        "title": problem.title,
        "train_examples": len(problem.train[0]),
        "validation_examples": len(problem.validation[0]),
        "batch_size": problem.batch_size,
        "limit": str(problem.limit),
        "seed": problem.seed,
    }
    console.print(problem.title, style="bold", highlight=False)
    console.print(
        f"{settings['train_examples']:,} training examples, batches of {problem.batch_size:,}, "
        f"seed {problem.seed}; for each training {problem.limit}",
        highlight=False,
    )
    trainings = []
    for key in dict.fromkeys(args.optimizers):
        method = args.methods[key]
        rates = args.learning_rates or method.learning_rates if method.learning_rates else ()
        trainings.append(run_method(problem, method, rates, console))
    print_trainings(console, settings, [best for best, *_ in trainings])
    for path in write_trainings(args.out, name, settings, trainings):
        console.print(f"wrote {path}", highlight=False, soft_wrap=True)
    return 0


def make_parser(
    name: str, description: str, *, seconds: float, batch_size: int, learning_rates: Sequence[float]
) -> argparse.ArgumentParser:
    """What the command lines have in common, and the defaults; the learning rates are Adam's."""
    parser = argparse.ArgumentParser(
        prog=f"{name}.py",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    methods = {**GAUSS_NEWTON, "adam": adam(*learning_rates)}
    parser.set_defaults(methods=methods, default_seconds=seconds)
    parser.add_argument(
        "--optimizers",
        nargs="+",
        choices=tuple(methods),
        default=["kfac", "adam"],
        metavar="NAME",
        help=f"of {', '.join(methods)} (default: kfac adam)",
    )
    parser.add_argument(
        "--learning-rates",
        nargs="+",
        type=positive_number,
        metavar="RATE",
        help="to try for Adam, or a single one to use (default: "
        f"{' '.join(f'{rate:g}' for rate in learning_rates)})",
    )
    parser.add_argument(
        "--seconds",
        type=positive_number,
        help=f"of each training at most (default: {seconds:g}, or no limit if --epochs is given)",
    )
    parser.add_argument(
        "--epochs", type=positive_integer, help="of each training at most (default: no limit)"
    )
    parser.add_argument(
        "--batch-size", type=positive_integer, default=batch_size, help=f"default: {batch_size}"
    )
    parser.add_argument("--seed", type=seed, default=0, help="of weights and batches (default: 0)")
    parser.add_argument(
        "--out",
        type=pathlib.Path,
        default=pathlib.Path(name),
        metavar="DIR",
        help=f"folder for the plot and the numbers (default: {name})",
    )
    return parser


def budget(args: argparse.Namespace) -> dict[str, Any]:
    """The fields of a `Problem` that the command line gives."""
    default = args.default_seconds if args.epochs is None else math.inf
    return {
        "batch_size": args.batch_size,
        "seconds": args.seconds or default,
        "epochs": args.epochs or math.inf,
        "seed": args.seed,
    }
