"""Where the time of an update goes, by part, beside what its matrix products need.

    python examples/benchmarks/breakdown.py [--nets NAME ...] [--methods NAME ...] [--scale]

Nets of four kinds: dense, convolutional, a transformer and an LSTM; with `--scale` also with half
and twice the batch, the width and the depth. The CPU time of all threads is measured, so that other
programs matter little, the parts in turns with whole updates and with updates of Adam. Factors,
inverses and comparisons count divided by their periods. What whole updates take beyond their parts
is called bookkeeping. The time of the first update, which traces the graph, is by the clock.

Beside the milliseconds stand the multiplications and additions of the matrix products (in millions)
and what that makes in each CPU second (in billions), next to that of one large matrix product
on this machine. Goes to breakdown.csv and breakdown.png in the output folder.
"""

from __future__ import annotations

import argparse
import csv
import functools
import pathlib
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

sys.path.append(str(pathlib.Path(__file__).resolve().parents[1]))  # where the helpers lie

import keras
import numpy as np
import tensorflow as tf
from _parts import PARTS, Measured, Problem, measure, seconds_of
from _report import plt, require_writable
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

import tf_kfgn

layers = keras.layers
METHODS = {
    "KFRA": tf_kfgn.KFRA,
    "KFLR": tf_kfgn.KFLR,
    "KFAC": lambda **arguments: tf_kfgn.KFAC(seed=0, **arguments),
}
CLASSES = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


class Size(NamedTuple):
    """How large a problem is.

    Attributes:
        batch: Examples in a batch.
        width: Units or channels of a layer.
        depth: Number of hidden layers or blocks.
    """

    batch: int
    width: int
    depth: int

    def scaled(self, axis: str, factor: float) -> Size:
        """The same with one of the numbers multiplied."""
        return self._replace(**{axis: max(1, round(factor * getattr(self, axis)))})


class Net(NamedTuple):
    """A kind of net.

    Attributes:
        make: Makes a model of some width and depth.
        inputs: Shape of the inputs of one example.
        tokens: Size of the vocabulary where the inputs are integers.
        size: The size that is measured first.
    """

    make: Callable[[Size, Any], Any]
    inputs: tuple[int, ...]
    tokens: int | None
    size: Size

    def problem(self, size: Size, outputs: int = 10) -> Problem:
        """A model with random data, the same in every call.

        Args:
            size: How large it is.
            outputs: Number of classes.
        """
        keras.utils.set_random_seed(0)
        inputs = keras.Input(self.inputs, dtype="int32" if self.tokens else "float32")
        model = keras.Model(inputs, layers.Dense(outputs)(self.make(size, inputs)))
        generator = np.random.default_rng(0)
        shape = (size.batch, *self.inputs)
        x = (
            generator.integers(self.tokens, size=shape)
            if self.tokens
            else generator.normal(size=shape)
        )
        y = generator.integers(outputs, size=(size.batch, *model.output_shape[1:-1]))
        return Problem(model, CLASSES, tf.constant(x, inputs.dtype), tf.constant(y))


def dense(size: Size, x: Any) -> Any:
    """Dense layers."""
    for _ in range(size.depth):
        x = layers.Dense(size.width, "tanh")(x)
    return x


def convolutional(size: Size, x: Any) -> Any:
    """Convolutions, each with pooling, and the mean over positions."""
    for _ in range(size.depth):
        x = layers.MaxPooling2D(padding="same")(
            layers.Conv2D(size.width, 3, padding="same", activation="relu")(x)
        )
    return layers.GlobalAveragePooling2D()(x)


def transformer(size: Size, x: Any) -> Any:
    """Blocks of attention and of two dense layers."""
    x = layers.Embedding(64, size.width)(x)
    for _ in range(size.depth):
        attended = layers.MultiHeadAttention(4, size.width // 4)(x, x)
        x = layers.LayerNormalization()(x + attended)
        hidden = layers.Dense(4 * size.width, "gelu")(x)
        x = layers.LayerNormalization()(x + layers.Dense(size.width)(hidden))
    return x


def recurrent(size: Size, x: Any) -> Any:
    """LSTM layers; the last one gives its last state."""
    for index in range(size.depth):
        x = layers.LSTM(size.width, return_sequences=index + 1 < size.depth)(x)
    return x


NETS = {
    "dense": Net(dense, (784,), None, Size(512, 512, 4)),
    "convolutional": Net(convolutional, (28, 28, 1), None, Size(128, 32, 3)),
    "transformer": Net(transformer, (32,), 64, Size(64, 64, 2)),
    "recurrent": Net(recurrent, (28, 28), None, Size(128, 64, 1)),
}


def main(arguments: list[str] | None = None) -> int:
    """Measure, print a table for each net and method, and write them."""
    args = parse_arguments(arguments)
    console = Console()
    try:
        require_writable(args.out)
    except OSError as error:
        print(f"breakdown.py: error: {error}", file=sys.stderr)
        return 1
    peak = peak_rate(args.size_of_product)
    console.print(f"one large matrix product: {peak:.1f} billion operations in a CPU second")
    found: dict[tuple[str, str, Size], Measured] = {}
    for name in args.nets:
        net = NETS[name]
        for size in sizes(net.size, args.scale):
            for method in args.methods:
                key = (name, method, size)
                make = functools.partial(net.problem, size)
                found[key] = measure(make, METHODS[method], args.repeats)
                console.print(table(key, found[key]))
    write(args.out / "breakdown.csv", found)
    draw(found).savefig(args.out / "breakdown.png", dpi=150)
    console.print(f"wrote {args.out / 'breakdown.csv'} and breakdown.png", soft_wrap=True)
    return 0


def sizes(size: Size, scale: bool) -> list[Size]:
    """The size itself, and half and twice of each of its numbers."""
    scaled = [size.scaled(axis, factor) for axis in Size._fields for factor in (0.5, 2)]
    return list(dict.fromkeys([size, *(scaled if scale else [])]))


def peak_rate(size: int) -> float:
    """Billion operations in a CPU second, of a product of two square matrices."""
    matrix = tf.random.normal((size, size), seed=0)
    product = tf.function(lambda: tf.reduce_sum(matrix @ matrix))
    return 2 * size**3 / min(seconds_of(product) for _ in range(5)) / 1e9


def table(key: tuple[str, str, Size], measured: Measured) -> Table:
    """The parts of an update."""
    name, method, size = key
    update = sum(measured.milliseconds.values())
    shown = Table(
        title=f"{name}, {method}: batch {size.batch}, width {size.width}, depth {size.depth}"
    )
    for heading in ("part", "ms", "share", "million operations", "billion / CPU s"):
        shown.add_column(heading, justify="left" if heading == "part" else "right")
    for part in PARTS:
        spent, needed = measured.milliseconds[part], measured.operations.get(part)
        rate = f"{needed / spent / 1e6:.1f}" if needed and spent > 0 else ""
        count = "" if needed is None else f"{needed / 1e6:,.1f}"
        shown.add_row(part, f"{spent:.2f}", f"{spent / update:.0%}", count, rate)
    shown.caption = (
        f"an update {update:.1f} ms, {update / measured.adam:.2f} times that of Adam; "
        f"the first one {measured.first_step:.1f} s, Adam's {measured.adam_first_step:.1f} s"
    )
    return shown


def write(path: pathlib.Path, found: dict[tuple[str, str, Size], Measured]) -> None:
    """A line for each part of each measurement."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(
            ("net", "method", *Size._fields, "part", "milliseconds", "operations", "adam")
        )
        for (name, method, size), measured in found.items():
            for part in PARTS:
                spent, needed = measured.milliseconds[part], measured.operations.get(part, "")
                writer.writerow((name, method, *size, part, spent, needed, measured.adam))


def draw(found: dict[tuple[str, str, Size], Measured]) -> Figure:
    """A bar for each measurement, in updates of Adam, made of its parts."""
    figure, axes = plt.subplots(figsize=(9, 1.5 + 0.4 * len(found)), layout="constrained")
    labels = [
        f"{name} {size.batch}·{size.width}·{size.depth}, {method}" for name, method, size in found
    ]
    left = np.zeros(len(found))
    colours = plt.get_cmap("tab10").colors
    for part, colour in zip(PARTS, colours, strict=True):
        widths = np.array([max(0.0, one.milliseconds[part] / one.adam) for one in found.values()])
        axes.barh(labels, widths, left=left, color=colour, label=part)
        left += widths
    axes.axvline(1, color="black", linewidth=0.8)
    axes.invert_yaxis()
    axes.set_xlabel("CPU time of an update / that of one of Adam")
    axes.legend(fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="breakdown.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--nets", nargs="+", choices=NETS, default=list(NETS), metavar="NAME")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=["KFAC"], metavar="NAME")
    parser.add_argument("--scale", action="store_true", help="other batches, widths and depths too")
    parser.add_argument("--repeats", type=int, default=9, help="of each measurement (default: 9)")
    parser.add_argument("--size-of-product", type=int, default=2048, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("breakdown"))
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
