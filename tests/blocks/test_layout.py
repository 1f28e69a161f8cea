"""Marks on variables, and the blocks that optimizers find from them."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from problems import mlp

import tf_kfgn
from tf_kfgn import layers
from tf_kfgn.blocks.diagonal import DiagonalBlock
from tf_kfgn.blocks.kronecker import KroneckerBlock
from tf_kfgn.blocks.layout import Layout, find_blocks, l2_coefficient
from tf_kfgn.operations.marks import mark_diagonal, mark_of, remove_marks
from tf_kfgn.operations.weight_matrix import AxisOrder, WeightMatrix


def built(layer, width=4):
    layer.build((None, width))
    return layer


# Joint matrices


def test_join_stacks_rows_of_the_kernel_and_the_bias():
    kernel, bias = np.arange(12.0).reshape(2, 2, 1, 3), np.arange(3.0)
    joint = WeightMatrix("conv", 4, 3).join([tf.constant(kernel), tf.constant(bias)])
    np.testing.assert_array_equal(joint, np.vstack([kernel.reshape(4, 3), bias]))


@pytest.mark.parametrize("shapes", [[(2, 2, 3, 5), (5,)], [(12, 5), (5,)], [(12, 5)]])
def test_split_is_the_inverse_of_join(shapes):
    matrix = WeightMatrix("conv", 12, 5)
    tensors = [tf.random.normal(shape) for shape in shapes]
    joint = matrix.join(tensors)
    assert joint.shape == (11 + len(shapes), 5)
    for again, tensor in zip(matrix.split(joint, shapes), tensors, strict=True):
        np.testing.assert_array_equal(again, tensor)
        assert again.shape == tensor.shape


def test_a_block_joins_and_splits_by_position():
    block = KroneckerBlock((3, 1), WeightMatrix("layer", 2, 3))
    tensors = [tf.zeros(9), tf.constant([1.0, 2.0, 3.0]), tf.zeros(9), tf.ones((2, 3))]
    joint = block.join(tensors)
    np.testing.assert_array_equal(joint, [[1, 1, 1], [1, 1, 1], [1, 2, 3]])
    pieces = block.split(joint, tensors)
    assert list(pieces) == [3, 1]
    np.testing.assert_array_equal(pieces[1], tensors[1])


def test_a_joint_matrix_is_what_a_layer_multiplies_with():
    dense = built(layers.Dense(3, dtype="float64", bias_initializer="uniform"))
    [block] = find_blocks(dense.trainable_variables)
    x = np.random.default_rng(0).normal(size=(5, 4))
    joint = block.join([variable.value for variable in dense.trainable_variables])
    np.testing.assert_allclose(np.hstack([x, np.ones((5, 1))]) @ joint, dense(x), rtol=1e-12)


# Marks and blocks


def test_blocks_come_in_the_order_of_the_variables():
    first, second = built(layers.Dense(3)), built(layers.Dense(2, use_bias=False), 3)
    variables = [second.kernel, first.bias, first.kernel]
    blocks = find_blocks(variables)
    assert [block.indices for block in blocks] == [(0,), (2, 1)]
    assert [(block.rows, block.columns) for block in blocks] == [(3, 2), (5, 3)]
    assert [block.matrix.layer for block in blocks] == [second.name, first.name]


def test_the_blocks_of_a_model_hold_every_variable_once():
    model = tf_kfgn.enable_curvature(mlp([4, 3, 3, 2], "tanh"))
    blocks = find_blocks(model.trainable_variables)
    assert [block.indices for block in blocks] == [(0, 1), (2, 3), (4, 5)]
    assert [block.matrix.layer for block in blocks] == [layer.name for layer in model.layers]
    model.layers[1].trainable = False
    assert [block.indices for block in find_blocks(model.trainable_variables)] == [(0, 1), (2, 3)]


def test_layers_of_one_name_have_their_own_blocks():
    same = [built(layers.Dense(3, name="twin")) for _ in range(2)]
    variables = [same[0].kernel, same[1].kernel, same[1].bias, same[0].bias]
    assert [block.indices for block in find_blocks(variables)] == [(0, 3), (1, 2)]


def test_a_frozen_bias_leaves_a_block_of_the_kernel():
    dense = built(layers.Dense(3))
    dense.bias.trainable = False
    [block] = find_blocks(dense.trainable_variables)
    assert (block.rows, block.columns) == (4, 3)


def test_variables_without_marks_say_what_to_call():
    for variables in (mlp([4, 3], None).trainable_variables, []):
        with pytest.raises(ValueError, match=r"enable_curvature\(model\)"):
            find_blocks(variables)


def test_each_variable_without_a_mark_is_named():
    norm = built(keras.layers.BatchNormalization(name="norm"))
    with pytest.raises(ValueError, match=r"norm/gamma.*norm/beta.*enable_curvature"):
        find_blocks([*built(layers.Dense(3)).trainable_variables, *norm.trainable_variables])


def test_a_marked_variable_without_a_matrix_has_a_diagonal_block():
    dense, norm = built(layers.Dense(3)), built(keras.layers.BatchNormalization(name="norm"))
    for variable in norm.trainable_variables:
        mark_diagonal(variable)
    blocks = find_blocks([norm.gamma, *dense.trainable_variables, norm.beta])
    assert [block.indices for block in blocks] == [(0,), (1, 2), (3,)]
    assert [type(block) for block in blocks] == [DiagonalBlock, KroneckerBlock, DiagonalBlock]
    assert (blocks[0].path, blocks[0].shape) == ("norm/gamma", (4,))


def test_a_bias_without_its_kernel_has_a_diagonal_block():
    dense, other = built(layers.Dense(3, name="lonely")), built(layers.Dense(3))
    lonely, whole = find_blocks([dense.bias, other.kernel, other.bias])
    assert (lonely.path, lonely.indices) == ("lonely/bias", (0,))
    assert whole.indices == (1, 2)


def test_factors_above_the_limit_are_diagonal():
    dense = built(layers.Dense(7))
    shapes = {
        limit: find_blocks(dense.trainable_variables, limit)[0].factor_shapes
        for limit in (None, 7, 6, 4)
    }
    assert shapes[None] == shapes[7] == ((5, 5), (7, 7))
    assert shapes[6] == ((5, 5), (7, 1))
    assert shapes[4] == ((5, 1), (7, 1))


def test_a_grouped_matrix_sorts_its_axes():
    """A depthwise kernel: groups are channels, rows positions, columns the multiplier."""
    matrix = WeightMatrix(
        "depthwise",
        in_features=6,
        out_features=2,
        groups=4,
        kernel_order=AxisOrder((2, 3, 4, 2), (2, 0, 1, 3)),
    )
    generator = np.random.default_rng(0)
    kernel, bias = generator.normal(size=(2, 3, 4, 2)), generator.normal(size=8)
    joint = matrix.join([tf.constant(kernel), tf.constant(bias)])
    assert joint.shape == (4, 7, 2)
    for group in range(4):
        expected = np.vstack([kernel[:, :, group].reshape(6, 2), bias.reshape(4, 2)[group]])
        np.testing.assert_array_equal(joint[group], expected)
    again = matrix.split(joint, [kernel.shape, bias.shape])
    np.testing.assert_array_equal(again[0], kernel)
    np.testing.assert_array_equal(again[1], bias)


def test_marks_come_with_building_and_enabling_and_go_with_disabling():
    dense = built(layers.Dense(3))
    assert mark_of(dense.kernel).is_kernel
    assert not mark_of(dense.bias).is_kernel
    assert mark_of(dense.kernel).matrix is mark_of(dense.bias).matrix

    model = mlp([4, 3], None)
    kernel, bias = model.trainable_variables
    before = set(vars(kernel))
    assert mark_of(kernel) is None
    tf_kfgn.enable_curvature(model)
    assert (mark_of(kernel).matrix.in_features, mark_of(kernel).matrix.out_features) == (4, 3)
    assert mark_of(bias).matrix is mark_of(kernel).matrix
    tf_kfgn.disable_curvature(model)
    assert mark_of(kernel) is None
    assert set(vars(kernel)) == before


def test_removing_marks_twice_does_no_harm():
    dense = built(layers.Dense(3))
    for _ in range(2):
        remove_marks(dense.variables)
        assert mark_of(dense.kernel) is None


# Regularisers


@pytest.mark.parametrize(
    "regularizer",
    [
        None,
        keras.regularizers.L2(0.01),
        "l2",
        keras.regularizers.L1L2(0.5, 0.03),
        keras.regularizers.L1(0.5),
    ],
)
def test_l2_is_the_second_derivative_of_the_regulariser(regularizer):
    kernel = built(layers.Dense(3, kernel_regularizer=regularizer)).kernel
    with tf.GradientTape() as outer, tf.GradientTape() as inner:
        value = tf.constant(2.0)
        outer.watch(value)
        inner.watch(value)
        loss = kernel.regularizer(value) if kernel.regularizer else 0.0 * value
        gradient = inner.gradient(loss, value)
    second = outer.gradient(gradient, value, unconnected_gradients="zero")
    np.testing.assert_allclose(l2_coefficient(kernel), second, rtol=1e-6)


def test_dampings_are_tau_and_the_l2_coefficient():
    dense = built(layers.Dense(3, kernel_regularizer=keras.regularizers.L2(0.01)))
    other = built(layers.Dense(2, bias_regularizer=keras.regularizers.L2(0.1)), 3)
    layout = Layout.of([*other.trainable_variables, *dense.trainable_variables])
    damping = tf.constant(0.5)
    np.testing.assert_allclose(layout.dampings(damping), [0.5, 0.7, 0.52, 0.5], rtol=1e-6)
    np.testing.assert_allclose(layout.block_dampings(damping), [0.5, 0.52], rtol=1e-6)
