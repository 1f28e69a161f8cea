"""What an update of KFRA, KFLR and KFAC costs on small architectures, and what was expected.

    python examples/benchmarks/method_cost.py [--only NAME ...]

Measures the CPU time of updates and divides it by that of a gradient. The time is that of all
threads together, so that other programs matter little. After the first updates, which invert each
new estimate, three whole periods of inversions are timed. Next to each number stands the estimate
of `tf_kfgn.recommend`; the last columns are what it recommends, and how much more that costs than
the cheapest of the three.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf
from benchmark_models import ARCHITECTURES, Architecture

import tf_kfgn
from tf_kfgn.optimizers.periods import RARE

METHODS = {"KFRA": tf_kfgn.KFRA, "KFLR": tf_kfgn.KFLR, "KFAC": tf_kfgn.KFAC}


def main() -> None:
    """Print a row for each architecture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--only", nargs="*", default=[""], help="architectures whose name contains one of these"
    )
    only = parser.parse_args().only
    heads = "".join(f"{name + ' (expected)':>20}" for name in METHODS)
    print(f"{'architecture':<32}{heads}  recommended  against the cheapest")
    for architecture in ARCHITECTURES:
        if any(part in architecture.name for part in only):
            print(row(architecture), flush=True)


def row(architecture: Architecture) -> str:
    """A row of the table."""
    measured = costs(architecture)
    advice = tf_kfgn.recommend(
        architecture.make(), architecture.loss, batch_size=architecture.batch_size
    )
    cells = "".join(
        f"{f'{measured[name]:.2f} ({advice.candidates[name].cost:.2f})':>20}" for name in METHODS
    )
    chosen = advice.method
    excess = measured[chosen] / min(measured.values())
    label = chosen if advice.name == chosen else f"{advice.name}/{chosen}"
    return f"{architecture.name:<32}{cells}  {label:<11}  {excess:.2f}"


def costs(architecture: Architecture) -> dict[str, float]:
    """CPU time of an update of each method, as a multiple of that of a gradient."""
    keras.utils.set_random_seed(0)
    model = architecture.make()
    x, y = (tf.constant(part) for part in architecture.batch(model))
    loss_fn = keras.losses.get(architecture.loss)

    @tf.function
    def gradient() -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            loss = loss_fn(y, model(x, training=True))
        return [
            tf.convert_to_tensor(g)
            for g in tape.gradient(loss, [v.value for v in model.trainable_variables])
        ]

    seconds = {}
    units = [statistics.median(times(gradient, 3, 50))]
    for name, make in METHODS.items():
        seconds[name] = seconds_of(architecture, make, x, y)
        units.append(statistics.median(times(gradient, 3, 50)))
    return {name: value / statistics.median(units) for name, value in seconds.items()}


def seconds_of(
    architecture: Architecture, make: Callable[..., Any], x: tf.Tensor, y: tf.Tensor
) -> float:
    """Mean CPU time of an update: of the medians at each place in a period of inversions."""
    keras.utils.set_random_seed(0)
    model = tf_kfgn.enable_curvature(architecture.make())
    optimizer = make(damping_period=None)
    model.compile(optimizer, architecture.loss, jit_compile=False)
    optimizer.build(model.trainable_variables)
    step = tf.function(lambda: model.train_step((x, y)))
    places: dict[int, list[float]] = defaultdict(list)
    for update, seconds in enumerate(times(step, RARE, 3 * RARE)):
        places[update % RARE].append(seconds)
    return statistics.fmean(statistics.median(seconds) for seconds in places.values())


def times(function: Callable[[], Any], warm_up: int, count: int) -> list[float]:
    """CPU seconds of calls after the first ones."""
    found = []
    for _ in range(warm_up + count):
        start = time.process_time()
        for tensor in tf.nest.flatten(function()):
            tensor.numpy()
        found.append(time.process_time() - start)
    return found[warm_up:]


if __name__ == "__main__":
    main()
