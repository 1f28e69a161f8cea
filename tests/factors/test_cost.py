"""What bounds the cost of the factors: chunks, drawn columns, diagonal factors, memory."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from brute_force import allclose, wrong
from passes import MODES, SEED, compiled, factors_of, record
from problems import PROBLEMS, dense, mlp, random_problem, sequential

import tf_kfgn
from tf_kfgn.factors import KFACEstimator, KFLREstimator, KFRAEstimator
from tf_kfgn.factors.estimator import uses_of_matrices

WIDE = random_problem("wide", lambda: mlp([4, 3, 9], "tanh"))
GROUPED = random_problem(
    "grouped",
    lambda: sequential(
        (3, 3, 2),
        keras.layers.Conv2D(4, 2, dtype="float64"),
        keras.layers.Conv2D(4, 2, groups=2, dtype="float64"),
        keras.layers.Flatten(dtype="float64"),
        dense(3),
    ),
)


# Columns in chunks


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("given", [WIDE, GROUPED], ids=str)
def test_the_chunk_changes_nothing(given, mode):
    """One column at a time, a few of nine (so that the last chunk is not full), or all."""
    results, model = [], tf_kfgn.enable_curvature(given.model())
    for limit in (1e-6, 5e-3, 100.0):
        estimator = KFLREstimator(memory_limit=limit)

        def factors(estimator=estimator):
            with tf_kfgn.CurvatureTape() as tape:
                tape.watch_loss(given.loss, given.y, model(tf.constant(given.x)))
            return [G for _, G in estimator(tape, SEED).values()]

        results.append(compiled(factors, mode)())
    for other in results[1:]:
        for one, same in zip(results[0], other, strict=True):
            np.testing.assert_allclose(one, same, rtol=1e-9, atol=1e-12)


def test_a_chunk_is_as_large_as_the_memory_allows():
    _, tape, _ = record(WIDE)
    example = 8 * (3 + 3 + 9)  # pre-activation, activation and output
    [likelihood] = tape.likelihoods

    class Nine:
        count = 9

    Nine.likelihood = likelihood
    for columns in (1, 2, 9):
        limit = 7 * example * (columns + 0.5) / 2**20
        assert int(KFLREstimator(memory_limit=limit)._chunk(tape, Nine)) == columns


# Columns drawn from all


def test_drawn_columns_are_right_on_average():
    exact = factors_of(WIDE, KFLREstimator())
    _, tape, _ = record(WIDE)

    def mean_of(count):
        @tf.function
        def draw(number):
            found = KFLREstimator(num_columns=count)(tape, tf.stack([SEED[0], number]))
            return [G for _, G in found.values()]

        draws = [draw(tf.constant(i, tf.int64)) for i in range(400)]
        return [np.stack([draw[k] for draw in draws]) for k in range(len(exact))]

    spread = {}
    for count in (1, 4):
        for (_, G), samples in zip(exact, mean_of(count), strict=True):
            error = samples.std(axis=0) / np.sqrt(len(samples)) + 1e-12
            deviation = np.abs(samples.mean(axis=0) - G) / error
            assert np.sqrt(np.mean(deviation**2)) < 1.6
            spread[count] = samples.std()
    assert spread[4] < spread[1]
    allclose(factors_of(WIDE, KFLREstimator(num_columns=9))[0].G, exact[0].G)
    assert wrong(factors_of(WIDE, KFLREstimator(num_columns=4))[0].G, exact[0].G)


@pytest.mark.parametrize("num_columns", [0, -1, 1.5, True])
def test_the_number_of_columns_is_checked(num_columns):
    with pytest.raises(ValueError, match="num_columns"):
        KFLREstimator(num_columns=num_columns)


# Diagonal factors


@pytest.mark.parametrize("estimator", [KFLREstimator, KFRAEstimator, KFACEstimator])
@pytest.mark.parametrize("approximation", ["expand", "reduce"])
def test_a_large_factor_is_the_diagonal_of_the_whole_one(estimator, approximation):
    given = PROBLEMS["loss on each position"]
    whole = factors_of(given, estimator(approximation))
    cut = factors_of(given, estimator(approximation, max_factor_size=4))
    sizes = [(A.shape, G.shape) for A, G in cut]
    assert sizes == [((5, 1), (3, 3)), ((4, 4), (2, 2))]
    allclose(cut[0].A[:, 0], np.diag(whole[0].A))
    allclose(cut[0].G, whole[0].G)
    smallest = factors_of(given, estimator(approximation, max_factor_size=1))
    for (A, G), (whole_A, whole_G) in zip(smallest, whole, strict=True):
        allclose(A[:, 0], np.diag(whole_A))
        allclose(G[:, 0], np.diag(whole_G))


# Approximation of each layer


@pytest.mark.parametrize("estimator", [KFLREstimator, KFRAEstimator])
def test_each_layer_may_have_its_own_approximation(estimator):
    def make():
        return sequential((4, 3), dense(3, "tanh", name="first"), dense(2, name="second"))

    given = random_problem("named", make)
    mixed = factors_of(given, estimator({"first": "reduce"}))
    allclose(mixed[0].G, factors_of(given, estimator("reduce"))[0].G)
    allclose(mixed[1].G, factors_of(given, estimator("expand"))[1].G)
    assert wrong(mixed[0].A, factors_of(given, estimator("expand"))[0].A)
    with pytest.raises(ValueError, match=r"approximation.*dictionary.*'sum'"):
        estimator({"first": "sum"})


# Memory of KFRA


def test_an_average_that_is_too_large_is_refused_before_it_is_made():
    given = PROBLEMS["mlp_categorical"]
    tape = record(given)[1]
    needed = KFRAEstimator().demand(tape, uses_of_matrices(tape), 1, 3).memory / 2**20
    assert needed > 2 * 5**2 * 8 / 2**20  # more than the widest tensor between two layers
    assert len(factors_of(given, KFRAEstimator(memory_limit=1.01 * needed))) == 3
    with pytest.raises(
        ValueError, match=r"layer 'dense\w*' \(Dense\).* features.*MiB.*KFLR or KFAC"
    ):
        factors_of(given, KFRAEstimator(memory_limit=0.99 * needed))
