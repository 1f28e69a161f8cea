"""Step size and momentum from the curvature of a part of the batch."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from updates import MSE, batches, made_eager, recorded

import tf_kfgn
from tf_kfgn.blocks import collection
from tf_kfgn.numerics.batch_sizes import batch_sizes_of_fit
from tf_kfgn.recording.part import (
    batch_size_of,
    can_be_divided,
    rows_of_an_example,
)


@pytest.mark.parametrize(
    ("batch_size", "given", "fraction"),
    [
        (None, None, 1.0),
        (50, None, 1.0),
        (64, None, 1.0),
        (128, None, 0.5),
        (256, None, 0.25),
        (10_000, None, 0.25),
        (None, 0.3, 0.3),
        (16, 0.3, 0.3),
        (10_000, 1.0, 1.0),
    ],
)
def test_the_default_is_a_quarter_and_64_rows_at_least(batch_size, given, fraction):
    optimizer = tf_kfgn.KFRA(model_fraction=given)
    assert optimizer.fraction_for_curvature(batch_size) == fraction


@pytest.mark.parametrize(
    ("batch_size", "rows", "fraction"),
    [(64, 32, 0.25), (64, 2, 0.5), (32, 1000, 0.5), (16, 1000, 1.0), (1000, 1000, 0.25)],
)
def test_rows_of_one_example_count_but_16_examples_are_the_least(batch_size, rows, fraction):
    assert tf_kfgn.KFRA().fraction_for_curvature(batch_size, rows) == fraction


def test_rows_are_those_of_the_output_that_has_fewest():
    assert rows_of_an_example(tf.zeros((7, 10))) == 1
    assert rows_of_an_example(tf.zeros((7, 4, 5, 10))) == 20
    assert rows_of_an_example({"a": tf.zeros((7, 4, 10)), "b": tf.zeros((7, 3, 1))}) == 3
    assert rows_of_an_example(tf.zeros((7,))) == 1


def step_size_of(part, x, y):
    """α of the first step: the slope of the batch over the curvature of a part of it."""
    optimizer = tf_kfgn.KFLR(damping=0.5, damping_period=None)
    model = made_eager(optimizer)
    optimizer.build(model.trainable_variables)
    tape, _, pairs = recorded(model, x, y)
    optimizer.refresh_curvature(tape)  # the factors are those of the whole batch
    gradients = [gradient for gradient, _ in pairs]
    memory = optimizer.memory.read()
    direction = collection.precondition(optimizer.layout.blocks, memory.blocks, gradients)
    tape = recorded(model, x[part], y[part])[0]
    product = tape.gauss_newton_vector_product(direction)
    products = zip(direction, gradients, product, strict=True)
    slope, curvature = np.sum(
        [[np.sum(d * g), np.sum(d * c) + 0.5 * np.sum(d * d)] for d, g, c in products], axis=0
    )
    return slope / curvature


def test_the_slope_is_that_of_the_batch_and_the_curvature_that_of_its_part(unbounded):
    [(x, y)] = batches(1, size=20)
    expected = step_size_of(slice(4), x, y)
    assert expected != pytest.approx(step_size_of(slice(None), x, y), rel=1e-3)
    optimizer = tf_kfgn.KFLR(damping=0.5, damping_period=None, model_fraction=0.2)
    model = made_eager(optimizer)
    model.train_on_batch(x, y)
    assert float(optimizer.step_size) == pytest.approx(expected, rel=1e-9)


def test_the_factors_are_those_of_the_whole_batch():
    found = {}
    for fraction in (0.2, 1.0):
        model = made_eager(tf_kfgn.KFLR(model_fraction=fraction))
        for x, y in batches(1, size=20):
            model.train_on_batch(x, y)
        found[fraction] = model.optimizer.curvature()
    for expected, actual in zip(found[1.0].values(), found[0.2].values(), strict=True):
        for one, other in zip(expected, actual, strict=True):
            np.testing.assert_array_equal(other, one)


def test_rows_that_are_the_same_tell_the_same():
    [(x, y)] = batches(1, size=5)
    weights = []
    for fraction in (0.25, 1.0):
        model = made_eager(tf_kfgn.KFLR(model_fraction=fraction))
        for _ in range(3):
            model.train_on_batch(np.tile(x, (4, 1)), np.tile(y, (4, 1)))
        weights.append(np.concatenate([w.ravel() for w in model.get_weights()]))
    np.testing.assert_allclose(*weights, rtol=1e-9)


# How many examples there are


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ((np.zeros((600, 2)),), (32, 24)),
        ((np.zeros((600, 2)), 512), (512, 88)),
        ((np.zeros((600, 2)), 1000), (600, 600)),
        (([np.zeros((50, 2)), None], np.int64(25)), (25, 25)),
        ((np.zeros((0, 2)),), (0, None)),
        ((tf.data.Dataset.from_tensors(np.zeros((4, 3))),), (4, None)),
        ((tf.data.Dataset.from_tensors(np.zeros(())),), (None, None)),
        ((iter([np.zeros((4, 2))]),), (None, None)),
        ((None,), (None, None)),
        (([],), (None, None)),
        ((np.zeros((600, 2)), "many"), (None, None)),
        ((np.zeros((600, 2)), 0), (None, None)),
    ],
)
def test_fit_knows_how_large_the_batches_of_arrays_are(given, expected):
    assert batch_sizes_of_fit(*given) == expected


def test_tensors_know_it_where_all_agree():
    assert batch_size_of({"a": tf.zeros((7, 2)), "b": None}) == 7
    assert batch_size_of([tf.zeros((7, 2)), tf.zeros((8, 2))]) is None

    @tf.function(input_signature=[tf.TensorSpec((None, 2))])
    def open_batch(x):
        assert batch_size_of(x) is None
        return x

    open_batch(tf.zeros((3, 2)))


def test_what_has_no_rows_or_a_fixed_number_of_them_is_not_divided():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    fixed = keras.Sequential([keras.Input((2,), batch_size=8), keras.layers.Dense(1)])
    x, y = tf.zeros((8, 2)), tf.zeros((8, 1))
    assert can_be_divided(model, (x, y, None))
    assert not can_be_divided(fixed, (x, y))
    assert not can_be_divided(model, (tf.sparse.from_dense(x), y))
    assert not can_be_divided(model, (tf.RaggedTensor.from_tensor(x), y))
    assert not can_be_divided(model, (x, tf.constant(1.0)))


class Counting(keras.layers.Layer):
    """Counts its calls while a step is traced."""

    def __init__(self):
        super().__init__(dtype="float64")
        self.passes = 0

    def call(self, inputs):
        self.passes += 1
        return inputs


def of_arrays(x, y):
    return {"x": x, "y": y, "batch_size": 600}


def of_fixed_batches(x, y):
    return {"x": tf.data.Dataset.from_tensor_slices((x, y)).batch(600, drop_remainder=True)}


def of_open_batches(x, y):
    return {"x": tf.data.Dataset.from_tensor_slices((x, y)).batch(600)}


@pytest.mark.parametrize(
    ("data", "passes"),
    [(of_arrays, 2), (of_fixed_batches, 2), (of_open_batches, 1)],
)
def test_fit_takes_a_part_where_it_knows_how_large_a_batch_is(data, passes):
    [(x, y)] = batches(1, size=600)
    counting = Counting()
    layers = [keras.Input((5,), dtype="float64"), counting, keras.layers.Dense(2, dtype="float64")]
    model = tf_kfgn.enable_curvature(keras.Sequential(layers))
    model.compile(tf_kfgn.KFLR(damping_period=None), MSE, jit_compile=False)
    counting.passes = 0
    model.fit(**data(x, y), verbose=0)
    assert counting.passes == passes
    assert "_size_of_batches" not in vars(model)
