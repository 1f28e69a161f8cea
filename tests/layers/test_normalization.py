"""Batch normalisation: statistics of the batch once, in every product and in a replay."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from brute_force import allclose, wrong
from problems import MSE, Problem, dense, random_problem, sequential
from recording import MODES, compiled, record

import tf_kfgn
from tf_kfgn.factors import KFLREstimator, KFRAEstimator

X = np.random.default_rng(0).normal(size=(6, 4))


def normalised(**options):
    norm = keras.layers.BatchNormalization(dtype="float64", **options)
    return sequential((4,), dense(3), norm, dense(2))


GIVEN = random_problem("normalised", normalised)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("options", [{}, {"scale": False}, {"center": False, "epsilon": 0.1}])
def test_a_replay_repeats_outputs_and_leaves_the_statistics(mode, options):
    model = tf_kfgn.enable_curvature(normalised(**options))
    norm = model.layers[1]

    def passes():
        with tf_kfgn.CurvatureTape() as tape:
            outputs = model(tf.constant(X), training=True)
        with tape.replaying():
            again = model(tf.constant(X), training=True)
        return outputs, again

    before = norm.moving_mean.numpy()
    outputs, again = compiled(passes, mode)()
    np.testing.assert_allclose(again, outputs, rtol=1e-9, atol=1e-12)
    batch = model.layers[0](X).numpy().mean(axis=0)
    allclose(norm.moving_mean, 0.99 * before + 0.01 * batch)  # once, not twice
    assert wrong(model(X, training=False), outputs)


def test_fit_updates_the_statistics_once_an_update():
    stock, ours = (keras.models.clone_model(GIVEN.model()) for _ in range(2))
    ours.set_weights(stock.get_weights())
    tf_kfgn.enable_curvature(ours)
    stock.compile(optimizer=keras.optimizers.SGD(0.0), loss="mse")
    ours.compile(optimizer=tf_kfgn.KFLR(learning_rate=1e-30, damping_period=1), loss="mse")
    for model in (stock, ours):
        model.fit(X, X[:, :2], batch_size=6, epochs=3, shuffle=False, verbose=0)
    for one, other in zip(stock.layers[1].variables, ours.layers[1].variables, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-9)


def test_kfra_takes_the_statistics_of_the_batch_as_constants():
    model, tape, _ = record(GIVEN, training=True)
    operation = next(op for op in tape.operations if op.layer is model.layers[1])
    hidden = operation.input
    scale = model.layers[1].gamma * tf.math.rsqrt(tf.math.reduce_variance(hidden, 0) + 1e-3)
    average = np.random.default_rng(1).normal(size=(3, 3))
    average = average @ average.T
    expected = average * np.outer(scale, scale)
    allclose(operation.pull_back(tf.constant(average), tape), expected)
    model, tape, _ = record(GIVEN)  # in inference, with the moving statistics
    operation = next(op for op in tape.operations if op.layer is model.layers[1])
    assert wrong(operation.pull_back(tf.constant(average), tape), expected)


def first_factor(estimator, tape):
    return next(iter(estimator(tape, tf.constant([0, 0])).values())).G


def test_kflr_follows_the_coupling_of_the_batch_on_average():
    """With independent signs the mean of G is that of the whole Jacobian of the batch."""
    given = Problem("coupled", GIVEN.model, GIVEN.x[:3], GIVEN.y[:3], MSE)
    _, tape, outputs = record(given, training=True)
    hidden = tape.operations[0].output
    jacobian = tape.jacobian(outputs, hidden, experimental_use_pfor=False).numpy()
    columns = np.sqrt(2 / 2) * jacobian  # of the squared error of two outputs
    expected = np.einsum("nkmi,nkmj->ij", columns, columns) / 3
    found = 0
    for pattern in range(4):
        signs = np.array([1.0 if pattern >> n & 1 else -1.0 for n in range(3)])

        def signed(column, seed, signs=signs):
            return column * signs[:, None]

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("tf_kfgn.factors.kflr.random_signs", signed)
            found = found + first_factor(KFLREstimator(), tape) / 4
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
    constant = first_factor(KFRAEstimator(), tape)
    assert wrong(constant, expected)
