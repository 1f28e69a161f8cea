"""Products, traces and spectra of both matrices, against curvlinops on the same weights."""

from __future__ import annotations

import numpy as np
import pytest
from problems import PRODUCTS, reference

import tf_kfgn
from tf_kfgn import analysis
from tf_kfgn.analysis.flat_weights import cut, joined

MATRICES = ["ggn", "hessian"]


@pytest.fixture(scope="module", params=PRODUCTS)
def case(request):
    """A model, its problem, the values of curvlinops and our operators."""
    problem, values = reference(request.param)
    model = problem.model()
    x, y, loss = problem.x, problem.y, problem.loss
    operators = {
        "ggn": analysis.gauss_newton_operator(model, x, loss, y),
        "hessian": analysis.hessian_operator(model, x, y, loss),
    }
    return model, problem, values, operators


@pytest.mark.parametrize("matrix", MATRICES)
def test_products_of_the_operators_are_those_of_curvlinops(case, matrix):
    model, problem, values, operators = case
    np.testing.assert_allclose(problem.loss(problem.y, model(problem.x)), values["loss"], rtol=1e-8)
    product = operators[matrix] @ values["vector"]
    np.testing.assert_allclose(product, values[f"{matrix}_product"], rtol=1e-8, atol=1e-13)
    other = {"ggn": "hessian", "hessian": "ggn"}[matrix]
    assert not np.allclose(product, values[f"{other}_product"], rtol=1e-2)


def test_single_products_are_those_of_curvlinops(case):
    model, problem, values, _ = case
    x, y, loss = problem.x, problem.y, problem.loss
    vectors = cut(values["vector"], model.trainable_variables)
    found = {
        "ggn": tf_kfgn.gauss_newton_vector_product(model, x, loss, vectors, y),
        "hessian": analysis.hessian_vector_product(model, x, y, loss, vectors),
    }
    for matrix, product in found.items():
        flat = joined(product, "float64")
        np.testing.assert_allclose(flat, values[f"{matrix}_product"], rtol=1e-8, atol=1e-13)


def test_the_dense_matrix_has_the_trace_spectrum_and_product_of_curvlinops(case):
    model, problem, values, _ = case
    matrix = analysis.gauss_newton_matrix(model, problem.x, problem.loss, problem.y).numpy()
    np.testing.assert_allclose(np.trace(matrix), values["ggn_trace"], rtol=1e-8)
    spectrum = np.linalg.eigvalsh(matrix)
    np.testing.assert_allclose(spectrum, values["ggn_spectrum"], rtol=1e-8, atol=1e-13)
    product = matrix @ values["vector"]
    np.testing.assert_allclose(product, values["ggn_product"], rtol=1e-8, atol=1e-13)


@pytest.mark.parametrize("matrix", MATRICES)
def test_top_eigenvalues_are_those_of_curvlinops(case, matrix):
    _, _, values, operators = case
    found = analysis.top_eigenpairs(operators[matrix], 5).values
    np.testing.assert_allclose(found, values[f"{matrix}_spectrum"][::-1][:5], rtol=1e-8)


@pytest.mark.parametrize("matrix", MATRICES)
@pytest.mark.parametrize("method", ["hutchinson", "hutch++"])
def test_estimates_of_the_trace_are_near_that_of_curvlinops(case, matrix, method):
    _, _, values, operators = case
    estimate = analysis.estimate_trace(operators[matrix], 30, method=method)
    error = max(4 * estimate.standard_error, 1e-12)
    assert error < np.sum(np.abs(values[f"{matrix}_spectrum"]))  # it says something
    assert abs(estimate.value - values[f"{matrix}_trace"]) < error


def test_other_weights_have_other_products(case):
    _, problem, values, _ = case
    model = problem.model()
    x, y, loss = problem.x, problem.y, problem.loss
    for variable in model.trainable_variables:
        variable.assign(1.5 * variable)
    for matrix, operator in {
        "ggn": analysis.gauss_newton_operator(model, x, loss, y),
        "hessian": analysis.hessian_operator(model, x, y, loss),
    }.items():
        product = operator @ values["vector"]
        assert not np.allclose(product, values[f"{matrix}_product"], rtol=1e-2)
        top = analysis.top_eigenpairs(operator, 1).values
        assert not np.allclose(top, values[f"{matrix}_spectrum"][-1], rtol=1e-4)
