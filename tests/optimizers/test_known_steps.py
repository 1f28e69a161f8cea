"""Steps whose end is known: least squares, and five updates computed in NumPy."""

from __future__ import annotations

import numpy as np
import pytest
from numpy_kfra import NumpyKFRA
from problems import MSE, dense, mlp, sequential
from updates import joint_weights

import tf_kfgn


@pytest.mark.parametrize(
    ("optimizer", "outputs"),
    [(tf_kfgn.KFRA, 2), (tf_kfgn.KFLR, 2), (tf_kfgn.KFAC, 1)],
    ids=lambda value: getattr(value, "__name__", None),
)
@pytest.mark.parametrize("rate", [1.0, 0.5])
def test_one_step_of_a_linear_layer_goes_to_the_least_squares_solution(
    optimizer, outputs, rate, unbounded
):
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(20, 3)), generator.normal(size=(20, outputs))
    model = tf_kfgn.enable_curvature(sequential((3,), dense(outputs)))
    old = joint_weights(model)[0]
    model.compile(optimizer(rate, damping=1e-20, damping_period=None), MSE, run_eagerly=True)
    model.train_on_batch(x, y)
    solution = np.linalg.lstsq(np.hstack([x, np.ones((20, 1))]), y, rcond=None)[0]
    expected = old + rate * (solution - old)
    np.testing.assert_allclose(joint_weights(model)[0], expected, rtol=1e-7)


def test_one_step_of_sampled_factors_for_two_outputs_does_not_reach_it():
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(20, 3)), generator.normal(size=(20, 2))
    model = tf_kfgn.enable_curvature(sequential((3,), dense(2)))
    model.compile(tf_kfgn.KFAC(damping=1e-20, damping_period=None, seed=1), MSE, run_eagerly=True)
    model.train_on_batch(x, y)
    solution = np.linalg.lstsq(np.hstack([x, np.ones((20, 1))]), y, rcond=None)[0]
    assert not np.allclose(joint_weights(model)[0], solution, rtol=1e-2)


# Five updates of a net with one hidden layer, where the recursion of KFRA is exact, and the
# factors of KFLR are those of KFRA. The numbers were computed by tests/numpy_kfra.py.
SETTINGS = {
    "damping": 0.1,
    "min_damping": 0.05,
    "factor_period": 2,
    "inverse_period": 4,
    "damping_period": 3,
    "model_fraction": 0.25,
    "curvature_decay": 0.9,
}
START = [np.cos(np.arange(9.0)).reshape(3, 3), np.cos(np.arange(4.0) + 9).reshape(4, 1)]
WEIGHTS = [
    1.10991587901, 0.0546330892939, -0.557441844666, -1.13364499437, -0.1125301772,
    0.565243936344, 1.15061439624, 0.459003435555, -0.424696727287, -0.222716742577,
    -0.702994136573, -0.416944396236, 0.805841235577,
]  # fmt: skip
DAMPING = 0.05


def golden_batches(size=2000):
    for step in range(5):
        t = np.arange(size) + 0.1 * step
        yield np.stack([np.sin(t), np.cos(1.7 * t)], 1), np.sin(t[:, None] + 0.5 * step) ** 2


def golden_model(optimizer):
    model = tf_kfgn.enable_curvature(mlp([2, 3, 1], "tanh"))
    for layer, joint in zip(model.layers, START, strict=True):
        layer.set_weights([joint[:-1], joint[-1]])
    model.compile(optimizer, MSE, run_eagerly=True)
    for x, y in golden_batches():
        model.train_on_batch(x, y)
    return np.concatenate([w.ravel() for w in joint_weights(model)])


def test_the_golden_weights_are_those_of_the_numpy_transcription():
    plain = NumpyKFRA(START, 0.0, **SETTINGS)
    for x, y in golden_batches():
        plain.step(x, y)
    weights = np.concatenate([w.ravel() for w in plain.W])
    np.testing.assert_allclose(weights, WEIGHTS, rtol=1e-9)
    np.testing.assert_allclose(plain.tau, DAMPING, rtol=1e-9)


@pytest.mark.parametrize(
    ("optimizer", "own"), [(tf_kfgn.KFRA, {"rescale": False}), (tf_kfgn.KFLR, {})]
)
def test_five_updates_reach_the_golden_weights(optimizer, own):
    golden = optimizer(**SETTINGS, **own)
    np.testing.assert_allclose(golden_model(golden), WEIGHTS, rtol=1e-7)
    np.testing.assert_allclose(float(golden.damping), DAMPING, rtol=1e-9)


@pytest.mark.parametrize(("optimizer", "own"), [(tf_kfgn.KFAC, {"seed": 1}), (tf_kfgn.KFRA, {})])
def test_five_updates_of_what_is_sampled_come_near_the_golden_weights(optimizer, own):
    start = np.concatenate([w.ravel() for w in START])
    reached = golden_model(optimizer(**SETTINGS, **own))
    error = np.linalg.norm(reached - WEIGHTS) / np.linalg.norm(start - WEIGHTS)
    assert 1e-6 < error < 0.05
