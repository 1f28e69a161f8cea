"""A small model for the tests of `CurvatureMonitor`, and its training."""

from __future__ import annotations

import keras
import numpy as np

import tf_kfgn

GENERATOR = np.random.default_rng(0)
X = GENERATOR.normal(size=(16, 4)).astype("float32")
Y = np.tanh(X @ GENERATOR.normal(size=(4, 2))).astype("float32")


def compiled(optimizer=None, run_eagerly=True, **kwargs):
    """A small model, ready to train with batches of 4."""
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(3, "tanh", name="first"), keras.layers.Dense(2, name="last")]
    model = keras.Sequential([keras.Input((4,)), *layers])
    tf_kfgn.enable_curvature(model)
    model.compile(
        optimizer=optimizer or tf_kfgn.KFRA(), loss="mse", run_eagerly=run_eagerly, **kwargs
    )
    return model


def fit(model, *callbacks, x=X, y=Y, epochs=1, batch_size=4):
    model.fit(x, y, batch_size, epochs=epochs, shuffle=False, verbose=0, callbacks=list(callbacks))
