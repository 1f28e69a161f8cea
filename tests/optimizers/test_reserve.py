"""Where batches disagree, parts of steps are held back and come in as an average."""

from __future__ import annotations

import math
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf
from memories import memory_with
from noisy_regression import excess, trained
from updates import OPTIMIZERS, batches, joint_weights, made_eager

import tf_kfgn
from tf_kfgn.optimizers.objective import is_unusual, stands_out
from tf_kfgn.optimizers.reserve import (
    GIVEN_UP,
    SURPRISES,
    started_anew,
    with_held_back,
    with_reserve_of,
    with_surprise,
)
from tf_kfgn.optimizers.update import with_release, without_last_step


def empty_memory(size=3, keeps=True):
    return memory_with(reserve=[tf.zeros(size, tf.float64)] if keeps else [])


def moved(memory, weights, step, beta, taken=True, moving=True, slope=0.0):
    """The weights after a step of which the part β is held back, and the memory of it."""
    step = [tf.constant((1 - beta) * step)]
    proposal = SimpleNamespace(
        step=step,
        held_back=tf.constant(beta / (1 - beta), tf.float64),
        reserve_slope=tf.constant(slope, tf.float64),
    )
    after = with_held_back(memory, proposal, [moving])
    if taken:
        weights = with_release(after, [weights + step[0] if moving else weights])[0]
        memory = memory._replace(previous_step=step)
    return with_reserve_of(memory, after, tf.constant(taken)), weights


def test_the_weights_are_between_the_steps_and_their_mean_as_schedule_free():
    """Defazio et al. (2024), equations 4 to 6, with c = 1/(t + 1)."""
    generator = np.random.default_rng(0)
    beta, memory = 0.7, empty_memory()
    y = x = z = generator.normal(size=3)
    weights = tf.constant(y)
    for t in range(1, 8):
        step = generator.normal(size=3)
        z = z + step
        x = (1 - 1 / (t + 1)) * x + z / (t + 1)
        y = (1 - beta) * z + beta * x
        memory, weights = moved(memory, weights, step, beta)
        np.testing.assert_allclose(weights, y, rtol=1e-12)
        np.testing.assert_allclose(memory.reserve[0], beta * (z - x), rtol=1e-12)
    assert np.abs(y - z).max() > 0.1  # which whole steps would have reached


def test_nothing_that_is_held_back_is_lost_when_beta_changes():
    memory, weights, whole = empty_memory(), tf.zeros(3, tf.float64), np.zeros(3)
    for beta in (0.9, 0.5, 0.0, 0.3):
        step = np.arange(3.0) + beta
        whole += step
        memory, weights = moved(memory, weights, step, beta)
        np.testing.assert_allclose(weights + memory.reserve[0], whole, rtol=1e-12)


def test_what_leads_up_again_and_again_is_given_up_and_what_leads_down_is_kept():
    def whole(slopes):
        """Where the weights will be once all is in, after steps of 1."""
        memory, weights = moved(empty_memory(), tf.zeros(3, tf.float64), np.ones(3), 0.9)
        for slope in slopes:
            memory, weights = moved(memory, weights, np.zeros(3), 0.9, slope=slope)
        return float((weights + memory.reserve[0])[0]), memory

    assert whole([-1.0] * 40)[0] == pytest.approx(1, rel=1e-12)
    assert whole([0.0] * 40)[0] == pytest.approx(1, rel=1e-12)
    up = [whole([scale] * 40)[0] for scale in (1.0, 1e-9)]
    assert up[0] == pytest.approx(up[1], rel=1e-9)  # whatever the objective's unit
    assert up[0] < 0.93
    # Signs that change say nothing.
    assert whole([1.0, -1.0] * 20)[0] > 0.99
    # The first vote moves the agreement by a fifth.
    one = whole([1.0])[1]
    assert float(one.scalars.uphill) == pytest.approx(0.2)
    kept = math.exp(-GIVEN_UP * 0.2**2)
    np.testing.assert_allclose(one.reserve[0], 0.45 * 2 / 3 * kept, rtol=1e-12)


def test_a_step_that_is_not_taken_gives_nothing_up():
    memory, weights = moved(empty_memory(), tf.zeros(3, tf.float64), np.ones(3), 0.5)
    later, _ = moved(memory, weights, np.ones(3), 0.5, taken=False, slope=1.0)
    np.testing.assert_array_equal(later.reserve[0], memory.reserve[0])
    assert float(later.scalars.uphill) == float(later.scalars.usual_reserve_slope) == 0


def test_whole_steps_are_taken_where_batches_agree():
    memory, weights = empty_memory(), tf.zeros(3, tf.float64)
    for _ in range(3):
        memory, weights = moved(memory, weights, np.ones(3), 0.0)
    np.testing.assert_array_equal(weights, 3 * np.ones(3))
    np.testing.assert_array_equal(memory.reserve[0], 0)


def test_a_step_that_is_not_taken_leaves_the_average_as_it_was():
    memory, weights = moved(empty_memory(), tf.zeros(3, tf.float64), np.ones(3), 0.5)
    later, _ = moved(memory, weights, 100 * np.ones(3), 0.5, taken=False)
    np.testing.assert_array_equal(later.reserve[0], memory.reserve[0])
    assert int(later.scalars.averaged_steps) == int(memory.scalars.averaged_steps) == 1


def test_the_way_back_leads_to_where_the_last_step_began():
    memory, before = empty_memory(), tf.zeros(3, tf.float64)
    for t in range(4):
        memory, after = moved(memory, before, np.arange(3.0) - t, 0.8)
        back = without_last_step(memory, [after])[0]
        np.testing.assert_allclose(back, before, rtol=1e-12, atol=1e-12)
        assert np.abs(after - memory.previous_step[0] - before).max() > 1e-3  # more came in
        before = after


def test_of_a_variable_that_does_not_move_nothing_comes_in():
    memory, weights = moved(empty_memory(), tf.zeros(3, tf.float64), np.ones(3), 0.5)
    memory, later = moved(memory, weights, np.zeros(3), 0.5, moving=False)
    np.testing.assert_array_equal(later, weights)
    np.testing.assert_array_equal(memory.reserve[0], 0)


def test_averaging_starts_anew_after_some_surprises_in_a_row_and_after_no_single_one():
    memory, _ = moved(empty_memory(), tf.zeros(3, tf.float64), np.ones(3), 0.5)
    for unusual in [True] * (SURPRISES - 1) + [False, True, False]:
        memory = with_surprise(memory, tf.constant(unusual))
    assert int(memory.scalars.averaged_steps) == 1
    for _ in range(SURPRISES):
        assert np.abs(memory.reserve[0]).max() > 0
        memory = with_surprise(memory, tf.constant(True))
    assert int(memory.scalars.averaged_steps) == int(memory.scalars.surprises) == 0
    np.testing.assert_array_equal(memory.reserve[0], 0)


def test_without_a_reserve_nothing_is_kept():
    memory, weights = empty_memory(keeps=False), [tf.ones(3)]
    assert with_held_back(memory, SimpleNamespace(), [True]) is memory
    assert with_release(memory, weights) is weights
    assert with_reserve_of(memory, memory, tf.constant(True)) is memory
    assert started_anew(memory, tf.constant(True)) is memory


@pytest.mark.parametrize(
    ("arguments", "kept"),
    [({}, 6), ({"gradient_decay": 0.0}, 0), ({"step_size": 0.1}, 0), ({"momentum": 0.0}, 0)],
)
def test_only_an_optimizer_that_averages_and_chooses_its_steps_has_one(arguments, kept):
    optimizer = tf_kfgn.KFRA(**arguments)
    model = made_eager(optimizer)
    optimizer.build(model.trainable_variables)
    assert len(optimizer.memory.reserve) == kept


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_same_batch_again_holds_nothing_back(optimizer):
    model = made_eager(optimizer())
    [(x, y)] = batches(1)
    for _ in range(8):
        model.train_on_batch(x, y)
    held = max(np.abs(r).max() for r in model.optimizer.memory.reserve)
    moves = max(np.abs(w).max() for w in joint_weights(model))
    assert held < 1e-2 * moves


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_weights_that_are_frozen_later_stay_where_they_are(optimizer):
    model = made_eager(optimizer())
    for x, y in batches(12, size=6):
        model.train_on_batch(x, y)
    assert np.abs(model.optimizer.memory.reserve[0]).max() > 0
    model.layers[0].trainable = False
    frozen, others = joint_weights(model)[:1], joint_weights(model)[1:]
    for x, y in batches(3, size=6, seed=1):
        model.train_on_batch(x, y)
    np.testing.assert_array_equal(joint_weights(model)[0], frozen[0])
    assert np.abs(joint_weights(model)[1] - others[0]).max() > 0


def test_where_noise_rules_the_error_falls_as_long_as_training_goes_on():
    keras.config.set_floatx("float32")
    early, late = (excess(*trained(updates)) for updates in (400, 1600))
    assert late < 0.8 * early


def test_when_the_data_change_averaging_starts_anew():
    keras.config.set_floatx("float32")
    model, batch = trained(100, noise=0.1)
    start = excess(model, batch, sign=-1.0)
    assert int(model.optimizer.memory.scalars.averaged_steps) > 80
    for _ in range(30):
        model.train_on_batch(*batch(sign=-1.0))
    assert int(model.optimizer.memory.scalars.averaged_steps) <= 30
    assert excess(model, batch, sign=-1.0) < 0.05 * start


@pytest.mark.parametrize(
    ("objective", "deviation", "expected"),
    [
        (2.5, 0.0, True),
        (1.9, 0.0, False),
        (2.5, 0.3, False),
        (4.0, 0.3, True),
        (math.nan, 0.3, True),
    ],
)
def test_an_objective_stands_out_by_what_is_usual(objective, deviation, expected):
    """Far above the usual one of 1, as these batches differ."""
    memory = empty_memory().with_scalars(
        usual_objective=tf.constant(1.0, tf.float64),
        usual_deviation=tf.constant(deviation, tf.float64),
    )
    objective = tf.constant(objective, tf.float64)
    for nonnegative in (True, False):
        batch = SimpleNamespace(tape=SimpleNamespace(losses_are_nonnegative=nonnegative))
        unusual = is_unusual(memory, batch, objective)
        wanted = expected if nonnegative else bool(tf.math.is_nan(objective))
        assert bool(stands_out(memory, unusual, objective)) == wanted
