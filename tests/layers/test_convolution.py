"""Convolutions: their rows, and how averages go back through them."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from brute_force import allclose, example_jacobians, positive, pulled_back, wrong
from convolutions import CASES, N, affine_parts, in_mode, measured, weights_of
from passes import MODES, compiled
from problems import sequential

import tf_kfgn
from tf_kfgn import layers
from tf_kfgn.operations.marks import matrix_of
from tf_kfgn.operations.weight_matrix import AxisOrder


@pytest.fixture(params=CASES.values(), ids=CASES.keys())
def given(request):
    return request.param


def test_rows_times_the_matrix_are_the_output(given):
    def ends(operation, tape):
        matrix = operation.matrix.join([tf.convert_to_tensor(w) for w in weights_of(operation)])
        rows = operation.input_rows()
        assert rows.shape[1] == operation.shared
        product = tf.einsum("nt...i,...io->nt...o", rows, matrix)
        return (
            operation.input,
            operation.output,
            product,
            operation.cotangent_rows(operation.output),
        )

    layer, _, found = in_mode(given, ends)
    for function, (inputs, output, product, rows) in zip(
        affine_parts(given, layer), found, strict=True
    ):
        allclose(product, rows)
        allclose(output, function(inputs))
        assert wrong(rows[:, :1], rows) or rows.shape[1] == 1  # positions differ


def test_averages_come_into_the_order_of_the_rows(given):
    def average(operation, tape):
        size = operation.output.shape[1:].num_elements()
        return operation.output, operation.row_average(tf.constant(positive(size, 1)), operation)

    layer, _, found = in_mode(given, average)
    for output, rows in found:
        places = np.arange(np.prod(output.shape[1:])).reshape(output.shape[1:])
        if layer.data_format == "channels_first":
            places = np.moveaxis(places, 0, -1)
        order = places.ravel()
        expected = positive(len(order), 1)[np.ix_(order, order)]
        np.testing.assert_array_equal(np.reshape(rows, expected.shape), expected)


def test_the_gradient_is_the_product_of_the_rows(given):
    def gradients(operation, tape):
        cotangent = tf.sin(5 * operation.output)
        weights = [weight.value for weight in weights_of(operation)]
        expected = tape.gradient(operation.output, weights, output_gradients=cotangent)
        rows = operation.input_rows(), operation.cotangent_rows(cotangent)
        product = tf.einsum("nt...i,nt...o->...io", *rows)
        parts = operation.matrix.split(product, [weight.shape for weight in weights])
        return product, operation.matrix.join(expected), parts, expected

    for product, joined, parts, expected in in_mode(given, gradients)[2]:
        allclose(product, joined)
        for part, gradient in zip(parts, expected, strict=True):
            allclose(part, gradient)


def test_averages_go_through_the_transpose(given):
    def pulled(operation, tape):
        size = operation.output.shape[1:].num_elements()
        columns = np.random.default_rng(2).normal(size=(size, 2))
        return (
            operation.input,
            operation.pull_back(tf.constant(positive(size, 1)), tape),
            operation.mean_transpose(tf.constant(columns), tape),
        )

    layer, _, found = in_mode(given, pulled)
    for function, (inputs, average, columns) in zip(affine_parts(given, layer), found, strict=True):
        example = inputs[:1].numpy()
        [jacobian] = example_jacobians(function, example)
        size = len(jacobian)
        allclose(average, pulled_back(function, example, positive(size, 1)))
        allclose(columns, jacobian.T @ np.random.default_rng(2).normal(size=(size, 2)))
        assert wrong(average, jacobian.T @ positive(size, 3) @ jacobian)


def test_predictions_stay_bitwise_equal(given):
    layer, x = given.made()
    stock = given.stock()
    stock.build((None, *given.shape))
    stock.set_weights(layer.get_weights())
    expected = compiled(stock, given.mode)(x)
    np.testing.assert_array_equal(compiled(layer, given.mode)(x), expected)

    def recorded(x):
        with tf_kfgn.CurvatureTape():
            return layer(x)

    np.testing.assert_array_equal(compiled(recorded, given.mode)(x), expected)
    model = sequential(given.shape, stock)
    for swap in (tf_kfgn.enable_curvature, tf_kfgn.disable_curvature):
        assert type(swap(model).layers[0]) is type(layer if "enable" in swap.__name__ else stock)
        np.testing.assert_array_equal(compiled(model, given.mode)(x), expected)


SOME = [
    "1d, causal, dilation",
    "2d, same, strides",
    "2d, groups",
    "3d",
    "3d, channels first",
    "depthwise 2d, channels first",
    "separable 2d",
    "transpose 2d, output padding",
]


@pytest.mark.parametrize("name", SOME)
def test_every_mode_finds_the_same(name):
    layer, x = CASES[name].made()

    def use(operation, tape):
        size = operation.output.shape[1:].num_elements()
        average = operation.pull_back(tf.constant(positive(size, 1)), tape)
        rows = operation.input_rows(), operation.cotangent_rows(operation.output)
        return [*rows, average, tape.gradient(operation.output, operation.input)]

    def found(x):
        return tf.nest.flatten(measured(layer, x, use))

    expected = found(x)
    for mode in MODES[1:]:
        batch = None if mode == "graph" else N
        signature = [tf.TensorSpec((batch, *x.shape[1:]), x.dtype)]
        graph = tf.function(found, input_signature=signature, jit_compile=mode == "xla")
        for actual, value in zip(graph(x), expected, strict=True):
            allclose(actual, value)


def test_the_map_takes_any_floating_type():
    layer = layers.Conv2D(4, 2, groups=2)  # in float32
    with tf_kfgn.CurvatureTape() as tape:
        layer(tf.ones((2, 3, 3, 4)))
    average = positive(16, 1)
    pulled = tape.operations[0].pull_back(tf.constant(average), tape)
    assert pulled.dtype == tf.float64


def test_products_of_rows_are_found_without_them(given):
    def sums(operation, tape):
        rows = operation.input_rows()
        rows = tf.reshape(rows, (-1, rows.shape[-1]))
        products = operation.input_products(tf.float64)
        expected = tf.matmul(rows, rows, transpose_a=True)
        return expected if products is None else products, expected

    for products, expected in in_mode(given, sums)[2]:
        allclose(products, expected)


def test_sums_of_rows_are_found_without_them(given):
    def sums(operation, tape):
        return operation.input_sums(tf.float64), tf.reduce_sum(operation.input_rows(), axis=1)

    for found, expected in in_mode(given, sums)[2]:
        allclose(found, expected)


ONE_STEP = ["1d", "1d, causal, dilation", "2d, large kernel", "2d, same, dilation",
            "3d, channels first"]  # fmt: skip
OTHERS = ["2d, same, strides", "2d, groups", "transpose 2d, same", "2d, one pixel"]


@pytest.mark.parametrize("name", [*ONE_STEP, *OTHERS])
def test_only_kernels_that_move_by_one_step_share_patches(name):
    layer, x = CASES[name].made()
    [products] = measured(layer, x, lambda operation, _: operation.input_products(tf.float32))
    assert (products is not None) == (name in ONE_STEP)
    assert products is None or products.dtype == tf.float32


# Identities that need the right geometry and order


def test_another_padding_or_order_is_wrong():
    layer, x = CASES["1d, causal"].made()
    [operation] = measured(layer, x, lambda operation, tape: operation)
    right = operation.input_rows()
    operation.geometry = dataclasses.replace(operation.geometry, padding="same")
    assert wrong(operation.input_rows(), right)

    for name in ("transpose 2d", "2d, groups"):
        layer, _ = CASES[name].made()
        matrix = matrix_of(layer.kernel)
        plain = AxisOrder(matrix.kernel_order.shape, tuple(range(len(matrix.kernel_order.shape))))
        unordered = dataclasses.replace(matrix, kernel_order=plain)
        kernel = tf.convert_to_tensor(layer.kernel)
        assert wrong(unordered.join([kernel]), matrix.join([kernel]))


def test_channels_first_have_rows_in_another_order():
    layer, x = CASES["3d, channels first"].made()
    [operation] = measured(layer, x, lambda operation, tape: operation)
    average = tf.constant(positive(operation.output.shape[1:].num_elements(), 1))
    right = operation.row_average(average, operation)
    assert not operation.rows_in_order
    assert wrong(tf.reshape(average, right.shape), right)
