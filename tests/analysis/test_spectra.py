"""Spectra from products, against dense decompositions."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import scipy.integrate
from brute_force import gauss_newton_of, hessian_of, positive
from problems import PROBLEMS, mlp, random_problem, reference

import tf_kfgn
from tf_kfgn import analysis
from tf_kfgn.analysis.spectra import lanczos

MLP = random_problem("mlp", lambda: mlp([4, 3, 2], "tanh"), batch=6)


def decaying(size=60, seed=0):
    """A symmetric matrix with a few large eigenvalues."""
    generator = np.random.default_rng(seed)
    basis, _ = np.linalg.qr(generator.normal(size=(size, size)))
    values = np.r_[100.0, 50.0, -20.0, generator.normal(size=size - 3)]
    return (basis * values) @ basis.T


@pytest.mark.parametrize("which", ["LA", "LM", "SA"])
def test_top_eigenpairs_of_the_hessian(which):
    exact = hessian_of(MLP)
    operator = analysis.hessian_operator(MLP.model(), MLP.x, MLP.y, MLP.loss)
    found = analysis.top_eigenpairs(operator, 3, which=which)
    values = np.linalg.eigvalsh(exact)
    order = {"LA": -values, "LM": -np.abs(values), "SA": values}[which]
    np.testing.assert_allclose(found.values, values[np.argsort(order)][:3], rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(
        exact @ found.vectors, found.vectors * found.values, rtol=1e-6, atol=1e-9
    )


def test_the_top_of_the_gauss_newton_matrix():
    problem = PROBLEMS["mlp_categorical"]
    operator = analysis.gauss_newton_operator(problem.model(), problem.x, problem.loss)
    found = analysis.top_eigenpairs(operator, 10)
    values = np.linalg.eigvalsh(gauss_newton_of(problem))[::-1]
    np.testing.assert_allclose(found.values, values[:10], rtol=1e-8)


@pytest.mark.parametrize("method", ["hutchinson", "hutch++"])
def test_estimates_of_the_trace_are_unbiased_and_know_their_errors(method):
    A = decaying()
    estimates = [analysis.estimate_trace(A, 12, method=method, seed=s) for s in range(400)]
    values = np.array([e.value for e in estimates])
    errors = np.array([e.standard_error for e in estimates])
    spread = values.std()
    assert abs(values.mean() - np.trace(A)) < 4 * spread / np.sqrt(400)
    assert abs(np.sqrt(np.mean(errors**2)) / spread - 1) < 0.2


def test_hutch_plus_plus_needs_fewer_products_where_few_eigenvalues_are_large():
    A = decaying()
    plain, better = (
        np.std([analysis.estimate_trace(A, 30, method=m, seed=s).value for s in range(50)])
        for m in ("hutchinson", "hutch++")
    )
    assert better < plain / 2


def test_hutch_plus_plus_is_exact_where_the_subspace_holds_all():
    A = positive(4, 0)
    estimate = analysis.estimate_trace(A, 12)
    np.testing.assert_allclose(estimate.value, np.trace(A), rtol=1e-12)
    assert estimate.standard_error < 1e-12
    diagonal = analysis.estimate_diagonal(A, 12)
    np.testing.assert_allclose(diagonal.value, np.diag(A), rtol=1e-10)


@pytest.mark.parametrize("method", ["hutchinson", "hutch++"])
def test_estimates_of_the_diagonal_are_unbiased_and_know_their_errors(method):
    A = decaying(20)
    estimates = [analysis.estimate_diagonal(A, 12, method=method, seed=s) for s in range(400)]
    values = np.stack([e.value for e in estimates])
    errors = np.stack([e.standard_error for e in estimates])
    spread = values.std(axis=0)
    assert np.all(np.abs(values.mean(axis=0) - np.diag(A)) < 5 * spread / np.sqrt(400))
    ratios = np.sqrt(np.mean(errors**2, axis=0)) / spread
    assert np.all(np.abs(ratios - 1) < 0.3)


def test_the_trace_of_the_hessian_is_estimated_from_products():
    exact = np.trace(hessian_of(MLP))
    operator = analysis.hessian_operator(MLP.model(), MLP.x, MLP.y, MLP.loss)
    estimate = analysis.estimate_trace(operator, 60)
    assert abs(estimate.value - exact) < max(4 * estimate.standard_error, 1e-9)


# Density


def test_a_whole_lanczos_run_finds_every_eigenvalue_once():
    A = decaying(40)
    diagonal, beside = lanczos(lambda v: A @ v, np.random.default_rng(1).normal(size=40), 99)
    T = np.diag(diagonal) + np.diag(beside, 1) + np.diag(beside, -1)
    np.testing.assert_allclose(np.linalg.eigvalsh(T), np.linalg.eigvalsh(A), rtol=1e-8, atol=1e-8)


def test_lanczos_stops_where_the_space_is_exhausted():
    A = np.diag([3.0, 3.0, 3.0, 1.0, 1.0])
    diagonal, beside = lanczos(lambda v: A @ v, np.ones(5), 5)
    assert len(diagonal) == 2 and len(beside) == 1


@pytest.mark.parametrize("kind", ["hessian", "gauss_newton"])
def test_moments_of_the_density_are_those_of_the_matrix(kind):
    model = MLP.model()
    if kind == "hessian":
        exact = hessian_of(MLP)
        operator = analysis.hessian_operator(model, MLP.x, MLP.y, MLP.loss)
    else:
        exact = gauss_newton_of(MLP)
        operator = analysis.gauss_newton_operator(model, MLP.x, MLP.loss)
    density = analysis.spectral_density(operator, num_vectors=40, steps=12)
    values = np.linalg.eigvalsh(exact)
    assert density.size == len(values)
    np.testing.assert_allclose(density.weights.sum(), 1, rtol=1e-12)
    np.testing.assert_allclose(density.trace, values.sum(), rtol=0.25)
    np.testing.assert_allclose(density.mean_of(np.square), np.mean(values**2), rtol=0.4)
    np.testing.assert_allclose(density.points.max(), values.max(), rtol=1e-6)
    grid = np.linspace(values.min() - 1, values.max() + 1, 20001)
    np.testing.assert_allclose(
        scipy.integrate.trapezoid(density.smoothed(grid), grid), 1, rtol=1e-6
    )
    assert density.below(values.min() - 1e-6) == 0


def test_the_spectrum_of_kronecker_blocks_comes_from_their_factors():
    problem = PROBLEMS["mlp_categorical"]
    factors = tf_kfgn.kronecker_factors(problem.model(), problem.x, problem.loss, "kflr")
    spectrum = analysis.kronecker_spectrum(factors)
    every = []
    for name, (A, G) in factors.items():
        values = np.linalg.eigvalsh(np.kron(A, G))
        np.testing.assert_allclose(spectrum.blocks[name], values, rtol=1e-8, atol=1e-12)
        every.append(values)
    every = np.concatenate(every)
    np.testing.assert_allclose(spectrum.density.trace, every.sum(), rtol=1e-10)
    assert spectrum.density.size == len(every)


def test_the_spectrum_of_kflr_is_that_of_the_factors_of_curvlinops():
    problem, values = reference("mlp_categorical")
    model = problem.model()
    factors = tf_kfgn.kronecker_factors(model, problem.x, problem.loss, "kflr")
    spectrum = analysis.kronecker_spectrum(factors)
    traces = []
    for i, layer in enumerate(model.layers):
        A, G = values[f"type2_expand_A_{i}"], values[f"type2_expand_G_{i}"]
        exact = np.linalg.eigvalsh(np.kron(A, G))
        np.testing.assert_allclose(spectrum.blocks[layer.name], exact, rtol=1e-6, atol=1e-12)
        traces.append(np.trace(A) * np.trace(G))
    np.testing.assert_allclose(spectrum.density.trace, sum(traces), rtol=1e-8)


def test_the_spectrum_takes_groups_and_diagonals():
    A = np.stack([positive(2, s) for s in range(3)])
    G = np.abs(np.random.default_rng(0).normal(size=(3, 4, 1)))
    found = analysis.kronecker_spectrum({"grouped": tf_kfgn.KroneckerFactors(A, G)})
    exact = [np.linalg.eigvalsh(np.kron(a, np.diag(g[:, 0]))) for a, g in zip(A, G, strict=True)]
    np.testing.assert_allclose(
        found.blocks["grouped"], np.sort(np.concatenate(exact)), rtol=1e-9, atol=1e-14
    )


def test_densities_are_drawn_on_a_logarithmic_axis(tmp_path):
    pytest.importorskip("matplotlib")
    A = decaying()
    figure = analysis.spectral_density(A, steps=30).figure("Hessian")
    [axes] = figure.axes
    assert axes.get_yscale() == "log"
    assert axes.get_xlabel() and axes.get_ylabel()
    [line] = axes.lines
    assert line.get_label() == "Hessian"
    figure.savefig(tmp_path / "density.png")


# What is refused


def test_bad_arguments_are_named(monkeypatch):
    A = positive(5, 0)
    with pytest.raises(ValueError, match="`k` must be below the 5 rows of the operator"):
        analysis.top_eigenpairs(A, 5)
    with pytest.raises(ValueError, match=r"`which` must be one of.*received 'BE'"):
        analysis.top_eigenpairs(A, 2, which="BE")
    with pytest.raises(ValueError, match=r"must be square, received the shape \(5, 4\)"):
        analysis.estimate_trace(A[:, :4])
    with pytest.raises(ValueError, match=r"`method` must be one of.*'hutch"):
        analysis.estimate_trace(A, method="exact")
    with pytest.raises(ValueError, match="`num_vectors` must be a whole number, at least 6"):
        analysis.estimate_diagonal(A, 5)
    with pytest.raises(ValueError, match="`steps` must be"):
        analysis.spectral_density(A, steps=0)
    with pytest.raises(ValueError, match="`factors` is empty"):
        analysis.kronecker_spectrum({})
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r'needs matplotlib.*"tf_kfgn\[analysis\]"'):
        analysis.spectral_density(A).figure()
