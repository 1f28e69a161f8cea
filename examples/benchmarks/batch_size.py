"""KFAC and Adam with batches of several sizes, with and without batch normalisation and dropout.

    python examples/benchmarks/batch_size.py

Nets on scikit-learn's digits. Adam makes three times as many passes over the data as KFAC, since an
update takes up to so much longer on small convolutional nets (EVERYDAY.md), with the best learning
rate of a grid. Prints the lowest validation loss of each, medians over seeds; moving statistics are
refreshed for both.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable

import keras
import numpy as np
from sklearn.datasets import load_digits

import tf_kfgn

BATCHES = (20, 50, 100, 250, 625)
EPOCHS, MORE = 10, 3  # passes of KFAC, and how many times as many Adam makes
SEEDS = (0, 1, 2)
RATES = (1e-3, 3e-3, 1e-2)
layers = keras.layers


def main() -> None:
    """Print a row for each net and size."""
    images, labels = load_digits(return_X_y=True)
    images = (images / 16).astype("float32").reshape(-1, 8, 8, 1)
    order = np.random.default_rng(0).permutation(len(images))
    parts = [(images[part], labels[part]) for part in (order[:1250], order[1250:])]
    print(f"{'net':<28}{'batch':>6}{'KFAC':>9}{'Adam':>9}")
    passes = MORE * EPOCHS
    for name in ("plain", "dropout", "batch normalisation"):
        for size in BATCHES:
            kfac = median(name, lambda: tf_kfgn.KFAC(seed=0), size, EPOCHS, parts)
            adam = min(
                median(name, lambda rate=rate: keras.optimizers.Adam(rate), size, passes, parts)
                for rate in RATES
            )
            print(f"{name:<28}{size:6d}{kfac:9.3f}{adam:9.3f}", flush=True)


def median(
    name: str, make: Callable[[], keras.Optimizer], size: int, epochs: int, parts: list
) -> float:
    """The lowest validation loss, the median over seeds."""
    return statistics.median(lowest(name, make(), size, epochs, parts, seed) for seed in SEEDS)


def lowest(
    name: str, optimizer: keras.Optimizer, size: int, epochs: int, parts: list, seed: int
) -> float:
    """The lowest validation loss of a training."""
    keras.utils.set_random_seed(seed)
    model = network(name)
    if isinstance(optimizer, tf_kfgn.KFAC):
        tf_kfgn.enable_curvature(model)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, jit_compile=False)
    callbacks = []
    if name == "batch normalisation":
        callbacks = [tf_kfgn.callbacks.RefreshBatchNormalization(parts[0][0], batch_size=250)]
    history = model.fit(
        *parts[0], size, epochs=epochs, validation_data=parts[1], verbose=0, callbacks=callbacks
    )
    return float(np.nanmin(history.history["val_loss"]))


def network(name: str) -> keras.Model:
    """Two convolutions and two dense layers."""

    def normalised() -> list[keras.Layer]:
        return [layers.BatchNormalization()] if name == "batch normalisation" else []

    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(8, 3),
            *normalised(),
            layers.ReLU(),
            layers.Conv2D(16, 3),
            *normalised(),
            layers.ReLU(),
            layers.Flatten(),
            *([layers.Dropout(0.3)] if name == "dropout" else []),
            layers.Dense(64, "relu"),
            layers.Dense(10),
        ]
    )


if __name__ == "__main__":
    main()
