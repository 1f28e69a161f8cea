"""Pooling: linear maps, and windows whose factors depend on the example."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from brute_force import allclose, pulled_back, wrong
from stock_rules import (
    check_bitwise,
    check_rules,
    check_saving,
    kind_of,
    normal,
    recorded,
    stock_of,
)

import tf_kfgn
from tf_kfgn import layers
from tf_kfgn.factors import KFLREstimator
from tf_kfgn.operations.linear import LinearOperation
from tf_kfgn.operations.operation import Operation
from tf_kfgn.operations.windows import WindowOperation
from tf_kfgn.recording.active import SEVERAL_COTANGENTS

FIRST = "channels_first"


def case(cls, shape, kind, *args, **kwargs):
    # TensorFlow has no kernels for windows in three dimensions in float64.
    dtype = "float32" if cls in (layers.AveragePooling3D, layers.MaxPooling3D) else "float64"
    return lambda: cls(*args, dtype=dtype, **kwargs), shape, kind


def batch_for(layer, shape):
    return tf.cast(normal(*shape), layer.compute_dtype)


AVERAGES = {
    "1d": case(layers.AveragePooling1D, (5, 2), LinearOperation, 2),
    "1d, same": case(layers.AveragePooling1D, (5, 2), LinearOperation, 3, 2, "same"),
    "1d, channels first": case(
        layers.AveragePooling1D, (2, 5), LinearOperation, 2, data_format=FIRST
    ),
    "2d, overlapping": case(layers.AveragePooling2D, (3, 4, 2), LinearOperation, 2, 1),
    "2d, same": case(layers.AveragePooling2D, (3, 3, 2), LinearOperation, 2, padding="same"),
    "3d": case(layers.AveragePooling3D, (2, 3, 2, 2), LinearOperation, (1, 2, 2)),
    "global 1d": case(layers.GlobalAveragePooling1D, (3, 2), LinearOperation),
    "global 1d, channels first": case(
        layers.GlobalAveragePooling1D, (3, 2), LinearOperation, data_format=FIRST
    ),
    "global 2d, axes kept": case(
        layers.GlobalAveragePooling2D, (2, 3, 2), LinearOperation, keepdims=True
    ),
    "global 2d, channels first": case(
        layers.GlobalAveragePooling2D, (2, 3, 2), LinearOperation, data_format=FIRST
    ),
    "global 3d": case(layers.GlobalAveragePooling3D, (2, 2, 2, 2), LinearOperation),
}
MAXIMA = {
    "max 1d": case(layers.MaxPooling1D, (4, 3), WindowOperation, 2),
    "max 1d with a remainder": case(layers.MaxPooling1D, (5, 2), WindowOperation, 2),
    "max 1d, same": case(layers.MaxPooling1D, (5, 2), WindowOperation, 3, padding="same"),
    "max 1d with gaps": case(layers.MaxPooling1D, (7, 2), WindowOperation, 2, 3),
    "max 1d with gaps, same": case(
        layers.MaxPooling1D, (8, 2), WindowOperation, 2, 3, padding="same"
    ),
    "max 1d, channels first": case(
        layers.MaxPooling1D, (2, 4), WindowOperation, 2, data_format=FIRST
    ),
    "max 1d, overlapping": case(layers.MaxPooling1D, (5, 2), Operation, 3, 2),
    "max 2d": case(layers.MaxPooling2D, (4, 4, 2), WindowOperation, 2),
    "max 2d, same and uneven": case(
        layers.MaxPooling2D, (4, 5, 2), WindowOperation, (3, 2), padding="same"
    ),
    "max 2d, channels first": case(
        layers.MaxPooling2D, (2, 4, 4), WindowOperation, 2, data_format=FIRST
    ),
    "max 2d, overlapping": case(layers.MaxPooling2D, (3, 4, 2), Operation, 2, 1),
    "max 3d": case(layers.MaxPooling3D, (2, 4, 3, 2), WindowOperation, (2, 2, 1)),
    "global max 1d": case(layers.GlobalMaxPooling1D, (4, 2), WindowOperation),
    "global max 1d, channels first": case(
        layers.GlobalMaxPooling1D, (2, 4), WindowOperation, data_format=FIRST
    ),
    "global max 2d, axes kept": case(
        layers.GlobalMaxPooling2D, (2, 3, 2), WindowOperation, keepdims=True
    ),
    "global max 2d, channels first": case(
        layers.GlobalMaxPooling2D, (2, 3, 2), WindowOperation, data_format=FIRST
    ),
    "global max 3d": case(layers.GlobalMaxPooling3D, (2, 2, 2, 2), WindowOperation),
}
CASES = {**AVERAGES, **MAXIMA}
MASK = np.array([[1, 1, 1], [1, 1, 0], [1, 0, 0], [0, 1, 0], [1, 0, 1]], bool)


@pytest.fixture(params=CASES.values(), ids=CASES.keys())
def made(request):
    make, shape, kind = request.param
    layer = make()
    return layer, batch_for(layer, shape), kind


def test_the_rules_are_exact(made):
    layer, x, kind = made
    [operation] = recorded(layer, x)[1].operations
    assert kind_of(operation) is kind
    check_rules(layer, [x])


@pytest.mark.parametrize("name", MAXIMA)
def test_the_rules_are_exact_where_maxima_are_tied(name):
    make, shape, _ = MAXIMA[name]
    layer = make()
    x = np.random.default_rng(0).integers(2, size=(5, *shape))
    check_rules(layer, [tf.constant(x, layer.compute_dtype)])


def test_outputs_are_those_of_the_stock_layer(made):
    layer, x, _ = made
    check_bitwise(layer, x, ["eager"])


@pytest.mark.parametrize("mode", ["graph", "xla"])
@pytest.mark.parametrize("name", ["1d, same", "global 1d", "max 2d", "global max 1d"])
def test_rules_and_outputs_are_the_same_in_a_graph(name, mode):
    make, shape, _ = CASES[name]
    layer, x = make(), normal(*shape)
    check_bitwise(layer, x, [mode])

    def rules(x, average):
        _, tape = recorded(layer, x)
        [operation] = tape.operations
        return operation.pull_back(average, tape), operation.mean_transpose(average, tape)

    width = stock_of(layer)(x)[0].shape.num_elements()
    average = tf.constant(np.random.default_rng(1).normal(size=(width, width)))
    batch = None if mode == "graph" else len(x)
    signature = [tf.TensorSpec((batch, *x.shape[1:]), x.dtype), average]
    graph = tf.function(rules, jit_compile=mode == "xla").get_concrete_function(*signature)
    for one, other in zip(graph(x, average), rules(x, average), strict=True):
        allclose(one, other)


def test_layers_survive_saving_and_are_swapped(made, tmp_path):
    layer, x, _ = made
    check_saving(layer, x, tmp_path)


@pytest.mark.parametrize("name", ["max 1d, overlapping", "max 2d, overlapping"])
def test_windows_that_overlap_need_another_rule(name):
    """An input that is the maximum of two windows meets both."""
    make, shape, _ = MAXIMA[name]
    layer, x = make(), normal(*shape)
    output, tape = recorded(layer, x)
    width = output[0].shape.num_elements()
    root = np.random.default_rng(1).normal(size=(width, width))
    average = root @ root.T
    windows = WindowOperation(layer, x, output, layer.windows(x, output))
    expected = pulled_back(stock_of(layer), x.numpy(), average)
    assert wrong(windows.pull_back(tf.constant(average), tape), expected)


def test_the_mean_mask_is_not_enough():
    layer, x = MAXIMA["max 1d"][0](), normal(4, 3)
    _, tape = recorded(layer, x)
    [operation] = tape.operations
    average = np.eye(6)
    half = operation.mean_transpose(tf.constant(average), tape)
    assert wrong(half @ tf.transpose(half), operation.pull_back(tf.constant(average), tape))


@pytest.mark.parametrize("data_format", ["channels_last", FIRST])
@pytest.mark.parametrize("keepdims", [False, True])
def test_a_mean_over_positions_that_are_not_masked(data_format, keepdims):
    layer = layers.GlobalAveragePooling1D(data_format, keepdims, dtype="float64")
    x = normal(3, 2) if data_format == "channels_last" else normal(2, 3)
    _, tape = recorded(layer, x, mask=MASK)
    [operation] = tape.operations
    assert type(operation) is WindowOperation
    stock = stock_of(layer)
    check_rules(layer, [x], lambda n, own: stock(own[0], mask=MASK[n : n + 1]), mask=MASK)
    check_bitwise(layer, x, ["eager", "graph"], mask=MASK)
    unmasked = recorded(layer, x)[1]
    average = tf.eye(2, dtype=tf.float64)
    expected = operation.pull_back(average, tape)
    assert wrong(unmasked.operations[0].pull_back(average, unmasked), expected)


@pytest.mark.parametrize(
    "make",
    [
        lambda: layers.MaxPooling2D(dtype="float64"),
        lambda: layers.GlobalMaxPooling2D(dtype="float64"),
    ],
)
def test_a_dynamic_axis_is_refused_by_the_rule_alone(make):
    layer = make()

    @tf.function(input_signature=[tf.TensorSpec((None, None, None, 2), tf.float64)])
    def pooled(x):
        output, tape = recorded(layer, x)
        if len(output.shape) == 4:
            with pytest.raises(ValueError, match="static feature axes"):
                tape.operations[0].pull_back(tf.eye(2, dtype=tf.float64), tape)
        return output

    x = normal(4, 4, 2)
    np.testing.assert_array_equal(pooled(x), layer(x))


@pytest.mark.parametrize("cls", [layers.GlobalMaxPooling1D, layers.MaxPooling1D])
def test_integers_are_not_recorded(cls):
    with tf_kfgn.CurvatureTape() as tape:
        cls(dtype="int32")(tf.reshape(tf.range(8), (1, 4, 2)))
    assert not tape.operations


# Several cotangents at once


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("name", [name for name in MAXIMA if name.startswith("max")])
def test_several_cotangents_meet_the_same_maxima(name, tied):
    make, shape, _ = MAXIMA[name]
    layer = make()
    x = batch_for(layer, shape)
    x = tf.round(x) if tied else x
    output, tape = recorded(layer, x)
    [source] = tape.operations[0].inputs
    cotangent = tf.random.stateless_normal(output.shape, (0, 1), dtype=output.dtype)
    one = tape.gradient(output, source, cotangent)
    with SEVERAL_COTANGENTS.using(True):
        several = tape.gradient(output, source, cotangent)
    np.testing.assert_array_equal(several, one)
    with tf.GradientTape() as stock_tape:
        stock_tape.watch(x)
        stock_output = stock_of(layer)(x)
    np.testing.assert_array_equal(several, stock_tape.gradient(stock_output, x, cotangent))


@pytest.mark.parametrize("stride", [1, 2])
def test_kflr_looks_for_the_maxima_of_windows_apart_only_once(stride):
    pool = keras.layers.MaxPooling1D(2, stride, dtype="float64")
    dense = keras.layers.Dense(3, dtype="float64")
    flatten = keras.layers.Flatten(dtype="float64")
    first = keras.layers.Dense(2, dtype="float64")
    model = keras.Sequential([keras.Input((4, 2)), first, pool, flatten, dense])
    tf_kfgn.enable_curvature(model)

    @tf.function
    def factors(x):
        with tf_kfgn.CurvatureTape() as tape:
            tape.watch_loss(keras.losses.MeanSquaredError(), x[:, 0, :1], model(x))
        return list(KFLREstimator()(tape, tf.constant([0, 0], tf.int64)).values())

    graph = factors.get_concrete_function(tf.TensorSpec((5, 4, 2), tf.float64)).graph
    inside = [node.op for f in graph.as_graph_def().library.function for node in f.node_def]
    assert "While" not in inside and "MatMul" in inside  # there are loops, and no others in them
    assert ("MaxPoolGrad" in inside) == (stride == 1)
