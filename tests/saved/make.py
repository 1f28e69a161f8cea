"""Make the files in this folder, which later versions must be able to load.

They are made once, with the version in their names and the oldest Keras that it supports:

    PYTHONPATH=. python tests/saved/make.py

What the files of 0.1.0 reach was taken anew when steps were bounded and compared more often: the
state is the old one, the rule of the update is not.
"""

from __future__ import annotations

import pathlib
from typing import Any

import keras
import numpy as np

import tf_kfgn

FOLDER = pathlib.Path(__file__).parent
PERIODS = {"factor_period": 2, "inverse_period": 3, "damping_period": 2}
OPTIMIZERS = {
    "kfra": lambda: tf_kfgn.KFRA(**PERIODS),
    "kflr": lambda: tf_kfgn.KFLR(**PERIODS, use_ema=True, gradient_accumulation_steps=2),
    "kfac": lambda: tf_kfgn.KFAC(
        damping=keras.optimizers.schedules.ExponentialDecay(0.1, 4, 0.5),
        **PERIODS,
        clipnorm=1.0,
        weight_decay=0.01,
        num_samples=2,
        seed=3,
    ),
}


def batch(number: int) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and targets of one batch, the same everywhere."""
    x = np.sin(np.arange(80.0) * 1.7 + number).reshape(16, 5)
    return x.astype("float32"), (x[:, :2] * x[:, 1:3]).astype("float32")


def go_on(model: Any, first: int) -> dict[str, np.ndarray]:
    """Two more batches; the weights and the loss after them."""
    model.run_eagerly = True
    for number in range(first, first + 2):
        model.train_on_batch(*batch(number))
    x, y = batch(0)
    loss = np.mean((model.predict_on_batch(x) - y) ** 2)
    return {**{f"weight_{i}": w for i, w in enumerate(model.get_weights())}, "loss": loss}


def main() -> None:
    """Five batches, a file, and two batches more."""
    for name, optimizer in OPTIMIZERS.items():
        hidden = keras.layers.Dense(4, "tanh", name="hidden")
        model = keras.Sequential([keras.Input((5,)), hidden, keras.layers.Dense(2, name="last")])
        for variable in model.trainable_variables:
            values = np.cos(np.arange(float(np.prod(variable.shape)))).reshape(variable.shape)
            variable.assign(0.5 * values)
        tf_kfgn.enable_curvature(model)
        model.compile(optimizer(), loss="mse", jit_compile=False)
        for number in range(5):
            model.train_on_batch(*batch(number))
        model.save(FOLDER / f"{name}-{tf_kfgn.__version__}.keras")
        np.savez(FOLDER / f"{name}-{tf_kfgn.__version__}.npz", **go_on(model, 5))


if __name__ == "__main__":
    main()
