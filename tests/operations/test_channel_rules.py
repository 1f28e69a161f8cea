"""The rules for averages over channels alone against those for all features, in float64."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from channels import SEED, check_channel_rules, ends_of, expanded, mean_block
from stock_rules import normal, recorded

from tf_kfgn import layers
from tf_kfgn.factors import general_rules
from tf_kfgn.operations.axis_maps import alignment
from tf_kfgn.operations.layout import Layout


def double(cls, *args, **kwargs):
    return cls(*args, dtype="float64", **kwargs)


IMAGE = (5, 4, 2)
CASES = {
    "convolution": lambda: (double(layers.Conv2D, 3, 3, padding="same", activation="tanh"), IMAGE),
    "strides and groups": lambda: (
        double(layers.Conv2D, 4, 3, strides=2, padding="same", groups=2),
        (6, 6, 2),
    ),
    "dilation": lambda: (double(layers.Conv2D, 3, (3, 2), dilation_rate=2), (7, 6, 2)),
    "causal": lambda: (double(layers.Conv1D, 3, 3, padding="causal"), (7, 2)),
    "depthwise": lambda: (
        double(layers.DepthwiseConv2D, 3, depth_multiplier=2, strides=2, padding="same"),
        (5, 5, 3),
    ),
    "depthwise of one": lambda: (double(layers.DepthwiseConv2D, 3, padding="same"), (5, 5, 3)),
    "separable": lambda: (double(layers.SeparableConv2D, 2, 3), IMAGE),
    "transpose": lambda: (
        double(layers.Conv2DTranspose, 3, 3, strides=2, padding="same"),
        (3, 4, 2),
    ),
    "max pooling": lambda: (double(layers.MaxPooling2D), (4, 6, 3)),
    "average pooling": lambda: (double(layers.AveragePooling2D, 3, 2, padding="same"), (5, 5, 3)),
    "global average": lambda: (double(layers.GlobalAveragePooling2D), IMAGE),
    "global average with axes": lambda: (
        double(layers.GlobalAveragePooling2D, keepdims=True),
        IMAGE,
    ),
    "global maximum": lambda: (double(layers.GlobalMaxPooling2D), IMAGE),
    "mean of a sequence": lambda: (double(layers.GlobalAveragePooling1D), (5, 2)),
    "padding": lambda: (double(layers.ZeroPadding2D, ((1, 0), (2, 1))), IMAGE),
    "cropping": lambda: (double(layers.Cropping1D, (1, 2)), (6, 2)),
    "up-sampling": lambda: (double(layers.UpSampling2D, (2, 3)), IMAGE),
    "repeating": lambda: (double(layers.RepeatVector, 4), (3,)),
    "elementwise": lambda: (double(layers.ReLU), IMAGE),
    "rescaling": lambda: (double(layers.Rescaling, 2.0), IMAGE),
    "batch normalisation": lambda: (double(layers.BatchNormalization), IMAGE),
    "batch normalisation of rows": lambda: (double(layers.BatchNormalization, axis=1), IMAGE),
    "layer normalisation": lambda: (double(layers.LayerNormalization), (5, 4)),
    "root mean square": lambda: (double(layers.RMSNormalization), (5, 4)),
    "dense on positions": lambda: (double(layers.Dense, 3), (5, 4)),
    "einsum": lambda: (
        double(layers.EinsumDense, "btd,dhe->bthe", (3, 2, 3), bias_axes="he"),
        (3, 4),
    ),
    "turned einsum": lambda: (double(layers.EinsumDense, "btd,dhe->bhte", (2, 3, 3)), (3, 4)),
    "addition": lambda: (double(layers.Add), IMAGE, IMAGE),
    "subtraction": lambda: (double(layers.Subtract), IMAGE, IMAGE),
    "mean of two": lambda: (double(layers.Average), IMAGE, IMAGE),
    "product": lambda: (double(layers.Multiply), IMAGE, IMAGE),
    "gate": lambda: (double(layers.Multiply), IMAGE, (1, 1, 2)),
    "concatenation": lambda: (double(layers.Concatenate), IMAGE, IMAGE),
}
# Linear operations without a rule of their own are made a matrix.
GENERAL = {
    "concatenation of positions": lambda: (double(layers.Concatenate, axis=1), IMAGE, IMAGE),
    "bilinear up-sampling": lambda: (
        double(layers.UpSampling2D, 2, interpolation="bilinear"),
        (3, 3, 2),
    ),
    "permutation": lambda: (double(layers.Permute, (2, 1)), (3, 4)),
}


def randomised(layer, *shapes):
    layer.build(shapes if len(shapes) > 1 else (None, *shapes[0]))
    generator = np.random.default_rng(0)
    for variable in layer.variables:
        variable.assign(generator.uniform(0.5, 1.5, size=variable.shape))
    return layer


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_each_rule_is_the_mean_block_of_the_rule_for_all_features(case):
    layer, *shapes = case()
    if len(shapes) == 1:
        randomised(layer, *shapes)
    check_channel_rules(layer, *shapes)


@pytest.mark.parametrize("case", GENERAL.values(), ids=GENERAL.keys())
def test_a_linear_operation_without_a_rule_is_made_a_matrix(case):
    check_channel_rules(*case(), own=0, rtol=1e-6)  # Keras resizes in float32


def test_a_flattened_image_keeps_its_positions():
    flatten, dense = double(layers.Flatten), double(layers.Dense, 3)
    model = keras.Sequential([keras.Input(IMAGE, dtype="float64"), flatten, dense])
    _, tape = recorded(model, normal(*IMAGE))
    (_, reshaped), (operation, ends) = ends_of(tape)
    assert reshaped.output == ends.inputs[0] == Layout(IMAGE, (0, 1))
    S = np.diag([1.0, 2.0, 3.0])
    whole = operation.pull_back(tf.constant(S), tape).numpy()
    found = operation.pull_back_channels(tf.constant(S), ends, tape)
    np.testing.assert_allclose(found, mean_block(whole, *[ends.inputs[0]] * 2), rtol=1e-9)


DRAWN = {
    "softmax": lambda: (double(layers.Softmax), (3, 4)),
    "overlapping maxima": lambda: (double(layers.MaxPooling1D, 3, 2), (7, 2)),
    "group normalisation": lambda: (double(layers.GroupNormalization, 2), (3, 4)),
}


@pytest.mark.parametrize("case", DRAWN.values(), ids=DRAWN.keys())
def test_any_other_operation_is_right_on_average_over_the_draws(case):
    layer, shape = case()
    _, tape = recorded(layer, normal(*shape))
    [(operation, ends)] = ends_of(tape)
    [before], behind = ends.inputs, ends.output
    root = np.random.default_rng(1).normal(size=(behind.num_channels,) * 2)
    S = root @ root.T
    assert operation.pull_back_channels(tf.constant(S), ends, tape) is None
    whole = operation.pull_back(tf.constant(expanded(S, behind, behind)), tape).numpy()
    moved = operation.mean_transpose(tf.constant(expanded(S, behind, behind)), tape).numpy()
    expected = [mean_block(whole, before, before), mean_block(moved, before, behind)]

    @tf.function
    def draw(number):
        seed = tf.stack([SEED[0], number])
        own = general_rules.pull_back(operation, tf.constant(S), ends, tape, seed)
        columns = tf.constant(S)
        return own, general_rules.mean_transpose(operation, columns, ends, behind, tape, seed)

    draws = [draw(tf.constant(number, tf.int64)) for number in range(100)]
    for samples, exact in zip(map(np.stack, zip(*draws, strict=True)), expected, strict=True):
        error = samples.std(axis=0) / np.sqrt(len(samples)) + 1e-9
        assert np.sqrt(np.mean(((samples.mean(axis=0) - exact) / error) ** 2)) < 1.6
        assert samples.std() > 0


def test_positions_are_aligned_where_they_lie_at_the_same_place():
    fine, coarse, single = Layout((4, 3), (0,)), Layout((2, 5), (0,)), Layout((7,), ())
    np.testing.assert_array_equal(alignment(fine, fine), np.eye(4))
    np.testing.assert_array_equal(alignment(fine, coarse), [[1, 0], [1, 0], [0, 1], [0, 1]])
    np.testing.assert_array_equal(alignment(single, fine), np.ones((1, 4)))
    assert alignment(Layout((2, 3, 1), (0, 1)), coarse) is None
