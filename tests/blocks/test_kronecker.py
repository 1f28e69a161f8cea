"""One Kronecker block, and all of them at once, against dense NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from brute_force import allclose, damped_factors, positive, wrong

from tf_kfgn.blocks import collection, factor, kronecker
from tf_kfgn.blocks.kronecker import KroneckerBlock, KroneckerState
from tf_kfgn.operations.weight_matrix import WeightMatrix

IN, OUT = 4, 3
TAU = tf.constant(0.1, tf.float64)
BLOCK = KroneckerBlock((0, 1), WeightMatrix("layer", IN - 1, OUT))


def fresh(A, G):
    eyes = (tf.eye(len(A), dtype=tf.float64), tf.eye(len(G), dtype=tf.float64))
    return KroneckerState(tf.constant(A), tf.constant(G), *eyes)


def damped(state, tau=TAU):
    return damped_factors(state.A, state.G, tau)


@pytest.fixture
def state():
    return fresh(positive(IN, 0), 5 * positive(OUT, 1))


@pytest.mark.parametrize("decay", [0.0, 0.9, 1.0])
def test_average_mixes_with_the_decay(state, decay):
    A, G = positive(IN, 2), positive(OUT, 3)
    mixed = kronecker.average(state, tf.constant(A), tf.constant(G), tf.constant(decay))
    decay = np.float32(decay)
    allclose(mixed.A, decay * state.A + (1 - np.float64(decay)) * A)
    allclose(mixed.G, decay * state.G + (1 - np.float64(decay)) * G)
    assert wrong(mixed.A, (1 - np.float64(decay)) * state.A + decay * A)
    np.testing.assert_array_equal(mixed.A_inverse, state.A_inverse)


@pytest.mark.parametrize("groups", [(), (2,)], ids=["one matrix", "groups"])
@pytest.mark.parametrize("most", [None, 3, 1], ids=["whole", "at the limit", "diagonal"])
def test_a_frozen_bias_keeps_its_entry_alone(groups, most):
    """3 rows and a bias; with a limit of 3 the old factor is diagonal and the new one whole."""
    matrix = WeightMatrix("dense", 3, 2, groups=groups[0] if groups else None)
    block = KroneckerBlock((0, 1), matrix, most)
    new = np.broadcast_to(positive(3, 1), (*groups, 3, 3))
    G = np.broadcast_to(positive(2, 2), (*groups, 2, 2))
    old = np.broadcast_to(positive(4, 3), (*groups, 4, 4))
    diagonal = np.einsum("...ii->...i", old)[..., None], np.einsum("...ii->...i", new)[..., None]
    if most is None:
        expected = np.zeros(old.shape)
        expected[..., :3, :3], expected[..., 3, 3] = new, old[..., 3, 3]
    else:
        expected = np.concatenate([diagonal[1], diagonal[0][..., -1:, :]], axis=-2)
    given = diagonal[1] if most == 1 else new
    average = old if most is None else diagonal[0]
    A, unchanged = block.with_bias_row((tf.constant(given), G), (tf.constant(average), G))
    np.testing.assert_array_equal(A, expected)
    assert unchanged is G
    again, _ = block.with_bias_row((A, G), (tf.constant(average), G))  # it is not frozen
    assert again is A


def test_averages_keep_their_type():
    state = KroneckerState(*(tf.eye(size) for size in (IN, OUT, IN, OUT)))
    mixed = kronecker.average(state, positive(IN, 0), positive(OUT, 1), tf.constant(0.5))
    assert {tensor.dtype for tensor in mixed} == {tf.float32}


def test_scale_ratio_balances_the_mean_diagonals(state):
    pi = kronecker.scale_ratio(state.A, state.G)
    expected = np.sqrt((np.trace(state.A) / IN) / (np.trace(state.G) / OUT))
    allclose(pi, expected)
    assert wrong(np.sqrt(np.trace(state.A) / np.trace(state.G)), expected)  # not of the traces
    allclose(kronecker.scale_ratio(16 * state.A, state.G), 4 * expected)
    for A, G in [
        (tf.zeros_like(state.A), state.G),
        (state.A, tf.zeros_like(state.G)),
        (-state.A, state.G),
        (state.A * np.nan, state.G),
    ]:
        assert kronecker.scale_ratio(A, G) == 1


@pytest.mark.parametrize("jit", [False, True], ids=["graph", "xla"])
def test_inverses_are_those_of_the_damped_factors(state, jit):
    inverted, good = tf.function(kronecker.invert, jit_compile=jit)(state, TAU)
    assert good
    A, G = damped(state)
    allclose(inverted.A_inverse, np.linalg.inv(A))
    allclose(inverted.G_inverse, np.linalg.inv(G))
    assert wrong(inverted.A_inverse, np.linalg.inv(damped(state, 0.2)[0]))
    np.testing.assert_array_equal(inverted.A, state.A)


def test_precondition_solves_the_damped_block(state):
    inverted, _ = kronecker.invert(state, TAU)
    gradient = np.random.default_rng(4).normal(size=(IN, OUT))
    actual = kronecker.precondition(inverted, tf.constant(gradient))
    expected = np.linalg.solve(np.kron(*damped(state)), gradient.ravel()).reshape(IN, OUT)
    allclose(actual, expected)
    undamped = np.linalg.solve(np.kron(state.A, state.G), gradient.ravel()).reshape(IN, OUT)
    assert wrong(actual, undamped)
    # Factored damping is not that of the block as a whole.
    exact = np.kron(state.A, state.G) + float(TAU) * np.eye(IN * OUT)
    assert wrong(actual, np.linalg.solve(exact, gradient.ravel()).reshape(IN, OUT))


def test_precondition_keeps_the_type_of_the_gradient(state):
    gradient = tf.ones((IN, OUT), tf.float16)
    assert kronecker.precondition(state, gradient).dtype == tf.float16


def test_before_the_first_inversion_a_gradient_stays_what_it_is(state):
    gradient = tf.ones((IN, OUT), tf.float64)
    np.testing.assert_array_equal(kronecker.precondition(state, gradient), gradient)


BAD = {
    "indefinite": lambda size: -np.eye(size),
    "not a number": lambda size: np.full((size, size), np.nan),
    "one entry not a number": lambda size: np.where(
        np.arange(size * size).reshape(size, size) == size, np.nan, np.eye(size)
    ),
    "infinite": lambda size: np.full((size, size), np.inf),
}


@pytest.mark.parametrize("jit", [False, True], ids=["graph", "xla"])
@pytest.mark.parametrize("which", ["A", "G"])
@pytest.mark.parametrize("bad", BAD.values(), ids=BAD.keys())
def test_a_failed_factorisation_keeps_the_last_good_inverses(state, bad, which, jit):
    good_state, _ = kronecker.invert(state, TAU)
    size = IN if which == "A" else OUT
    broken = good_state._replace(**{which: tf.constant(bad(size))})
    invert = tf.function(kronecker.invert, jit_compile=jit)
    kept, good = invert(broken, tf.constant(1e-12, tf.float64))
    assert not good
    np.testing.assert_array_equal(kept.A_inverse, good_state.A_inverse)
    np.testing.assert_array_equal(kept.G_inverse, good_state.G_inverse)


def test_enough_damping_inverts_an_indefinite_factor():
    state = fresh(np.diag([3.0, 3.0, 3.0, -1.0]), np.eye(OUT))
    assert not kronecker.invert(state, tf.constant(1e-3, tf.float64))[1]
    inverted, good = kronecker.invert(state, tf.constant(4.0, tf.float64))
    assert good
    allclose(inverted.A_inverse, np.linalg.inv(damped(state, 4.0)[0]))


def test_cholesky_inverse_is_the_inverse_of_positive_definite_matrices_only():
    A, unit = positive(IN, 0), tf.eye(IN, dtype=tf.float64)
    allclose(factor.cholesky_inverse(tf.constant(A), unit), np.linalg.inv(A))
    assert not factor.is_finite(factor.cholesky_inverse(tf.constant(-A), unit))
    assert factor.is_finite(tf.constant(A))


@pytest.mark.parametrize("size", [2, 7, 8])
def test_large_matrices_are_inverted_by_halves(monkeypatch, size):
    monkeypatch.setattr(factor, "LARGEST_WHOLE", 2)  # the halves are halved again
    matrices = np.stack([positive(size, seed) for seed in range(3)])
    unit = tf.eye(size, batch_shape=[3], dtype=tf.float64)
    root = factor.inverse_root(tf.constant(matrices), unit)
    allclose(root, np.linalg.inv(np.linalg.cholesky(matrices)))
    allclose(factor.cholesky_inverse(tf.constant(matrices), unit), np.linalg.inv(matrices))
    # Not positive definite in its last pivot alone, which is in the last half.
    matrices[1, -1, -1] = 0
    inverses = factor.cholesky_inverse(tf.constant(matrices), unit)
    assert [bool(factor.is_finite(inverse)) for inverse in inverses] == [True, False, True]


# All blocks at once


def test_averages_of_all_blocks_mix(state):
    others = [positive(IN, 7), positive(OUT, 8)]
    [mixed, same], finite = collection.average(
        [BLOCK, BLOCK], [state, state], [others, state[:2]], TAU
    )
    assert finite
    allclose(mixed.A, 0.1 * state.A + 0.9 * others[0])
    allclose(same.A, state.A)


@pytest.mark.parametrize("broken", [0, 1], ids=["A", "G"])
def test_factors_that_are_not_finite_enter_no_block(state, broken):
    other = fresh(positive(2, 5), positive(2, 6))
    new = [[positive(IN, 7), positive(OUT, 8)], [positive(2, 9), positive(2, 10)]]
    new[1][broken] = np.full((2, 2), np.nan)
    states, finite = collection.average([BLOCK, BLOCK], [state, other], new, TAU)
    assert not finite
    for before, after in zip([state, other], states, strict=True):
        np.testing.assert_array_equal(after.A, before.A)
        np.testing.assert_array_equal(after.G, before.G)


def test_inverting_counts_the_blocks_that_fail_and_inverts_the_others(state):
    broken = state._replace(G=tf.constant(np.full((OUT, OUT), np.nan)))
    states, failures = collection.invert(
        [BLOCK] * 4, [state, broken, broken, state], [TAU, TAU, TAU, 2 * TAU]
    )
    assert failures == 2
    allclose(states[0].A_inverse, np.linalg.inv(damped(state)[0]))
    allclose(states[3].A_inverse, np.linalg.inv(damped(state, 2 * TAU)[0]))
    for failed in states[1:3]:
        np.testing.assert_array_equal(failed.A_inverse, np.eye(IN))
    assert all(factor.is_finite(s.A_inverse) & factor.is_finite(s.G_inverse) for s in states)


def test_the_collection_preconditions_kernel_and_bias_together(state):
    other = fresh(positive(2, 5), positive(1, 6))
    states, _ = collection.invert([BLOCK, BLOCK], [state, other], [TAU, TAU])
    blocks = [
        KroneckerBlock((2, 0), WeightMatrix("first", IN - 1, OUT)),
        KroneckerBlock((1,), WeightMatrix("second", 2, 1)),
    ]
    generator = np.random.default_rng(0)
    bias, kernel = generator.normal(size=OUT), generator.normal(size=(IN - 1, OUT))
    tensors = [tf.constant(t) for t in (bias, generator.normal(size=(2, 1)), kernel)]
    result = collection.precondition(blocks, states, tensors)
    joint = np.vstack([kernel, bias])
    expected = np.linalg.solve(np.kron(*damped(state)), joint.ravel()).reshape(IN, OUT)
    allclose(result[2], expected[:-1])
    allclose(result[0], expected[-1])
    allclose(result[1], np.linalg.solve(np.kron(*damped(other)), np.ravel(tensors[1]))[:, None])
    apart = np.linalg.solve(damped(state)[0][:-1, :-1], kernel) @ np.linalg.inv(damped(state)[1])
    assert wrong(result[2], apart)  # without the bias the kernel's step is another one
