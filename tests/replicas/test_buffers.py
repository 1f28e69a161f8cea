"""Tensors in one buffer."""

import numpy as np
import tensorflow as tf

from tf_kfgn.replicas.buffers import flattened, numbers, restored

MATRICES = np.random.default_rng(0).normal(size=(2, 3, 3))
TENSORS = [
    tf.constant(MATRICES + np.swapaxes(MATRICES, -1, -2)),
    tf.reshape(tf.range(5.0, dtype=tf.float64), (5, 1)),
    tf.constant([[7.0]], tf.float64),
    tf.reshape(tf.range(6.0, dtype=tf.float64), (2, 3)),
]


def test_they_come_out_as_they_went_in():
    buffer = flattened(TENSORS, tf.float64)
    assert buffer.shape == (sum(numbers(tensor.shape) for tensor in TENSORS),)
    for found, expected in zip(restored(buffer, TENSORS), TENSORS, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_of_another_type_they_are_rounded_once():
    found = restored(flattened(TENSORS, tf.bfloat16), TENSORS)
    for tensor, expected in zip(found, TENSORS, strict=True):
        assert tensor.dtype == tf.float64
        np.testing.assert_allclose(tensor, expected, rtol=2.0**-8)
    assert np.any(found[0] != TENSORS[0])


def test_there_may_be_none():
    assert flattened([], tf.float32).shape == (0,)
    assert restored(tf.zeros((0,)), []) == []
