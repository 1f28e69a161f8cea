"""Small tensors of a kind are joined, and come back as they were."""

import numpy as np
import pytest
import tensorflow as tf

from tf_kfgn.numerics.joining import SMALL, Joining

SHAPES = [(3,), (2, 3), (SMALL + 1,), (), (4,), (1, 1, 2)]


@pytest.fixture
def tensors():
    generator = np.random.default_rng(0)
    return [tf.constant(generator.normal(size=shape)) for shape in SHAPES]


def test_what_is_joined_comes_back_bitwise(tensors):
    joining = Joining(SHAPES, ["a"] * len(SHAPES))
    joined = joining.join(tensors)
    assert [tuple(tensor.shape) for tensor in joined] == [(3 + 6 + 1 + 4 + 2,), (SMALL + 1,)]
    for one, other in zip(tensors, joining.split(joined), strict=True):
        np.testing.assert_array_equal(one, other)
        assert one.shape == other.shape


def test_other_kinds_and_large_tensors_are_not_joined(tensors):
    joining = Joining(SHAPES, ["a", "b", "a", "a", "b", "c"])
    assert joining.groups == [[0, 3], [1, 4], [2], [5]]
    joined = joining.join(tensors)
    assert joined[2] is tensors[2]
    assert joined[3] is tensors[5]
    for one, other in zip(tensors, joining.split(joined), strict=True):
        np.testing.assert_array_equal(one, other)


def test_an_empty_list_stays_empty():
    joining = Joining(SHAPES, ["a"] * len(SHAPES))
    assert joining.join([]) == joining.split([]) == []


def test_in_a_graph_every_shape_is_known(tensors):
    joining = Joining(SHAPES, ["a"] * len(SHAPES))

    @tf.function
    def back(tensors):
        joined = joining.join(tensors)
        assert all(tensor.shape.is_fully_defined() for tensor in joined)
        parts = joining.split(joined)
        assert [tuple(part.shape) for part in parts] == SHAPES
        return parts

    for one, other in zip(tensors, back(tensors), strict=True):
        np.testing.assert_array_equal(one, other)
