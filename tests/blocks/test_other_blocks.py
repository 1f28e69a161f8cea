"""Diagonal factors, groups of matrices, and diagonal blocks, against dense NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from brute_force import allclose, damped_factors, positive, wrong

from tf_kfgn.blocks import factor, kronecker
from tf_kfgn.blocks.diagonal import DiagonalBlock
from tf_kfgn.blocks.kronecker import KroneckerState

IN, OUT, GROUPS = 4, 3, 2
TAU = tf.constant(0.1, tf.float64)
GRADIENT = np.random.default_rng(4).normal(size=(IN, OUT))


def fresh(A, G):
    unit = (factor.identity(np.shape(value), tf.float64) for value in (A, G))
    return KroneckerState(tf.constant(A), tf.constant(G), *unit)


def full(value):
    """A factor as a matrix."""
    return np.diag(value[:, 0]) if value.shape[-1] == 1 else np.array(value)


THIN = {
    "thin A": (np.diag(positive(IN, 0))[:, None], positive(OUT, 1)),
    "thin G": (positive(IN, 0), 5 * np.diag(positive(OUT, 1))[:, None]),
    "both thin": (np.diag(positive(IN, 0))[:, None], np.diag(positive(OUT, 1))[:, None]),
}


@pytest.mark.parametrize("jit", [False, True], ids=["graph", "xla"])
@pytest.mark.parametrize(("A", "G"), THIN.values(), ids=THIN.keys())
def test_a_diagonal_factor_is_a_matrix_with_that_diagonal(A, G, jit):
    state, good = tf.function(kronecker.invert, jit_compile=jit)(fresh(A, G), TAU)
    assert good
    actual = kronecker.precondition(state, tf.constant(GRADIENT))
    dense = np.kron(*damped_factors(full(A), full(G), TAU))
    allclose(actual, np.linalg.solve(dense, GRADIENT.ravel()).reshape(IN, OUT))
    assert wrong(actual, GRADIENT)


def test_a_diagonal_factor_that_is_not_positive_keeps_the_last_inverse():
    before, _ = kronecker.invert(fresh(*THIN["thin A"]), TAU)
    broken = before._replace(A=-1e3 * before.A)
    kept, good = kronecker.invert(broken, TAU)
    assert not good
    np.testing.assert_array_equal(kept.A_inverse, before.A_inverse)
    np.testing.assert_array_equal(kept.G_inverse, before.G_inverse)


@pytest.mark.parametrize("jit", [False, True], ids=["graph", "xla"])
def test_groups_are_blocks_of_their_own(jit):
    A = np.stack([positive(IN, seed) for seed in range(GROUPS)])
    G = np.stack([seed + positive(OUT, seed) for seed in range(GROUPS)])
    gradient = np.random.default_rng(5).normal(size=(GROUPS, IN, OUT))
    state, good = tf.function(kronecker.invert, jit_compile=jit)(fresh(A, G), TAU)
    assert good
    together = kronecker.precondition(state, tf.constant(gradient))
    for group in range(GROUPS):
        alone, _ = kronecker.invert(fresh(A[group], G[group]), TAU)
        allclose(together[group], kronecker.precondition(alone, tf.constant(gradient[group])))
    assert kronecker.scale_ratio(state.A, state.G).shape == (GROUPS, 1, 1)


BLOCK = DiagonalBlock((1,), "norm/gamma", (3,))


def test_a_diagonal_block_divides_by_the_damped_diagonal():
    diagonal, ones = np.array([1.0, 2.0, 0.0]), np.ones(3)
    state = BLOCK.state([tf.constant(diagonal), tf.constant(ones)])
    gradient = [tf.zeros(2), tf.constant([3.0, 4.0, 5.0], tf.float64)]
    allclose(BLOCK.precondition(state, gradient)[1], gradient[1])
    state, good = BLOCK.invert(state, TAU)
    assert good
    allclose(BLOCK.precondition(state, gradient)[1], gradient[1] / (diagonal + 0.1))
    allclose(BLOCK.average(state, (4 * ones,), TAU).diagonal, 0.1 * diagonal + 0.9 * 4)
    broken = state._replace(diagonal=tf.constant([1.0, np.nan, 1.0], tf.float64))
    kept, good = BLOCK.invert(broken, TAU)
    assert not good
    np.testing.assert_array_equal(kept.inverse, state.inverse)
