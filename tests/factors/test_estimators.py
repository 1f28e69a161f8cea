"""Sampling, weights of examples, graphs, gaps and arguments of the estimators."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from brute_force import allclose, wrong
from passes import SEED, factors_of, record
from problems import MSE, PROBLEMS, Problem, dense, mlp, reference

import tf_kfgn
from tf_kfgn.factors import KFACEstimator, KFLREstimator, KFRAEstimator

ALL = {"kflr": KFLREstimator, "kfra": KFRAEstimator, "kfac": KFACEstimator}


@pytest.fixture(params=ALL.values(), ids=ALL.keys())
def estimator(request):
    return request.param


# Sampling


@pytest.mark.parametrize(
    ("name", "approximation"),
    [
        ("mlp_categorical", "expand"),
        ("mlp_bernoulli", "expand"),
        ("weights of examples", "expand"),
        ("sequence_pooled", "expand"),
        ("sequence_pooled", "reduce"),
        ("loss on each position", "expand"),
        ("loss on each position", "reduce"),
    ],
)
def test_kfac_has_kflr_as_its_mean(name, approximation):
    _, tape, _ = record(PROBLEMS[name])

    @tf.function
    def sampled(seed):
        return [G for _, G in KFACEstimator(approximation, num_samples=2)(tape, seed).values()]

    draws = [sampled(tf.constant([1, i], tf.int64)) for i in range(500)]
    for index, (_, exact) in enumerate(KFLREstimator(approximation)(tape, SEED).values()):
        samples = np.stack([draw[index] for draw in draws])
        error = np.sqrt(np.mean(samples.var(axis=0)) / len(draws))

        def distance(factor, samples=samples, exact=exact, error=error):
            return np.sqrt(np.mean((factor * samples.mean(axis=0) - exact) ** 2)) / error

        assert distance(1) < 3
        assert distance(2) > 3
        assert distance(0.5) > 3


def test_more_samples_are_the_mean_of_single_samples_and_less_noisy():
    _, tape, _ = record(PROBLEMS["mlp_categorical"])
    exact = next(iter(KFLREstimator()(tape, SEED).values())).G

    def spread(num_samples):
        seeds = [tf.constant([5, i], tf.int64) for i in range(20)]
        draws = [next(iter(KFACEstimator("expand", num_samples)(tape, s).values())) for s in seeds]
        return np.mean([np.sum((G - exact) ** 2) for _, G in draws])

    ratio = spread(1) / spread(8)
    assert 4 < ratio < 16


def test_samples_follow_the_seed():
    _, tape, _ = record(PROBLEMS["mlp_gaussian"])
    other = tf.constant([3, 5], tf.int64)
    first, again, different = (
        next(iter(KFACEstimator()(tape, seed).values())).G for seed in (SEED, SEED, other)
    )
    np.testing.assert_array_equal(first, again)
    assert wrong(first, different)


# What scales and reaches the factors


def test_sample_weights_scale_the_output_factors(estimator):
    given, _ = reference("mlp_gaussian")
    weighted = Problem("", given.model, given.x, given.y, given.loss, np.full(len(given.x), 3.0))
    pairs = zip(factors_of(given, estimator()), factors_of(weighted, estimator()), strict=True)
    for before, after in pairs:
        allclose(after.A, before.A)
        allclose(after.G, 3 * before.G)


def test_kflr_weighs_each_example():
    given = PROBLEMS["weights of examples"]
    apart = []
    for n, weight in enumerate(given.sample_weight):
        one = slice(n, n + 1)
        alone = Problem("", given.model, given.x[one], given.y[one], MSE)
        apart.append([weight * G for _, G in factors_of(alone, KFLREstimator())])
    unweighted = Problem("", given.model, given.x, given.y, MSE)
    for index, (_, G) in enumerate(factors_of(given, KFLREstimator())):
        allclose(G, np.mean([factors[index] for factors in apart], axis=0))
        assert wrong(factors_of(unweighted, KFLREstimator())[index].G, G)


@pytest.mark.parametrize("mode", ["graph", "xla"])
def test_factors_are_the_same_in_a_graph(estimator, mode):
    given = PROBLEMS["mlp_categorical"]
    model = tf_kfgn.enable_curvature(given.model())

    def factors():
        with tf_kfgn.CurvatureTape() as tape:
            tape.watch_loss(given.loss, given.y, model(given.x))
        return list(estimator()(tape, SEED).values())

    graph = tf.function(factors, jit_compile=mode == "xla")
    for expected, actual in zip(factors(), graph(), strict=True):
        allclose(actual.A, expected.A)
        allclose(actual.G, expected.G)


@pytest.mark.parametrize("dtype", ["mixed_float16", "mixed_bfloat16"])
def test_factors_of_mixed_precision_are_float32(estimator, dtype):
    def make(dtype):
        hidden = [keras.layers.Dense(4, "tanh", dtype=dtype), keras.layers.Dense(2, dtype=dtype)]
        return keras.Sequential([keras.Input((3,)), *hidden])

    x = np.random.default_rng(0).normal(size=(64, 3)).astype("float32")
    narrow, wide = make(dtype), make("float32")
    wide.set_weights(narrow.get_weights())
    pairs = zip(
        *(
            factors_of(Problem("", lambda m=m: m, x, x[:, :2], keras.losses.MeanSquaredError()), e)
            for m, e in ((narrow, estimator()), (wide, estimator()))
        ),
        strict=True,
    )
    for actual, expected in pairs:
        assert actual.A.dtype == actual.G.dtype == tf.float32
        for one, other in zip(actual, expected, strict=True):
            np.testing.assert_allclose(one, other, atol=0.05 * np.abs(other).max())


def test_frozen_layers_have_no_factors_and_let_curvature_through(estimator):
    given = PROBLEMS["mlp_categorical"]
    model = given.model()
    model.layers[1].trainable = False
    frozen = Problem("frozen", lambda: model, given.x, given.y, given.loss)
    for kept, index in zip(factors_of(frozen, estimator()), (0, 2), strict=True):
        allclose(kept.G, factors_of(given, estimator())[index].G)


def heads(make_second):
    inputs = keras.Input((4,), dtype="float64")
    hidden = dense(3, name="trunk")(inputs)
    return keras.Model(inputs, [dense(2, name="first")(hidden), make_second(hidden)])


def watched(model, *losses, x=None):
    """A tape with a squared error at each output that is asked for."""
    x = np.random.default_rng(0).normal(size=(5, 4)) if x is None else x
    tf_kfgn.enable_curvature(model)
    with tf_kfgn.CurvatureTape() as tape:
        outputs = model(x)
        for index in losses:
            tape.watch_loss(MSE, None, outputs[index])
    return tape


def test_losses_of_several_outputs_add_up():
    model = heads(dense(2, name="second"))
    both, first, second = (
        next(iter(KFLREstimator()(watched(model, *losses), SEED).values())).G
        for losses in ((0, 1), (0,), (1,))
    )
    allclose(both, first + second)
    assert wrong(both, first)


def test_two_losses_at_one_output_add_up(estimator):
    model = heads(dense(2))
    once, twice = watched(model, 0), watched(model, 0, 0)
    for (_, before), (_, after) in zip(
        estimator()(once, SEED).values(), estimator()(twice, SEED).values(), strict=True
    ):
        if estimator is not KFACEstimator:  # whose second loss has draws of its own
            allclose(after, 2 * before)
        assert np.all(np.linalg.eigvalsh(after) > -1e-12)


def test_layers_without_influence_on_the_loss_have_no_curvature(estimator):
    tape = watched(heads(dense(2, name="unused")), 0)
    factors = {layer.name: G for layer, (_, G) in estimator()(tape, SEED).items()}
    assert set(factors) == {"trunk", "first", "unused"}
    np.testing.assert_array_equal(factors["unused"], np.zeros((2, 2)))
    assert np.any(factors["trunk"].numpy() != 0)


# Gaps


class Gap(keras.Model):
    """A layer, something that nobody records, and a layer, beside a path without the gap."""

    def __init__(self):
        super().__init__()
        self.trunk, self.head = dense(3, name="trunk"), dense(2, name="head")

    def call(self, x):
        hidden = self.trunk(x)
        return [self.head(hidden), tf.sin(hidden)]


def test_kfra_refuses_a_path_that_was_not_recorded():
    model = Gap()
    model(np.ones((1, 4)))
    for losses in ((1,), (0, 1)):
        with pytest.raises(ValueError, match=r"\['trunk'\].*not recorded.*KFLR or KFAC"):
            KFRAEstimator()(watched(model, *losses), SEED)
    assert len(KFRAEstimator()(watched(model, 0), SEED)) == 2
    for other in (KFLREstimator, KFACEstimator):
        assert len(other()(watched(model, 0, 1), SEED)) == 2


def test_kfra_adds_up_branches():
    tape = watched(heads(dense(2, name="second")), 0, 1)
    kfra, kflr = (e(tape, SEED).values() for e in (KFRAEstimator(), KFLREstimator()))
    for one, other in zip(kfra, kflr, strict=True):
        allclose(one.G, other.G)  # the trunk is linear


def test_kfra_follows_separate_paths():
    inputs = [keras.Input((4,), dtype="float64") for _ in range(2)]
    model = keras.Model(inputs, [dense(2)(dense(3, "tanh")(one)) for one in inputs])
    x = np.random.default_rng(0).normal(size=(2, 5, 4))
    tape = watched(model, 0, 1, x=list(x))
    kfra, kflr = (list(e(tape, SEED).values()) for e in (KFRAEstimator(), KFLREstimator()))
    assert len(kfra) == 4
    for one, other in zip(kfra, kflr, strict=True):
        assert not wrong(one.G, other.G, by=0.5)  # close, and equal where nothing was averaged
        if len(one.G) == 2:
            allclose(one.G, other.G)


# Errors


def test_a_tape_without_recorded_layers_says_what_to_call(estimator):
    given = PROBLEMS["mlp_gaussian"]
    with tf_kfgn.CurvatureTape() as tape:
        tape.watch_loss(given.loss, given.y, given.model()(given.x))
    with pytest.raises(ValueError, match="enable_curvature"):
        estimator()(tape, SEED)


def test_a_tape_without_a_loss_says_what_to_call(estimator):
    given = PROBLEMS["mlp_gaussian"]
    model = tf_kfgn.enable_curvature(given.model())
    with tf_kfgn.CurvatureTape() as tape:
        model(given.x)
    with pytest.raises(ValueError, match="watch_loss"):
        estimator()(tape, SEED)


def test_arguments_are_checked(estimator):
    for name in ("both", "Expand", None):
        with pytest.raises(ValueError, match=rf"approximation.*expand.*received {name!r}"):
            estimator(name)
    for num_samples in (0, -1, 1.5, "2", None, True):
        with pytest.raises(ValueError, match=rf"num_samples.*received {num_samples!r}"):
            KFACEstimator(num_samples=num_samples)
    with pytest.raises(ValueError, match=r"method.*received 'fisher'"):
        tf_kfgn.kronecker_factors(mlp([2, 1], None), np.ones((1, 2)), "mse", "fisher")
