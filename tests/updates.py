"""A small float64 model, batches for it, and recorded passes, for tests of whole updates.

Keras sums losses in `floatx`, which these tests set to float64.
"""

from __future__ import annotations

import keras
import numpy as np
from problems import mlp, seeded

import tf_kfgn

OPTIMIZERS = [tf_kfgn.KFRA, tf_kfgn.KFLR, tf_kfgn.KFAC]
WITH_HESSIAN_FREE = [*OPTIMIZERS, tf_kfgn.HessianFree]
MSE = keras.losses.MeanSquaredError(dtype="float64")


def batches(count, size=16, seed=0):
    generator = np.random.default_rng(seed)
    for _ in range(count):
        x = generator.normal(size=(size, 5))
        yield (
            x,
            np.tanh(x @ np.arange(10).reshape(5, 2) / 5) + 0.1 * generator.normal(size=(size, 2)),
        )


def made(optimizer, l2=0.0, **compile_arguments):
    regularizer = keras.regularizers.L2(l2) if l2 else None
    model = seeded(lambda: mlp([5, 4, 3, 2], "tanh", kernel_regularizer=regularizer))()
    tf_kfgn.enable_curvature(model)
    model.compile(optimizer=optimizer, loss=MSE, **{"jit_compile": False, **compile_arguments})
    return model


def made_eager(optimizer):
    """For a few updates: nothing is traced."""
    return made(optimizer, run_eagerly=True)


def joint_weights(model):
    return [np.vstack(layer.get_weights()) for layer in model.layers]


def recorded(model, x, y):
    """A recorded pass: its tape, its loss, and pairs of gradient and variable."""
    with tf_kfgn.CurvatureTape() as tape:
        outputs = model(x, training=True)
        value = MSE(y, outputs)
        tape.watch_loss(MSE, y, outputs)
    variables = model.trainable_variables
    return tape, value, list(zip(tape.gradient(value, variables), variables, strict=True))
