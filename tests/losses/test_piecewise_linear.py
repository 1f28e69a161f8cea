"""Losses without curvature are refused before the first update; others are not."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from brute_force import allclose

import tf_kfgn

generator = np.random.default_rng(0)
OUTPUTS = tf.constant(generator.normal(size=(4, 3)))
Y = tf.constant(generator.normal(size=(4, 3)))


def mean(values):
    return tf.reduce_mean(values, axis=-1)


LINEAR = {
    "absolute": lambda y, p: mean(tf.abs(y - p)),
    "hinge": lambda y, p: mean(tf.nn.relu(1 - y * p)),
    "pinball": lambda y, p: mean(tf.maximum(0.9 * (y - p), -0.1 * (y - p))),
    "linear": lambda y, p: mean(y * p),
    "scalar": lambda y, p: tf.reduce_mean(tf.abs(y - p)),
}
CURVED = {
    "squared hinge": lambda y, p: mean(tf.nn.relu(1 - y * p) ** 2),
    "narrow huber": lambda y, p: mean(
        tf.where(tf.abs(y - p) < 1e-3, (y - p) ** 2 / 2e-3, tf.abs(y - p) - 5e-4)
    ),
    "focal": lambda y, p: mean(-y * tf.math.log(p) * (1 - p) ** 2),
    "scalar": lambda y, p: tf.reduce_mean((y - p) ** 2),
}


def likelihood(loss, y=Y):
    tape = tf_kfgn.CurvatureTape()
    tape.watch_loss(loss, y, OUTPUTS)
    return tape.likelihoods[0]


@pytest.mark.parametrize("loss", LINEAR.values(), ids=LINEAR.keys())
def test_a_loss_without_curvature_is_refused(loss):
    with pytest.raises(ValueError, match="second derivative is zero wherever there is one"):
        likelihood(loss)
    with pytest.raises(ValueError, match="second derivative is zero"):
        tf.function(lambda y: likelihood(loss, y) and y)(Y)


@pytest.mark.parametrize("loss", CURVED.values(), ids=CURVED.keys())
def test_a_loss_with_curvature_somewhere_is_not(loss):
    likelihood(loss)


def test_a_loss_is_tried_once_for_each_shape():
    tried = []

    def squared(y, p):
        tried.append(p.shape)
        return mean((y - p) ** 2)

    def watched(rows):
        before = len(tried)
        with tf_kfgn.CurvatureTape() as tape:
            tape.watch_loss(squared, Y[:, :rows], OUTPUTS[:, :rows])
        assert tape.likelihoods
        return len(tried) - before

    first, again, other = watched(3), watched(3), watched(2)
    assert again == first - 1
    assert other == first


def test_a_loss_that_needs_its_own_data_is_not_judged():
    def of_its_data(y, p):
        tf.debugging.assert_equal(y, tf.cast(Y, y.dtype))
        return mean(tf.abs(y - p))

    likelihood(of_its_data)


def test_ctc_is_refused():
    with pytest.raises(ValueError, match="cannot differentiate it twice"):
        likelihood(keras.losses.CTC())


@pytest.mark.parametrize("reduction", ["sum_over_batch_size", "sum"])
@pytest.mark.parametrize("weights", [None, [1.0, 2.0, 0.5, 0.0]])
def test_a_scalar_is_the_mean_over_the_examples(reduction, weights):
    def scalar(y, p):
        return tf.reduce_mean(tf.reduce_sum(tf.exp(y * p), axis=-1))

    class Loss(keras.losses.Loss):
        def call(self, y_true, y_pred):
            return scalar(y_true, y_pred)

    loss = Loss(reduction=reduction, dtype="float64")
    weights = None if weights is None else tf.constant(weights, tf.float64)
    tape = tf_kfgn.CurvatureTape()
    tape.watch_loss(loss, Y, OUTPUTS, weights)
    vector = tf.constant(generator.normal(size=(4, 3)))
    with tf.GradientTape() as outer:
        outer.watch(OUTPUTS)
        with tf.GradientTape() as inner:
            inner.watch(OUTPUTS)
            value = loss(Y, OUTPUTS, weights)
        slope = tf.reduce_sum(inner.gradient(value, OUTPUTS) * vector)
    expected = outer.gradient(slope, OUTPUTS)
    allclose(tape.likelihoods[0].mean_hessian_product(vector), expected)
