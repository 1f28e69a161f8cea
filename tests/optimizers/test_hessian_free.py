"""HessianFree: against dense solves and NumPy, and what becomes of bad products and steps."""

from __future__ import annotations

import functools
import types

import keras
import numpy as np
import pytest
import tensorflow as tf
from brute_force import flat, gauss_newton
from numpy_hessian_free import NumpyHessianFree
from problems import LOSSES, dense, mlp, seeded, sequential
from updates import MSE, batches, made, made_eager, recorded

import tf_kfgn
from tf_kfgn.optimizers import recorded_pass
from tf_kfgn.optimizers.damping import RETRY
from tf_kfgn.recording.tape import CurvatureTape

SOLVED = {"cg_tolerance": 0.0, "max_cg_iterations": 300, "warm_start": 0.0}
TARGETS = {
    "MeanSquaredError()": lambda rng: rng.normal(size=(10, 3)),
    "BinaryCrossentropy(from_logits=True)": lambda rng: rng.integers(0, 2, (10, 3)) * 1.0,
    "SparseCategoricalCrossentropy(from_logits=True)": lambda rng: rng.integers(0, 3, 10),
}


def small(l2=0.0):
    regularizer = keras.regularizers.L2(l2) if l2 else None
    return seeded(lambda: mlp([4, 3, 3], "tanh", kernel_regularizer=regularizer))()


def enabled(optimizer, loss=MSE, l2=0.0, **arguments):
    model = tf_kfgn.enable_curvature(small(l2))
    model.compile(optimizer, loss, **({"run_eagerly": True} | arguments))
    return model


def gradient(model, x, y, loss):
    with tf.GradientTape() as tape:
        value = loss(y, model(x)) + sum(model.losses)
    return flat(tape.gradient(value, [v.value for v in model.trainable_variables]))


@pytest.mark.parametrize(
    ("loss", "preconditioner"),
    [*((loss, None) for loss in LOSSES), *zip(LOSSES, ("kfra", "kflr", "kfac"), strict=True)],
)
def test_solved_to_the_end_the_step_is_that_of_the_dense_matrix(unbounded, preconditioner, loss):
    rng = np.random.default_rng(0)
    x, y, l2, tau = rng.normal(size=(10, 4)), TARGETS[loss](rng), 1e-3, 1e-2
    stock = small(l2)
    matrix = gauss_newton(stock, x, y, LOSSES[loss], stock.trainable_variables)
    is_kernel = flat([np.full(v.shape, v.ndim == 2) for v in stock.trainable_variables])
    g = gradient(stock, x, y, LOSSES[loss])
    expected = np.linalg.solve(matrix + np.diag(tau + 2 * l2 * is_kernel), -g)

    own = {} if preconditioner is None else {"preconditioner": preconditioner, "seed": 1}
    optimizer = tf_kfgn.HessianFree(damping=tau, damping_period=None, **SOLVED, **own)
    model = enabled(optimizer, LOSSES[loss], l2)
    before = flat(model.get_weights())
    model.train_on_batch(x, y)
    step = flat(model.get_weights()) - before
    np.testing.assert_allclose(step, expected, rtol=1e-6, atol=1e-6 * np.abs(expected).max())
    assert int(optimizer.cg_iterations) < 300


# After more iterations CG has amplified the round-off of both. Keras rounds l2 to float32.
UPDATES, L2, SEARCH = 5, 2.0**-10, {"max_cg_iterations": 7, "warm_start": 0.9}


@functools.cache
def numpy_updates():
    """What each update leaves: weights, τ, ρ, iterations of CG, which was chosen, rejections."""
    plain = NumpyHessianFree(made("sgd", L2), MSE, 0.01, 7, 5e-4, 0.9, L2)
    left = []
    for x, y in batches(UPDATES, size=12):
        plain.step(x, y)
        left.append((plain.w, plain.tau, plain.rho, plain.iterations, plain.chosen, plain.rejected))
    assert any(chosen < iterations for *_, iterations, chosen, _ in left)
    assert len({tau for _, tau, *_ in left}) > 2
    return left


@pytest.mark.parametrize("mode", [{"run_eagerly": True}, {"jit_compile": False}])
def test_updates_are_those_of_numpy(mode):
    optimizer = tf_kfgn.HessianFree(damping=0.01, **SEARCH)
    model = made(optimizer, L2, **mode)
    for (x, y), (weights, *expected) in zip(
        batches(UPDATES, size=12), numpy_updates(), strict=True
    ):
        model.train_on_batch(x, y)
        np.testing.assert_allclose(flat(model.get_weights()), weights, rtol=1e-6, atol=1e-9)
        actual = (
            optimizer.damping,
            optimizer.reduction_ratio,
            optimizer.cg_iterations,
            optimizer.chosen_iteration,
            optimizer.rejected_steps,
        )
        np.testing.assert_allclose([float(value) for value in actual], expected, rtol=1e-6)


# Parts of the weights, and of the batch


def test_frozen_weights_are_left_out_of_the_system(unbounded):
    [(x, y)] = batches(1)
    model = made_eager(tf_kfgn.HessianFree(damping=0.1, damping_period=None, **SOLVED))
    tape, _, pairs = recorded(model, x, y)
    model.optimizer.build(model.trainable_variables)
    kept = [i for i, (_, v) in enumerate(pairs) if v is not model.layers[1].kernel]
    matrix = gauss_newton(model, x, y, MSE, [pairs[i][1] for i in kept])
    g = flat([pairs[i][0] for i in kept])
    expected = np.linalg.solve(matrix + 0.1 * np.eye(len(g)), -g)
    before = model.get_weights()
    model.optimizer.apply_gradients([pairs[i] for i in kept], tape=tape)
    steps = [a - b for a, b in zip(model.get_weights(), before, strict=True)]
    np.testing.assert_allclose(flat([steps[i] for i in kept]), expected, rtol=1e-6, atol=1e-9)
    np.testing.assert_array_equal(steps[2], 0)


def through_fit(model, x, y):
    model.train_on_batch(x, y)


def through_a_loop(model, x, y):
    tape, loss, pairs = recorded(model, x, y)
    with tape.of_part() as part:
        part.watch_loss(MSE, y[:4], model(x[:4], training=True))
    gradients, variables = zip(*pairs, strict=True)
    with recorded_pass(tape, None, loss, curvature_tape=part):
        model.optimizer.apply(list(gradients), list(variables))


@pytest.mark.parametrize("way", [through_fit, through_a_loop])
def test_a_part_of_the_batch_gives_the_curvature(unbounded, way):
    [(x, y)] = batches(1)  # 16 examples
    optimizer = tf_kfgn.HessianFree(
        damping=0.1, damping_period=None, curvature_fraction=0.2, **SOLVED
    )
    model = made_eager(optimizer)
    g = flat([g for g, _ in recorded(model, x, y)[2]])
    steps = {}
    for count in (4, 16):  # 0.2 of 16 is rounded up
        matrix = gauss_newton(model, x[:count], y[:count], MSE, model.trainable_variables)
        steps[count] = np.linalg.solve(matrix + 0.1 * np.eye(len(g)), -g)
    before = flat(model.get_weights())
    way(model, x, y)
    step = flat(model.get_weights()) - before
    np.testing.assert_allclose(step, steps[4], rtol=1e-6, atol=1e-9)
    assert not np.allclose(step, steps[16], rtol=1e-2)


def test_the_pass_of_a_part_moves_no_statistic_and_no_seed():
    keras.utils.set_random_seed(0)
    layers = [
        keras.layers.BatchNormalization(dtype="float64"),
        keras.layers.Dropout(0.5, seed=1, dtype="float64"),
        keras.layers.Dense(2, dtype="float64"),
    ]
    model = keras.Sequential([keras.Input((5,), dtype="float64"), *layers])
    tf_kfgn.enable_curvature(model)
    [(x, y)] = batches(1)
    with CurvatureTape() as tape:
        model(x, training=True)
    state = [v.numpy() for v in model.non_trainable_variables]
    with tape.of_part() as part:
        outputs = model(x[:4], training=True)
        part.watch_loss(MSE, y[:4], outputs)
    for variable, value in zip(model.non_trainable_variables, state, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)
    assert len(part.operations) == 3
    assert np.any(outputs != model(x[:4], training=False))  # it was in training mode


def test_gradient_products_and_comparison_of_an_update_have_the_same_masks(unbounded):
    tau, (x, y) = 0.1, next(batches(1))
    model = sequential((5,), dense(6), keras.layers.Dropout(0.5, dtype="float64"), dense(2))
    optimizer = tf_kfgn.HessianFree(damping=tau, backtracking=False, **SOLVED)
    tf_kfgn.enable_curvature(model).compile(optimizer, MSE, run_eagerly=True)
    first, dropout, last = model.layers
    outputs = {}

    def kept(name, layer):
        """Remember what every call of a layer returned, the recorded pass first."""
        call = layer.call
        layer.call = lambda *a, **k: (
            outputs.setdefault(name, []).append(call(*a, **k)) or (outputs[name][-1])
        )

    kept("first", first), kept("dropout", dropout)
    old = model.get_weights()
    model.train_on_batch(x, y)
    new = model.get_weights()
    mask = (outputs["dropout"][0] / outputs["first"][0]).numpy()
    assert set(np.round(mask.ravel(), 9)) == {0.0, 2.0}
    del first.call, dropout.call

    def masked(x, training=False):
        return last(mask * first(x))

    def objective(weights):
        model.set_weights(weights)
        return float(MSE(y, masked(x)))

    change = objective(new) - objective(old)  # which leaves the old weights
    matrix = gauss_newton(masked, x, y, MSE, model.trainable_variables)
    with tf.GradientTape() as tape:
        value = MSE(y, masked(x))
    g = flat(tape.gradient(value, [v.value for v in model.trainable_variables]))
    step = np.linalg.solve(matrix + tau * np.eye(len(g)), -g)
    np.testing.assert_allclose(flat(new) - flat(old), step, rtol=1e-6, atol=1e-9)
    predicted = g @ step + 0.5 * step @ matrix @ step + 0.5 * tau * step @ step
    np.testing.assert_allclose(float(optimizer.reduction_ratio), change / predicted, rtol=1e-6)
    fresh = float(MSE(y, model(x, training=True))) - value  # the same weights, other masks
    assert abs(fresh) > 0.1 * abs(change)


# Steps that are not taken


def test_a_step_that_raises_the_objective_is_taken_back():
    [(x, y)] = batches(1)
    optimizer = tf_kfgn.HessianFree(damping=0.1, max_cg_iterations=4)
    model = made_eager(optimizer)
    tape, loss, pairs = recorded(model, x, y)
    before = model.get_weights()
    looks = []

    def worse():
        looks.append(1)
        return loss + 1.0 + len(looks)

    optimizer.apply_gradients(pairs, tape=tape, objective=worse, loss=loss)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(new, old)
    assert len(looks) == 2  # the last iterate, and one that was no better
    assert int(optimizer.rejected_steps) == 1 and int(optimizer.nonfinite_steps) == 0
    np.testing.assert_allclose(float(optimizer.damping), RETRY * 0.1)
    solution = flat(optimizer.memory.search.solution)
    assert np.linalg.norm(solution) > 0  # where the next search starts


def test_a_step_that_nobody_compares_promises_half_of_the_objective():
    [(x, y)] = batches(1)
    model = made_eager(tf_kfgn.HessianFree(damping=1e-6, damping_period=None))
    _, loss, pairs = recorded(model, x, y)
    before = flat(model.get_weights())
    model.train_on_batch(x, y)
    step = flat(model.get_weights()) - before
    fall = -step @ flat([g for g, _ in pairs])
    np.testing.assert_allclose(fall, 0.5 * float(loss), rtol=1e-9)
    assert 0 < float(model.optimizer.step_size) < 1


def test_products_that_are_not_finite_leave_the_last_good_iterate(monkeypatch):
    """After two good products of the search all are NaN."""
    [(x, y)] = batches(1)

    def step(good, most):
        make = CurvatureTape.gauss_newton_operator
        calls = []

        def operator(tape, variables):
            product = make(tape, variables)

            def sometimes(vector):
                calls.append(1)
                bad = np.nan if len(calls) > good else 1.0
                return [bad * t for t in product(vector)]

            return sometimes

        monkeypatch.setattr(CurvatureTape, "gauss_newton_operator", operator)
        optimizer = tf_kfgn.HessianFree(damping=0.1, max_cg_iterations=most, warm_start=0.0)
        model = made_eager(optimizer)
        before = flat(model.get_weights())
        model.train_on_batch(x, y)
        monkeypatch.setattr(CurvatureTape, "gauss_newton_operator", make)
        return flat(model.get_weights()) - before, optimizer

    cut, optimizer = step(good=2, most=9)
    assert int(optimizer.cg_iterations) == 2 and int(optimizer.nonfinite_steps) == 0
    np.testing.assert_array_equal(cut, step(good=99, most=2)[0])
    none, optimizer = step(good=0, most=9)
    np.testing.assert_array_equal(none, 0)
    assert int(optimizer.nonfinite_steps) == 1


def test_several_replicas_are_refused(monkeypatch):
    context = types.SimpleNamespace(num_replicas_in_sync=2)
    monkeypatch.setattr(tf.distribute, "get_replica_context", lambda: context)
    with pytest.raises(ValueError, match="does not run on several replicas"):
        tf_kfgn.HessianFree().move(None)


def test_without_a_tape_there_is_no_step():
    [(x, y)] = batches(1)
    model = made_eager(tf_kfgn.HessianFree(max_cg_iterations=2))
    model.train_on_batch(x, y)
    _, _, pairs = recorded(model, x, y)
    with pytest.raises(ValueError, match=r"curvature of each batch.*pass `tape=tape`"):
        model.optimizer.apply_gradients(pairs)


# What it reaches


def test_a_small_regression_falls_faster_than_with_kfra_and_to_round_off():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 3))
    y = np.tanh(x @ rng.normal(size=(3, 3))) @ rng.normal(size=(3, 2))

    def losses(optimizer):
        model = tf_kfgn.enable_curvature(seeded(lambda: mlp([3, 5, 2], "tanh"))())
        model.compile(optimizer, MSE, jit_compile=False)
        return model.fit(x, y, batch_size=40, epochs=45, verbose=0, shuffle=False).history["loss"]

    ours, kfra = losses(tf_kfgn.HessianFree()), losses(tf_kfgn.KFRA())
    assert all(one < other for one, other in zip(ours[1:], kfra[1:], strict=True))
    assert ours[-1] < 1e-10 * ours[0]


def test_a_preconditioner_halves_the_iterations_at_least():
    """Inputs of scales from 1 to 1/100: A has what plain CG must find out."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(50, 12)) * np.geomspace(1, 1e-2, 12)
    y = np.tanh(50 * x[:, -2:])

    def iterations(preconditioner):
        own = {} if preconditioner is None else {"preconditioner": preconditioner, "seed": 1}
        model = tf_kfgn.enable_curvature(seeded(lambda: mlp([12, 6, 2], "tanh"))())
        optimizer = tf_kfgn.HessianFree(
            damping=1e-6, cg_tolerance=1e-3, max_cg_iterations=200, warm_start=0.0, **own
        )
        model.compile(optimizer, MSE, run_eagerly=True)
        model.train_on_batch(x, y)
        return int(optimizer.cg_iterations)

    plain = iterations(None)
    for preconditioner in ("kfra", "kflr"):
        assert iterations(preconditioner) <= plain / 2
