"""Where A ⊗ G is the exact Gauss-Newton block, and where it is not."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from brute_force import allclose, gauss_newton_of, wrong
from passes import factors_of
from problems import LOSSES, MSE, PROBLEMS, Problem, dense, mlp, random_problem, sequential

import tf_kfgn
from tf_kfgn.factors import KFLREstimator, KFRAEstimator

ESTIMATORS = {"kflr": KFLREstimator, "kfra": KFRAEstimator}
CATEGORICAL = LOSSES["SparseCategoricalCrossentropy(from_logits=True)"]


@pytest.fixture(params=ESTIMATORS.values(), ids=ESTIMATORS.keys())
def estimator(request):
    return request.param


def exact(problem, estimator):
    """Whether each layer's block is exact: True, False or neither."""
    found = set()
    for index, (A, G) in enumerate(factors_of(problem, estimator)):
        block = gauss_newton_of(problem, index)
        if wrong(np.kron(A, G), block):
            found.add(False)
        else:
            allclose(np.kron(A, G), block)
            found.add(True)
    return found.pop() if len(found) == 1 else None


def linear(batch, **kwargs):
    return random_problem("linear", lambda: mlp([4, 3, 3, 2], None), MSE, batch, **kwargs)


def tanh(loss, batch):
    return random_problem("tanh", lambda: mlp([4, 3, 3, 3], "tanh"), loss, batch)


@pytest.mark.parametrize("batch", [1, 2, 9])
def test_deep_linear_nets_with_squared_error_are_exact(batch, estimator):
    assert exact(linear(batch), estimator())


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())
def test_one_example_is_exact_and_two_are_not(loss, estimator):
    assert exact(tanh(loss, 1), estimator())
    factors = factors_of(tanh(loss, 2), estimator())
    first = gauss_newton_of(tanh(loss, 2), 0)
    assert wrong(np.kron(*factors[0]), first)


def test_linear_nets_are_not_exact_where_the_hessian_differs_among_examples(estimator):
    given = random_problem("linear", lambda: mlp([4, 3, 3], None), CATEGORICAL)
    assert exact(given, estimator()) is False
    assert exact(linear(5, sample_weight=np.arange(1.0, 6)), estimator()) is False
    assert exact(linear(5, sample_weight=np.full(5, 3.0)), estimator())


def test_without_a_bias_blocks_have_no_row_for_it(estimator):
    given = random_problem("linear", lambda: mlp([4, 3, 2], None, use_bias=False))
    assert [A.shape for A, _ in factors_of(given, estimator())] == [(4, 4), (3, 3)]
    assert exact(given, estimator())


@pytest.mark.parametrize("name", ["sequence_pooled", "many layers", "mlp_bernoulli"])
def test_what_is_neither_linear_nor_one_example_is_not_exact(name):
    A, G = factors_of(PROBLEMS[name], KFLREstimator())[0]
    assert wrong(np.kron(A, G), gauss_newton_of(PROBLEMS[name], 0))


# Shared positions


def pooled():
    mean = keras.layers.GlobalAveragePooling1D(dtype="float64")
    return sequential((5, 6), dense(3), mean)


def test_reduce_is_exact_before_a_mean_and_expand_is_not():
    given = random_problem("pooled", pooled)
    assert exact(given, KFLREstimator("reduce"))
    assert exact(given, KFLREstimator("expand")) is False


def test_expand_is_exact_for_a_loss_on_each_position_and_reduce_is_not(estimator):
    given = random_problem("positions", lambda: sequential((4, 3), dense(2)))
    assert exact(given, estimator("expand"))
    assert exact(given, estimator("reduce")) is False


def test_without_shared_positions_both_approximations_are_the_same(estimator):
    given = PROBLEMS["mlp_categorical"]
    pairs = zip(
        factors_of(given, estimator("expand")), factors_of(given, estimator("reduce")), strict=True
    )
    for one, other in pairs:
        allclose(one.A, other.A)
        allclose(one.G, other.G)


def test_kfra_of_linear_positions_is_kflr():
    def make():
        return sequential((4, 3), dense(5), dense(2), keras.layers.Flatten(dtype="float64"))

    for approximation in ("expand", "reduce"):
        given = random_problem("positions", make)
        exact, recursive = (
            factors_of(given, cls(approximation)) for cls in (KFLREstimator, KFRAEstimator)
        )
        for one, other in zip(exact, recursive, strict=True):
            allclose(one.G, other.G)
    assert wrong(recursive[0].G, factors_of(given, KFRAEstimator("expand"))[0].G)


# Layers used several times


def chain(activation=None):
    shared = dense(3, activation, use_bias=False)
    inputs = keras.Input((3,), dtype="float64")
    return keras.Model(inputs, shared(shared(inputs)))


def test_kfra_of_a_linear_chain_of_one_layer_is_kflr():
    given = random_problem("chain", chain)
    [kflr], [kfra] = (factors_of(given, cls()) for cls in (KFLREstimator, KFRAEstimator))
    allclose(kfra.A, kflr.A)
    allclose(kfra.G, kflr.G)
    nonlinear = random_problem("chain", lambda: chain("tanh"))
    [kflr], [kfra] = (factors_of(nonlinear, cls()) for cls in (KFLREstimator, KFRAEstimator))
    assert wrong(kfra.G, kflr.G, by=1e-3)


def test_kfra_reduces_over_several_uses():
    given = random_problem("chain", chain)
    [kflr], [kfra] = (factors_of(given, cls("reduce")) for cls in (KFLREstimator, KFRAEstimator))
    allclose(kfra.A, kflr.A)
    allclose(kfra.G, kflr.G)
    [expanded] = factors_of(given, KFRAEstimator("expand"))
    assert wrong(kfra.G, expanded.G)


def siamese():
    shared = dense(3, use_bias=False)
    first, second = keras.Input((3,), dtype="float64"), keras.Input((3,), dtype="float64")
    outputs = keras.layers.Add(dtype="float64")([shared(first), shared(second)])
    return keras.Model([first, second], outputs)


def test_a_layer_used_side_by_side_adds_up():
    generator, model = np.random.default_rng(0), siamese()
    x = [generator.normal(size=(6, 3)) for _ in range(2)]
    given = Problem("siamese", lambda: model, x, np.zeros((6, 3)), MSE)
    assert exact(given, KFLREstimator("reduce"))  # Add is linear, and the sum is what it does
    [(A, G)] = factors_of(given, KFLREstimator("expand"))
    apart = sum(np.kron(v.T @ v / 6, 2 / 3 * np.eye(3)) for v in x)
    allclose(np.kron(A, G), apart)  # the right scale, but no pairs of different uses
    assert wrong(apart, gauss_newton_of(given, 0))


def test_a_time_distributed_layer_is_a_layer_on_each_position():
    inner = dense(2)
    wrapped = random_problem(
        "distributed",
        lambda: sequential((4, 3), keras.layers.TimeDistributed(inner, dtype="float64")),
    )
    plain = random_problem("positions", lambda: sequential((4, 3), dense(2)))
    [(A, G)], [(plain_A, plain_G)] = (factors_of(p, KFLREstimator()) for p in (wrapped, plain))
    allclose(A, plain_A)
    allclose(G, plain_G)


def test_enabling_is_undone_by_the_public_function():
    given = PROBLEMS["deep_linear_gaussian"]
    model = given.model()
    factors = tf_kfgn.kronecker_factors(model, given.x, given.loss, "kfra")
    for layer, expected in zip(model.layers, factors_of(given, KFRAEstimator()), strict=True):
        allclose(factors[layer.name].G, expected.G)
