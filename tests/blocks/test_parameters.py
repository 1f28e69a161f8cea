"""Marks on variables, and the blocks that optimizers find from them."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from problems import mlp

from tf_kfgn import layers
from tf_kfgn.blocks.parameters import Layout, find_blocks, l2_coefficient
from tf_kfgn.layers.parameters import WeightMatrix, mark_of, remove_marks


def built(layer, width=4):
    layer.build((None, width))
    return layer


def test_join_and_split_are_inverse():
    matrix = WeightMatrix("conv", 12, 5)
    kernel, bias = tf.random.normal((2, 2, 3, 5)), tf.random.normal((5,))
    joint = matrix.join([kernel, bias])
    assert joint.shape == (13, 5)
    again = matrix.split(joint, [kernel.shape, bias.shape])
    np.testing.assert_array_equal(again[0], kernel)
    np.testing.assert_array_equal(again[1], bias)


def test_blocks_come_in_the_order_of_the_variables():
    first, second = built(layers.Dense(3)), built(layers.Dense(2, use_bias=False), 3)
    variables = [second.kernel, first.bias, first.kernel]
    blocks = find_blocks(variables)
    assert [block.indices for block in blocks] == [(0,), (2, 1)]
    assert [(block.rows, block.columns) for block in blocks] == [(3, 2), (5, 3)]


def test_variables_without_marks_say_what_to_call():
    with pytest.raises(ValueError, match=r"enable_curvature\(model\)"):
        find_blocks(mlp([4, 3], None).trainable_variables)


def test_a_variable_without_a_block_is_named():
    norm = built(keras.layers.BatchNormalization(name="norm"))
    with pytest.raises(ValueError, match="norm/gamma"):
        find_blocks([*built(layers.Dense(3)).trainable_variables, *norm.trainable_variables])


def test_a_bias_without_its_kernel_has_no_block():
    dense, other = built(layers.Dense(3, name="lonely")), built(layers.Dense(3))
    with pytest.raises(ValueError, match="lonely/bias"):
        find_blocks([dense.bias, other.kernel, other.bias])


def test_removed_marks_leave_nothing():
    dense = built(layers.Dense(3))
    before = set(vars(built(keras.layers.Dense(3)).kernel))
    assert mark_of(dense.kernel).is_kernel
    remove_marks(dense.variables)
    assert mark_of(dense.kernel) is None
    assert set(vars(dense.kernel)) == before


@pytest.mark.parametrize(
    ("regularizer", "eta"),
    [
        (None, 0.0),
        (keras.regularizers.L2(0.01), 0.02),
        (keras.regularizers.L1L2(0.5, 0.03), 0.06),
        (keras.regularizers.L1(0.5), 0.0),
    ],
)
def test_l2_is_its_second_derivative(regularizer, eta):
    kernel = built(layers.Dense(3, kernel_regularizer=regularizer)).kernel
    assert l2_coefficient(kernel) == pytest.approx(eta, rel=1e-6)


def test_ridges_add_damping_and_l2():
    dense = built(layers.Dense(3, kernel_regularizer=keras.regularizers.L2(0.01)))
    layout = Layout.of(dense.trainable_variables)
    np.testing.assert_allclose(layout.ridges(tf.constant(0.5)), [0.52, 0.5], rtol=1e-6)
    np.testing.assert_allclose(layout.block_ridges(tf.constant(0.5)), [0.52], rtol=1e-6)
