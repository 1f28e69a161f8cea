"""What a product with the curvature costs, in gradients, and how long ten eigenvalues take.

    python examples/benchmarks/products.py [--rounds 5]

Prints two tables. *Products*: one product of the Hessian and of the Gauss-Newton matrix of
ResNet50V2 with a vector, by the compiled operators and by the functions for a single product,
against a compiled gradient of the same batch. All are measured in turn, and medians are shown. The
time is CPU time of all threads together, so that other programs matter little. *Eigenvalues*: the
ten largest of both matrices of an autoencoder of about a million weights on CURVES, by CPU time and
by the clock, compilation included. `--smoke` does the same on small networks.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import time
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf
from rich.console import Console
from rich.table import Table

import tf_kfgn
from tf_kfgn import analysis

GRADIENT, EAGER = "gradient", "gradient, not compiled"
CLASSES = 10


@dataclasses.dataclass(frozen=True)
class Size:
    """How much is done.

    Attributes:
        side: Pixels of a side of an image.
        batch: Images of the residual network.
        images: Training images of CURVES.
        widths: Hidden layers of the autoencoder, down to the code.
    """

    side: int = 64
    batch: int = 8
    images: int = 500
    widths: tuple[int, ...] = (500, 200)


SMOKE = Size(side=8, batch=2, images=20, widths=(12, 3))


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="small networks, in half a minute")
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each product")
    arguments = parser.parse_args()
    smoke = arguments.smoke
    size = SMOKE if smoke else Size()
    console = Console()
    keras.utils.set_random_seed(0)
    model = small_network(size.side) if smoke else residual_network(size.side)
    console.print(products(model, size, arguments.rounds))
    console.print(eigenvalues(size))


# Products


def residual_network(side: int) -> keras.Model:
    """ResNet50V2 with random weights."""
    shape = (side, side, 3)
    return keras.applications.ResNet50V2(
        weights=None, input_shape=shape, classes=CLASSES, classifier_activation=None
    )


def small_network(side: int) -> keras.Model:
    """A convolution, normalised, and a dense layer."""
    return keras.Sequential(
        [
            keras.Input((side, side, 3)),
            keras.layers.Conv2D(4, 3),
            keras.layers.BatchNormalization(),
            keras.layers.Activation("relu"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(CLASSES),
        ]
    )


def products(model: keras.Model, size: Size, rounds: int) -> Table:
    """CPU seconds of each product, and as a multiple of those of a gradient."""
    generator = np.random.default_rng(0)
    x = tf.constant(generator.normal(size=(size.batch, size.side, size.side, 3)), tf.float32)
    y = tf.constant(generator.integers(CLASSES, size=size.batch))
    seconds = measured(tasks(model, x, y, generator), rounds)
    table = Table(
        title=f"{model.name}, {model.count_params():,} weights, {size.batch} images of "
        f"{size.side} x {size.side}, medians of {rounds}"
    )
    for column in ("what", "first call, CPU s", "CPU s", "gradients"):
        table.add_column(column, justify="left" if column == "what" else "right")
    unit = statistics.median(seconds[GRADIENT][1:])
    for name, (first, *others) in seconds.items():
        median = statistics.median(others)
        table.add_row(name, f"{first:.1f}", f"{median:.3f}", f"{median / unit:.2f}")
    return table


def tasks(
    model: keras.Model, x: tf.Tensor, y: tf.Tensor, generator: np.random.Generator
) -> dict[str, Callable[[], object]]:
    """What is measured, by name."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    variables = model.trainable_variables
    vectors = [generator.normal(size=v.shape).astype(np.float32) for v in variables]
    flat = np.concatenate([np.ravel(vector) for vector in vectors])
    hessian = analysis.hessian_operator(model, x, y, loss)
    gauss_newton = analysis.gauss_newton_operator(model, x, loss, y)

    def gradient() -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            value = loss(y, model(x, training=False))
        return tape.gradient(value, [variable.value for variable in variables])

    compiled = tf.function(gradient)
    return {
        GRADIENT: lambda: [tensor.numpy() for tensor in compiled()],
        "hessian_operator": lambda: hessian @ flat,
        "gauss_newton_operator": lambda: gauss_newton @ flat,
        EAGER: lambda: [tensor.numpy() for tensor in gradient()],
        "hessian_vector_product": lambda: analysis.hessian_vector_product(
            model, x, y, loss, vectors
        ),
        "gauss_newton_vector_product": lambda: tf_kfgn.gauss_newton_vector_product(
            model, x, loss, vectors, y
        ),
    }


def measured(tasks: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """CPU seconds of calls in turn; the first one, which compiles, comes first."""
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    for _ in range(1 + rounds):
        for name, task in tasks.items():
            start = time.process_time()
            task()
            seconds[name].append(time.process_time() - start)
    return seconds


# Eigenvalues


def eigenvalues(size: Size) -> Table:
    """The ten largest of both matrices, and how long they take, compilation included."""
    images, _ = tf_kfgn.datasets.curves.load_data(train_size=size.images, test_size=1)
    model = autoencoder(size.widths)
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    makers = {
        "Hessian": lambda: analysis.hessian_operator(model, images, images, loss),
        "Gauss-Newton": lambda: analysis.gauss_newton_operator(model, images, loss),
    }
    table = Table(title=f"{model.count_params():,} weights, {size.images} images of CURVES")
    for column in ("matrix", "CPU s", "clock, s", "ten largest eigenvalues"):
        table.add_column(column)
    for name, make in makers.items():
        start = time.process_time(), time.perf_counter()
        values = analysis.top_eigenpairs(make(), 10).values
        stop = time.process_time(), time.perf_counter()
        seconds = [f"{after - before:.1f}" for before, after in zip(start, stop, strict=True)]
        table.add_row(name, *seconds, " ".join(f"{value:.3g}" for value in values))
    return table


def autoencoder(widths: tuple[int, ...]) -> keras.Model:
    """Layers down to the code and up again, with tanh."""
    mirrored = (*widths, *widths[-2::-1])
    hidden = [keras.layers.Dense(width, "tanh") for width in mirrored]
    return keras.Sequential([keras.Input((784,)), *hidden, keras.layers.Dense(784)])


if __name__ == "__main__":
    main()
