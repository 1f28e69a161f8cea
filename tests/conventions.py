"""What tests of the conventions of Keras' optimizers share."""

from __future__ import annotations

import functools

import numpy as np
from problems import MSE, mlp, seeded
from updates import batches

import tf_kfgn

FIXED = {"damping": 0.3, "damping_period": None, "step_size": 0.5, "momentum": 0.0}
"""Settings by which the learning rate alone scales the step."""


SEARCH = {"damping": 1.0, "max_cg_iterations": 2}
"""Of HessianFree, which takes a whole step."""


def eager(optimizer):
    """The model of all tests; a few steps without a graph cost less than tracing it."""
    model = tf_kfgn.enable_curvature(seeded(lambda: mlp([5, 4, 2], "tanh"))())
    model.compile(optimizer, MSE, run_eagerly=True)
    return model


def train(model, steps):
    for x, y in list(batches(6))[slice(*steps)]:
        model.train_on_batch(x, y)
    return model


@functools.cache
def plain(optimizer):
    """Weights and damping with default settings, before and after each of the first updates."""
    own = {tf_kfgn.KFAC: {"seed": 1}, tf_kfgn.HessianFree: SEARCH}
    model = eager(optimizer(**own.get(optimizer, {})))
    weights, dampings = [model.get_weights()], [0.0]
    for number in range(3):
        train(model, (number, number + 1))
        weights.append(model.get_weights())
        dampings.append(float(model.optimizer.damping))
    return weights, dampings


def values(variables):
    return [variable.numpy() for variable in variables]


def state(model):
    return values([*model.variables, *model.optimizer.variables])


def assert_same(first, second, rtol=0.0):
    for actual, expected in zip(first, second, strict=True):
        np.testing.assert_allclose(actual, expected, rtol=rtol, atol=0.0)


def differ(first, second):
    return [not np.array_equal(a, b) for a, b in zip(first, second, strict=True)]
