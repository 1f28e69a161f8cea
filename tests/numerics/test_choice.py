"""One of two lists of tensors: small ones are selected, large ones handed on."""

import numpy as np
import pytest
import tensorflow as tf

from tf_kfgn.numerics.choice import select, zeros_if

SMALL, LARGE = tf.constant([1.0, np.nan]), tf.ones((200, 200))


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("condition", [False, True])
def test_the_first_list_or_the_second(condition, jit):
    pairs = ([SMALL, LARGE], [2 * SMALL, 2 * LARGE])
    chosen = tf.function(select, jit_compile=jit)(tf.constant(condition), *pairs)
    for found, expected in zip(chosen, pairs[0 if condition else 1], strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("condition", [False, True])
def test_zeros_or_the_tensors(condition):
    found = zeros_if(tf.constant(condition), [SMALL, LARGE])
    for tensor, given in zip(found, [SMALL, LARGE], strict=True):
        np.testing.assert_array_equal(tensor, np.zeros(given.shape) if condition else given)


def test_conditions_are_for_large_tensors_alone_and_what_is_in_both_lists_is_handed_on():
    both = tf.constant(3.0)

    @tf.function(input_signature=[tf.TensorSpec((), tf.bool), tf.TensorSpec((None,))])
    def chosen(condition, unknown):
        found = select(
            condition, [SMALL, LARGE, unknown, both], [SMALL + 1, -LARGE, -unknown, both]
        )
        assert found[3] is both
        return found[:3]

    kinds = [operation.type for operation in chosen.get_concrete_function().graph.get_operations()]
    assert kinds.count("SelectV2") == 1
    assert sum(kind in ("If", "StatelessIf") for kind in kinds) == 1
