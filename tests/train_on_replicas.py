"""Prints the weights after twenty updates on some replicas, as JSON: {problem: weights}.

Under the problem and ` loss` stands the loss in each epoch. Where replicas hold shares of the
inverses, what stands under the problem and ` from a file` says how training goes on without a
strategy: the largest difference of a prediction, and the age of the inverses before and after an
epoch.

    python train_on_replicas.py REPLICAS PROBLEM...

A script of its own, since logical devices must be made before TensorFlow starts, and since
strategies of other sizes clash in one process.
"""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
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
SENDING: dict[str, dict[str, Any]] = {
    # With little damping a small difference grows too fast on batches of 16 to say anything.
    "bfloat16": {"sharding": None, "communication_dtype": "bfloat16", "damping": 0.3},
    "low": {"curvature_dtype": "bfloat16", "damping": 0.3},
    "shares": {"sharding": "inverses"},
    "scale": {"spatial": "uncorrelated"},
}
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
            `_in_bfloat16` if factors travel so, and every replica inverts all blocks, `_in_low` if
            factors and inverses are kept so, `_in_shares` if each holds its share of the inverses,
            `_in_scale` if averages over channels are scaled by samples.
    """
    keras.utils.set_random_seed(0)
    name, _, narrow = problem.partition("_in_")
    model = keras.Sequential(half_network() if narrow == "half" else whole_network())
    tf_kfgn.enable_curvature(model)
    # Float64 needs no scaled loss; but it takes the way through the threads that scaling takes.
    optimizer = keras.optimizers.LossScaleOptimizer(
        OPTIMIZERS[name](**SETTINGS, **SENDING.get(narrow, {}))
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=optimizer, loss=loss, jit_compile=False)
    return model


def trained(problem: str, strategy: tf.distribute.Strategy | None) -> dict[str, list[float]]:
    """What is printed of a problem; weights are those after training, averages among them."""
    with strategy.scope() if strategy else contextlib.nullcontext():
        model = compiled_model(problem)
    x, y, weights = data(model.input_shape[1:])
    epochs = UPDATES // BATCHES
    history = model.fit(x, y, BATCH_SIZE, epochs, sample_weight=weights, shuffle=False, verbose=0)
    found_of = {problem: weights_of(model), f"{problem} loss": history.history["loss"]}
    if strategy and problem.endswith("_in_shares"):
        found_of[f"{problem} from a file"] = goes_on_from_a_file(model, x, y)
    return found_of


def weights_of(model: keras.Model) -> list[float]:
    """All weights of a model, averages of batch normalisation among them."""
    return np.concatenate([np.ravel(weight) for weight in model.get_weights()]).tolist()


def goes_on_from_a_file(model: keras.Model, x: np.ndarray, y: np.ndarray) -> list[float]:
    """Save a model, load it, and train it for another epoch, on one device."""
    with tempfile.TemporaryDirectory() as folder:
        model.save(f"{folder}/model.keras")
        loaded = keras.models.load_model(f"{folder}/model.keras")
    away = np.max(np.abs(loaded.predict(x, verbose=0) - model.predict(x, verbose=0)))
    age = loaded.optimizer.inner_optimizer.memory.scalars.inverse_age
    before = int(age)
    loaded.fit(x, y, BATCH_SIZE, shuffle=False, verbose=0)
    return [float(away), before, int(age)]


def main(problems: list[str]) -> None:
    strategy = None
    if REPLICAS > 1:
        strategy = tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(REPLICAS)])
    found: dict[str, list[float]] = {}
    for problem in problems:
        found |= trained(problem, strategy)
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[2:])
