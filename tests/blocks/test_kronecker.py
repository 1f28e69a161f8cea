"""One Kronecker block, and all of them at once, against dense NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from tf_kfgn.blocks import collection, kronecker
from tf_kfgn.blocks.kronecker import KroneckerState
from tf_kfgn.blocks.parameters import ParameterBlock
from tf_kfgn.layers.parameters import WeightMatrix

IN, OUT, TAU = 4, 3, 0.1


def positive(size, seed):
    root = np.random.default_rng(seed).normal(size=(size, size))
    return root @ root.T / size


def fresh(A, G):
    return KroneckerState(
        tf.constant(A),
        tf.constant(G),
        tf.eye(len(A), dtype=tf.float64),
        tf.eye(len(G), dtype=tf.float64),
    )


@pytest.fixture
def state():
    return fresh(positive(IN, 0), 5 * positive(OUT, 1))


def test_average_mixes_with_the_decay(state):
    A, G = positive(IN, 2), positive(OUT, 3)
    mixed = kronecker.average(state, A, G, tf.constant(0.9, tf.float64))
    np.testing.assert_allclose(mixed.A, 0.9 * state.A + 0.1 * A, rtol=1e-12)
    np.testing.assert_allclose(mixed.G, 0.9 * state.G + 0.1 * G, rtol=1e-12)


def test_scale_ratio_balances_the_mean_diagonals(state):
    pi = kronecker.scale_ratio(state.A, state.G)
    expected = np.sqrt((np.trace(state.A) / IN) / (np.trace(state.G) / OUT))
    np.testing.assert_allclose(pi, expected, rtol=1e-12)
    assert kronecker.scale_ratio(tf.zeros_like(state.A), state.G) == 1


def test_precondition_solves_the_damped_block(state):
    inverted, good = kronecker.invert(state, tf.constant(TAU, tf.float64))
    assert good
    pi = np.sqrt((np.trace(state.A) / IN) / (np.trace(state.G) / OUT))
    dense = np.kron(
        state.A + pi * np.sqrt(TAU) * np.eye(IN), state.G + np.sqrt(TAU) / pi * np.eye(OUT)
    )
    gradient = np.random.default_rng(4).normal(size=(IN, OUT))
    expected = np.linalg.solve(dense, gradient.ravel()).reshape(IN, OUT)
    actual = kronecker.precondition(inverted, tf.constant(gradient))
    np.testing.assert_allclose(actual, expected, rtol=1e-9)
    undamped = np.linalg.solve(np.kron(state.A, state.G), gradient.ravel()).reshape(IN, OUT)
    assert not np.allclose(actual, undamped, rtol=1e-2)


BAD = {
    "indefinite": -np.eye(IN),
    "not a number": np.full((IN, IN), np.nan),
    "infinite": np.full((IN, IN), np.inf),
}


@pytest.mark.parametrize("jit", [False, True], ids=["graph", "xla"])
@pytest.mark.parametrize("bad", BAD.values(), ids=BAD.keys())
def test_a_failed_factorisation_keeps_the_last_good_inverses(state, bad, jit):
    good_state, _ = kronecker.invert(state, tf.constant(TAU, tf.float64))
    broken = good_state._replace(A=tf.constant(bad))
    invert = tf.function(kronecker.invert, jit_compile=jit)
    kept, good = invert(broken, tf.constant(1e-12, tf.float64))
    assert not good
    np.testing.assert_array_equal(kept.A_inverse, good_state.A_inverse)
    np.testing.assert_array_equal(kept.G_inverse, good_state.G_inverse)


def test_factors_that_are_not_finite_enter_no_block(state):
    other = fresh(positive(2, 5), positive(2, 6))
    new = [(positive(IN, 7), positive(OUT, 8)), (positive(2, 9), np.full((2, 2), np.nan))]
    states, accepted = collection.average([state, other], new, tf.constant(0.5, tf.float64))
    assert not accepted
    for before, after in zip([state, other], states, strict=True):
        np.testing.assert_array_equal(after.A, before.A)
        np.testing.assert_array_equal(after.G, before.G)
    new[1] = (new[1][0], positive(2, 10))
    states, accepted = collection.average([state, other], new, tf.constant(0.5, tf.float64))
    assert accepted
    assert not np.allclose(states[0].A, state.A)


def test_inverting_counts_the_blocks_that_fail(state):
    broken = state._replace(G=tf.constant(np.full((OUT, OUT), np.nan)))
    damping = tf.constant(TAU, tf.float64)
    states, failures = collection.invert([state, broken, broken], [damping] * 3)
    assert failures == 2
    assert not np.allclose(states[0].A_inverse, np.eye(IN))
    np.testing.assert_array_equal(states[1].A_inverse, np.eye(IN))


def test_the_collection_preconditions_kernel_and_bias_together(state):
    inverted, _ = kronecker.invert(state, tf.constant(TAU, tf.float64))
    block = ParameterBlock(WeightMatrix("layer", IN - 1, OUT), (1, 0))
    generator = np.random.default_rng(0)
    bias, kernel = generator.normal(size=OUT), generator.normal(size=(IN - 1, OUT))
    result = collection.precondition(
        [block], [inverted], [tf.constant(bias), tf.constant(kernel)]
    )
    joint = kronecker.precondition(inverted, tf.constant(np.vstack([kernel, bias])))
    np.testing.assert_array_equal(result[1], joint[:-1])
    np.testing.assert_array_equal(result[0], joint[-1])
