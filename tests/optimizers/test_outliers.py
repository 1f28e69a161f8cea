"""One batch that promises far more than is usual moves the weights no further than the others."""

from __future__ import annotations

import math
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf
from updates import OPTIMIZERS

import tf_kfgn
from tf_kfgn.optimizers import bounds
from tf_kfgn.optimizers.averaging import with_less_of
from tf_kfgn.optimizers.bounds import (
    OUTLYING,
    promised,
    share_of_outlier,
    with_usual_promise,
)
from tf_kfgn.optimizers.memory import Memory, Scalars


def double(value):
    return tf.constant(value, tf.float64)


def memory_with(mean_gradient=(), **scalars):
    zeros = Scalars(*[double(0.0) for _ in Scalars._fields])
    values = zeros._replace(**{name: double(value) for name, value in scalars.items()})
    return Memory([], [], values, list(mean_gradient), [])


@pytest.mark.parametrize(
    ("fall", "room", "expected"),
    [(0.2, 0.5, 0.4), (-0.2, 0.5, 0), (0.2, 0.0, 0), (math.nan, 0.5, 0), (math.inf, 0.5, 0)],
)
def test_a_promise_is_a_fall_in_units_of_the_room_for_it(fall, room, expected):
    assert float(promised(double(fall), double(room))) == pytest.approx(expected)
    assert float(promised(double(fall), None)) == 0


def test_the_usual_promise_is_a_geometric_mean_of_those_that_count():
    memory, yes = memory_with(), tf.constant(True)
    for promise in (0.1, 0.0):  # the first is taken as it is, and none is passed over
        memory = with_usual_promise(memory, double(promise), yes)
        assert float(memory.scalars.usual_promise) == 0.1
    memory = with_usual_promise(memory, double(0.3), tf.constant(False))
    assert float(memory.scalars.usual_promise) == 0.1
    memory = with_usual_promise(memory, double(0.3), yes)
    assert float(memory.scalars.usual_promise) == pytest.approx(0.1**0.8 * 0.3**0.2)


@pytest.mark.parametrize(
    ("usual", "promise", "expected"),
    [(0.01, 0.05, 1), (0.01, 0.01 * OUTLYING, 1), (0.01, 0.4, OUTLYING / 40), (0.0, 0.4, 1)],
)
def test_what_promises_too_much_is_shortened_to_what_is_usual(usual, promise, expected):
    memory = memory_with(usual_promise=usual)
    assert float(share_of_outlier(memory, double(promise))) == pytest.approx(expected)


@pytest.mark.parametrize("share", [1.0, 0.25])
def test_of_an_outlier_as_large_a_share_enters_the_average(share):
    old, new = np.array([1.0, -2.0]), np.array([100.0, 50.0])
    memory = memory_with([tf.constant(old)], noise_ratio=4.0)  # β = 3/4
    settings = SimpleNamespace(gradient_decay=0.9)
    mean = [tf.constant(0.75 * old + 0.25 * new)]
    [less] = with_less_of(settings, memory, mean, [tf.constant(new)], double(share))
    np.testing.assert_allclose(less, 0.75 * old + share * 0.25 * new, rtol=1e-12)
    assert with_less_of(settings, memory_with(), mean, [], double(share)) == []


class Penalty(keras.layers.Layer):
    """Adds a loss of which the Gauss-Newton matrix knows nothing, and that a row can blow up."""

    def call(self, z):
        """The same, after the loss."""
        self.add_loss(keras.ops.mean(keras.ops.exp(z) - z))
        return z


def after_an_outlier(optimizer):
    """How far the weights move with twelve like batches and with one of an outlying row then."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4,))
    penalised = Penalty()(keras.layers.Dense(3)(inputs))
    model = keras.Model(inputs, keras.layers.Dense(1)(penalised))
    tf_kfgn.enable_curvature(model)
    model.compile(optimizer, loss="mse", run_eagerly=True)
    generator = np.random.default_rng(0)
    usual = 0.0
    for t in range(13):
        before = [weight.copy() for weight in model.get_weights()]
        x = generator.normal(size=(32, 4))
        if t == 12:
            kernel = model.layers[1].kernel.numpy()
            x[0] = 3.5 * kernel[:, 0] / np.sum(kernel[:, 0] ** 2)  # exp(3.5) for the first unit
        model.train_on_batch(x, x[:, :1] + generator.normal(size=(32, 1)))
        moves = zip(before, model.get_weights(), strict=True)
        moved = math.sqrt(sum(np.sum((new - old) ** 2) for old, new in moves))
        if 8 <= t < 12:
            usual = max(usual, moved)
    return moved / usual


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_row_that_blows_up_a_penalty_moves_the_weights_little(optimizer, monkeypatch):
    with_bound = after_an_outlier(optimizer())
    monkeypatch.setattr(bounds, "OUTLYING", math.inf)
    without = after_an_outlier(optimizer())
    print(with_bound, without)
    assert with_bound < without
