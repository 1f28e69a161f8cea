"""One batch that promises far more than is usual moves the weights no further than the others."""

from __future__ import annotations

import math
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf
from memories import memory_with
from updates import OPTIMIZERS, batches, made_eager

from tf_kfgn.optimizers.averaging import averaged_gradient, weight_of_old
from tf_kfgn.optimizers.bounds import (
    OUTLYING,
    promised,
    share_of_outlier,
    with_usual_promise,
)


def double(value):
    return tf.constant(value, tf.float64)


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
    [mean] = averaged_gradient(settings, memory, [tf.constant(new)], double(share))
    np.testing.assert_allclose(mean, 0.75 * old + share * 0.25 * new, rtol=1e-12)


def after_batches(optimizer, usual_promise=None):
    """An optimizer after eight small batches, the last one with another usual promise, and β of it.

    Returns:
        It, the average of gradients before the last batch, and what the usual promise was.
    """
    keras.utils.set_random_seed(0)
    model = made_eager(optimizer())
    for t, (x, y) in enumerate(batches(8, size=6)):
        memory = model.optimizer.memory if t else None
        if t == 7:
            mean = [gradient.numpy() for gradient in memory.mean_gradient]
            beta = float(weight_of_old(tf.convert_to_tensor(memory.scalars.noise_ratio), 0.9))
            before = float(memory.scalars.usual_promise)
            if usual_promise is not None:
                memory.scalars.usual_promise.assign(usual_promise)
        model.train_on_batch(x, y)
    return model.optimizer.memory, mean, beta, before


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_an_outlier_is_shortened_and_weighs_less_in_whole_updates(optimizer):
    memory, mean, beta, usual = after_batches(optimizer)
    promise = (float(memory.scalars.usual_promise) / usual**0.8) ** 5
    share = 0.25
    shorter, same_mean, _, _ = after_batches(optimizer, share * promise / OUTLYING)
    assert 0.1 < beta < 0.9 and promise > 0
    everything = zip(
        memory.previous_step,
        shorter.previous_step,
        mean,
        same_mean,
        memory.mean_gradient,
        shorter.mean_gradient,
        strict=True,
    )
    for step, short, old, same, new, less in everything:
        np.testing.assert_allclose(short, share * step.numpy(), rtol=1e-9, atol=1e-14)
        np.testing.assert_array_equal(old, same)
        expected = beta * old + share * (new.numpy() - beta * old)
        np.testing.assert_allclose(less, expected, rtol=1e-9, atol=1e-14)
