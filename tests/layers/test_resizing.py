"""Padding, cropping, up-sampling, resizing, permuting and repeating: linear maps."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from brute_force import allclose, wrong
from stock_rules import check_bitwise, check_rules, check_saving, normal, recorded

import tf_kfgn
from tf_kfgn import layers
from tf_kfgn.operations.linear import LinearOperation, ReshapingOperation

FIRST = "channels_first"
CASES = {
    "pad 1d": (layers.ZeroPadding1D, (3, 2), {"padding": (1, 2)}),
    "pad 2d": (layers.ZeroPadding2D, (2, 3, 2), {"padding": ((1, 0), (0, 2))}),
    "pad 2d, channels first": (
        layers.ZeroPadding2D,
        (2, 2, 3),
        {"padding": 1, "data_format": FIRST},
    ),
    "pad 3d": (layers.ZeroPadding3D, (1, 2, 1, 2), {"padding": 1}),
    "crop 1d": (layers.Cropping1D, (5, 2), {"cropping": (1, 2)}),
    "crop 2d": (layers.Cropping2D, (3, 4, 2), {"cropping": ((1, 0), (0, 2))}),
    "crop 2d, channels first": (
        layers.Cropping2D,
        (2, 3, 4),
        {"cropping": ((1, 0), (0, 2)), "data_format": FIRST},
    ),
    "crop 3d": (layers.Cropping3D, (3, 3, 3, 1), {"cropping": 1}),
    "up 1d": (layers.UpSampling1D, (3, 2), {"size": 2}),
    "up 2d": (layers.UpSampling2D, (2, 3, 2), {"size": (2, 1)}),
    "up 2d, channels first": (layers.UpSampling2D, (2, 2, 3), {"data_format": FIRST}),
    "up 2d, bilinear": (layers.UpSampling2D, (2, 3, 2), {"interpolation": "bilinear"}),
    "up 2d, bicubic": (layers.UpSampling2D, (2, 3, 1), {"interpolation": "bicubic"}),
    "up 2d, lanczos": (layers.UpSampling2D, (2, 3, 1), {"interpolation": "lanczos3"}),
    "up 3d": (layers.UpSampling3D, (1, 2, 2, 2), {"size": 2}),
    "resize": (layers.Resizing, (4, 4, 1), {"height": 2, "width": 3}),
    "resize by the nearest": (
        layers.Resizing,
        (3, 2, 2),
        {"height": 2, "width": 4, "interpolation": "nearest"},
    ),
    "resize and crop": (
        layers.Resizing,
        (4, 2, 2),
        {"height": 2, "width": 2, "crop_to_aspect_ratio": True},
    ),
    "resize and pad": (
        layers.Resizing,
        (4, 2, 2),
        {"height": 4, "width": 4, "pad_to_aspect_ratio": True, "fill_value": 0.5},
    ),
    "resize, channels first": (
        layers.Resizing,
        (2, 4, 3),
        {"height": 2, "width": 3, "data_format": FIRST},
    ),
    "permute": (layers.Permute, (2, 3, 2), {"dims": (3, 1, 2)}),
    "repeat": (layers.RepeatVector, (3,), {"n": 2}),
    "flatten, channels first": (layers.Flatten, (2, 3, 2), {"data_format": FIRST}),
    "rescale": (layers.Rescaling, (2, 3), {"scale": 2.5, "offset": -1.0}),
    "rescale each feature": (layers.Rescaling, (2, 3), {"scale": [1.0, 2.0, -0.5]}),
}


def make(name, dtype="float64"):
    cls, shape, options = CASES[name]
    if options.get("interpolation", "nearest") != "nearest" or cls is layers.Resizing:
        dtype = "float32"  # so does TensorFlow resize, and some gradients know nothing else
    return cls(dtype=dtype, **options), tf.cast(normal(*shape), dtype)


@pytest.fixture(params=CASES)
def made(request):
    return make(request.param)


def test_the_rules_are_exact(made):
    layer, x = made
    [operation] = recorded(layer, x)[1].operations
    assert isinstance(operation, LinearOperation)
    check_rules(layer, [x])


def test_outputs_are_those_of_the_stock_layer(made):
    layer, x = made
    check_bitwise(layer, x, ["eager", "graph"])


def test_layers_survive_saving_and_are_swapped(made, tmp_path):
    layer, x = made
    check_saving(layer, x, tmp_path)


@pytest.mark.parametrize("mode", ["graph", "xla"])
@pytest.mark.parametrize("name", ["pad 2d", "up 2d, bilinear", "permute", "rescale"])
def test_rules_are_the_same_in_a_graph(name, mode):
    layer, x = make(name)

    def rule(x, average):
        _, tape = recorded(layer, x)
        return tape.operations[0].pull_back(average, tape)

    width = layer(x)[0].shape.num_elements()
    average = tf.constant(np.random.default_rng(1).normal(size=(width, width)), x.dtype)
    batch = None if mode == "graph" else len(x)
    graph = tf.function(rule, jit_compile=mode == "xla").get_concrete_function(
        tf.TensorSpec((batch, *x.shape[1:]), x.dtype), average
    )
    expected = rule(x, average)
    np.testing.assert_allclose(graph(x, average), expected, rtol=1e-5, atol=1e-4)


def test_the_order_of_features_matters():
    layer, x = layers.Permute((2, 1), dtype="float64"), normal(2, 3)
    output, tape = recorded(layer, x)
    average = tf.constant(np.diag(np.arange(6.0)))
    kept = ReshapingOperation(layer, x, output).pull_back(average, tape)
    assert wrong(kept, tape.operations[0].pull_back(average, tape))


def test_the_slope_of_a_rescaling_is_squared():
    layer, x = layers.Rescaling(2.5, dtype="float64"), normal(3)
    _, tape = recorded(layer, x)
    pulled = tape.operations[0].pull_back(tf.eye(3, dtype=tf.float64), tape)
    allclose(pulled, 2.5**2 * np.eye(3))
    assert wrong(pulled, 2.5 * np.eye(3))


@pytest.mark.parametrize("name", ["pad 1d", "crop 2d", "up 2d, bilinear", "repeat", "rescale"])
def test_averages_stay_in_float32_where_a_layer_computes_in_half(name):
    cls, shape, options = CASES[name]
    layer, exact = cls(dtype="mixed_float16", **options), cls(dtype="float32", **options)
    x = tf.cast(normal(*shape), tf.float32)
    output, tape = recorded(layer, x)
    assert output.dtype == tf.float16
    width = output[0].shape.num_elements()
    average = 1e-9 * tf.eye(width)  # nothing in half precision
    _, exact_tape = recorded(exact, x)
    expected = exact_tape.operations[0].pull_back(average, exact_tape)
    pulled = tape.operations[-1].pull_back(average, tape)
    assert pulled.dtype == tf.float32
    np.testing.assert_allclose(pulled, expected, rtol=1e-6)
    assert np.abs(pulled).max() > 0


def test_a_single_image_or_a_dictionary_is_not_recorded():
    layer = layers.Resizing(2, 2, dtype="float64")
    image = normal(4, 4, 1)
    for data in (image[0], {"images": image}):
        with tf_kfgn.CurvatureTape() as tape:
            layer(data)
        assert not tape.operations
