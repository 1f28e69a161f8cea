"""Means over the rows of a matrix, which are examples."""

from __future__ import annotations

import tensorflow as tf


def batch_size(tensor: tf.Tensor) -> tf.Tensor:
    """Number of examples, as a scalar of the tensor's own dtype."""
    return tf.cast(tf.shape(tensor)[0], tensor.dtype)


def second_moment(rows: tf.Tensor) -> tf.Tensor:
    """Mean outer product `X^T X / N` of a matrix of N rows."""
    return tf.matmul(rows, rows, transpose_a=True) / batch_size(rows)
