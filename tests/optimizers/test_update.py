"""Whole updates: against NumPy, in every mode, and where they must be refused."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from numpy_kfra import NumpyKFRA
from updates import OPTIMIZERS, WITH_HESSIAN_FREE, batches, joint_weights, made, recorded

import tf_kfgn
from tf_kfgn.optimizers import comparison
from tf_kfgn.optimizers.damping import RETRY

MODES = {"graph": {}, "xla": {"jit_compile": True}, "eager": {"run_eagerly": True}}
L2 = 1e-3
SETTINGS = {"factor_period": 2, "inverse_period": 4, "damping_period": 3, "curvature_decay": 0.9}


@pytest.mark.parametrize(
    ("damping", "updates", "given_up"),
    [(0.3, 20, 0), (1e-2, 30, 3)],
    ids=["much damping", "little damping"],
)
def test_updates_equal_the_numpy_transcription(damping, updates, given_up):
    settings = {**SETTINGS, "overshoot": 0.1}
    optimizer = tf_kfgn.KFRA(damping=damping, min_damping=0.7 * damping, rescale=False, **settings)
    model = made(optimizer, L2)
    plain = NumpyKFRA(joint_weights(model), L2, damping, 0.7 * damping, **settings)
    dampings, ratios = [], []
    for x, y in batches(updates):
        before = plain.objective(x, y, plain.W)
        logs = model.train_on_batch(x, y, return_dict=True)
        plain.step(x, y)
        for actual, expected in zip(joint_weights(model), plain.W, strict=True):
            np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-9)
        for actual, expected in (
            (optimizer.step_size, plain.alpha),
            (optimizer.momentum, plain.mu),
            (optimizer.reduction_ratio, plain.rho),
            (optimizer.damping, plain.tau),
            (optimizer.trust, plain.trust),
            (logs["damping"], plain.tau),
            (logs["step_size"], plain.alpha),
        ):
            np.testing.assert_allclose(float(actual), expected, rtol=1e-6)
        model.reset_metrics()
        np.testing.assert_allclose(logs["loss"], before, rtol=1e-6)
        dampings.append(plain.tau)
        ratios.append(plain.rho)
    assert len(set(dampings)) > 1  # the damping was adapted
    assert plain.averaged > 5  # the gradients were averaged
    assert plain.R > 1.2  # and the factors
    assert plain.shortened > 2  # steps were shortened, since batches told that they were too long
    assert all(np.abs(r).max() > 0 for r in plain.reserve)  # and parts of steps are held back
    assert plain.bounded > 0  # the bound held some steps back
    assert plain.given_up == given_up  # of what was held back, where it led up
    # Early ones, and then every third.
    assert plain.compared == 10 + (updates - 10) // 3 + (updates > 20) == len(set(ratios))


def test_the_transcription_notices_another_damping():
    optimizer = tf_kfgn.KFRA(damping=0.3, min_damping=0.27, rescale=False, **SETTINGS)
    model = made(optimizer, L2)
    plain = NumpyKFRA(joint_weights(model), L2, 0.31, 0.27, **SETTINGS)
    for x, y in batches(3):
        model.train_on_batch(x, y)
        plain.step(x, y)
    assert not np.allclose(joint_weights(model)[0], plain.W[0], rtol=1e-6)


@pytest.mark.parametrize("optimizer", WITH_HESSIAN_FREE)
def test_graph_xla_and_eager_agree(optimizer):
    weights = []
    for arguments in MODES.values():
        own = {"seed": 3} if optimizer is tf_kfgn.KFAC else {}
        if optimizer is tf_kfgn.HessianFree:
            own = {"max_cg_iterations": 4}
        model = made(optimizer(**SETTINGS, **own), L2, **arguments)
        for x, y in batches(6):
            model.train_on_batch(x, y)
        weights.append(joint_weights(model))
    for other in weights[1:]:
        for actual, expected in zip(other, weights[0], strict=True):
            np.testing.assert_allclose(actual, expected, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_training_lowers_the_loss(optimizer):
    model = made(optimizer())
    [(x, y)] = batches(1, size=200)
    losses = model.fit(x, y, batch_size=50, epochs=15, verbose=0).history["loss"]
    assert losses[-1] < 0.2 * losses[0]


def test_scaling_the_loss_changes_nothing():
    results = []
    for scale in (1.0, 1000.0):
        model = made(tf_kfgn.KFRA(), loss_weights=[scale])
        for x, y in batches(6):
            model.train_on_batch(x, y)
        results.append(joint_weights(model))
    for actual, expected in zip(*results, strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-8)


def test_fixed_step_size_momentum_and_damping_stay_fixed():
    optimizer = tf_kfgn.KFRA(damping=0.1, damping_period=None, step_size=0.3, momentum=0.5)
    model = made(optimizer)
    for x, y in batches(4):
        model.train_on_batch(x, y)
    assert float(optimizer.damping) == pytest.approx(0.1)
    assert float(optimizer.step_size) == pytest.approx(0.3)
    assert float(optimizer.momentum) == pytest.approx(0.5)


def test_the_learning_rate_scales_the_step():
    [(x, y)] = batches(1)
    steps = []
    for rate in (0.2, 0.05):  # so short that no bound holds it back
        model = made(tf_kfgn.KFRA(learning_rate=rate))
        before = joint_weights(model)
        model.train_on_batch(x, y)
        steps.append(joint_weights(model)[0] - before[0])
    np.testing.assert_allclose(steps[1], 0.25 * steps[0], rtol=1e-9)


# What must not spoil the weights


@pytest.mark.parametrize("arguments", MODES.values(), ids=MODES.keys())
@pytest.mark.parametrize(("bad", "when"), [(np.nan, 0), (np.inf, 4)])
def test_a_batch_that_is_not_finite_is_rejected(arguments, bad, when):
    optimizer = tf_kfgn.KFRA(**SETTINGS)
    model = made(optimizer, **arguments)
    for step, (x, y) in enumerate(batches(8)):
        weights = joint_weights(model)
        if step == when:
            x = x.copy()
            x[2, 1] = bad
        model.train_on_batch(x, y)
        same = all(np.array_equal(a, b) for a, b in zip(weights, joint_weights(model), strict=True))
        assert same == (step == when)
        for variable in (*model.variables, *optimizer.variables):
            assert np.all(np.isfinite(variable.numpy())) or variable.name == "reduction_ratio"
    assert int(optimizer.rejected_steps) == 1
    assert int(optimizer.failed_inversions) == 0


def test_a_failed_inversion_raises_the_damping_and_is_tried_again():
    optimizer = tf_kfgn.KFRA(damping=1e-3, damping_period=None, inverse_period=1, factor_period=50)
    model = made(optimizer)
    (first, second, third) = batches(3)
    model.train_on_batch(*first)
    state = optimizer.memory.blocks[0]
    good_factor, good_inverse = state.A.numpy(), state.A_inverse.numpy()
    state.A.assign(-np.eye(len(good_factor)))
    model.train_on_batch(*second)
    assert int(optimizer.failed_inversions) == 1
    assert float(optimizer.damping) == pytest.approx(RETRY * 1e-3)
    np.testing.assert_array_equal(state.A_inverse.numpy(), good_inverse)
    assert all(np.all(np.isfinite(w)) for w in joint_weights(model))
    state.A.assign(good_factor)
    model.train_on_batch(*third)
    assert int(optimizer.failed_inversions) == 1
    assert not np.array_equal(state.A_inverse.numpy(), good_inverse)
    assert int(optimizer.rejected_steps) == 0


def test_an_objective_that_is_not_finite_takes_the_step_back():
    optimizer = tf_kfgn.KFRA(damping=0.1, damping_period=1)
    model = made(optimizer)
    [(x, y)] = batches(1)
    before = joint_weights(model)
    tape, loss, gradients = recorded(model, x, y)
    optimizer.apply_gradients(
        gradients, tape=tape, objective=lambda: tf.constant(np.nan, tf.float64), loss=loss
    )
    for actual, expected in zip(joint_weights(model), before, strict=True):
        np.testing.assert_array_equal(actual, expected)
    assert int(optimizer.rejected_steps) == 1
    assert float(optimizer.damping) == pytest.approx(RETRY * 0.1)


@pytest.mark.parametrize("fixed", [{}, {"step_size": 0.5}, {"momentum": 0.9}], ids=str)
def test_a_step_that_raises_the_objective_is_taken_back_where_the_model_chose_it(fixed):
    optimizer = tf_kfgn.KFRA(damping=0.1, **fixed)
    model = made(optimizer)
    [(x, y)] = batches(1)
    before = joint_weights(model)
    tape, loss, gradients = recorded(model, x, y)
    optimizer.apply_gradients(gradients, tape=tape, objective=lambda: loss + 1e-6, loss=loss)
    same = [
        np.array_equal(actual, old)
        for actual, old in zip(joint_weights(model), before, strict=True)
    ]
    assert all(same) == (not fixed)
    assert int(optimizer.rejected_steps) == (not fixed)
    assert float(optimizer.damping) == pytest.approx(RETRY * 0.1)
    assert float(optimizer.reduction_ratio) < 0


def test_after_a_bad_prediction_every_update_is_compared_until_a_good_one(monkeypatch):
    monkeypatch.setattr(comparison, "EARLY", 0)
    monkeypatch.setattr(comparison, "UNUSUAL", np.inf)
    optimizer = tf_kfgn.KFRA(damping=0.1, damping_period=4)
    model = made(optimizer)
    compared = []
    for number, (x, y) in enumerate(batches(9)):
        tape, loss, gradients = recorded(model, x, y)

        def objective(number=number, loss=loss, tape=tape, x=x):
            compared.append(number)
            bad = number < 3  # the objective seems to rise
            return loss + 1.0 if bad else tape.loss_of(model(x, training=True))

        optimizer.apply_gradients(gradients, tape=tape, objective=objective, loss=loss)
    assert compared == [0, 1, 2, 3, 7]


# A loop of one's own


def own_step(model, optimizer, x, y):
    tape, _, gradients = recorded(model, x, y)

    def objective():
        with tape.replaying():
            return tape.loss_of(model(x, training=True))

    optimizer.apply_gradients(gradients, tape=tape, objective=objective)


@pytest.mark.parametrize("graph", [False, True], ids=["eager", "graph"])
def test_a_loop_of_ones_own_equals_fit(graph):
    fitted = made(tf_kfgn.KFRA(**SETTINGS))
    looped, optimizer = made("sgd"), tf_kfgn.KFRA(**SETTINGS)
    optimizer.build(looped.trainable_variables)

    def step(x, y):
        own_step(looped, optimizer, x, y)

    if graph:
        step = tf.function(step)
    for x, y in batches(6):
        fitted.train_on_batch(x, y)
        step(tf.constant(x), tf.constant(y))
    for actual, expected in zip(joint_weights(looped), joint_weights(fitted), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-9)


def test_without_an_objective_the_damping_stays():
    model, optimizer = made("sgd"), tf_kfgn.KFRA(damping=0.5, damping_period=1)
    [(x, y)] = batches(1)
    tape, _, gradients = recorded(model, x, y)
    optimizer.apply_gradients(gradients, tape=tape)
    assert float(optimizer.damping) == 0.5


def test_without_a_tape_the_old_curvature_gives_a_fixed_step():
    model, optimizer = made("sgd"), tf_kfgn.KFRA()
    [(x, y)] = batches(1)
    own_step(model, optimizer, x, y)
    alpha, inverses = float(optimizer.step_size), optimizer.memory.blocks[0]
    with tf.GradientTape() as tape:
        value = tf.reduce_mean((model(x) - y) ** 2)
    gradients = tape.gradient(value, model.trainable_variables)
    before = joint_weights(model)
    optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
    gradient = np.vstack([gradients[0], gradients[1]])
    expected = -alpha * inverses.A_inverse.numpy() @ gradient @ inverses.G_inverse.numpy()
    np.testing.assert_allclose(joint_weights(model)[0] - before[0], expected, rtol=1e-9)


@pytest.mark.parametrize("graph", [False, True])
def test_without_a_tape_and_curvature_it_says_what_to_do(graph):
    model, optimizer = made("sgd"), tf_kfgn.KFRA()
    optimizer.build(model.trainable_variables)
    gradients = [tf.ones_like(variable) for variable in model.trainable_variables]

    def step():
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))

    with pytest.raises(ValueError, match=r"CurvatureTape.*watch_loss.*tape=tape"):
        (tf.function(step) if graph else step)()


def test_a_layer_that_the_tape_has_not_seen_is_named():
    model, optimizer = made("sgd"), tf_kfgn.KFLR()
    [(x, y)] = batches(1)
    loss = keras.losses.MeanSquaredError(dtype="float64")
    hidden = model.layers[0](x)
    with tf_kfgn.CurvatureTape() as tape:
        outputs = model.layers[2](model.layers[1](hidden))
        value = loss(y, outputs)
        tape.watch_loss(loss, y, outputs)
    optimizer.build(model.trainable_variables)
    gradients = tape.gradient(
        value,
        [v.value for v in model.trainable_variables],
        unconnected_gradients=tf.UnconnectedGradients.ZERO,
    )
    with pytest.raises(ValueError, match=model.layers[0].name):
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True), tape=tape)
