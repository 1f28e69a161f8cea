"""Steps are shortened as far as the next batch says that they lead nowhere."""

from __future__ import annotations

import math
from types import SimpleNamespace

import keras
import pytest
import tensorflow as tf
from memories import memory_with
from noisy_regression import excess, trained
from updates import OPTIMIZERS, batches, made_eager

import tf_kfgn
from tf_kfgn.optimizers.trust import LEAST, MOST_SPEED, RATE, with_trust


def told(slopes, curvature=1.0, trust=0.5, overshoot=0.4, **scalars):
    """The scalars after some slopes along the last step, of which the first sets the scale."""
    memory = memory_with(**{"trust": trust, "last_moved": 1.0, **scalars})
    settings = tf_kfgn.KFRA(overshoot=overshoot).settings
    for slope in slopes:
        proposal = SimpleNamespace(
            fresh_slope=tf.constant(slope, tf.float64),
            fresh_curvature=tf.constant(curvature, tf.float64),
        )
        memory = with_trust(settings, memory, proposal)
    return memory.scalars


def test_a_slope_beyond_the_overshoot_shortens_and_one_below_it_lengthens():
    assert float(told([0.5]).trust) < 0.5 < float(told([0.3]).trust)
    assert float(told([0.4]).trust) == pytest.approx(0.5)
    assert float(told([0.3], overshoot=0.2).trust) < 0.5  # another overshoot, another answer


def test_one_vote_moves_by_the_rate_and_many_that_agree_are_faster():
    speed = 1 / (1 + 1 / MOST_SPEED - 0.2)
    assert float(told([0.5]).trust) == pytest.approx(0.5 * math.exp(-RATE * speed))
    before, after = (float(told([0.5] * n, trust=1.0, agreement=-1.0).trust) for n in (3, 4))
    assert math.log(before / after) == pytest.approx(RATE * MOST_SPEED, rel=1e-3)


def test_votes_are_counted_in_units_of_what_is_usual():
    small, large = (told([0.5, 0.2, 0.6], usual_overshoot=0.0).trust for _ in range(2))
    scaled = told([s * 1e-9 for s in (0.5, 0.2, 0.6)], curvature=1e-9).trust
    assert float(small) == float(large) == pytest.approx(float(scaled), rel=1e-9)


@pytest.mark.parametrize(("slope", "limit"), [(1.0, LEAST), (-1.0, 1.0)])
def test_the_share_stays_within_its_limits(slope, limit):
    assert float(told([slope] * 300).trust) == pytest.approx(limit)


@pytest.mark.parametrize(
    "what",
    [
        {"slopes": [math.nan]},
        {"slopes": [math.inf]},
        {"slopes": [1.0], "curvature": 0.0},
        {"slopes": [1.0], "curvature": math.nan},
        {"slopes": [1.0], "last_moved": 0.0},
        {"slopes": [1.0], "overshoot": None},
    ],
)
def test_what_says_nothing_moves_nothing(what):
    scalars = told(**what)
    assert float(scalars.trust) == 0.5
    assert float(scalars.agreement) == float(scalars.usual_overshoot) == 0


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_same_batch_again_shortens_nothing(optimizer):
    model = made_eager(optimizer())
    [(x, y)] = batches(1)
    for _ in range(8):
        model.train_on_batch(x, y)
    assert float(model.optimizer.trust) == 1


def noisy(overshoot, updates=800, gradient_decay=0.0, **arguments):
    """Trained without averages of gradients and steps."""
    return trained(updates, overshoot=overshoot, gradient_decay=gradient_decay, **arguments)


@pytest.fixture(scope="module")
def settled():
    keras.config.set_floatx("float32")
    return noisy(overshoot=0.4)


def test_where_noise_rules_steps_get_shorter_and_the_error_smaller(settled):
    model, batch = settled
    shortened = excess(model, batch)
    assert float(model.optimizer.trust) < 0.6
    plain, batch = noisy(overshoot=None)
    assert float(plain.optimizer.trust) == 1
    assert shortened < 0.5 * excess(plain, batch)


def test_when_the_data_change_steps_grow_again(settled):
    model, batch = settled
    low, start = float(model.optimizer.trust), excess(model, batch, sign=-1.0)
    for _ in range(40):
        model.train_on_batch(*batch(sign=-1.0))
    assert float(model.optimizer.trust) > 1.5 * low
    assert excess(model, batch, sign=-1.0) < 0.1 * start


@pytest.mark.parametrize("fixed", [{"step_size": 0.1}, {"momentum": 0.0}])
def test_a_step_that_the_model_does_not_choose_is_not_shortened(fixed):
    model, _ = noisy(overshoot=0.4, updates=20, **fixed)
    assert float(model.optimizer.trust) == 1
