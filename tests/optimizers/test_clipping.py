"""Clipping and weight decay: what they mean for a preconditioned step."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from updates import MSE, WITH_HESSIAN_FREE, batches, made_eager, recorded

import tf_kfgn


def first_step(optimizer):
    """The first update: gradient, step, predicted curvature along it, ρ, and the change."""
    model = made_eager(optimizer)
    [(x, y)] = batches(1)
    tape, loss, pairs = recorded(model, x, y)
    gradient = [g.numpy() for g, _ in pairs]
    old = [v.numpy() for v in model.trainable_variables]
    model.train_on_batch(x, y)
    step = [v.numpy() - w for v, w in zip(model.trainable_variables, old, strict=True)]
    curved = tape.gauss_newton_vector_product([tf.constant(s) for s in step])
    curvature = dot(step, curved) + 0.3 * dot(step, step)
    return gradient, step, curvature, float(MSE(y, model(x))) - float(loss)


def dot(left, right):
    return sum(float(np.sum(a * b)) for a, b in zip(left, right, strict=True))


def arguments(optimizer):
    return {
        "damping": 0.3,
        "damping_period": 1,
        **({"seed": 1} if optimizer is tf_kfgn.KFAC else {}),
        **({"backtracking": False} if optimizer is tf_kfgn.HessianFree else {}),
    }


@pytest.mark.parametrize("optimizer", WITH_HESSIAN_FREE)
def test_a_clipped_global_norm_shortens_the_step_by_the_same_factor(optimizer, unbounded):
    gradient, whole, _, _ = first_step(optimizer(**arguments(optimizer)))
    norm = dot(gradient, gradient) ** 0.5
    _, clipped, _, _ = first_step(optimizer(**arguments(optimizer), global_clipnorm=norm / 4))
    for actual, expected in zip(clipped, whole, strict=True):
        np.testing.assert_allclose(actual, expected / 4, rtol=1e-6)
    _, same, _, _ = first_step(optimizer(**arguments(optimizer), global_clipnorm=2 * norm))
    np.testing.assert_allclose(same[0], whole[0], rtol=1e-9)


@pytest.mark.parametrize("optimizer", WITH_HESSIAN_FREE)
@pytest.mark.parametrize("clip", ["clipnorm", "clipvalue"])
def test_what_is_clipped_is_preconditioned(optimizer, clip, unbounded):
    bound = 0.05
    made_optimizer = optimizer(**arguments(optimizer), **{clip: bound})
    gradient, step, curvature, _ = first_step(made_optimizer)
    if clip == "clipvalue":
        clipped = [np.clip(g, -bound, bound) for g in gradient]
    else:
        clipped = [g * min(1, bound / np.linalg.norm(g)) for g in gradient]
    assert any(not np.allclose(a, b) for a, b in zip(clipped, gradient, strict=True))
    alpha = float(made_optimizer.step_size)
    for index, block in enumerate(made_optimizer.layout.blocks):
        state = made_optimizer.memory.blocks[index]
        joint = block.join([tf.constant(g) for g in clipped]).numpy()
        expected = -alpha * state.A_inverse.numpy() @ joint @ state.G_inverse.numpy()
        actual = block.join([tf.constant(s) for s in step]).numpy()
        np.testing.assert_allclose(actual, expected, rtol=1e-7, atol=1e-10)
    # α is the minimiser along the step: the slope there is minus the curvature.
    np.testing.assert_allclose(-dot(clipped, step), curvature, rtol=1e-7)


@pytest.mark.parametrize("clip", ["clipnorm", "clipvalue", "global_clipnorm"])
def test_the_ratio_compares_with_the_change_that_the_whole_gradient_predicts(clip):
    optimizer = tf_kfgn.KFRA(damping=0.3, damping_period=1, **{clip: 0.05})
    gradient, step, curvature, change = first_step(optimizer)
    predicted = dot(gradient, step) + 0.5 * curvature
    ratio = 1 - (change - predicted) / (0.5 * curvature)
    np.testing.assert_allclose(float(optimizer.reduction_ratio), ratio, rtol=1e-6)
    assert not np.isclose(ratio, change / (-0.5 * curvature), rtol=0.1)


@pytest.mark.parametrize("optimizer", WITH_HESSIAN_FREE)
def test_weight_decay_is_decoupled(optimizer):
    fixed = {"learning_rate": 0.25}
    if optimizer is not tf_kfgn.HessianFree:
        fixed |= {"step_size": 0.5, "momentum": 0.0}
    weights = []
    for decay in (None, 0.1):
        made_optimizer = optimizer(**arguments(optimizer), **fixed, weight_decay=decay)
        made_optimizer.exclude_from_weight_decay(var_names=["bias"])
        model = made_eager(made_optimizer)
        old = [v.numpy() for v in model.trainable_variables]
        [(x, y)] = batches(1)
        model.train_on_batch(x, y)
        weights.append([v.numpy() for v in model.trainable_variables])
    for variable, w, plain, decayed in zip(model.trainable_variables, old, *weights, strict=True):
        shrunk = 0.0 if variable.name == "bias" else 0.25 * 0.1 * w
        np.testing.assert_allclose(plain - decayed, shrunk, rtol=1e-7, atol=1e-12)


def test_the_ratio_does_not_count_what_the_decay_changes():
    optimizer = tf_kfgn.KFRA(damping=0.3, damping_period=1, weight_decay=0.2)
    model = made_eager(optimizer)
    [(x, y)] = batches(1)
    tape, _, pairs = recorded(model, x, y)
    old = [0.8 * v.numpy() for v in model.trainable_variables]
    model.train_on_batch(x, y)
    new = [v.numpy() for v in model.trainable_variables]
    step = [b - a for a, b in zip(old, new, strict=True)]
    curved = tape.gauss_newton_vector_product([tf.constant(s) for s in step])
    curvature = 0.5 * (dot(step, curved) + 0.3 * dot(step, step))
    predicted = dot([g.numpy() for g, _ in pairs], step) + curvature
    after = float(MSE(y, model(x)))
    model.set_weights(old)
    before = float(MSE(y, model(x)))
    expected = 1 - (after - before - predicted) / curvature
    np.testing.assert_allclose(float(optimizer.reduction_ratio), expected, rtol=1e-6)
