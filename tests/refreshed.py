"""Models whose batch normalisation lags behind, and their statistics, for tests of refreshing."""

from __future__ import annotations

import functools

import keras
import numpy as np

import tf_kfgn

OPTIMIZERS = {
    "SGD": keras.optimizers.SGD,
    "KFRA": tf_kfgn.KFRA,
    "KFLR": tf_kfgn.KFLR,
    "KFAC": functools.partial(tf_kfgn.KFAC, seed=0),
    "HessianFree": functools.partial(tf_kfgn.HessianFree, max_cg_iterations=2, backtracking=False),
}
GENERATOR = np.random.default_rng(0)
X = GENERATOR.normal(3, 2, size=(50, 4)).astype("float32")
Y = np.tanh(X[:, :2]).astype("float32")
FIT = {"batch_size": 10, "shuffle": False, "verbose": 0}


def double(layer, *args, **kwargs):
    return getattr(keras.layers, layer)(*args, dtype="float64", **kwargs)


def small(*more, **kwargs):
    """A model whose normalisation lags far behind, for it is trained for few updates."""
    keras.utils.set_random_seed(0)
    norm = keras.layers.BatchNormalization(name="norm", **kwargs)
    layers = [keras.layers.Dense(5, "tanh", name="first"), norm, *more]
    return keras.Sequential([keras.Input((4,)), *layers, keras.layers.Dense(2)])


def compiled(model=None, optimizer="sgd", **kwargs):
    model = model or small()
    model.compile(optimizer, "mse", **{"jit_compile": False, **kwargs})
    return model


def statistics(layer):
    return [layer.moving_mean.numpy(), layer.moving_variance.numpy()]


def assert_statistics(layer, inputs, rtol=1e-5, axes=0):
    expected = np.mean(inputs, axes), np.var(inputs, axes)
    for found, right in zip(statistics(layer), expected, strict=True):
        np.testing.assert_allclose(found, right, rtol=rtol, atol=1e-7 if rtol > 1e-9 else 0)
