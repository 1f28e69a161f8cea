"""One update, by whichever way it is asked for."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from updates import MSE, OPTIMIZERS, batches, joint_weights, made_eager, recorded

import tf_kfgn
from tf_kfgn.optimizers import recorded_pass
from tf_kfgn.optimizers.wrapping import make_update

SETTINGS = {"damping": 0.1, "damping_period": 1}


def seeded(optimizer):
    own = {"seed": 3} if optimizer is tf_kfgn.KFAC else {}
    return optimizer(**SETTINGS, **own)


def by_pairs(optimizer, pairs, **given):
    optimizer.apply_gradients(pairs, **given)


def by_lists(optimizer, pairs, **given):
    gradients, variables = zip(*pairs, strict=True)
    optimizer.apply(list(gradients), list(variables), **given)


def by_default_variables(optimizer, pairs, **given):
    optimizer.build([variable for _, variable in pairs])
    optimizer.apply([gradient for gradient, _ in pairs], **given)


def in_a_context(optimizer, pairs, **given):
    with recorded_pass(given["tape"], given["objective"], given["loss"]):
        by_lists(optimizer, pairs)


def as_in_fit(optimizer, pairs, **given):
    gradients, variables = zip(*pairs, strict=True)
    make_update(optimizer, list(gradients), list(variables), **given)


WAYS = [by_pairs, by_lists, by_default_variables, in_a_context, as_in_fit]


def weights_after(way, optimizer, scale=1.0):
    """The weights after two updates, the second on other data."""
    model = made_eager(optimizer)
    for x, y in batches(2):
        tape, loss, pairs = recorded(model, x, y)
        pairs = [(scale * gradient, variable) for gradient, variable in pairs]

        def objective(x=x, y=y):
            return MSE(y, model(x, training=True))

        way(optimizer, pairs, tape=tape, objective=objective, loss=loss)
    return joint_weights(model)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_way_makes_the_same_update(optimizer):
    expected = weights_after(by_pairs, seeded(optimizer))
    for way in WAYS[1:]:
        for actual, weights in zip(weights_after(way, seeded(optimizer)), expected, strict=True):
            np.testing.assert_array_equal(actual, weights)


def test_through_a_loss_scale_it_is_the_same_update():
    expected = weights_after(by_pairs, seeded(tf_kfgn.KFRA))
    scaled = keras.optimizers.LossScaleOptimizer(seeded(tf_kfgn.KFRA), initial_scale=64.0)
    for actual, weights in zip(weights_after(as_in_fit, scaled, scale=64.0), expected, strict=True):
        np.testing.assert_allclose(actual, weights, rtol=1e-12)
    assert int(scaled.inner_optimizer.iterations) == 2


def test_any_other_optimizer_makes_the_update_of_keras():
    expected = weights_after(
        lambda o, pairs, **_: o.apply_gradients(pairs), keras.optimizers.SGD(0.1)
    )
    actual = weights_after(as_in_fit, keras.optimizers.SGD(0.1))
    for one, other in zip(actual, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_what_is_passed_counts_more_than_what_is_active():
    """The tape of another batch is active; the update is that of the one that is passed."""
    expected = weights_after(by_lists, seeded(tf_kfgn.KFRA))

    def amid_another(optimizer, pairs, **given):
        with recorded_pass(None):
            by_lists(optimizer, pairs, **given)

    for actual, weights in zip(
        weights_after(amid_another, seeded(tf_kfgn.KFRA)), expected, strict=True
    ):
        np.testing.assert_array_equal(actual, weights)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_an_update_that_keras_refuses_changes_nothing(optimizer):
    model = made_eager(seeded(optimizer))
    x, y = next(iter(batches(1)))
    tape, _, pairs = recorded(model, x, y)
    model.optimizer.build(model.trainable_variables)
    before = [v.numpy() for v in (*model.variables, *model.optimizer.variables)]
    variables = [variable for _, variable in pairs]
    foreign = keras.Variable(np.ones(3), name="foreign")
    for gradients, given in (
        ([None] * len(variables), variables),
        ([np.ones(3)], [foreign]),
    ):
        with pytest.raises(ValueError):
            model.optimizer.apply(gradients, given, tape=tape)
    model.optimizer.apply([], [], tape=tape)  # nothing to do, as with any Keras optimizer
    after = [v.numpy() for v in (*model.variables, *model.optimizer.variables)]
    for old, new in zip(before, after, strict=True):
        np.testing.assert_array_equal(new, old)
