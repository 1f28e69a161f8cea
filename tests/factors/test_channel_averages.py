"""KFRA with averages over channels alone: where it is exact, where it is not, what it trains."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from brute_force import wrong
from passes import SEED, factors_of, record
from problems import LOSSES, MSE, Problem, dense, random_problem, seeded, sequential

import tf_kfgn
from tf_kfgn.factors import KFACEstimator, KFLREstimator, KFRAEstimator
from tf_kfgn.factors.estimator import uses_of_matrices
from tf_kfgn.factors.joint_operations import joined
from tf_kfgn.factors.kfra import MAX_FULL_WIDTH

UNCORRELATED = KFRAEstimator(spatial="uncorrelated")
RESCALED = KFRAEstimator(spatial="uncorrelated", rescale=True)


def double(cls, *args, **kwargs):
    return cls(*args, dtype="float64", **kwargs)


def convolution(filters, size, **kwargs):
    return double(keras.layers.Conv2D, filters, size, padding="same", **kwargs)


def images(name, make, shape=(4, 4, 2), **kwargs):
    return random_problem(name, lambda: sequential(shape, *make()), **kwargs)


def mean():
    return double(keras.layers.GlobalAveragePooling2D)


PIXELS = images(
    "a loss on each pixel", lambda: [convolution(3, 1), convolution(2, 1), convolution(2, 1)]
)
EXACT = [
    PIXELS,
    images("one window", lambda: [convolution(3, 1), convolution(2, 3), convolution(2, 1)]),
    images("a global average", lambda: [convolution(3, 1), convolution(2, 1), mean(), dense(3)]),
    images(
        "classes",
        lambda: [convolution(3, 1), mean(), dense(3)],
        loss=LOSSES["SparseCategoricalCrossentropy(from_logits=True)"],
    ),
    random_problem("a sequence", lambda: sequential((5, 2), dense(3), dense(4), dense(2))),
    images(
        "a dense layer on a flat image",
        lambda: [convolution(3, 1), double(keras.layers.Flatten), dense(3)],
    ),
]
# A second window adds up cotangents that the first, or a mean, has made correlated.
INEXACT = [
    images("two windows", lambda: [convolution(2, 1), convolution(2, 3), convolution(2, 3)]),
    images("window, mean", lambda: [convolution(2, 1), convolution(2, 3), mean(), dense(3)]),
]


@pytest.mark.parametrize("given", EXACT, ids=str)
def test_linear_layers_that_mix_positions_once_are_exact(given):
    pairs = zip(factors_of(given, UNCORRELATED), factors_of(given, KFLREstimator()), strict=True)
    for found, exact in pairs:
        np.testing.assert_allclose(found.G, exact.G, rtol=1e-8, atol=1e-14)


@pytest.mark.parametrize("given", INEXACT, ids=str)
def test_layers_that_mix_positions_twice_are_not(given):
    found, exact = (factors_of(given, each) for each in (UNCORRELATED, KFLREstimator()))
    full = factors_of(given, KFRAEstimator(spatial="full"))
    assert wrong(found[0].G, exact[0].G, by=0.05)
    np.testing.assert_allclose(full[0].G, exact[0].G, rtol=1e-8, atol=1e-14)
    np.testing.assert_allclose(found[-1].G, exact[-1].G, rtol=1e-8, atol=1e-14)


def test_one_position_is_the_full_recursion():
    def make():
        pool = double(keras.layers.MaxPooling2D, 1)
        cells = [convolution(3, 3, activation="tanh"), convolution(4, 3), pool, mean()]
        return [*cells, dense(3, "tanh"), dense(2)]

    given = images("one position", make, shape=(1, 1, 2))
    full = factors_of(given, KFRAEstimator(spatial="full"))
    for found, exact in zip(factors_of(given, UNCORRELATED), full, strict=True):
        np.testing.assert_allclose(found.G, exact.G, rtol=1e-8, atol=1e-14)
    many = images("four positions", make, shape=(2, 2, 2))
    assert wrong(
        factors_of(many, UNCORRELATED)[0].G, factors_of(many, KFRAEstimator(spatial="full"))[0].G
    )


@pytest.mark.parametrize("approximation", ["expand", "reduce"])
def test_a_sum_over_positions_takes_them_as_uncorrelated(approximation):
    """Where they are, as with a loss on each pixel, both ways to share weights are exact."""
    found = factors_of(PIXELS, KFRAEstimator(approximation, spatial="uncorrelated"))
    exact = factors_of(PIXELS, KFLREstimator(approximation))
    for pair, other in zip(found, exact, strict=True):
        np.testing.assert_allclose(pair.G, other.G, rtol=1e-8, atol=1e-14)


@pytest.mark.parametrize("approximation", ["expand", "reduce"])
def test_a_layer_that_is_used_twice_has_the_average_between_its_uses(approximation):
    def make():
        shared = convolution(2, 1)
        inputs = keras.Input((3, 3, 2), dtype="float64")
        return keras.Model(inputs, convolution(2, 1)(shared(shared(inputs))))

    given = random_problem("used twice", make)
    found, exact = (
        factors_of(given, each)
        for each in (
            KFRAEstimator(approximation, spatial="uncorrelated"),
            KFLREstimator(approximation),
        )
    )
    for pair, other in zip(found, exact, strict=True):
        np.testing.assert_allclose(pair.G, other.G, rtol=1e-8, atol=1e-14)


def test_a_residual_branch_keeps_its_cross_terms():
    def make(branch):
        inputs = keras.Input((4, 4, 2), dtype="float64")
        x = convolution(3, 1)(inputs)
        return keras.Model(inputs, convolution(2, 1)(double(keras.layers.Add)([x, branch(x)])))

    given = random_problem("residual", lambda: make(convolution(3, 1)))
    pairs = zip(factors_of(given, UNCORRELATED), factors_of(given, KFLREstimator()), strict=True)
    for found, exact in pairs:
        np.testing.assert_allclose(found.G, exact.G, rtol=1e-8, atol=1e-14)


def test_an_activation_and_a_maximum_go_back_as_one():
    """Apart they drop most of the curvature, since a maximum is nearly always positive."""

    def make():
        return [convolution(4, 1, activation="relu"), double(keras.layers.MaxPooling2D), *end()]

    def end():
        return [double(keras.layers.Flatten), dense(3)]

    given = images("pooled", make, batch=50)
    _, tape, _ = record(given)
    ends = [likelihood.recorded for likelihood in tape.likelihoods]
    assert len(joined(tape.operations, ends)) == len(tape.operations) - 1
    exact = np.trace(factors_of(given, KFLREstimator())[0].G)
    together = np.trace(factors_of(given, UNCORRELATED)[0].G)
    [first, *_] = UNCORRELATED(tape, SEED).values()
    np.testing.assert_allclose(np.trace(first.G), together)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tf_kfgn.factors.channel_averages.joined", lambda ops, ends: list(ops))
        apart = np.trace(factors_of(given, UNCORRELATED)[0].G)
    assert apart < 0.7 * together
    assert 0.8 * exact < together < 1.2 * exact


def test_a_tensor_that_others_read_keeps_its_activation_apart():
    inputs = keras.Input((4, 4, 2))
    x = keras.layers.ReLU()(keras.layers.Conv2D(2, 1)(inputs))
    tops = [keras.layers.GlobalMaxPooling2D()(x), keras.layers.GlobalAveragePooling2D()(x)]
    model = tf_kfgn.enable_curvature(keras.Model(inputs, tops))
    with tf_kfgn.CurvatureTape() as tape:
        model(np.ones((2, 4, 4, 2)))
    assert joined(tape.operations, []) == tape.operations


def test_small_models_are_carried_in_full_and_large_ones_are_not():
    side = int(MAX_FULL_WIDTH**0.5)
    for size, full in ((side, True), (side + 1, False)):
        model = sequential((size, size, 1), convolution(1, 1), mean(), dense(2))
        given = random_problem("size", lambda model=model: model, batch=2)
        tape = record(given)[1]
        uses = uses_of_matrices(tape)
        estimators = {
            name: KFRAEstimator(spatial=name) for name in ("auto", "full", "uncorrelated")
        }
        demands = {name: each.demand(tape, uses, 2, 2) for name, each in estimators.items()}
        assert demands["auto"] == demands["full" if full else "uncorrelated"]
        assert demands["uncorrelated"].memory < demands["full"].memory / 1000
        sampled = KFACEstimator(max_factor_size=1).demand(tape, uses, 2, 2)
        operations = demands["uncorrelated"].operations + sampled.operations
        assert RESCALED.demand(tape, uses, 2, 2) == (operations, sampled.memory)


def test_a_model_without_positions_has_the_same_factors():
    given = random_problem("dense", lambda: sequential((4,), dense(5, "tanh"), dense(3)))
    pairs = zip(factors_of(given, UNCORRELATED), factors_of(given, KFRAEstimator()), strict=True)
    for found, other in pairs:
        np.testing.assert_allclose(found.G, other.G, rtol=1e-12)


# Rescaled by samples


def attention(length=6, tokens=9):
    inputs = keras.Input((length,), dtype="int32")
    x = keras.layers.Embedding(tokens, 8)(inputs)
    x = keras.layers.LayerNormalization()(x + keras.layers.MultiHeadAttention(2, 4)(x, x))
    x = keras.layers.LayerNormalization()(
        x + keras.layers.Dense(8)(keras.layers.Dense(16, "gelu")(x))
    )
    return keras.Model(inputs, keras.layers.Dense(3)(keras.layers.GlobalAveragePooling1D()(x)))


def in_double():
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float64")
    try:
        return attention()
    finally:
        keras.config.set_dtype_policy(policy)


WORDS = np.random.default_rng(0).integers(9, size=(40, 6))
DEEP = random_problem(
    "deep", lambda: sequential((4,), *[dense(5, "relu") for _ in range(5)], dense(2))
)
TOKENS = Problem("attention", seeded(in_double), WORDS, np.ones((40, 3)), MSE)


@pytest.mark.parametrize("given", [*INEXACT, TOKENS, DEEP], ids=str)
def test_rescaled_factors_are_the_recursion_s_with_the_size_that_samples_have(given):
    found, plain, sampled = (
        factors_of(given, each) for each in (RESCALED, UNCORRELATED, KFACEstimator())
    )
    sizes = [
        float(np.trace(new.G) / np.trace(old.G)) for new, old in zip(found, plain, strict=True)
    ]
    assert max(abs(size - 1) for size in sizes) > 0.1  # what the recursion alone does not know
    for new, old, size, sample in zip(found, plain, sizes, sampled, strict=True):
        np.testing.assert_allclose(new.G, size * old.G, rtol=1e-9, atol=1e-14)
        np.testing.assert_allclose(np.trace(new.G), np.trace(sample.G), rtol=1e-9)
        np.testing.assert_allclose(new.A, sample.A, rtol=1e-9, atol=1e-14)


def test_before_a_global_average_positions_are_alike():
    """There `"correlated"` is `"reduce"`, but for the scale of A and G; `"expand"` is not."""
    given = images("mean", lambda: [convolution(3, 3, activation="tanh"), mean(), dense(2)])
    alike = np.asarray(factors_of(given, KFLREstimator("reduce"))[0].A)
    apart = np.asarray(factors_of(given, KFLREstimator("expand"))[0].A)
    for estimator, expected, other in ((RESCALED, alike, apart), (UNCORRELATED, apart, alike)):
        A = np.asarray(factors_of(given, estimator)[0].A)
        ratio = np.trace(A) / np.trace(expected)
        if estimator is RESCALED:
            assert np.linalg.norm(A - ratio * expected) < 0.2 * np.linalg.norm(A)
        np.testing.assert_array_less(0.1, np.linalg.norm(A / np.trace(A) - other / np.trace(other)))


@pytest.mark.parametrize("value", ["none", 1, None])
def test_what_is_carried_is_checked(value):
    with pytest.raises(ValueError, match=rf"spatial.*uncorrelated.*received {value!r}"):
        tf_kfgn.KFRA(spatial=value)
    with pytest.raises(ValueError, match="spatial"):
        tf_kfgn.kronecker_factors(
            sequential((2,), dense(1)), np.ones((1, 2)), "mse", "kflr", spatial=value
        )


# What it trains


def residual():
    def normalised(x, filters, size, strides=1):
        layer = keras.layers.Conv2D(filters, size, strides, padding="same", use_bias=False)
        return keras.layers.BatchNormalization()(layer(x))

    inputs = keras.Input((8, 8, 3))
    x = keras.layers.ReLU()(normalised(inputs, 6, 3))
    x = keras.layers.MaxPooling2D(3, 2, padding="same")(x)
    gate = keras.layers.Conv2D(6, 1, activation="hard_sigmoid")(
        keras.layers.GlobalAveragePooling2D(keepdims=True)(x)
    )
    x = keras.layers.Multiply()([keras.layers.DepthwiseConv2D(3, padding="same")(x), gate])
    y = normalised(keras.layers.ReLU()(normalised(x, 8, 3, strides=2)), 8, 3)
    x = keras.layers.Add()([y, normalised(x, 8, 1, strides=2)])
    return keras.Model(inputs, keras.layers.Dense(3)(keras.layers.GlobalAveragePooling2D()(x)))


@pytest.mark.parametrize("make", [attention, residual])
def test_networks_that_it_refused_are_trained(make):
    keras.utils.set_random_seed(0)
    model = tf_kfgn.enable_curvature(make())
    generator = np.random.default_rng(0)
    y = np.arange(48) % 3
    if make is attention:
        x = (3 * y[:, None] + generator.integers(3, size=(48, 6))) % 9
    else:
        x = generator.normal(size=(3, 8, 8, 3))[y] + 0.3 * generator.normal(size=(48, 8, 8, 3))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(tf_kfgn.KFRA(spatial="uncorrelated", rescale=False), loss, jit_compile=False)
    losses = model.fit(x, y, batch_size=48, epochs=12, shuffle=False, verbose=0).history["loss"]
    assert losses[-1] < 0.5 * losses[0], losses
    assert int(model.optimizer.failed_inversions) == 0


def test_attention_over_many_positions_trains_further_with_rescaled_factors():
    """Its values are of a curvature that averages alone take for 40 times too small."""
    generator = np.random.default_rng(1)
    y = np.arange(240) % 3
    x = generator.integers(50, size=(240, 40))
    telling = 3 * generator.integers(5, size=(240, 4)) + y[:, None]
    x[:, :4] = np.where(generator.random((240, 4)) < 0.5, telling, x[:, :4])
    ends = {}
    for rescale in (True, False):
        keras.utils.set_random_seed(1)
        model = tf_kfgn.enable_curvature(attention(40, 50))
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(tf_kfgn.KFRA(rescale=rescale), loss, jit_compile=False)
        history = model.fit(x, y, batch_size=60, epochs=8, verbose=0).history
        ends[rescale] = history["loss"][-1]
    assert ends[True] < 0.85 * ends[False], ends
