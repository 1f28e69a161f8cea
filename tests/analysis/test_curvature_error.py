"""The report of KFAC, KFLR and KFRA against the exact matrix, by brute force."""

from __future__ import annotations

import sys

import keras
import numpy as np
import pytest
import scipy.linalg
import tensorflow as tf
from brute_force import damped_factors, flat, gauss_newton, gauss_newton_of
from problems import PROBLEMS, dense, mlp, random_problem, sequential

import tf_kfgn
from tf_kfgn import analysis
from tf_kfgn.analysis.approximate_blocks import KroneckerBlock
from tf_kfgn.analysis.error_report import ALL, CurvatureErrors
from tf_kfgn.analysis.examples import Examples
from tf_kfgn.analysis.factors import estimator_of
from tf_kfgn.analysis.inspection import tape_of

CATEGORICAL = keras.losses.SparseCategoricalCrossentropy(from_logits=True, dtype="float64")


@pytest.fixture(scope="module")
def example():
    problem = random_problem("classes", lambda: mlp([3, 3, 2, 3], "tanh"), CATEGORICAL)
    model = problem.model()
    report = analysis.curvature_error(
        model,
        problem.x,
        problem.loss,
        ("kfac", "kflr", "kfra", "blocks"),
        y=problem.y,
        dampings=(1e-3, 1.0),
        seed=3,
    )
    return problem, model, report


def gradient_of(problem, model):
    with tf.GradientTape() as tape:
        value = problem.loss(problem.y, model(problem.x))
    return flat(tape.gradient(value, [v.value for v in model.trainable_variables]))


def test_the_numbers_of_each_layer_are_those_of_dense_matrices(example):
    problem, model, report = example
    exact = gauss_newton_of(problem)
    gradient = gradient_of(problem, model)
    steps = {t: -np.linalg.solve(exact + t * np.eye(len(exact)), gradient) for t in (1e-3, 1.0)}
    for method in ("kfac", "kflr", "kfra"):
        factors = tf_kfgn.kronecker_factors(model, problem.x, problem.loss, method, seed=3)
        start, approximate, directions = 0, [], {1e-3: [], 1.0: []}
        for layer in model.layers:
            A, G = factors[layer.name]
            K = np.kron(A, G)
            here = slice(start, start + len(K))
            C, start = exact[here, here], start + len(K)
            approximate.append(K)
            row = report[method][layer.name]
            np.testing.assert_allclose(
                row["frobenius_error"], np.linalg.norm(K - C) / np.linalg.norm(C), rtol=1e-8
            )
            np.testing.assert_allclose(row["trace_ratio"], np.trace(K) / np.trace(C), rtol=1e-8)
            tops = [np.linalg.eigvalsh(M)[-1] for M in (K, C)]
            np.testing.assert_allclose(row["eigenvalue_ratio"], tops[0] / tops[1], rtol=1e-8)
            for tau, step in steps.items():
                direction = -np.linalg.solve(np.kron(*damped_factors(A, G, tau)), gradient[here])
                directions[tau].append(direction)
                np.testing.assert_allclose(
                    row["cosine"][tau], cosine(direction, step[here]), rtol=1e-8
                )
        row, K = report[method][ALL], scipy.linalg.block_diag(*approximate)
        np.testing.assert_allclose(
            row["frobenius_error"], np.linalg.norm(K - exact) / np.linalg.norm(exact), rtol=1e-8
        )
        np.testing.assert_allclose(row["trace_ratio"], np.trace(K) / np.trace(exact), rtol=1e-8)
        top = np.linalg.eigvalsh(K)[-1] / np.linalg.eigvalsh(exact)[-1]
        np.testing.assert_allclose(row["eigenvalue_ratio"], top, rtol=1e-8)
        for tau, step in steps.items():
            found = cosine(np.concatenate(directions[tau]), step)
            np.testing.assert_allclose(row["cosine"][tau], found, rtol=1e-8)


def cosine(one, other):
    return one @ other / np.linalg.norm(one) / np.linalg.norm(other)


def test_exact_blocks_have_no_error_but_between_layers(example):
    _, _, report = example
    for name in report.layers:
        row = report["blocks"][name]
        assert row["frobenius_error"] < 1e-12
        np.testing.assert_allclose(row["trace_ratio"], 1, rtol=1e-10)
    whole = report["blocks"][ALL]
    assert whole["frobenius_error"] > 0.1
    assert whole["trace_ratio"] == pytest.approx(1, rel=1e-10)
    assert whole["cosine"][1e-3] < 1 - 1e-3
    for method in ("kfac", "kflr", "kfra"):
        assert report[method][ALL]["frobenius_error"] > whole["frobenius_error"]


def test_a_single_linear_layer_has_no_error_at_all():
    problem = random_problem("linear", lambda: sequential((3,), dense(2)))
    report = analysis.curvature_error(problem.model(), problem.x, problem.loss, ["kflr", "kfra"])
    for rows in report.values():
        assert rows[ALL]["frobenius_error"] < 1e-10
        assert rows[ALL]["eigenvalue_ratio"] == pytest.approx(1, rel=1e-9)
        assert min(rows[ALL]["cosine"].values()) > 0.9  # damping is factored, so not 1
    deep = random_problem("bent", lambda: mlp([3, 3, 2], "tanh"))
    report = analysis.curvature_error(deep.model(), deep.x, deep.loss, ["kflr"])
    assert report["kflr"][report.layers[0]]["frobenius_error"] > 1e-2


def test_it_says_which_method_is_best_and_which_layer_is_weak(example):
    _, _, report = example
    means = {m: np.mean(list(rows[ALL]["cosine"].values())) for m, rows in report.items()}
    del means["blocks"]  # which no optimizer has
    assert means[report.best] == max(means.values())
    exact = {"blocks": report["blocks"]}
    assert CurvatureErrors(exact, report.dampings).best == "blocks"
    worst = min(means, key=means.get)
    assert CurvatureErrors({**exact, worst: report[worst]}, report.dampings).best == worst
    layers = {n: np.mean(list(report["kfra"][n]["cosine"].values())) for n in report.layers}
    assert layers[report.weakest("kfra")] == min(layers.values())
    text = str(report)
    for part in ("kfac", "kflr", "kfra", "blocks", ALL, *report.layers, report.best):
        assert part in text
    assert f"weakest layer: {report.weakest(report.best)}" in text
    assert isinstance(report, dict) and isinstance(report, CurvatureErrors)


def test_weights_without_a_matrix_have_a_diagonal():
    def make():
        normal = keras.layers.LayerNormalization(dtype="float64")
        return sequential((3,), dense(3, "tanh"), normal, dense(2))

    problem = random_problem("normalised", make)
    model = problem.model()
    report = analysis.curvature_error(model, problem.x, problem.loss, ["kflr"], y=problem.y)
    normal = model.layers[1]
    exact = gauss_newton(model, problem.x, problem.y, problem.loss, normal.trainable_variables)
    row = report["kflr"][normal.name]
    with tape_of(model, Examples(problem.x, problem.y), problem.loss) as tape:
        seed = tf.constant([0, 0], tf.int64)
        estimate = estimator_of("kflr").estimate(tape, seed, normal.trainable_variables)
    K = np.diag(flat(estimate.diagonals))
    error = np.linalg.norm(K - exact) / np.linalg.norm(exact)
    np.testing.assert_allclose(row["frobenius_error"], error, rtol=1e-8)
    np.testing.assert_allclose(row["trace_ratio"], np.trace(K) / np.trace(exact), rtol=1e-8)


def test_without_targets_the_gradient_is_that_of_drawn_ones():
    problem = PROBLEMS["mlp_gaussian"]
    one, same, other = (
        analysis.curvature_error(
            problem.model(), problem.x, problem.loss, ["kflr"], dampings=[0.1], seed=seed
        )["kflr"][ALL]["cosine"][0.1]
        for seed in (0, 0, 1)
    )
    assert one == same != other
    assert 0 < one < 1


def test_blocks_of_groups_and_diagonal_factors():
    generator = np.random.default_rng(0)
    A = np.stack([np.cov(generator.normal(size=(2, 9))) for _ in range(3)])
    G = generator.uniform(0.5, 1, size=(3, 4, 1))
    block, vector = KroneckerBlock(A, G), generator.normal(size=24)
    dense_blocks = [np.kron(a, np.diag(g[:, 0])) for a, g in zip(A, G, strict=True)]
    exact = scipy.linalg.block_diag(*dense_blocks)
    np.testing.assert_allclose(block.dense(), exact, rtol=1e-12)
    np.testing.assert_allclose(block.top_eigenvalue(), np.linalg.eigvalsh(exact)[-1], rtol=1e-10)
    damped = [np.kron(*damped_factors(a, np.diag(g[:, 0]), 0.1)) for a, g in zip(A, G, strict=True)]
    np.testing.assert_allclose(
        block.solve(vector, 0.1),
        np.linalg.solve(scipy.linalg.block_diag(*damped), vector),
        rtol=1e-10,
    )


def test_a_figure_shows_layers_and_dampings(example, tmp_path):
    pytest.importorskip("matplotlib")
    _, _, report = example
    figure = report.figure()
    left, right = figure.axes
    assert [tick.get_text() for tick in left.get_yticklabels()] == [*report.layers, ALL]
    assert [line.get_label() for line in right.lines] == list(report)
    for line, rows in zip(right.lines, report.values(), strict=True):
        np.testing.assert_allclose(line.get_ydata(), list(rows[ALL]["cosine"].values()))
    figure.savefig(tmp_path / "errors.png")


def test_bad_arguments_are_named(monkeypatch):
    problem = random_problem("linear", lambda: sequential((3,), dense(2)))
    model, x, loss = problem.model(), problem.x, problem.loss
    with pytest.raises(ValueError, match=r"`method` must be one of .*received 'ekfac'"):
        analysis.curvature_error(model, x, loss, ["ekfac"])
    with pytest.raises(ValueError, match="`dampings` must be a finite number, more than 0"):
        analysis.curvature_error(model, x, loss, dampings=[0.0])
    with pytest.raises(ValueError, match="must not be empty"):
        analysis.curvature_error(model, x, loss, methods=[])
    with pytest.raises(ValueError, match="`seed` must be an integer"):
        analysis.curvature_error(model, x, loss, seed=0.5)
    with pytest.raises(ValueError, match="has not been built"):
        analysis.curvature_error(keras.Sequential([dense(2)]), x, loss)
    monkeypatch.setattr("tf_kfgn.analysis.memory.available_memory", lambda: 1000.0)
    with pytest.raises(ValueError, match="8 x 8, would take"):
        analysis.curvature_error(model, x, loss)
    monkeypatch.setitem(sys.modules, "scipy.sparse.linalg", None)
    with pytest.raises(ImportError, match="curvature_error needs scipy"):
        analysis.curvature_error(model, x, loss)
