"""Kronecker factors against the values that other libraries computed."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from brute_force import allclose, gauss_newton_of, kfra_output_factors, wrong
from passes import factors_of
from problems import MANIFEST, PROBLEMS, reference

from tf_kfgn.factors import KFLREstimator, KFRAEstimator

DENSE = [name for name in MANIFEST if name != "sequence_pooled"]
NONLINEAR = ["mlp_categorical", "mlp_gaussian", "mlp_bernoulli"]  # and more than one example
TOLERANCE = {"rtol": 1e-6, "atol": 1e-12}


@pytest.mark.parametrize("name", MANIFEST)
def test_the_problem_is_that_of_the_other_library(name):
    given, values = reference(name)
    outputs = given.model()(given.x)
    np.testing.assert_allclose(given.loss(given.y, outputs), values["loss"], **TOLERANCE)
    for index in range(3):
        np.testing.assert_allclose(
            gauss_newton_of(given, index), values[f"block_{index}"], **TOLERANCE
        )


@pytest.mark.parametrize("estimator", [KFLREstimator(), KFRAEstimator()], ids=["kflr", "kfra"])
@pytest.mark.parametrize("name", DENSE)
def test_input_factors_equal_the_references(name, estimator):
    given, values = reference(name)
    for index, (A, _) in enumerate(factors_of(given, estimator)):
        np.testing.assert_allclose(A, values[f"type2_expand_A_{index}"], **TOLERANCE)
        if f"A_{index}" in values:
            np.testing.assert_allclose(A[:-1, :-1], values[f"A_{index}"], **TOLERANCE)


@pytest.mark.parametrize("name", DENSE)
def test_kflr_equals_the_references(name):
    given, values = reference(name)
    for index, (_, G) in enumerate(factors_of(given, KFLREstimator())):
        np.testing.assert_allclose(G, values[f"type2_expand_G_{index}"], **TOLERANCE)
        if f"kflr_G_{index}" in values:
            np.testing.assert_allclose(G, values[f"kflr_G_{index}"], **TOLERANCE)


@pytest.mark.parametrize("name", [name for name in DENSE if name != "mlp_bernoulli"])
def test_kfra_equals_the_references(name):
    given, values = reference(name)
    for index, (_, G) in enumerate(factors_of(given, KFRAEstimator())):
        np.testing.assert_allclose(G, values[f"kfra_G_{index}"], **TOLERANCE)


@pytest.mark.parametrize("name", [*DENSE, "weights of examples"])  # no library has the Bernoulli G
def test_kfra_is_the_recursion_of_the_paper(name):
    factors = factors_of(PROBLEMS[name], KFRAEstimator())
    for (_, G), expected in zip(factors, kfra_output_factors(PROBLEMS[name]), strict=True):
        allclose(G, expected)


@pytest.mark.parametrize("name", NONLINEAR)
def test_kfra_is_another_approximation_than_kflr(name):
    given, _ = reference(name)
    recursive, exact = factors_of(given, KFRAEstimator()), factors_of(given, KFLREstimator())
    allclose(recursive[-1].G, exact[-1].G)  # the recursion has not begun
    assert wrong(recursive[0].G, exact[0].G, by=1e-4)  # a hundred times the tolerance


@pytest.mark.parametrize("approximation", ["expand", "reduce"])
def test_shared_positions_equal_the_reference(approximation):
    given, values = reference("sequence_pooled")
    for index, (A, G) in enumerate(factors_of(given, KFLREstimator(approximation))):
        # curvlinops divides A by the number of positions where we divide G.
        positions = 5 if approximation == "expand" and index < 2 else 1
        of_A, of_G = (values[f"type2_{approximation}_{factor}_{index}"] for factor in "AG")
        np.testing.assert_allclose(A, positions * of_A, **TOLERANCE)
        np.testing.assert_allclose(G, of_G / positions, **TOLERANCE)
    other = "reduce" if approximation == "expand" else "expand"
    assert wrong(factors_of(given, KFLREstimator(other))[0].A, 5 * values["type2_expand_A_0"]) == (
        approximation == "expand"
    )


@pytest.mark.parametrize("estimator", [KFLREstimator(), KFRAEstimator()], ids=["kflr", "kfra"])
@pytest.mark.parametrize(
    "name", [name for name, given in PROBLEMS.items() if given.logits is not None]
)
def test_probabilities_have_the_factors_of_their_logits(name, estimator):
    given = PROBLEMS[name]
    pairs = zip(factors_of(given, estimator), factors_of(given.logits, estimator), strict=True)
    for actual, expected in pairs:
        allclose(actual.A, expected.A)
        allclose(actual.G, expected.G)
    # Not the factors of squared errors of the probabilities.
    squared = keras.losses.MeanSquaredError(dtype="float64")
    targets = given.model()(given.x)
    as_numbers = type(given)("", given.model, given.x, targets, squared)
    assert wrong(factors_of(as_numbers, estimator)[0].G, factors_of(given, estimator)[0].G)
