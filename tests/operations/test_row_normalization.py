"""Normalisation of each example: the rule for rows, its limits, and what it does not cover."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from brute_force import allclose, pulled_back, wrong
from older_keras import skip_where_stock_fails
from stock_rules import check_bitwise, check_rules, check_saving, normal, recorded, stock_of

from tf_kfgn import layers
from tf_kfgn.operations.operation import Operation
from tf_kfgn.operations.row_normalization import RowNormalization
from tf_kfgn.swapping.swap import stock_class

# Layer, shape of an example, and what it records
CASES = {
    "layer": (layers.LayerNormalization, {}, (4,), RowNormalization),
    "layer, of positions": (layers.LayerNormalization, {"epsilon": 0.1}, (3, 4), RowNormalization),
    "layer, without scale": (
        layers.LayerNormalization,
        {"scale": False, "center": False},
        (3, 4),
        RowNormalization,
    ),
    "layer, along positions": (layers.LayerNormalization, {"axis": 1}, (3, 4), RowNormalization),
    "layer, along all": (layers.LayerNormalization, {"axis": (1, 2)}, (3, 4), RowNormalization),
    "layer, along some of a grid": (
        layers.LayerNormalization,
        {"axis": (1, -1)},
        (2, 3, 2),
        RowNormalization,
    ),
    "group": (layers.GroupNormalization, {"groups": 2}, (4,), RowNormalization),
    "group, of positions": (
        layers.GroupNormalization,
        {"groups": 2, "epsilon": 0.1},
        (3, 4),
        RowNormalization,
    ),
    "group, of a grid": (layers.GroupNormalization, {"groups": 2}, (2, 2, 4), RowNormalization),
    "group, channels first": (
        layers.GroupNormalization,
        {"groups": 2, "axis": 1},
        (4, 2, 2),
        RowNormalization,
    ),
    "group, without scale": (
        layers.GroupNormalization,
        {"groups": 3, "scale": False},
        (2, 6),
        RowNormalization,
    ),
    "group of a channel": (layers.GroupNormalization, {"groups": -1}, (3, 2), RowNormalization),
    "root mean square": (layers.RMSNormalization, {}, (4,), RowNormalization),
    "root mean square of positions": (
        layers.RMSNormalization,
        {"epsilon": 0.1},
        (3, 4),
        RowNormalization,
    ),
    "root mean square of all": (
        layers.RMSNormalization,
        {"axis": (1, 2)},
        (3, 4),
        RowNormalization,
    ),
    "root mean square along positions": (layers.RMSNormalization, {"axis": 1}, (3, 3), Operation),
    "unit": (layers.UnitNormalization, {}, (4,), RowNormalization),
    "unit, along positions": (layers.UnitNormalization, {"axis": 1}, (3, 4), RowNormalization),
    "unit, along all": (layers.UnitNormalization, {"axis": (1, 2)}, (3, 2), RowNormalization),
}


def make(name, dtype="float64"):
    cls, options, shape, _ = CASES[name]
    layer = cls(dtype=dtype, **options)
    x = tf.cast(normal(*shape), layer.compute_dtype)
    skip_where_stock_fails(lambda: stock_class(cls)(dtype=dtype, **options)(x))
    layer(x)
    generator = np.random.default_rng(2)
    layer.set_weights([generator.normal(size=weight.shape) for weight in layer.weights])
    return layer, x


@pytest.fixture(params=CASES)
def name(request):
    return request.param


def test_the_rules_are_exact(name):
    layer, x = make(name)
    [operation] = recorded(layer, x)[1].operations
    assert type(operation) is CASES[name][-1]
    check_rules(layer, [x])


def test_outputs_are_those_of_the_stock_layer(name):
    check_bitwise(*make(name))


def test_layers_survive_saving_and_are_swapped(name, tmp_path):
    check_saving(*make(name), tmp_path)


@pytest.mark.parametrize("mode", ["graph", "xla"])
@pytest.mark.parametrize("name", ["layer, of positions", "group, of a grid", "unit"])
def test_rules_are_the_same_in_a_graph(name, mode):
    layer, x = make(name)

    def rules(x, average):
        _, tape = recorded(layer, x)
        [operation] = tape.operations
        return operation.pull_back(average, tape), operation.mean_transpose(average, tape)

    root = np.random.default_rng(1).normal(size=[x[0].shape.num_elements()] * 2)
    average = tf.constant(root @ root.T)
    batch = None if mode == "graph" else len(x)
    graph = tf.function(rules, jit_compile=mode == "xla").get_concrete_function(
        tf.TensorSpec((batch, *x.shape[1:]), x.dtype), average
    )
    for one, other in zip(graph(x, average), rules(x, average), strict=True):
        allclose(one, other)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("layer, of positions", {"_centred": False}),
        ("layer, of positions", {"_eps": 0.2}),
        ("layer, of positions", {"_gamma": None}),
        ("root mean square of positions", {"_centred": True}),
        ("unit", {"_gamma": None}),
    ],
)
def test_another_constant_gives_something_else(name, change):
    layer, x = make(name)
    [operation] = (tape := recorded(layer, x)[1]).operations
    average = np.eye(x[0].shape.num_elements())
    expected = pulled_back(stock_of(layer), x.numpy(), average)
    allclose(operation.pull_back(tf.constant(average), tape), expected)
    for attribute, value in change.items():
        setattr(operation, attribute, value)
    assert wrong(operation.pull_back(tf.constant(average), tape), expected)


def test_the_order_of_the_groups_matters():
    layer, x = make("group, of positions")
    [operation] = (tape := recorded(layer, x)[1]).operations
    average = tf.constant(np.diag(np.arange(12.0)))
    expected = operation.pull_back(average, tape)
    operation._places = np.arange(12).reshape(2, 6)
    assert wrong(operation.pull_back(average, tape), expected)


def test_a_row_of_zeros_has_the_slope_that_keras_gives_it():
    layer = layers.UnitNormalization(dtype="float64")
    x = tf.constant(np.vstack([np.zeros(3), np.ones(3), np.arange(3.0)]))
    [operation] = (tape := recorded(layer, x)[1]).operations
    expected = pulled_back(keras.layers.UnitNormalization(dtype="float64"), x.numpy(), np.eye(3))
    np.testing.assert_allclose(
        operation.pull_back(tf.eye(3, dtype=tf.float64), tape), expected, rtol=1e-9
    )


@pytest.mark.parametrize("name", ["layer", "group", "root mean square"])
def test_averages_stay_in_float32_where_a_layer_computes_in_half(name):
    layer, x = make(name, "mixed_float16")
    exact, _ = make(name)
    exact.set_weights(layer.get_weights())
    [operation] = (tape := recorded(layer, x)[1]).operations
    pulled = operation.pull_back(1e-9 * tf.eye(4), tape)
    assert pulled.dtype == tf.float32
    expected = pulled_back(stock_of(exact), x.numpy().astype(float), 1e-9 * np.eye(4))
    np.testing.assert_allclose(pulled, expected, rtol=2e-2, atol=1e-2 * np.abs(expected).max())
