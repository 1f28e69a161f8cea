"""Where batches disagree, parts of steps are held back and come in as an average."""

from __future__ import annotations

import math
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf
from updates import OPTIMIZERS, batches, joint_weights, made_eager

import tf_kfgn
from tf_kfgn.optimizers.memory import Memory, Scalars
from tf_kfgn.optimizers.objective import stands_out
from tf_kfgn.optimizers.reserve import (
    SURPRISES,
    released,
    started_anew,
    with_release,
    with_surprise,
    without_last_release,
)


def empty_memory(size=3, keeps=True):
    zero = tf.constant(0.0, tf.float64)
    scalars = Scalars(*[zero for _ in Scalars._fields])._replace(
        averaged_steps=tf.constant(0, tf.int64), surprises=tf.constant(0, tf.int64)
    )
    return Memory([], [], scalars, [], [tf.zeros(size, tf.float64)] if keeps else [])


def moved(memory, weights, step, beta, taken=True):
    """The weights after a step of which the part β is held back, and the memory of it."""
    proposal = SimpleNamespace(held_back=[tf.constant(beta * step)])
    release = released(memory, proposal)
    weights = release.added([weights + (1 - beta) * step])[0] if taken else weights
    return with_release(memory, release, tf.constant(taken)), weights


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
        step = np.arange(3.0) - t
        memory, after = moved(memory, before, step, 0.8)
        back = without_last_release(memory, [after - 0.2 * step])[0]
        np.testing.assert_allclose(back, before, rtol=1e-6, atol=1e-6)
        assert np.abs(after - 0.2 * step - before).max() > 1e-3  # more than that step came in
        before = after


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
    memory = empty_memory(keeps=False)
    release = released(memory, SimpleNamespace(held_back=[]))
    weights = [tf.ones(3)]
    assert release.added(weights) is weights
    assert without_last_release(memory, weights) is weights
    assert with_release(memory, release, tf.constant(True)) is memory
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


# A linear regression whose targets are mostly noise


def noisy(updates, noise):
    """A regression after some updates in batches of 16, and what makes the batches."""
    keras.utils.set_random_seed(0)
    generator = np.random.default_rng(0)
    weights = generator.normal(size=(30, 1))
    model = keras.Sequential([keras.Input((30,)), keras.layers.Dense(1)])
    tf_kfgn.enable_curvature(model)
    model.compile(tf_kfgn.KFLR(), "mse", jit_compile=False)

    def batch(size, sign=1.0, noise=noise):
        x = generator.normal(size=(size, 30)).astype("float32")
        y = sign * x @ weights + noise * generator.normal(size=(size, 1))
        return x, y.astype("float32")

    for _ in range(updates):
        model.train_on_batch(*batch(16))
    return model, batch


def excess(model, batch, sign=1.0):
    x, y = batch(2000, sign, noise=0.0)
    return float(np.mean((model.predict(x, verbose=0) - y) ** 2))


def test_where_noise_rules_the_error_falls_as_long_as_training_goes_on():
    keras.config.set_floatx("float32")
    early, late = (excess(*noisy(updates, noise=3.0)) for updates in (400, 1600))
    assert late < 0.8 * early


def test_when_the_data_change_averaging_starts_anew():
    keras.config.set_floatx("float32")
    model, batch = noisy(100, noise=0.1)
    start = excess(model, batch, sign=-1.0)
    assert int(model.optimizer.memory.scalars.averaged_steps) > 80
    for _ in range(30):
        model.train_on_batch(*batch(16, sign=-1.0))
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
    batch = SimpleNamespace(tape=SimpleNamespace(losses_are_nonnegative=True))
    assert bool(stands_out(memory, batch, tf.constant(objective, tf.float64))) == expected
    batch.tape.losses_are_nonnegative = False
    assert bool(stands_out(memory, batch, tf.constant(objective, tf.float64))) == math.isnan(
        objective
    )
