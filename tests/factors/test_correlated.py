"""Positions whose cotangents correlate: ρ, and where the block of `"correlated"` is exact."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from brute_force import allclose, gauss_newton_of, wrong
from passes import factors_of
from problems import MSE, dense, random_problem, sequential

import tf_kfgn
from tf_kfgn.factors import KFACEstimator, KFLREstimator, KFRAEstimator
from tf_kfgn.factors.correlation import (
    correlation,
    square_of_sum_of_averages,
    square_of_sums,
    trace,
)
from tf_kfgn.factors.sharing import Correlated, Expand, Reduce, with_counts, with_sums
from tf_kfgn.operations.parametrised import ParametrisedOperation

POSITIONS, FEATURES = 5, 3
ESTIMATORS = {"kflr": KFLREstimator, "kfra": KFRAEstimator}
RANDOM = np.random.default_rng(0)
ROWS = RANDOM.normal(size=(4, POSITIONS, FEATURES))
USED = np.array([[1.0, 1, 1, 1, 1], [1, 1, 0, 0, 0], [0, 1, 0, 0, 0], [1, 1, 1, 0, 1]])
SEED = tf.constant([0, 0], tf.int64)


@pytest.fixture(params=ESTIMATORS.values(), ids=ESTIMATORS.keys())
def estimator(request):
    return request.param


def mixed_positions(rho, noise=0.0, batch=5):
    """A dense layer, then a fixed map of positions whose Gram matrix is `(1 - ρ) I + ρ 1 1^T`.

    Its output has squared error, so that every pair of positions has cotangents with the
    correlation ρ, or about that with noise in the map.
    """
    gram = (1 - rho) * np.eye(POSITIONS) + rho
    root = np.linalg.cholesky(gram + 1e-14 * np.eye(POSITIONS)).T  # root^T root = gram
    root = root + noise * np.random.default_rng(1).normal(size=root.shape)

    def mix(x):
        fixed = keras.layers.Dense(POSITIONS, use_bias=False, trainable=False, dtype="float64")
        fixed.build((None, FEATURES, POSITIONS))
        fixed.kernel.assign(root.T)
        turn = keras.layers.Permute((2, 1), dtype="float64")
        return turn(fixed(turn(x)))

    def make():
        inputs = keras.Input((POSITIONS, FEATURES), dtype="float64")
        return keras.Model(inputs, mix(dense(2)(inputs)))

    return random_problem("mixed positions", make, batch=batch)


@pytest.mark.parametrize("rho", [0.0, 0.3, 0.9, 1.0])
def test_the_block_is_exact_for_positions_that_correlate_alike(estimator, rho):
    given = mixed_positions(rho)
    exact = gauss_newton_of(given, 0)
    [pair] = factors_of(given, estimator("correlated"))
    allclose(np.kron(*pair), exact)
    for approximation, end in (("expand", 0), ("reduce", 1)):
        [(A, G)] = factors_of(given, estimator(approximation))
        if rho == end:
            allclose(np.kron(A, G), exact)
        else:
            assert wrong(np.kron(A, G), exact)


def test_it_is_not_exact_where_pairs_of_positions_differ(estimator):
    given = mixed_positions(0.3, noise=0.5)
    [pair] = factors_of(given, estimator("correlated"))
    assert wrong(np.kron(*pair), gauss_newton_of(given, 0))


def test_samples_correlate_as_all_columns_do_on_average():
    given = mixed_positions(0.5, batch=2000)
    [(A, _)] = factors_of(given, KFLREstimator("correlated"))
    [(drawn, _)] = factors_of(given, KFACEstimator("correlated"))
    np.testing.assert_allclose(drawn, A, rtol=0.03, atol=0.1)
    assert not np.allclose(drawn, A, rtol=1e-4)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("groups", [None, 2])
def test_the_correlation_is_that_of_all_pairs(masked, groups):
    shape = (40, POSITIONS, *(() if groups is None else (groups,)), FEATURES)
    common = RANDOM.normal(size=(40, 1, *shape[2:]))
    used = (RANDOM.uniform(size=shape[:2]) < 0.6) if masked else np.ones(shape[:2], bool)
    rows = RANDOM.normal(size=shape) + 0.7 * common
    rows *= used.reshape(*used.shape, *[1] * (len(shape) - 2))
    own = np.einsum("nt...i,nt...i->...", rows, rows) / used.sum()
    every = np.einsum("ns...i,nt...i->...", rows, rows)
    pairs = (used.sum(1) ** 2 - used.sum(1)).sum()
    expected = (every - own * used.sum()) / (pairs * own)
    assert np.all((expected > 0.1) & (expected < 0.9))

    counts = tf.reduce_sum(tf.constant(used, tf.float64), axis=1)
    G = Expand().output_factor(tf.constant(rows), positions=tf.reduce_sum(counts))
    squares = square_of_sums(tf.constant(rows))
    assert squares.shape == (*([] if groups is None else [groups]), 1, 1)
    moments = tf.reduce_mean(counts), tf.reduce_mean(counts**2)
    allclose(correlation(trace(G), squares, *moments)[..., 0, 0], expected)
    diagonal = Expand().output_factor(tf.constant(rows), True, tf.reduce_sum(counts))
    allclose(trace(diagonal), trace(G))


def test_the_square_of_sums_is_that_of_averages():
    average = np.einsum("nsi,ntj->sitj", ROWS, ROWS) / len(ROWS)
    allclose(square_of_sum_of_averages(tf.constant(average)), square_of_sums(tf.constant(ROWS)))
    grouped = ROWS[:, :, None] * np.array([[1.0], [2.0]])
    average = np.einsum("nsgi,nthj->sgithj", grouped, grouped) / len(ROWS)
    squares = square_of_sum_of_averages(tf.constant(average))
    allclose(squares, square_of_sums(tf.constant(grouped)))


def test_without_curvature_or_pairs_nothing_correlates():
    zero, one = tf.zeros((1, 1)), tf.ones((1, 1))
    assert correlation(zero, zero, tf.constant(3.0), tf.constant(9.0)) == 0
    assert correlation(one, one, tf.constant(1.0), tf.constant(1.0)) == 0
    assert correlation(one, zero, tf.constant(3.0), tf.constant(9.0)) == 0  # negative
    assert correlation(one, 100 * one, tf.constant(3.0), tf.constant(9.0)) == 1


@pytest.mark.parametrize("used", [None, USED], ids=["all", "masked"])
@pytest.mark.parametrize("diagonal", [False, True])
def test_the_input_factor_lies_between_its_ends(used, diagonal):
    rho = 0.25
    weights = np.ones(USED.shape) if used is None else used
    sums = np.einsum("nti,nt->ni", ROWS, weights)
    expected = (1 - rho) * np.einsum("nti,ntj,nt->ij", ROWS, ROWS, weights) / len(ROWS)
    expected += rho * sums.T @ sums / len(ROWS)
    mask = None if used is None else tf.constant(used)
    share = tf.constant([[rho]], tf.float64)
    apart = Correlated().input_factor(tf.constant(ROWS), diagonal, mask)
    found = with_sums(apart, tf.constant(sums), share)
    allclose(found, np.diag(expected)[:, None] if diagonal else expected)


@pytest.mark.parametrize("diagonal", [False, True])
def test_tokens_have_the_factors_of_their_one_hot_rows(diagonal):
    tokens = np.random.default_rng(0).integers(6, size=(7, 4))
    rows, share = tf.constant(np.eye(6)[tokens]), tf.constant([[0.4]], tf.float64)
    for sharing in (Expand(), Reduce(), Correlated()):
        apart = sharing.token_factor(tf.constant(tokens), 6, tf.float64, diagonal)
        allclose(apart, sharing.input_factor(rows, diagonal))
    found = with_counts(apart, tf.constant(tokens), share)
    allclose(found, with_sums(apart, tf.reduce_sum(rows, axis=1), share))


def test_sums_of_rows_leave_out_what_a_mask_skips():
    lstm = keras.layers.LSTM(2, dtype="float64")
    model = tf_kfgn.enable_curvature(
        keras.Sequential(
            [keras.Input((POSITIONS, FEATURES)), keras.layers.Masking(dtype="float64"), lstm]
        )
    )
    x = ROWS * USED[..., None]
    with tf_kfgn.CurvatureTape() as tape:
        tape.watch_loss(MSE, None, model(x))
        given = {
            op.matrix.part: (op.input_sums(tf.float64), op.input_rows())
            for op in tape.operations
            if isinstance(op, ParametrisedOperation)
        }
    assert len(given) == 2
    for found, rows in given.values():
        allclose(found, np.einsum("nt,nti->ni", USED, rows))
        assert wrong(found, np.sum(rows, axis=1))


@pytest.mark.parametrize(("approximation", "exact"), [("correlated", True), ("expand", False)])
def test_the_first_step_before_an_average_is_a_whole_one(approximation, exact):
    """With the exact block of its only layer a linear model is solved in one step of size 1."""
    generator = np.random.default_rng(0)
    inputs = keras.Input((24, FEATURES))
    pooled = keras.layers.GlobalAveragePooling1D()(keras.layers.Dense(2)(inputs))
    model = tf_kfgn.enable_curvature(keras.Model(inputs, pooled))
    optimizer = tf_kfgn.KFLR(approximation=approximation, damping=1e-9)
    model.compile(optimizer, "mse")
    x, y = generator.normal(size=(32, 24, FEATURES)), generator.normal(size=(32, 2))
    model.train_on_batch(x, y)
    if exact:
        np.testing.assert_allclose(optimizer.step_size, 1, rtol=0.01)
    else:
        assert optimizer.step_size < 0.2


def test_kfra_takes_the_uses_of_a_layer_as_uncorrelated():
    def make():
        layer, inputs = dense(2), keras.Input((FEATURES,), dtype="float64")
        other = keras.layers.Activation("tanh", dtype="float64")(inputs)
        added = keras.layers.Add(dtype="float64")([layer(inputs), layer(other)])
        return keras.Model(inputs, added)

    given = random_problem("two uses", make)
    [kflr], [kfra] = (factors_of(given, e("correlated")) for e in ESTIMATORS.values())
    [expanded] = factors_of(given, KFRAEstimator("expand"))
    allclose(kfra.A, expanded.A)
    assert wrong(kfra.A, kflr.A)
    allclose(np.kron(*kflr), gauss_newton_of(given, 0))


def test_a_convolution_is_correlated_as_its_positions_are():
    def make():
        convolution = keras.layers.Conv2D(2, 2, padding="same", dtype="float64")
        return sequential(
            (4, 4, 3), convolution, keras.layers.GlobalAveragePooling2D(dtype="float64")
        )

    given = random_problem("convolution", make)
    [pair] = factors_of(given, KFLREstimator("correlated"))
    allclose(np.kron(*pair), gauss_newton_of(given, 0))
    [expanded] = factors_of(given, KFLREstimator("expand"))
    assert wrong(np.kron(*expanded), gauss_newton_of(given, 0))


@pytest.mark.parametrize("mode", [tf.function, lambda f: f], ids=["graph", "eager"])
def test_positions_without_a_batch_axis_are_those_of_every_example(mode):
    """As keras.io's embeddings of positions are called: once for all examples."""

    class Positions(keras.layers.Layer):
        def __init__(self, common, **kwargs):
            super().__init__(**kwargs)
            self.embedding = keras.layers.Embedding(POSITIONS, 2, dtype="float64")
            self.common = common

        def call(self, x):
            places = keras.ops.arange(POSITIONS)
            if not self.common:
                places += keras.ops.zeros_like(x[..., 0], dtype="int32")
            return x + self.embedding(places)

    found = {}
    for common in (True, False):
        keras.utils.set_random_seed(0)
        inputs = keras.Input((POSITIONS, 2), dtype="float64")
        pooled = keras.layers.GlobalAveragePooling1D(dtype="float64")(
            Positions(common, dtype="float64")(inputs)
        )
        model = tf_kfgn.enable_curvature(keras.Model(inputs, dense(3)(pooled)))

        @mode
        def factors(x, model=model):
            with tf_kfgn.CurvatureTape() as tape:
                tape.watch_loss(keras.losses.MeanSquaredError(), None, model(x))
            return next(iter(KFACEstimator("correlated")(tape, SEED).values()))

        found[common] = factors(tf.constant(RANDOM.normal(size=(6, POSITIONS, 2))))
    for A, G in found.values():
        allclose(A, np.ones((POSITIONS, POSITIONS)))
        assert G.shape == (2, 2)
