"""Kronecker factors against other libraries, exact blocks and each other."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from brute_force import gauss_newton
from problems import mlp, problem, reference, sequence_model

import tf_kfgn
from tf_kfgn.factors import KFACEstimator, KFLREstimator, KFRAEstimator

DENSE = ["mlp_categorical", "mlp_gaussian", "mlp_bernoulli", "deep_linear_gaussian",
         "mlp_one_example"]  # fmt: skip
SEED = tf.constant([3, 4], tf.int64)


def factors_of(problem, estimator, sample_weight=None):
    model = tf_kfgn.enable_curvature(problem.model())
    with tf_kfgn.CurvatureTape() as tape:
        tape.watch_loss(problem.loss, problem.y, model(problem.x), sample_weight)
    return model, list(estimator(tape, SEED).values())


def assert_close(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("name", DENSE)
def test_kflr_equals_the_references(name):
    given, values = reference(name)
    for i, (A, G) in enumerate(factors_of(given, KFLREstimator())[1]):
        assert_close(A, values[f"type2_expand_A_{i}"])
        assert_close(G, values[f"type2_expand_G_{i}"])
        if f"A_{i}" in values:
            assert_close(A[:-1, :-1], values[f"A_{i}"])
            assert_close(G, values[f"kflr_G_{i}"])


@pytest.mark.parametrize("name", [name for name in DENSE if name != "mlp_bernoulli"])
def test_kfra_equals_the_references(name):
    given, values = reference(name)
    for i, (A, G) in enumerate(factors_of(given, KFRAEstimator())[1]):
        assert_close(A, values[f"type2_expand_A_{i}"])
        assert_close(G, values[f"kfra_G_{i}"])


@pytest.mark.parametrize("name", ["mlp_categorical", "mlp_gaussian", "mlp_bernoulli"])
def test_kfra_is_another_approximation_than_kflr(name):
    given, _ = reference(name)
    recursive = factors_of(given, KFRAEstimator())[1]
    exact = factors_of(given, KFLREstimator())[1]
    assert_close(recursive[-1].G, exact[-1].G)  # the recursion has not begun
    assert np.abs(recursive[0].G / exact[0].G - 1).max() > 1e-2


@pytest.mark.parametrize("approximation", ["expand", "reduce"])
def test_shared_positions_equal_the_reference(approximation):
    given, values = reference("sequence_pooled")
    for i, (A, G) in enumerate(factors_of(given, KFLREstimator(approximation))[1]):
        # curvlinops divides A by the number of positions where we divide G.
        positions = 5 if approximation == "expand" and i < 2 else 1
        assert_close(A, positions * values[f"type2_{approximation}_A_{i}"])
        assert_close(G, values[f"type2_{approximation}_G_{i}"] / positions)


def test_kfac_has_kflr_as_its_mean():
    given, _ = reference("mlp_categorical")
    model = tf_kfgn.enable_curvature(given.model())
    with tf_kfgn.CurvatureTape() as tape:
        tape.watch_loss(given.loss, given.y, model(given.x))

    @tf.function
    def sampled(seed):
        return [G for _, G in KFACEstimator(num_samples=2)(tape, seed).values()]

    draws = [sampled(tf.constant([1, i], tf.int64)) for i in range(400)]
    for index, (_, exact) in enumerate(KFLREstimator()(tape, SEED).values()):
        samples = np.stack([draw[index] for draw in draws])
        error = samples.std(axis=0) / np.sqrt(len(draws))
        deviation = np.abs(samples.mean(axis=0) - exact) / error
        # 3 standard errors for each entry would fail once in 370 entries; there are 50.
        assert np.sqrt(np.mean(deviation**2)) < 3
        assert deviation.max() < 4.5
        wrong = np.abs(2 * samples.mean(axis=0) - exact) / error
        assert np.sqrt(np.mean(wrong**2)) > 3


@pytest.mark.parametrize("estimator", [KFLREstimator(), KFRAEstimator()], ids=["kflr", "kfra"])
@pytest.mark.parametrize("name", ["deep_linear_gaussian", "mlp_one_example"])
def test_blocks_are_exact_for_linear_nets_and_for_one_example(name, estimator):
    given, values = reference(name)
    model, factors = factors_of(given, estimator)
    for i, (A, G) in enumerate(factors):
        dense = gauss_newton(model, given.x, given.y, given.loss, model.layers[i].variables)
        assert_close(np.kron(A, G), dense)
        assert_close(dense, values[f"block_{i}"])


@pytest.mark.parametrize("estimator", [KFLREstimator(), KFRAEstimator()], ids=["kflr", "kfra"])
def test_blocks_are_not_exact_for_other_nets(estimator):
    given, values = reference("mlp_categorical")
    A, G = factors_of(given, estimator)[1][0]
    assert not np.allclose(np.kron(A, G), values["block_0"], rtol=1e-2)


def test_reduce_is_exact_before_a_mean_and_expand_is_not():
    def make():
        return keras.Sequential(
            [
                keras.Input((5, 6), dtype="float64"),
                keras.layers.Dense(3, dtype="float64"),
                keras.layers.GlobalAveragePooling1D(dtype="float64"),
            ]
        )

    given = problem("pooled", make, keras.losses.MeanSquaredError(dtype="float64"))
    model, [(A, G)] = factors_of(given, KFLREstimator("reduce"))
    dense = gauss_newton(model, given.x, given.y, given.loss, model.trainable_variables)
    assert_close(np.kron(A, G), dense)
    _, [(A, G)] = factors_of(given, KFLREstimator("expand"))
    assert not np.allclose(np.kron(A, G), dense, rtol=1e-2)


@pytest.mark.parametrize("estimator", [KFLREstimator(), KFRAEstimator()], ids=["kflr", "kfra"])
def test_expand_is_exact_for_a_loss_on_each_position(estimator):
    def make():
        return keras.Sequential(
            [keras.Input((4, 3), dtype="float64"), keras.layers.Dense(2, dtype="float64")]
        )

    given = problem("positions", make, keras.losses.MeanSquaredError(dtype="float64"))
    model, [(A, G)] = factors_of(given, estimator)
    dense = gauss_newton(model, given.x, given.y, given.loss, model.trainable_variables)
    assert_close(np.kron(A, G), dense)


def test_a_layer_used_twice_adds_up_in_a_linear_net():
    def make():
        shared = keras.layers.Dense(3, use_bias=False, dtype="float64")
        first, second = keras.Input((3,), dtype="float64"), keras.Input((3,), dtype="float64")
        outputs = keras.layers.Add(dtype="float64")([shared(first), shared(second)])
        return keras.Model([first, second], outputs)

    model = make()
    generator = np.random.default_rng(0)
    x = [generator.normal(size=(6, 3)) for _ in range(2)]
    loss = keras.losses.MeanSquaredError(dtype="float64")
    y = np.zeros((6, 3))
    factors = tf_kfgn.kronecker_factors(model, x, loss, "kflr", y=y, approximation="expand")
    [(A, G)] = factors.values()
    dense = gauss_newton(model, x, y, loss, model.trainable_variables)
    # "expand" leaves the pairs of different uses out; what it keeps has the right scale.
    independent = sum(np.kron(v.T @ v / 6, 2 / 3 * np.eye(3)) for v in x)
    assert_close(np.kron(A, G), independent)
    assert not np.allclose(independent, dense, rtol=1e-2)


@pytest.mark.parametrize(
    "estimator", [KFLREstimator(), KFRAEstimator(), KFACEstimator()], ids=["kflr", "kfra", "kfac"]
)
def test_sample_weights_scale_the_output_factors(estimator):
    given, _ = reference("mlp_gaussian")
    plain = factors_of(given, estimator)[1]
    weighted = factors_of(given, estimator, np.full(len(given.x), 3.0))[1]
    for before, after in zip(plain, weighted, strict=True):
        assert_close(after.A, before.A)
        assert_close(after.G, 3 * before.G)


def test_factors_are_the_same_under_xla():
    given, _ = reference("mlp_categorical")
    model = tf_kfgn.enable_curvature(given.model())
    for estimator in (KFLREstimator(), KFRAEstimator(), KFACEstimator()):

        def factors(estimator=estimator):
            with tf_kfgn.CurvatureTape() as tape:
                tape.watch_loss(given.loss, given.y, model(given.x))
            return list(estimator(tape, SEED).values())

        for expected, actual in zip(
            factors(), tf.function(factors, jit_compile=True)(), strict=True
        ):
            np.testing.assert_allclose(actual.G, expected.G, rtol=1e-9, atol=1e-14)


def test_frozen_layers_have_no_factors_and_let_curvature_through():
    given, values = reference("mlp_categorical")
    model = given.model()
    model.layers[1].trainable = False
    factors = tf_kfgn.kronecker_factors(model, given.x, given.loss, "kfra")
    assert list(factors) == [model.layers[0].name, model.layers[2].name]
    assert_close(factors[model.layers[0].name].G, values["kfra_G_0"])


def test_kfra_names_the_layer_without_a_rule():
    given = problem(
        "sequence", sequence_model, keras.losses.CategoricalCrossentropy(from_logits=True)
    )
    with pytest.raises(ValueError, match=r"'global_average_pooling1d\w*' .*KFLR or KFAC"):
        factors_of(given, KFRAEstimator())


def test_kfra_refuses_branches():
    inputs = keras.Input((3,), dtype="float64")
    hidden = keras.layers.Dense(3, dtype="float64", name="trunk")(inputs)
    left = keras.layers.Dense(2, dtype="float64", name="left")(hidden)
    right = keras.layers.Dense(2, dtype="float64", name="right")(hidden)
    model = keras.Model(inputs, [left, right])
    x, y = np.ones((4, 3)), np.zeros((4, 2))
    with pytest.raises(ValueError, match="feeds several layers"):
        tf_kfgn.kronecker_factors(model, x, ["mse", "mse"], "kfra", y=[y, y])
    factors = tf_kfgn.kronecker_factors(model, x, ["mse", "mse"], "kflr", y=[y, y])
    assert set(factors) == {"trunk", "left", "right"}


def test_an_empty_tape_says_what_to_call():
    given, _ = reference("mlp_gaussian")
    with tf_kfgn.CurvatureTape() as tape:
        tape.watch_loss(given.loss, given.y, given.model()(given.x))
    with pytest.raises(ValueError, match="enable_curvature"):
        KFLREstimator()(tape, SEED)


def test_arguments_are_checked():
    with pytest.raises(ValueError, match=r"expand.*received 'both'"):
        KFLREstimator("both")
    with pytest.raises(ValueError, match=r"num_samples.*received 0"):
        KFACEstimator(num_samples=0)
    with pytest.raises(ValueError, match=r"method.*received 'fisher'"):
        tf_kfgn.kronecker_factors(mlp([2, 1], None), np.ones((1, 2)), "mse", "fisher")
