"""HessianFree: against KFRA for each update, and what a preconditioner saves.

    python examples/benchmarks/hessian_free.py

Prints three tables. *CURVES*: the objective after each update, all images in one batch.
*Regression*: the same in float64, for what a small network makes of its inputs, in units of the
objective at the start. *Iterations*: how many iterations CG needs until the quadratic model has
fallen by 99% of what it can, plain and with each preconditioner, for the same weights and damping;
the weights are those on the way of `HessianFree(preconditioner="kfac")` on CURVES. `-` means more
than were tried. `--smoke` does a little of each.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

import tf_kfgn
from tf_kfgn.optimizers.batch import Batch
from tf_kfgn.optimizers.hessian_free_update import search_step

FALL = 0.99


@dataclasses.dataclass(frozen=True)
class Size:
    """How much is done.

    Attributes:
        images: Training images of CURVES.
        widths: Hidden layers of the autoencoder, down to the code.
        updates: On CURVES.
        regression_updates: On the regression.
        search: Iterations of CG in one of these updates, at most.
        looks: Updates after which iterations are counted.
        most_iterations: Of CG where iterations are counted.
        preconditioners: Whose iterations are counted.
    """

    images: int = 500
    widths: tuple[int, ...] = (100, 50, 6)
    updates: int = 15
    regression_updates: int = 60
    search: int = 250
    looks: tuple[int, ...] = (0, 5, 10)
    most_iterations: int = 400
    preconditioners: tuple[str | None, ...] = (None, "kfra", "kflr", "kfac")


SMOKE = Size(
    images=60,
    widths=(12, 3),
    updates=2,
    regression_updates=2,
    search=20,
    looks=(1,),
    most_iterations=50,
    preconditioners=(None, "kfac"),
)
LOSS = keras.losses.BinaryCrossentropy(from_logits=True)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="a little of each, in a minute")
    size = SMOKE if parser.parse_args().smoke else Size()
    images, _ = tf_kfgn.datasets.curves.load_data(train_size=size.images, test_size=1)
    print(f"CURVES, {size.images} images, 784-{'-'.join(map(str, size.widths))}-...-784")
    compare(lambda: autoencoder(size.widths), LOSS, (images, images), size.updates, size.search)
    print("\nRegression in float64, in units of the start")
    keras.config.set_floatx("float64")
    regression(size.regression_updates, size.search)
    keras.config.set_floatx("float32")
    print(f"\nIterations of CG for {FALL:.0%} of the fall of the model")
    iterations(size, images)


# Objectives


def compare(
    build: Callable[[], keras.Model],
    loss: keras.losses.Loss,
    batch: tuple[np.ndarray, np.ndarray],
    updates: int,
    search: int,
    relative: bool = False,
) -> None:
    """A column for each optimizer, a row for each update; all from the same weights."""
    optimizers = {
        "KFRA": tf_kfgn.KFRA(),
        "HessianFree": tf_kfgn.HessianFree(max_cg_iterations=search),
        "with kfra": tf_kfgn.HessianFree(max_cg_iterations=search, preconditioner="kfra"),
    }
    columns = {
        name: objectives(build(), one, loss, batch, updates) for name, one in optimizers.items()
    }
    print(f"{'update':<10}" + "".join(f"{name:>14}" for name in columns))
    for number, row in enumerate(zip(*columns.values(), strict=True)):
        values = [value / first[0] for value, first in zip(row, columns.values(), strict=True)]
        shown = [f"{v:14.2e}" for v in values] if relative else [f"{v:14.4f}" for v in row]
        print(f"{number:<10d}" + "".join(shown), flush=True)


def objectives(
    model: keras.Model,
    optimizer: keras.Optimizer,
    loss: keras.losses.Loss,
    batch: tuple[np.ndarray, np.ndarray],
    updates: int,
) -> list[float]:
    """The objective before each update, and after the last."""
    tf_kfgn.enable_curvature(model)
    model.compile(optimizer, loss, jit_compile=False)
    x, y = batch
    history = model.fit(x, y, batch_size=len(x), epochs=updates, verbose=0, shuffle=False)
    return [*history.history["loss"], model.evaluate(x, y, batch_size=len(x), verbose=0)]


def autoencoder(widths: tuple[int, ...]) -> keras.Model:
    """Down to a linear code and up again, tanh, Bernoulli logits."""
    keras.utils.set_random_seed(0)
    *hidden, code = widths
    down = [keras.layers.Dense(width, "tanh") for width in hidden]
    up = [keras.layers.Dense(width, "tanh") for width in reversed(hidden)]
    middle, end = keras.layers.Dense(code), keras.layers.Dense(784)
    return keras.Sequential([keras.Input((784,)), *down, middle, *up, end])


def regression(updates: int, search: int) -> None:
    """Learn what a network of six hidden units does with one of eight."""

    def network(width: int, seed: int) -> keras.Model:
        keras.utils.set_random_seed(seed)
        layers = [keras.layers.Dense(width, "tanh"), keras.layers.Dense(2)]
        return keras.Sequential([keras.Input((5,)), *layers])

    x = np.random.default_rng(0).normal(size=(100, 5))
    y = network(6, seed=9)(x).numpy()
    loss = keras.losses.MeanSquaredError(dtype="float64")
    compare(lambda: network(8, seed=0), loss, (x, y), updates, search, relative=True)


# Iterations


def iterations(size: Size, images: np.ndarray) -> None:
    """A row for each look: τ, and the iterations with each preconditioner."""
    model = tf_kfgn.enable_curvature(autoencoder(size.widths))
    optimizer = tf_kfgn.HessianFree(max_cg_iterations=size.search, preconditioner="kfac", seed=0)
    model.compile(optimizer, LOSS, jit_compile=False)
    optimizer.build(model.trainable_variables)
    names = [str(name or "plain") for name in size.preconditioners]
    print(f"{'updates':<10}{'damping':>10}" + "".join(f"{name:>8}" for name in names))
    for number in range(max(size.looks) + 1):
        if number in size.looks:
            damping = float(optimizer.damping) or 1e-3
            values = [
                model_values(model, images, name, damping, size.most_iterations)
                for name in size.preconditioners
            ]
            lowest = min(min(column) for column in values)
            needed = [first_below(column, FALL * lowest) for column in values]
            counts = "".join(f"{'-' if n is None else n:>8}" for n in needed)
            print(f"{number:<10d}{damping:10.1e}" + counts, flush=True)
        if number < max(size.looks):
            model.train_on_batch(images, images)


def model_values(
    model: keras.Model, images: np.ndarray, name: str | None, damping: float, most: int
) -> list[float]:
    """The quadratic model after each iteration of CG from zeros, for the weights as they are."""
    optimizer = tf_kfgn.HessianFree(
        damping=damping,
        preconditioner=name,
        max_cg_iterations=most,
        cg_tolerance=0.0,
        warm_start=0.0,
        backtracking=False,
        seed=0,
    )
    variables = model.trainable_variables
    optimizer.build(variables)

    @tf.function
    def search(x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        with tf_kfgn.CurvatureTape() as tape:
            outputs = model(x, training=True)
            loss = LOSS(x, outputs)
            tape.watch_loss(LOSS, x, outputs)
        optimizer.refresh_curvature(tape)
        gradient = tape.gradient(loss, [variable.value for variable in variables])
        batch = Batch(gradient, tf.constant(1.0), tf.constant(0), [True] * len(variables), tape)
        memory, past = optimizer.memory.read(), optimizer.memory.read_search()
        found = search_step(optimizer.search, optimizer.layout, memory, past, batch)
        return found.solution.values / found.scale**2, found.solution.iterations

    values, count = search(tf.constant(images))
    return values.numpy()[: int(count) + 1].tolist()


def first_below(values: list[float], bound: float) -> int | None:
    """Number of the first value that is at most a bound."""
    return next((number for number, value in enumerate(values) if value <= bound), None)


if __name__ == "__main__":
    main()
