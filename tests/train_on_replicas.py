"""Prints the weights after twenty updates on some replicas, as JSON: {problem: weights}.

    python train_on_replicas.py REPLICAS PROBLEM...

A script of its own, since logical devices must be made before TensorFlow starts, and since
strategies of other sizes clash in one process.
"""

from __future__ import annotations

import contextlib
import json
import sys
from typing import Any

import tensorflow as tf

if __name__ == "__main__":
    REPLICAS = int(sys.argv[1])
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0],
        [tf.config.LogicalDeviceConfiguration()] * REPLICAS,
    )

import keras
import numpy as np

import tf_kfgn

BATCHES, BATCH_SIZE, UPDATES = 5, 16, 20
SETTINGS = {"factor_period": 2, "inverse_period": 4, "damping_period": 2}
OPTIMIZERS = {"kfra": tf_kfgn.KFRA, "kflr": tf_kfgn.KFLR, "kfac": tf_kfgn.KFAC}


def data(shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Inputs, classes and weights of the examples."""
    generator = np.random.default_rng(1)
    x = generator.normal(size=(BATCHES * BATCH_SIZE, *shape))
    logits = x.reshape(len(x), -1) @ generator.normal(size=(x[0].size, 3))
    y = np.argmax(logits + generator.normal(size=logits.shape), axis=1)
    return x, y, generator.uniform(0.1, 3, size=len(x))


def whole_network() -> list[Any]:
    """A convolution, synchronised batch normalisation, a maximum and an L2 penalty, in float64."""
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    return [
        keras.Input((5, 5, 1)),
        keras.layers.Conv2D(2, 3),
        keras.layers.BatchNormalization(synchronized=True),
        keras.layers.ReLU(),
        keras.layers.MaxPooling2D(2, 1),
        keras.layers.Flatten(),
        keras.layers.Dense(3, kernel_regularizer=keras.regularizers.L2(1e-3)),
    ]


def half_network() -> list[Any]:
    """Dense layers that compute in float16."""
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("mixed_float16")
    hidden = keras.layers.Dense(5, "tanh")
    return [keras.Input((6,)), hidden, keras.layers.Dense(3, dtype="float32")]


def compiled_model(problem: str) -> keras.Model:
    """The model of a problem.

    Args:
        problem: The name of an optimizer; `_in_half` if layers compute in half precision,
            `_in_bfloat16` if factors travel so, and every replica inverts all blocks.
    """
    keras.utils.set_random_seed(0)
    name, _, narrow = problem.partition("_in_")
    model = keras.Sequential(half_network() if narrow == "half" else whole_network())
    tf_kfgn.enable_curvature(model)
    sending = {"sharding": None, "communication_dtype": "bfloat16"} if narrow == "bfloat16" else {}
    # Float64 needs no scaled loss; but it takes the way through the threads that scaling takes.
    optimizer = keras.optimizers.LossScaleOptimizer(OPTIMIZERS[name](**SETTINGS, **sending))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=optimizer, loss=loss, jit_compile=False)
    return model


def trained(problem: str, strategy: tf.distribute.Strategy | None) -> list[float]:
    """The weights after training, with averages of batch normalisation."""
    with strategy.scope() if strategy else contextlib.nullcontext():
        model = compiled_model(problem)
    x, y, weights = data(model.input_shape[1:])
    epochs = UPDATES // BATCHES
    model.fit(x, y, BATCH_SIZE, epochs, sample_weight=weights, shuffle=False, verbose=0)
    return np.concatenate([np.ravel(weight) for weight in model.get_weights()]).tolist()


def main(problems: list[str]) -> None:
    strategy = None
    if REPLICAS > 1:
        strategy = tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(REPLICAS)])
    print(json.dumps({problem: trained(problem, strategy) for problem in problems}))


if __name__ == "__main__":
    main(sys.argv[2:])
