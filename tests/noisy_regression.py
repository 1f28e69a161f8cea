"""A linear regression with noise in its targets, trained in batches of 16."""

from __future__ import annotations

import keras
import numpy as np

import tf_kfgn

INPUTS = 30


def trained(updates, noise=3.0, **arguments):
    """A model after some updates of KFLR, and what makes further batches."""
    keras.utils.set_random_seed(0)
    generator = np.random.default_rng(0)
    weights = generator.normal(size=(INPUTS, 1))
    model = keras.Sequential([keras.Input((INPUTS,)), keras.layers.Dense(1)])
    tf_kfgn.enable_curvature(model)
    model.compile(tf_kfgn.KFLR(**arguments), "mse", jit_compile=False)

    def batch(size=16, sign=1.0, noise=noise):
        x = generator.normal(size=(size, INPUTS)).astype("float32")
        y = sign * x @ weights + noise * generator.normal(size=(size, 1))
        return x, y.astype("float32")

    for _ in range(updates):
        model.train_on_batch(*batch())
    return model, batch


def excess(model, batch, sign=1.0):
    """The mean squared error to the function without noise."""
    x, y = batch(2000, sign, noise=0.0)
    return float(np.mean((model.predict(x, verbose=0) - y) ** 2))
