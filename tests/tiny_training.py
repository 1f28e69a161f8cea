"""A tiny model, its data, and the optimizers, for tests of how Keras trains it."""

from __future__ import annotations

import functools

import keras
import numpy as np

import tf_kfgn

BATCH = 8
generator = np.random.default_rng(0)
X = generator.normal(size=(32, 5)).astype("float32")
Y = np.tanh(X[:, :2] + 0.1 * generator.normal(size=(32, 2))).astype("float32")
FIT = {"batch_size": BATCH, "shuffle": False, "verbose": 0}
OPTIMIZERS = {
    "KFRA": tf_kfgn.KFRA,
    "KFLR": tf_kfgn.KFLR,
    "KFAC": functools.partial(tf_kfgn.KFAC, seed=1),
    "HessianFree": functools.partial(tf_kfgn.HessianFree, damping=1.0, max_cg_iterations=2),
}


def stock(dropout=0.2):
    keras.utils.set_random_seed(0)
    hidden = [keras.layers.Dense(4, "tanh"), keras.layers.Dropout(dropout, seed=1)]
    return keras.Sequential([keras.Input((5,)), *hidden, keras.layers.Dense(2)])


def made(optimizer, model=None, **arguments):
    """An enabled and compiled model; by default without a graph, which costs less to make."""
    model = tf_kfgn.enable_curvature(model or stock())
    if not {"run_eagerly", "jit_compile", "steps_per_execution"} & set(arguments):
        arguments["run_eagerly"] = True
    model.compile(optimizer, **{"loss": "mse", "jit_compile": False, **arguments})
    return model


def state(model):
    return [variable.numpy() for variable in (*model.variables, *model.optimizer.variables)]


def assert_same(first, second, rtol=0.0, atol=0.0):
    for actual, expected in zip(first, second, strict=True):
        np.testing.assert_allclose(actual, expected, rtol=rtol, atol=atol)


assert_close = functools.partial(assert_same, rtol=1e-5, atol=1e-6)


def differ(first, second):
    return [not np.array_equal(a, b) for a, b in zip(first, second, strict=True)]


class Traced:
    """A compiled model whose step is traced once; it starts over for every way of training."""

    def __init__(self, optimizer):
        self.model = made(optimizer, jit_compile=False, run_eagerly=False)
        self.model.optimizer.build(self.model.trainable_variables)
        self.initial = [(v, v.numpy()) for v in self.variables]
        self.weights, self.state = self.after(lambda model: model.fit(X, Y, **FIT))

    @property
    def variables(self):
        return [*self.model.variables, *self.model.optimizer.variables]

    def after(self, train):
        """Weights, and the whole state, after training from the start."""
        for variable, value in self.initial:
            variable.assign(value)
        train(self.model)
        return self.model.get_weights(), [v.numpy() for v, _ in self.initial]


@functools.cache
def traced(name):
    return Traced(OPTIMIZERS[name]())
