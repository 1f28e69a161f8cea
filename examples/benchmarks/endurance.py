"""Long runs with the defaults, on digits that get worse: does a good state ever become a bad one?

    python examples/benchmarks/endurance.py

A net of 64-128-64-10 ReLU units on scikit-learn's digits, batches of 64 if nothing else is said,
one seed. After every tenth update the loss of all training rows is taken, with their clean labels
where a batch was corrupted. The table says how far it ever rose above twice its running minimum,
how many updates left the weights as they were, and where it ended.
"""

from __future__ import annotations

import argparse
import math
import pathlib
import sys
from collections.abc import Iterator, Sequence
from typing import NamedTuple

sys.path.append(str(pathlib.Path(__file__).resolve().parents[1]))  # where the helpers lie

import keras
import numpy as np
from _arguments import positive_integer
from _methods import GAUSS_NEWTON
from rich.console import Console
from rich.progress import track
from rich.table import Table
from sklearn.datasets import load_digits

import tf_kfgn


class Case(NamedTuple):
    """What is wrong with a run.

    Attributes:
        rows: Training rows; the last batch of an epoch has what is left.
        batch_size: Rows of a batch.
        noise: Part of the labels that is random for good.
        corrupted: Part of the batches that has random labels and inputs five times as large.
        dropout: Rate after each hidden layer.
        weightless: Part of the rows of each batch that has the sample weight 0.
        learning_rate: Of the optimizer.
    """

    rows: int = 1408
    batch_size: int = 64
    noise: float = 0.0
    corrupted: float = 0.0
    dropout: float = 0.0
    weightless: float = 0.0
    learning_rate: float = 1.0


CASES = {
    "nothing wrong": Case(),
    "last batch of 5 rows": Case(rows=1413),
    "a fifth of the labels random": Case(noise=0.2),
    "one batch in a hundred corrupted": Case(corrupted=0.01),
    "dropout 0.5": Case(dropout=0.5),
    "sample weights with zeros": Case(weightless=0.3),
    "learning_rate=3": Case(learning_rate=3.0),
    "batch of 1": Case(batch_size=1),
}


class Endured(NamedTuple):
    """What a run showed.

    Attributes:
        rise: The most by which the loss was above twice its running minimum; 0 if it never was.
        nonfinite: How often it was not finite.
        rejected: Updates of the last half that left the weights as they were.
        final: The loss in the end.
    """

    rise: float
    nonfinite: int
    rejected: int
    final: float


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the cases and print the table; 1 if some loss was not finite."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--method", choices=GAUSS_NEWTON, default="kfac", help="default: kfac")
    parser.add_argument(
        "--updates", type=positive_integer, default=20_000, help="of each run (default: 20,000)"
    )
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES), metavar="CASE")
    parser.add_argument("--smoke", action="store_true", help="200 updates of each run")
    args = parser.parse_args(arguments)
    updates = 200 if args.smoke else args.updates
    console = Console()
    table = Table(
        "digits", "rise above 2x minimum", "not finite", "rejected in the last half", "end"
    )
    results = {}
    for name in track(args.cases, "cases", console=console):
        results[name] = endure(CASES[name], args.method, updates)
        rise, nonfinite, rejected, final = results[name]
        part = 100 * rejected / (updates - updates // 2)
        table.add_row(name, f"{rise:.3g}", str(nonfinite), f"{part:.1f} %", f"{final:.2g}")
    console.print(
        f"{GAUSS_NEWTON[args.method].label} with its defaults, {updates:,} updates of each"
    )
    console.print(table)
    return int(any(result.nonfinite for result in results.values()))


def endure(case: Case, method: str, updates: int) -> Endured:
    """Train on one case."""
    keras.utils.set_random_seed(0)
    generator = np.random.default_rng(0)
    digits = load_digits()
    order = generator.permutation(len(digits.data))[: case.rows]
    x, y = (digits.data[order] / 16).astype("float32"), digits.target[order].astype("int32")
    noisy = generator.random(case.rows) < case.noise
    y[noisy] = generator.integers(0, 10, noisy.sum())
    model = keras.Sequential([keras.Input((64,))])
    for width in (128, 64):
        model.add(keras.layers.Dense(width, activation="relu"))
        if case.dropout:
            model.add(keras.layers.Dropout(case.dropout))
    model.add(keras.layers.Dense(10))
    tf_kfgn.enable_curvature(model)
    optimizer = GAUSS_NEWTON[method].make(case.learning_rate)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, jit_compile=False)
    least, rise, nonfinite, rejected = math.inf, 0.0, 0, 0
    for number, (inputs, labels, weights) in enumerate(batches(case, x, y, generator), start=1):
        model.train_on_batch(inputs, labels, sample_weight=weights)
        if number == updates // 2:
            rejected = int(optimizer.rejected_steps)
        if number % 10 == 0:
            full = float(loss(y, model(x)))
            nonfinite += not math.isfinite(full)
            least = min(least, full)
            rise = max(rise, full - 2 * least)
        if number == updates:
            break
    final = float(loss(y, model(x)))
    return Endured(max(rise, 0.0), nonfinite, int(optimizer.rejected_steps) - rejected, final)


def batches(
    case: Case, x: np.ndarray, y: np.ndarray, generator: np.random.Generator
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray | None]]:
    """Inputs, labels and weights of one batch after the other, without end."""
    while True:
        order = generator.permutation(len(x))
        for start in range(0, len(x), case.batch_size):
            rows = order[start : start + case.batch_size]
            inputs, labels = x[rows], y[rows]
            if generator.random() < case.corrupted:
                inputs, labels = 5 * inputs, generator.integers(0, 10, len(rows)).astype("int32")
            weights = None
            if case.weightless:
                weights = (generator.random(len(rows)) >= case.weightless).astype("float32")
            yield inputs, labels, weights


if __name__ == "__main__":
    sys.exit(main())
