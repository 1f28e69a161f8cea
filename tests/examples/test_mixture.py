"""The mixture of Bernoullis of examples/_mixture.py against brute force, and its script."""

import importlib
import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from brute_force import allclose, clipped_by_diagonal, loss_hessian, wrong

import tf_kfgn
from tf_kfgn.losses import resolve_loss

N = 3


@pytest.fixture
def mixture():
    return importlib.import_module("_mixture")


@pytest.fixture
def mixed(mixture):
    """Three components of four pixels."""
    generator = np.random.default_rng(3)
    loss = mixture.MixtureOfBernoullis(3, dtype="float64")
    z = tf.constant(generator.normal(size=(N, 3 * 5)))
    return loss, np.float64(generator.integers(2, size=(N, 4))), z


def test_the_stated_curvature_of_a_mixture_is_its_hessian(mixed):
    loss, y, z = mixed
    diagonal, added, subtracted = loss.output_curvature(tf.constant(y), z)
    assert added is None
    stated = tf.linalg.diag(diagonal) - subtracted @ tf.linalg.matrix_transpose(subtracted)
    exact = loss_hessian(loss, y, z).reshape(N, 15, N, 15) * N
    for n in range(N):
        np.testing.assert_allclose(stated[n], exact[n, :, n], rtol=1e-8, atol=1e-10)
    assert min(np.linalg.eigvalsh(exact[n, :, n]).min() for n in range(N)) < -0.01
    likelihood = resolve_loss(loss, y, z, None)[0].likelihood
    expected = [
        clipped_by_diagonal(diagonal[n].numpy(), subtracted[n].numpy(), -np.ones(4))
        for n in range(N)
    ]
    np.testing.assert_allclose(
        likelihood.mean_hessian(), np.mean(expected, 0), rtol=1e-8, atol=1e-10
    )


def test_the_fisher_matrix_of_a_mixture_is_not_its_gauss_newton_matrix(mixed):
    loss, _, z = mixed
    every = np.array([[i >> k & 1 for k in range(4)] for i in range(16)], np.float64)
    fisher = np.zeros((N, 15, 15))
    expected_hessian = np.zeros((N, 15, 15))
    for x in every:
        targets = tf.constant(np.tile(x, (N, 1)))
        probability = np.exp(-loss.call(targets, z).numpy())
        with tf.GradientTape() as tape:
            tape.watch(z)
            value = loss.call(targets, z)
        g = tape.gradient(value, z).numpy()
        fisher += probability[:, None, None] * np.einsum("ni,nj->nij", g, g)
        diagonal, _, v = loss.output_curvature(targets, z)
        hessian = tf.linalg.diag(diagonal) - v @ tf.linalg.matrix_transpose(v)
        expected_hessian += probability[:, None, None] * hessian.numpy()
    allclose(fisher, expected_hessian)  # but over targets of the model only
    diagonal, _, v = loss.output_curvature(tf.constant(np.tile(every[5], (N, 1))), z)
    clip = np.mean(
        [clipped_by_diagonal(diagonal[n].numpy(), v[n].numpy(), -np.ones(4)) for n in range(N)], 0
    )
    assert wrong(clip, fisher.mean(axis=0), by=0.2)


def test_drawn_pixels_have_the_probabilities_of_the_mixture(mixed):
    loss, _, z = mixed
    draws = loss.draw(tf.repeat(z[:1], 20_000, axis=0), tf.constant([3, 4])).numpy()
    codes = draws @ [1, 2, 4, 8]
    every = tf.constant([[i >> k & 1 for k in range(4)] for i in range(16)], tf.float64)
    expected = np.exp(-loss.call(every, tf.repeat(z[:1], 16, axis=0)).numpy())
    allclose(expected.sum(), 1.0)
    found = np.bincount(codes.astype(int), minlength=16) / len(draws)
    assert np.abs(found - expected).max() < 0.015


def test_factors_and_blocks_take_rows_of_more_than_256_outputs(mixture):
    components, pixels = 2, 150
    loss = mixture.MixtureOfBernoullis(components, dtype="float64")
    generator = np.random.default_rng(4)
    x, y = generator.normal(size=(3, 2)), np.float64(generator.integers(2, size=(3, pixels)))
    outputs = components * (pixels + 1)
    model = keras.Sequential(
        [
            keras.Input((2,), dtype="float64"),
            keras.layers.Dense(outputs, dtype="float64", name="only"),
        ]
    )
    factors = tf_kfgn.kronecker_factors(model, x, loss, "kfra", y=y)["only"]
    likelihood = resolve_loss(loss, y, model(x), None)[0].likelihood
    allclose(factors.G, likelihood.mean_hessian())
    random = tf_kfgn.kronecker_factors(model, x, loss, "kflr", y=y)["only"]
    np.testing.assert_allclose(random.G, factors.G, rtol=1e-8, atol=1e-10)
    assert np.linalg.eigvalsh(factors.G).min() > -1e-12


def test_the_comparison_runs_with_the_fisher_matrix(tmp_path, monkeypatch, capsys):
    pytest.importorskip("sklearn")
    mixture = importlib.import_module("mixture")
    arguments = ["--budget", "smoke", "--methods", "fisher", "--out", str(tmp_path)]
    assert mixture.main(arguments) == 0
    assert "KFAC, sampled Fisher" in capsys.readouterr().out
    (about,) = tmp_path.glob("*/about.json")
    results = json.loads(about.read_text())["results"]
    assert [result["name"] for result in results] == ["fisher"]
    assert all(np.isfinite(result["objectives"]).all() for result in results)
