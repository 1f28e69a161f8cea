"""Merging layers: joint Jacobians for all inputs, broadcasting, masks, tensors used twice."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from brute_force import allclose, wrong
from stock_rules import (
    N,
    check_bitwise,
    check_rules,
    check_saving,
    kind_of,
    moved_columns,
    normal,
    pulled,
    recorded,
    stock_of,
)

import tf_kfgn
from tf_kfgn import layers
from tf_kfgn.operations.elementwise import ElementwiseOperation
from tf_kfgn.operations.linear import LinearOperation
from tf_kfgn.operations.operation import Operation

LINEAR, ELEMENTWISE, GENERAL = [LinearOperation], [ElementwiseOperation], [Operation]
SAME = [(2, 3), (2, 3)]
# Layer, shapes of its inputs, and what it records
CASES = {
    "add": (layers.Add, {}, SAME, LINEAR),
    "add three": (layers.Add, {}, [(3,)] * 3, LINEAR),
    "add, broadcast": (layers.Add, {}, [(2, 3), (1, 3)], LINEAR),
    "add, of other rank": (layers.Add, {}, [(2, 3), (3,)], LINEAR),
    "subtract": (layers.Subtract, {}, SAME, LINEAR),
    "subtract, broadcast": (layers.Subtract, {}, [(1, 3), (2, 1)], LINEAR),
    "average": (layers.Average, {}, [(3,)] * 3, LINEAR),
    "concatenate": (layers.Concatenate, {}, [(2, 3), (2, 1), (2, 2)], LINEAR),
    "concatenate positions": (layers.Concatenate, {"axis": 1}, [(2, 3), (1, 3)], LINEAR),
    "multiply": (layers.Multiply, {}, SAME, ELEMENTWISE),
    "multiply three": (layers.Multiply, {}, [(3,)] * 3, ELEMENTWISE),
    "multiply, broadcast": (layers.Multiply, {}, [(2, 3), (1, 3)], LINEAR + ELEMENTWISE),
    "multiply, both broadcast": (
        layers.Multiply,
        {},
        [(1, 3), (2, 1)],
        LINEAR + LINEAR + ELEMENTWISE,
    ),
    "multiply, of other rank": (layers.Multiply, {}, [(3,), (2, 3)], LINEAR + ELEMENTWISE),
    "maximum": (layers.Maximum, {}, SAME, ELEMENTWISE),
    "maximum of three": (layers.Maximum, {}, [(3,)] * 3, ELEMENTWISE),
    "minimum, broadcast": (layers.Minimum, {}, [(2, 3), (2, 1)], LINEAR + ELEMENTWISE),
    "dot": (layers.Dot, {"axes": 1}, [(3,), (3,)], GENERAL),
    "dot of rows": (layers.Dot, {"axes": (2, 1)}, [(2, 3), (3, 2)], GENERAL),
    "dot, normalised": (layers.Dot, {"axes": -1, "normalize": True}, [(3,), (3,)], GENERAL),
}


@pytest.fixture(params=CASES.values(), ids=CASES.keys())
def made(request):
    cls, options, shapes, kinds = request.param
    layer = cls(dtype="float64", **options)
    return layer, [normal(*shape, seed=seed) for seed, shape in enumerate(shapes)], kinds


def kinds_of(tape):
    return [kind_of(operation) for operation in tape.operations]


def test_the_rules_are_exact(made):
    layer, inputs, kinds = made
    assert kinds_of(recorded(layer, inputs)[1]) == kinds
    check_rules(layer, inputs)


def test_outputs_are_those_of_the_stock_layer(made):
    layer, inputs, _ = made
    check_bitwise(layer, inputs)


def test_layers_survive_saving_and_are_swapped(made, tmp_path):
    layer, inputs, _ = made
    check_saving(layer, inputs, tmp_path)


@pytest.mark.parametrize("mode", ["graph", "xla"])
@pytest.mark.parametrize("name", ["add, broadcast", "multiply, both broadcast", "maximum", "dot"])
def test_rules_are_the_same_in_a_graph(name, mode):
    cls, options, shapes, _ = CASES[name]
    layer = cls(dtype="float64", **options)
    inputs = [normal(*shape, seed=seed) for seed, shape in enumerate(shapes)]
    width = layer(inputs)[0].shape.num_elements()
    average = tf.constant(np.random.default_rng(1).normal(size=(width, width)))

    def rules(inputs, average):
        operation = (tape := recorded(layer, inputs)[1]).operations[-1]
        return operation.pull_back(average, tape), operation.mean_transpose(average, tape)

    signature = [
        tf.TensorSpec((None if mode == "graph" else N, *x.shape[1:]), x.dtype) for x in inputs
    ]
    graph = tf.function(rules, jit_compile=mode == "xla").get_concrete_function(signature, average)
    for one, other in zip(graph(inputs, average), rules(inputs, average), strict=True):
        allclose(one, other)


@pytest.mark.parametrize(
    "cls",
    [
        layers.Add,
        layers.Average,
        layers.Concatenate,
        layers.Multiply,
        layers.Maximum,
        layers.Subtract,
    ],
)
def test_a_tensor_that_is_merged_with_itself(cls):
    layer, x = cls(dtype="float64"), normal(2, 3)
    output, tape = recorded(layer, [x, x])
    assert all(tensor is x for tensor in tape.operations[0].inputs)
    if cls is layers.Maximum:  # Keras gives each copy half of the slope
        allclose(pulled(tape, output, np.eye(6), [x]), np.eye(6))
        return
    stock = stock_of(layer)
    check_rules(layer, [x], lambda n, own: stock([own[0], own[0]]), [x, x])


def test_the_copies_of_a_sum_meet():
    """Twice the Jacobian is four times the average, not two times."""
    layer, x = layers.Add(dtype="float64"), normal(3)
    output, tape = recorded(layer, [x, x])
    found = pulled(tape, output, np.eye(3), [x])
    allclose(found, 4 * np.eye(3))
    assert wrong(found, 2 * np.eye(3))


def test_a_product_has_no_mean_jacobian():
    """E[J^T G J] of a product is not E[J]^T G E[J]."""
    layer, inputs = layers.Multiply(dtype="float64"), [normal(3), normal(3, seed=1)]
    output, tape = recorded(layer, inputs)
    mean = moved_columns(tape, output, np.eye(3), inputs)
    assert wrong(mean @ mean.T, pulled(tape, output, np.eye(3), inputs))


# Masks

MASKS = [
    np.array([[1, 1], [1, 0], [0, 1], [1, 1], [0, 0]], bool),
    np.array([[1, 1], [1, 1], [1, 0], [0, 0], [1, 0]], bool),
]


@pytest.mark.parametrize("shapes", [SAME, [(2, 3), (2, 1)]], ids=["alike", "broadcast"])
@pytest.mark.parametrize("cls", [layers.Maximum, layers.Minimum])
def test_masked_positions_are_left_out_of_a_maximum(cls, shapes):
    """Keras replaces a masked input by the other one."""
    layer = cls(dtype="float64")
    inputs = masked_inputs(shapes)
    check_bitwise(layer, inputs, ["eager"])
    stock = stock_of(layer)

    def function(n, own):
        for tensor, mask in zip(own, MASKS, strict=True):
            tensor._keras_mask = tf.constant(mask[n : n + 1])
        return stock(own)

    check_rules(layer, inputs, function)
    output, tape = recorded(layer, inputs)
    width = output[0].shape.num_elements()
    plain_inputs = [tf.identity(tensor) for tensor in inputs]
    plain_output, plain = recorded(layer, plain_inputs)
    assert wrong(
        pulled(plain, plain_output, np.eye(width), plain_inputs),
        pulled(tape, output, np.eye(width), inputs),
    )


def masked_inputs(shapes):
    inputs = [normal(*shape, seed=seed) for seed, shape in enumerate(shapes)]
    for tensor, mask in zip(inputs, MASKS, strict=True):
        tensor._keras_mask = tf.constant(mask)
    return inputs


@pytest.mark.parametrize(
    "cls",
    [layers.Add, layers.Concatenate, layers.Maximum, layers.Multiply],
    ids=lambda c: c.__name__,
)
def test_masks_go_on_as_in_keras(cls):
    layer = cls(dtype="float64")
    stock = stock_of(layer)
    inside, _ = recorded(layer, masked_inputs(SAME))
    for output in (layer(masked_inputs(SAME)), inside):
        np.testing.assert_array_equal(output._keras_mask, stock(masked_inputs(SAME))._keras_mask)


# What is no plain floating input


def test_an_integer_input_is_a_constant_of_each_example():
    x, factors = normal(3), tf.constant(np.arange(3 * N).reshape(N, 3), tf.int32)
    layer = layers.Multiply(dtype="float64")
    output, tape = recorded_with_integers(layer, x, factors)
    [operation] = tape.operations
    assert operation.inputs == [x]
    average = np.ones((3, 3))
    expected = np.einsum("ni,nj->ij", factors, factors) / N
    allclose(operation.pull_back(tf.constant(average), tape), expected)
    np.testing.assert_array_equal(output, stock_of(layer)([x, factors]))


def recorded_with_integers(layer, x, integers):
    with tf_kfgn.CurvatureTape() as tape:
        output = layer([x, integers])
    return output, tape


def test_an_input_without_examples_is_not_recorded():
    """A tensor for all examples has no Jacobian of each one."""
    with tf_kfgn.CurvatureTape() as tape:
        made = keras.Input((3,), dtype="float64"), keras.Input((3,), batch_size=1, dtype="float64")
        model = keras.Model(made, layers.Add(dtype="float64")(list(made)))
        output = model([normal(3), normal(3)[:1]])
    assert output.shape == (N, 3)
    assert not tape.operations
