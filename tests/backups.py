"""A training that is stopped and started over, as if its process had been killed."""

from __future__ import annotations

import pathlib

import keras
import numpy as np

import tf_kfgn

EPOCHS, BATCHES, BATCH_SIZE = 4, 3, 16
SETTINGS = {"factor_period": 2, "inverse_period": 3, "damping_period": 2}

generator = np.random.default_rng(0)
X = generator.normal(size=(BATCHES * BATCH_SIZE, 5)).astype("float32")
Y = np.tanh(X[:, :2]) + 0.1


class Killed(BaseException):
    """What no `except Exception` catches."""


class Training:
    """A compiled model, which starts over as a rerun script would; its steps are traced once."""

    def __init__(self, optimizer: keras.optimizers.Optimizer) -> None:
        layers = [
            keras.layers.Dense(4, "tanh"),
            keras.layers.Dropout(0.3, seed=1),
            keras.layers.BatchNormalization(),
            keras.layers.Dense(2),
        ]
        self.model = tf_kfgn.enable_curvature(keras.Sequential([keras.Input((5,)), *layers]))
        self.model.compile(optimizer=optimizer, loss="mse", jit_compile=False)
        self.model.optimizer.build(self.model.trainable_variables)
        self.initial = self.state()
        self.whole = self.fit()

    @property
    def variables(self) -> list:
        return [*self.model.variables, *self.model.optimizer.variables]

    def state(self) -> list[np.ndarray]:
        return [variable.numpy() for variable in self.variables]

    def start_over(self) -> None:
        for variable, value in zip(self.variables, self.initial, strict=True):
            variable.assign(value)
        self.model._initial_epoch = None

    def fit(self, *callbacks: keras.callbacks.Callback, epochs: int = EPOCHS) -> list[np.ndarray]:
        """Train in what might be a new process; the state afterwards."""
        self.start_over()
        arguments = {"shuffle": False, "verbose": 0, "callbacks": list(callbacks)}
        self.model.fit(X, Y, BATCH_SIZE, epochs=epochs, **arguments)
        return self.state()


def same(first: list[np.ndarray], second: list[np.ndarray]) -> bool:
    return all(a.tobytes() == b.tobytes() for a, b in zip(first, second, strict=True))


class Stop(keras.callbacks.Callback):
    """Stops `fit` at the end of a batch, or the start of an epoch."""

    def __init__(self, epoch: int, batch: int | None = None) -> None:
        super().__init__()
        self.moment = (epoch, batch)

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch
        if self.moment == (epoch, None):
            raise Killed

    def on_train_batch_end(self, batch, logs=None):
        if self.moment == (self.epoch, batch):
            raise Killed


def names(folder: pathlib.Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())
