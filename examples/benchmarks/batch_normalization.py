"""Validation with the moving statistics of batch normalisation, and with refreshed ones.

    python examples/benchmarks/batch_normalization.py

Trains a convolutional net with KFAC on scikit-learn's digits: five updates an epoch. Both columns
are of the same training, which the callback does not change.
"""

from __future__ import annotations

import keras
import numpy as np
from sklearn.datasets import load_digits

import tf_kfgn

EPOCHS = 10
BATCH = 250
layers = keras.layers


def main() -> None:
    """Train twice and print a row for each epoch."""
    images, labels = load_digits(return_X_y=True)
    images = (images / 16).astype("float32").reshape(-1, 8, 8, 1)
    order = np.random.default_rng(0).permutation(len(images))
    train, test = order[:1250], order[1250:]
    data = images[train], labels[train]
    refresh = tf_kfgn.callbacks.RefreshBatchNormalization(data[0], batch_size=BATCH)
    histories = []
    for callbacks in ([], [refresh]):
        keras.utils.set_random_seed(0)
        model = tf_kfgn.enable_curvature(network())
        model.compile(
            tf_kfgn.KFAC(seed=0),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
        )
        fitted = model.fit(
            *data,
            batch_size=BATCH,
            epochs=EPOCHS,
            validation_data=(images[test], labels[test]),
            verbose=0,
            callbacks=callbacks,
        )
        histories.append(fitted.history)
    stale, fresh = histories
    if stale["loss"] != fresh["loss"]:
        raise AssertionError("The callback has changed the training.")
    print("updates  training loss   validation: moving, refreshed   accuracy: moving, refreshed")
    for epoch in range(EPOCHS):
        values = [h[name][epoch] for name in ("val_loss", "val_accuracy") for h in histories]
        print(
            f"{5 * (epoch + 1):7d}  {stale['loss'][epoch]:13.3f}   "
            f"{values[0]:18.3f}, {values[1]:9.3f}   {values[2]:16.3f}, {values[3]:9.3f}"
        )


def network() -> keras.Model:
    """Two convolutions, each with batch normalisation."""
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(16, 3, use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Conv2D(32, 3, use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Flatten(),
            layers.Dense(10),
        ]
    )


if __name__ == "__main__":
    main()
