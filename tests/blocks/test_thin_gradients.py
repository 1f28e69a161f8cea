"""Gradients that the graph knows as products, and what a block makes of them."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from brute_force import allclose, positive, wrong

from tf_kfgn.blocks import thin_gradients
from tf_kfgn.blocks.kronecker import KroneckerBlock, KroneckerState, precondition
from tf_kfgn.blocks.thin_gradients import (
    precondition_thin,
    rank_that_pays,
    thin_gradient,
)
from tf_kfgn.operations.weight_matrix import AxisOrder, WeightMatrix

IN, OUT, BATCH = 5, 3, 4


def layer(units=OUT, **arguments):
    made = keras.layers.Dense(units, dtype="float64", **arguments)
    made.build((None, IN))
    return made


def block_of(layer):
    indices = (0, 1) if layer.use_bias else (0,)
    return KroneckerBlock(indices, WeightMatrix("dense", *layer.kernel.shape))


def found(layer, loss, block=None, size=BATCH, **options):
    """What is found of the gradient of a loss in a graph, as numbers, and the gradient."""
    block, kinds = block or block_of(layer), []

    @tf.function(**options)
    def of(x):
        with tf.GradientTape() as tape:
            value = loss(layer, x)
        gradient = tape.gradient(value, layer.trainable_variables)
        thin = thin_gradient(block, gradient)
        kinds.append(thin is not None)
        return gradient, () if thin is None else (thin.inputs, thin.cotangents, thin.rank)

    gradient, thin = of(tf.constant(np.random.default_rng(0).normal(size=(size, IN))))
    assert kinds in ([True], [False])
    return gradient, thin


def squared(layer, x):
    return tf.reduce_sum(tf.square(tf.tanh(layer(x))))


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize(
    "options", [{}, {"jit_compile": True}, {"reduce_retracing": True}], ids=str
)
def test_the_gradient_of_a_dense_layer_is_inputs_times_cotangents(use_bias, options):
    gradient, (inputs, cotangents, rank) = found(layer(use_bias=use_bias), squared, **options)
    allclose(gradient[0], tf.transpose(inputs) @ cotangents)
    assert wrong(gradient[0], tf.transpose(inputs) @ cotangents[::-1])
    if use_bias:
        allclose(gradient[1], tf.reduce_sum(cotangents, axis=0))
    assert int(rank) == BATCH


def test_the_rank_of_a_batch_of_open_size_is_known_when_it_comes():
    dense, ranks = layer(), []

    @tf.function(input_signature=[tf.TensorSpec((None, IN), tf.float64)])
    def rank(x):
        with tf.GradientTape() as tape:
            value = squared(dense, x)
        thin = thin_gradient(block_of(dense), tape.gradient(value, dense.trainable_variables))
        ranks.append(thin.rank)
        return thin.rank

    assert [int(rank(tf.ones((size, IN), tf.float64))) for size in (2, 7)] == [2, 7]
    assert len(ranks) == 1 and not isinstance(ranks[0], int)


def with_penalty(layer, x):
    return squared(layer, x) + tf.reduce_sum(tf.square(layer.kernel))


def with_penalty_on_the_bias(layer, x):
    return squared(layer, x) + tf.reduce_sum(tf.square(layer.bias))


def twice(layer, x):
    return squared(layer, x) + squared(layer, 2 * x)


def from_a_condition(layer, x):
    return tf.cond(tf.reduce_sum(x) > 100, lambda: squared(layer, x), lambda: squared(layer, -x))


@pytest.mark.parametrize("loss", [with_penalty, with_penalty_on_the_bias, twice, from_a_condition])
def test_a_gradient_that_is_more_than_one_product_is_none(loss):
    _, thin = found(layer(), loss)
    assert thin == ()


def test_a_gradient_that_was_changed_or_is_missing_is_none():
    dense = layer()
    block, seen = block_of(dense), []

    @tf.function
    def of(x):
        with tf.GradientTape() as tape:
            value = squared(dense, x)
        kernel, bias = tape.gradient(value, dense.trainable_variables)
        for changed in (
            [tf.clip_by_norm(kernel, 1.0), bias],
            [kernel, 2 * bias],
            [kernel, tf.zeros_like(bias)],
            [tf.transpose(tf.transpose(kernel)), bias],
        ):
            seen.append(thin_gradient(block, changed))
        seen.append(thin_gradient(block, [tf.identity(kernel), tf.ensure_shape(bias, (OUT,))]))

    of(tf.ones((BATCH, IN), tf.float64))
    assert seen[:-1] == [None] * 4
    assert seen[-1] is not None  # that was handed on as it is


def test_outside_of_a_graph_nothing_is_known():
    dense = layer()
    with tf.GradientTape() as tape:
        value = squared(dense, tf.ones((BATCH, IN), tf.float64))
    gradient = tape.gradient(value, dense.trainable_variables)
    assert thin_gradient(block_of(dense), gradient) is None


def test_a_convolution_has_no_thin_gradient():
    convolution = keras.layers.Conv1D(OUT, 2, dtype="float64")
    convolution.build((None, IN, 1))
    block = KroneckerBlock((0, 1), WeightMatrix("conv", 2, OUT))
    _, thin = found(convolution, lambda layer, x: squared(layer, x[..., None]), block)
    assert thin == ()


@pytest.mark.parametrize("use_bias", [True, False])
def test_the_product_with_the_inverses_is_that_of_the_whole_gradient(use_bias):
    dense = layer(use_bias=use_bias)
    block = block_of(dense)
    A, G = positive(block.rows, 0), positive(block.columns, 1)
    state = KroneckerState(*(tf.constant(factor) for factor in (A, G, np.linalg.inv(A), G)))

    @tf.function
    def both(x):
        with tf.GradientTape() as tape:
            value = squared(dense, x)
        gradient = tape.gradient(value, dense.trainable_variables)
        thin = thin_gradient(block, gradient)
        return precondition_thin(state, thin), precondition(state, block.join(gradient))

    actual, expected = both(tf.constant(np.random.default_rng(0).normal(size=(BATCH, IN))))
    allclose(actual, expected)
    assert wrong(actual[:-1], expected[1:])


def rank_for(rows, columns, most=None, **arguments):
    return rank_that_pays(KroneckerBlock((0,), WeightMatrix("d", rows, columns, **arguments), most))


def test_thin_matrices_pay_up_to_a_part_of_the_rank_where_both_orders_cost_the_same():
    rows, columns = 784, 512
    rank = rank_for(rows, columns) / thin_gradients.WORTHWHILE
    of_thin = rank * (rows**2 + columns**2 + rows * columns)
    assert of_thin == pytest.approx(rows * columns * (rows + columns))
    assert rank_for(columns, rows) == rank_for(rows, columns)
    with_bias = KroneckerBlock((0, 1), WeightMatrix("d", rows - 1, columns))
    assert rank_that_pays(with_bias) == rank_for(rows, columns)


@pytest.mark.parametrize(
    "block",
    [
        KroneckerBlock((0,), WeightMatrix("narrow", 2000, 64)),
        KroneckerBlock((0,), WeightMatrix("groups", 784, 512, groups=2)),
        KroneckerBlock((0,), WeightMatrix("diagonal", 784, 512), 600),
        KroneckerBlock(
            (0,), WeightMatrix("heads", 784, 512, kernel_order=AxisOrder((512, 784), (1, 0)))
        ),
    ],
    ids=lambda block: block.name,
)
def test_they_never_pay_for_other_blocks(block):
    assert rank_that_pays(block) == 0
