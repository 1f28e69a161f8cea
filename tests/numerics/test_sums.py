"""Sums that are the same in every run, also where their terms are read elsewhere."""

import numpy as np
import pytest
import tensorflow as tf

from tf_kfgn.numerics.sums import ordered_sum


@pytest.mark.parametrize("count", [1, 2, 3, 7])
@pytest.mark.parametrize("jit", [False, True])
def test_the_sum(count, jit):
    terms = list(tf.random.stateless_normal((count, 3, 2), seed=(0, 1)))
    found = tf.function(ordered_sum, jit_compile=jit)(terms)
    np.testing.assert_allclose(found, np.sum(terms, axis=0), rtol=1e-6)


def test_terms_that_are_read_elsewhere_are_added_in_one_order():
    @tf.function
    def sums(left, right):
        terms = [tf.matmul(left[i], right[i]) for i in range(4)]
        return ordered_sum(terms), [tf.matmul(term, right[0]) for term in terms]

    left, right = (tf.random.stateless_normal((4, 48, 48), seed=(0, i)) for i in range(2))
    assert len({sums(left, right)[0].numpy().tobytes() for _ in range(200)}) == 1
