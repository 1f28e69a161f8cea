"""The quadratic model along each block's direction, against plain differentiation in float64."""

from __future__ import annotations

import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from brute_force import damped_factors, flat, gauss_newton, wrong
from problems import MSE, dense, random_problem, sequential
from updates import OPTIMIZERS, batches, made

import tf_kfgn
from tf_kfgn.analysis import BlockRow, block_diagnostics

TAU = 0.05
BATCH, FRESH = batches(2, seed=7)
ETA = 2e-3


@pytest.fixture(autouse=True)
def _float64():
    before = keras.backend.floatx()
    keras.backend.set_floatx("float64")
    yield
    keras.backend.set_floatx(before)


def trained(kind):
    """After a few updates with the same damping, so that the inverses are those of the averages."""
    kwargs = {"seed": 0} if kind is tf_kfgn.KFAC else {}
    optimizer = kind(damping=TAU, damping_period=None, factor_period=1, inverse_period=1, **kwargs)
    model = made(optimizer, l2=ETA / 2, run_eagerly=True)
    for x, y in batches(3):
        model.train_on_batch(x, y)
    return model


def gradient(model, x, y):
    with tf.GradientTape() as tape:
        objective = MSE(y, model(x)) + tf.add_n(model.losses)
    return [g.numpy() for g in tape.gradient(objective, [v.value for v in model.weights])]


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_all_numbers_are_those_of_plain_differentiation(kind):
    model = trained(kind)
    found = block_diagnostics(model, BATCH, FRESH)
    assert list(found.blocks) == list(model.optimizer.curvature())
    own, fresh = gradient(model, *BATCH), gradient(model, *FRESH)
    C, C_fresh = (gauss_newton(model, *data, MSE, model.weights) for data in (BATCH, FRESH))
    directions = []
    for i, (A, G) in enumerate(model.optimizer.curvature().values()):
        A, G = damped_factors(A, G, TAU + ETA)
        joint = np.vstack([own[2 * i], own[2 * i + 1]])
        step = -np.linalg.solve(A, np.linalg.solve(G, joint.T).T)
        pieces = [np.zeros_like(g) for g in own]
        pieces[2 * i], pieces[2 * i + 1] = step[:-1], step[-1]
        directions.append(flat(pieces))
    etas = flat([np.full(g.shape, ETA if g.ndim == 2 else 0.0) for g in own])
    total = np.sum(directions, axis=0)
    rows = [*found.blocks.values(), found.joint]
    for D, row in zip([*directions, total], rows, strict=True):
        damping = D @ ((TAU + etas) * D)
        expected = BlockRow(
            slope=flat(own) @ D,
            fresh_slope=flat(fresh) @ D,
            curvature=D @ C @ D,
            fresh_curvature=D @ C_fresh @ D,
            damping=damping,
            ratio=(D @ C @ D) / (D @ C_fresh @ D),
            step_size=-(flat(own) @ D) / (D @ C @ D + damping),
            share=(D @ C @ total) / (total @ C @ total),
        )
        np.testing.assert_allclose(row, expected, rtol=1e-8)
    shares = [row.share for row in found.blocks.values()]
    assert sum(shares) == pytest.approx(1)

    # What it is not: the blocks' own curvatures leave out the cross terms,
    alone = np.array([row.curvature for row in found.blocks.values()])
    assert wrong(alone / alone.sum(), shares)
    # and the factors are an approximation of the curvature along the direction.
    A, G = next(iter(model.optimizer.curvature().values()))
    D = np.vstack([directions[0][: A.shape[0] * G.shape[0]].reshape(-1, G.shape[0])])
    assert wrong(np.vdot(D, A @ D @ G), alone[0])


def test_the_same_batch_twice_has_a_ratio_of_1_and_another_one_has_not():
    model = trained(tf_kfgn.KFAC)
    same = block_diagnostics(model, BATCH, BATCH)
    for row in (*same.blocks.values(), same.joint):
        assert row.ratio == pytest.approx(1)
        assert row.slope == pytest.approx(row.fresh_slope)
    assert abs(block_diagnostics(model, BATCH, FRESH).joint.ratio - 1) > 1e-2


def test_a_block_that_is_exact_has_a_step_size_of_1():
    """That of one linear layer under squared error."""
    given = random_problem("linear", lambda: sequential((4,), dense(3)), batch=40)
    model = tf_kfgn.enable_curvature(given.model())
    optimizer = tf_kfgn.KFLR(damping=1e-9, damping_period=None, factor_period=1, inverse_period=1)
    model.compile(optimizer, given.loss, run_eagerly=True)
    model.train_on_batch(given.x, given.y)
    targets = given.y[::-1]  # else nothing is left to gain
    row = block_diagnostics(model, (given.x, targets), (given.x, targets)).joint
    assert row.step_size == pytest.approx(1, rel=1e-4)
    assert row.note == ""


def test_weights_of_examples_count():
    model = trained(tf_kfgn.KFLR)
    x, y = BATCH
    weights = np.zeros(len(x))
    weights[:8] = 2.0  # as if there were only these
    weighted = block_diagnostics(model, (x, y, weights), FRESH)
    half = block_diagnostics(model, (x[:8], y[:8]), FRESH)
    for one, other in zip(weighted.blocks.values(), half.blocks.values(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9)
    whole = block_diagnostics(model, BATCH, FRESH)
    assert not np.isclose(whole.joint.slope, half.joint.slope, rtol=1e-2)


def test_an_objective_of_ones_own_counts(monkeypatch):
    class Doubled(keras.Sequential):
        def compute_loss(self, *args, **kwargs):
            return 2 * super().compute_loss(*args, **kwargs)

    model = Doubled([keras.Input((5,), dtype="float64"), dense(3, "tanh"), dense(2)])
    tf_kfgn.enable_curvature(model)
    model.compile(tf_kfgn.KFLR(), MSE, run_eagerly=True)
    model.train_on_batch(*BATCH)
    doubled = block_diagnostics(model, BATCH, FRESH).joint
    monkeypatch.setattr(Doubled, "compute_loss", keras.Model.compute_loss)
    plain = block_diagnostics(model, BATCH, FRESH).joint
    assert doubled.slope == pytest.approx(4 * plain.slope)  # gradient and direction
    assert doubled.curvature == pytest.approx(4 * plain.curvature)


def network():
    layers = [
        keras.layers.Conv2D(4, 3, use_bias=False),
        keras.layers.BatchNormalization(),
        keras.layers.ReLU(),
        keras.layers.Flatten(),
        keras.layers.Dropout(0.3),
        keras.layers.Dense(3),
    ]
    return keras.Sequential([keras.Input((6, 6, 2)), *layers])


@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
def test_a_look_leaves_everything_as_it_is(policy, monkeypatch):
    keras.backend.set_floatx("float32")
    keras.config.set_dtype_policy(policy)
    try:
        model = tf_kfgn.enable_curvature(network())
    finally:
        keras.config.set_dtype_policy("float32")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    optimizer = tf_kfgn.KFAC(seed=0)
    if policy == "mixed_float16":
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    model.compile(optimizer, loss, metrics=["accuracy"], run_eagerly=True)
    generator = np.random.default_rng(0)
    x = generator.normal(size=(60, 6, 6, 2)).astype("float32")
    y = generator.integers(3, size=60)
    model.fit(x[:30], y[:30], batch_size=30, epochs=3, verbose=0)
    variables = [*model.variables, *model.optimizer.variables, *model.metrics_variables]
    before = [variable.numpy() for variable in variables]
    found = block_diagnostics(model, (x[:30], y[:30]), (x[30:], y[30:]))
    for old, variable in zip(before, variables, strict=True):
        np.testing.assert_array_equal(old, variable.numpy())
    assert len(found.blocks) == 4
    assert np.isfinite([*found.blocks.values()]).all()
    assert all(row.slope < 0 < row.curvature for row in found.blocks.values())

    numbers = found.to_dict()
    assert list(numbers) == [*found.blocks, "all blocks"]
    assert numbers["all blocks"]["ratio"] == found.joint.ratio
    assert f"{found.joint.step_size:.3g}" in str(found)
    for module in ("rich", "rich.console", "rich.table"):
        monkeypatch.setitem(sys.modules, module, None)
    _, _, rule, *lines, last_rule, joint = str(found).splitlines()
    assert rule == last_rule
    assert {f"{found.joint.step_size:.3g}", f"{found.joint.slope:.3g}"} < set(joint.split())
    assert [line.split()[0] for line in lines] == list(found.blocks)


def test_notes_tell_noise_from_approximation():
    row = BlockRow(-1.0, -0.9, 1.0, 0.9, 0.1, 1.1, 0.9, 0.5)
    assert row.note == ""
    assert "noise" in row._replace(slope=-320.0, fresh_slope=0.25).note
    assert "noise" in row._replace(ratio=50.0).note
    assert "approximation" in row._replace(step_size=0.01).note


def test_what_cannot_be_looked_at_is_refused():
    model = trained(tf_kfgn.KFRA)
    with pytest.raises(ValueError, match=r"`fresh_batch` must be a tuple \(x, y\).*received list"):
        block_diagnostics(model, BATCH, list(FRESH))
    with pytest.raises(TypeError, match="`model` must be a"):
        block_diagnostics(model.optimizer, BATCH, FRESH)
    model.compile("adam", MSE)
    with pytest.raises(ValueError, match="received one with Adam"):
        block_diagnostics(model, BATCH, FRESH)
    model.compile(tf_kfgn.KFRA(), MSE)
    with pytest.raises(ValueError, match="KFRA has no curvature yet"):
        block_diagnostics(model, BATCH, FRESH)
