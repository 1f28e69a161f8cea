"""Gradient accumulation: one update from the averages over several batches."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from updates import MSE, OPTIMIZERS, WITH_HESSIAN_FREE, batches, joint_weights, made_eager, recorded

import tf_kfgn

FIXED = {
    "damping": 0.1, "damping_period": None, "step_size": 0.5, "momentum": 0.9, "gradient_decay": 0.0
}  # fmt: skip


def seeded(optimizer, **arguments):
    own = {"seed": 3} if optimizer is tf_kfgn.KFAC else {}
    if optimizer is tf_kfgn.HessianFree:
        own = {"seed": 3, "preconditioner": "kfac", "max_cg_iterations": 2}
    return optimizer(**own, **arguments)


@pytest.mark.parametrize("optimizer", WITH_HESSIAN_FREE)
def test_factors_are_averaged_over_the_batches(optimizer):
    optimizer = seeded(optimizer, gradient_accumulation_steps=3)
    model = made_eager(optimizer)
    expected = []
    for number, (x, y) in enumerate(batches(3)):
        tape, _, _ = recorded(model, x, y)
        factors = optimizer.estimator(tape, tf.constant([optimizer.seed, number]))
        expected.append([tuple(f.numpy() for f in pair) for pair in factors.values()])
        model.train_on_batch(x, y)
    means = [
        tuple(np.mean(values, axis=0) for values in zip(*pairs, strict=True))
        for pairs in zip(*expected, strict=True)
    ]
    for pair, mean in zip(optimizer.curvature().values(), means, strict=True):
        for factor, value in zip(pair, mean, strict=True):
            np.testing.assert_allclose(factor, value, rtol=1e-9, atol=1e-12)
    largest = np.max([pairs[0][0] for pairs in expected], axis=0)  # not by maximum
    assert not np.allclose(largest, means[0][0], rtol=1e-3)


def test_two_half_batches_make_the_update_of_a_whole_one():
    """Exact for KFLR, whose factors are means over examples."""
    whole = made_eager(tf_kfgn.KFLR(**FIXED))
    halves = made_eager(tf_kfgn.KFLR(**FIXED, gradient_accumulation_steps=2))
    for x, y in batches(4):
        whole.train_on_batch(x, y)
        halves.train_on_batch(x[:8], y[:8])
        halves.train_on_batch(x[8:], y[8:])
    for actual, expected in zip(joint_weights(halves), joint_weights(whole), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-8)


def test_halves_with_the_factors_of_the_last_alone_would_give_another_update():
    whole = made_eager(tf_kfgn.KFLR(**FIXED))
    other = made_eager(tf_kfgn.KFLR(**FIXED))
    [(x, y)] = batches(1)
    whole.train_on_batch(x, y)
    gradients = [recorded(other, x[part], y[part])[2] for part in (slice(8), slice(8, 16))]
    mean = [((a + b) / 2, v) for (a, v), (b, _) in zip(*gradients, strict=True)]
    other.optimizer.apply_gradients(mean, tape=recorded(other, x[8:], y[8:])[0])
    assert not np.allclose(joint_weights(other)[0], joint_weights(whole)[0], rtol=1e-4)


def test_weights_move_with_the_last_batch_and_periods_count_updates():
    optimizer = tf_kfgn.KFRA(gradient_accumulation_steps=3, factor_period=2)
    model = made_eager(optimizer)
    moved, counts = [], []
    for x, y in batches(9):
        before = joint_weights(model)
        model.train_on_batch(x, y)
        moved.append(not np.array_equal(before[0], joint_weights(model)[0]))
        counts.append(int(optimizer.memory.scalars.factor_updates))
    assert moved == [False, False, True] * 3
    assert counts == [0, 0, 1, 1, 1, 1, 1, 1, 2]
    assert int(optimizer.iterations) == 3


def test_the_step_size_minimises_the_model_and_the_ratio_is_of_the_last_batch(unbounded):
    damping = 0.3
    optimizer = tf_kfgn.KFLR(damping=damping, damping_period=1, gradient_accumulation_steps=2)
    model = made_eager(optimizer)
    (first, last) = batches(2)
    gradients = []
    for x, y in (first, last):
        tape, _, pairs = recorded(model, x, y)
        gradients.append([gradient for gradient, _ in pairs])
    mean = [(a + b) / 2 for a, b in zip(*gradients, strict=True)]
    old = [v.numpy() for v in model.trainable_variables]
    before = float(MSE(last[1], model(last[0])))
    model.train_on_batch(*first)
    model.train_on_batch(*last)
    step = [v.numpy() - w for v, w in zip(model.trainable_variables, old, strict=True)]
    alpha = float(optimizer.step_size)
    direction = [piece / alpha for piece in step]
    curved = tape.gauss_newton_vector_product([tf.constant(d) for d in direction])
    curved = [c + damping * d for c, d in zip(curved, direction, strict=True)]

    def dot(left, right):
        return sum(np.sum(a * b) for a, b in zip(left, right, strict=True))

    expected = -dot(mean, direction) / dot(direction, curved)
    np.testing.assert_allclose(alpha, expected, rtol=1e-8)
    predicted = dot(gradients[1], step) + 0.5 * alpha**2 * dot(direction, curved)
    actual = float(MSE(last[1], model(last[0]))) - before
    scale = 0.5 * alpha**2 * dot(direction, curved)
    ratio = float(optimizer.reduction_ratio)
    np.testing.assert_allclose(ratio, 1 - (actual - predicted) / scale, rtol=1e-6)
    averaged = dot(mean, step) + scale
    assert not np.isclose(ratio, 1 - (actual - averaged) / scale, rtol=1e-2)


@pytest.mark.parametrize("bad", [0, 1])
def test_a_bad_batch_spoils_its_update_but_no_factor(bad):
    optimizer = tf_kfgn.KFRA(gradient_accumulation_steps=2, factor_period=1)
    model = made_eager(optimizer)
    losses = []
    for number, (x, y) in enumerate(batches(12)):
        if number == 4 + bad:
            x = np.full_like(x, np.nan)
        before = joint_weights(model)
        losses.append(model.train_on_batch(x, y))
        if number == 5:
            np.testing.assert_array_equal(joint_weights(model)[0], before[0])
        model.reset_metrics()
    assert int(optimizer.nonfinite_steps) == int(optimizer.rejected_steps) == 1
    assert all(np.all(np.isfinite(v)) for v in optimizer.variables)
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_file_in_the_middle_of_an_update_continues_it(optimizer, tmp_path):
    whole = made_eager(seeded(optimizer, gradient_accumulation_steps=3))
    data = list(batches(8))
    for x, y in data[:4]:
        whole.train_on_batch(x, y)
    whole.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    loaded.compile(optimizer=loaded.optimizer, loss=MSE, run_eagerly=True)
    for x, y in data[4:]:
        whole.train_on_batch(x, y)
        loaded.train_on_batch(x, y)
    for actual, expected in zip(loaded.optimizer.variables, whole.optimizer.variables, strict=True):
        np.testing.assert_array_equal(actual.numpy(), expected.numpy())
    for actual, expected in zip(joint_weights(loaded), joint_weights(whole), strict=True):
        np.testing.assert_array_equal(actual, expected)
