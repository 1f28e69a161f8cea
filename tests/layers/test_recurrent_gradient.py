"""Gradients of loops over time that are differentiated once more, and by whom."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from brute_force import wrong

import tf_kfgn
from tf_kfgn.layers import recurrent_gradient
from tf_kfgn.swapping.swap import stock_class

CELLS = (tf_kfgn.layers.SimpleRNN, tf_kfgn.layers.LSTM, tf_kfgn.layers.GRU)
MASK = tf.constant([[True, True, True, False], [False, True, False, True], [True] + 3 * [False]])


def made(cls):
    """A layer, its weights, a vector in them, and an input."""
    generator = np.random.default_rng(0)
    x = tf.constant(generator.normal(size=(3, 4, 3)))
    layer = cls(2, dtype="float64")
    layer.build(x.shape)
    for variable in layer.trainable_variables:
        variable.assign(generator.normal(size=variable.shape))
    weights = [variable.value for variable in layer.trainable_variables]
    return layer, weights, [tf.constant(generator.normal(size=w.shape)) for w in weights], x


def along_gradient(layer, weights, vectors, x, make_tape):
    """The derivative of `g^T v` by every weight, with the gradient g that a tape gives."""
    with tf.GradientTape() as outer:
        with make_tape() as tape:
            loss = tf.reduce_sum(tf.sin(3 * layer(x, mask=MASK)))
        pairs = zip(tape.gradient(loss, weights), vectors, strict=True)
        value = tf.add_n([tf.reduce_sum(gradient * vector) for gradient, vector in pairs])
    return outer.gradient(value, weights)


def along_outputs(layer, weights, vectors, x, jvp):
    """The derivative of a function of J v by every weight, with the J v that something gives."""
    with tf.GradientTape() as outer:
        value = tf.reduce_sum(tf.cos(jvp(lambda: layer(x, mask=MASK), weights, vectors)))
    return outer.gradient(value, weights)


def recorded_jvp(function, weights, vectors):
    with tf_kfgn.CurvatureTape() as tape:
        outputs = function()
    return tape.jvp(vectors, outputs, weights)


def forward_jvp(function, weights, vectors):
    with tf.autodiff.ForwardAccumulator(weights, vectors) as accumulator:
        outputs = function()
    return accumulator.jvp(outputs)


def assert_equal(actual, expected):
    for one, other in zip(actual, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-12)


RUN = pytest.mark.parametrize(
    "run", [lambda function: function, tf.function], ids=["eager", "graph"]
)


@RUN
@pytest.mark.parametrize("cls", CELLS)
def test_the_gradient_can_be_differentiated(cls, run, monkeypatch):
    expected = along_gradient(*made(stock_class(cls)), tf.GradientTape)
    recorded = made(cls)
    assert_equal(run(along_gradient)(*recorded, tf_kfgn.CurvatureTape), expected)
    # As if nobody did, the derivatives by the weights are not all there.
    monkeypatch.setattr(recurrent_gradient, "may_be_recorded", lambda: False)
    found = run(along_gradient)(*recorded, tf_kfgn.CurvatureTape)
    assert any(wrong(*pair) for pair in zip(found, expected, strict=True))


@RUN
@pytest.mark.parametrize("cls", CELLS)
def test_a_jacobian_vector_product_can_be_differentiated(cls, run):
    expected = along_outputs(*made(stock_class(cls)), forward_jvp)
    assert_equal(run(along_outputs)(*made(cls), recorded_jvp), expected)


@pytest.mark.parametrize("cls", CELLS)
def test_one_that_nobody_differentiates_has_a_single_loop_for_each_direction(cls):
    layer, weights, vectors, x = made(cls)

    @tf.function(autograph=False)
    def product(x):
        with tf_kfgn.CurvatureTape() as tape:
            outputs = layer(x)
        return tape.jvp(vectors, outputs, weights)

    # Forwards, and forwards with the tangents; the gradient between them is not even there.
    nodes = product.get_concrete_function(x).graph.as_graph_def().node
    assert sum("While" in node.op for node in nodes) == 2
    expected = forward_jvp(lambda: layer(x), weights, vectors)
    np.testing.assert_allclose(product(x), expected, rtol=1e-9)


@pytest.mark.parametrize("cls", CELLS)
@pytest.mark.parametrize(("batch", "units"), [(2, 1), (1, 1), (1, 2)])
def test_batches_and_states_of_one(cls, batch, units):
    layer = cls(units, return_sequences=True)
    x = tf.constant(np.random.default_rng(0).normal(size=(batch, 3, 1)).astype("float32"))
    layer.build(x.shape)
    weights = [variable.value for variable in layer.trainable_variables]

    @tf.function(autograph=False)
    def gradient():
        with tf_kfgn.CurvatureTape() as tape:
            outputs = layer(x)
        return tape.gradient(outputs, weights)

    with tf.GradientTape() as tape:
        outputs = layer(x)
    for found, expected in zip(gradient(), tape.gradient(outputs, weights), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_sequences_of_unknown_length_and_batches_of_any_size():
    layer, weights, vectors, x = made(tf_kfgn.layers.LSTM)

    @tf.function(input_signature=[tf.TensorSpec((None, None, 3), tf.float64)], autograph=False)
    def product(x):
        with tf_kfgn.CurvatureTape() as tape:
            outputs = layer(x)
        return tape.gradient(outputs, weights), tape.jvp(vectors, outputs, weights)

    for given in (x, x[:2, :3], x[:1, :1]):
        gradients, moved = product(given)
        with tf.GradientTape() as tape:
            outputs = layer(given)
        assert_equal(gradients, tape.gradient(outputs, weights))
        np.testing.assert_allclose(
            moved, forward_jvp(lambda given=given: layer(given), weights, vectors), rtol=1e-9
        )
