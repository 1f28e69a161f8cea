"""HessianFree: against dense solves and NumPy, and what becomes of bad products and steps."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from brute_force import flat, gauss_newton
from numpy_hessian_free import NumpyHessianFree
from problems import LOSSES, mlp, seeded
from updates import MSE, batches, joint_weights, made, made_eager, recorded

import tf_kfgn
from tf_kfgn.optimizers import recorded_pass
from tf_kfgn.recording.tape import CurvatureTape

SOLVED = {"cg_tolerance": 0.0, "max_cg_iterations": 300, "warm_start": 0.0}
TARGETS = {
    "MeanSquaredError()": lambda rng: rng.normal(size=(10, 3)),
    "BinaryCrossentropy(from_logits=True)": lambda rng: rng.integers(0, 2, (10, 3)) * 1.0,
    "SparseCategoricalCrossentropy(from_logits=True)": lambda rng: rng.integers(0, 3, 10),
}


def small(l2=0.0):
    regularizer = keras.regularizers.L2(l2) if l2 else None
    return seeded(lambda: mlp([4, 5, 3], "tanh", kernel_regularizer=regularizer))()


def enabled(optimizer, loss=MSE, l2=0.0, **arguments):
    model = tf_kfgn.enable_curvature(small(l2))
    model.compile(optimizer, loss, **({"run_eagerly": True} | arguments))
    return model


def gradient(model, x, y, loss):
    with tf.GradientTape() as tape:
        value = loss(y, model(x)) + sum(model.losses)
    return flat(tape.gradient(value, [v.value for v in model.trainable_variables]))


@pytest.mark.parametrize("preconditioner", [None, "kfra", "kflr", "kfac"])
@pytest.mark.parametrize("loss", LOSSES)
def test_solved_to_the_end_the_step_is_that_of_the_dense_matrix(unbounded, preconditioner, loss):
    rng = np.random.default_rng(0)
    x, y, l2, tau = rng.normal(size=(10, 4)), TARGETS[loss](rng), 1e-3, 1e-2
    stock = small(l2)
    matrix = gauss_newton(stock, x, y, LOSSES[loss], stock.trainable_variables)
    is_kernel = flat([np.full(v.shape, v.ndim == 2) for v in stock.trainable_variables])
    g = gradient(stock, x, y, LOSSES[loss])
    expected = np.linalg.solve(matrix + np.diag(tau + 2 * l2 * is_kernel), -g)

    own = {} if preconditioner is None else {"preconditioner": preconditioner, "seed": 1}
    optimizer = tf_kfgn.HessianFree(damping=tau, damping_period=None, **SOLVED, **own)
    model = enabled(optimizer, LOSSES[loss], l2)
    before = flat(model.get_weights())
    model.train_on_batch(x, y)
    step = flat(model.get_weights()) - before
    np.testing.assert_allclose(step, expected, rtol=1e-6, atol=1e-6 * np.abs(expected).max())
    assert int(optimizer.cg_iterations) < 300


@pytest.mark.parametrize("mode", [{"run_eagerly": True}, {"jit_compile": False}])
def test_updates_are_those_of_numpy(mode):
    # After more iterations CG has amplified the round-off of both. Keras rounds l2 to float32.
    l2, search = 2.0**-10, {"max_cg_iterations": 7, "warm_start": 0.9}
    optimizer = tf_kfgn.HessianFree(damping=0.01, **search)
    model = made(optimizer, l2, **mode)
    twin = made("sgd", l2)
    plain = NumpyHessianFree(twin, MSE, 0.01, 7, 5e-4, 0.9, l2)
    chosen, dampings = [], []
    for x, y in batches(8, size=12):
        model.train_on_batch(x, y)
        plain.step(x, y)
        np.testing.assert_allclose(flat(model.get_weights()), plain.w, rtol=1e-6, atol=1e-9)
        for actual, expected in (
            (optimizer.damping, plain.tau),
            (optimizer.reduction_ratio, plain.rho),
            (optimizer.cg_iterations, plain.iterations),
            (optimizer.chosen_iteration, plain.chosen),
            (optimizer.rejected_steps, plain.rejected),
        ):
            np.testing.assert_allclose(float(actual), expected, rtol=1e-6)
        chosen.append(plain.chosen < plain.iterations)
        dampings.append(plain.tau)
    assert any(chosen) and len(set(dampings)) > 2, (chosen, dampings)
