"""Symmetric matrices in half of their numbers."""

import numpy as np
import pytest
import tensorflow as tf

from tf_kfgn.numerics.triangles import packed, packed_shape, unpacked


def symmetric(*shape):
    matrices = np.random.default_rng(0).normal(size=shape)
    return tf.constant(matrices + np.swapaxes(matrices, -1, -2))


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("shape", [(1, 1), (2, 2), (3, 3), (4, 7, 7), (2, 3, 8, 8)])
def test_packed_and_unpacked_they_are_what_they_were(shape, jit):
    there = tf.function(packed, jit_compile=jit)
    back = tf.function(lambda triangles: unpacked(triangles, shape[-1]), jit_compile=jit)
    matrices = symmetric(*shape)
    np.testing.assert_array_equal(back(there(matrices)), matrices)


@pytest.mark.parametrize("size", [1, 2, 9, 10])
def test_the_numbers_that_travel_are_half_and_a_line(size):
    assert packed(symmetric(size, size)).shape == packed_shape(size)
    assert np.prod(packed_shape(size)) <= (size + 1) * (size + 2) / 2


def test_an_entry_that_is_not_finite_stays_where_it_was():
    matrix = symmetric(5, 5).numpy()
    matrix[3, 1] = matrix[1, 3] = np.nan
    np.testing.assert_array_equal(unpacked(packed(tf.constant(matrix)), 5), matrix)


def test_what_is_above_the_diagonal_is_lost():
    lower = np.tril(symmetric(4, 4).numpy())
    found = unpacked(packed(tf.constant(lower)), 4).numpy()
    np.testing.assert_array_equal(np.tril(found), lower)
    np.testing.assert_array_equal(found, found.T)
