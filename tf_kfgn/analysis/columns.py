"""Matrices from products: a chunk of columns at a time."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from tf_kfgn.analysis.progress import follow

CHUNK = 32  # columns that are computed at once
FEW = 64  # columns that are faster computed one by one than traced for that

_NOT_VECTORISED = (TypeError, ValueError, NotImplementedError, tf.errors.InvalidArgumentError)


def symmetric_matrix(
    product: Callable[[tf.Tensor], tf.Tensor], size: int, dtype: tf.DType, label: str
) -> tf.Tensor:
    """The matrix of a symmetric linear map.

    If they are many, several columns are computed at once. Where TensorFlow cannot vectorise the
    product, as that of a recurrent layer, they are computed one by one.

    Args:
        product: Multiplies the matrix with a vector of length `size`.
        size: Number of columns.
        dtype: Of the matrix.
        label: What is computed, for the bar of progress.

    Returns:
        Shape `(size, size)`; rounding errors are made symmetric.
    """
    chunk = min(size, CHUNK)

    def column(index: tf.Tensor) -> tf.Tensor:
        return product(tf.one_hot(index, size, dtype=dtype))

    @tf.function(autograph=False)
    def at_once(start: tf.Tensor) -> tf.Tensor:
        return tf.vectorized_map(column, start + tf.range(chunk))

    def one_by_one(start: tf.Tensor) -> tf.Tensor:
        last = min(int(start) + chunk, size)
        return tf.stack([column(tf.constant(index)) for index in range(int(start), last)])

    some = one_by_one
    if size > FEW:
        try:
            at_once(tf.constant(0))
            some = at_once
        except _NOT_VECTORISED:
            pass
    matrix = np.empty((size, size), dtype.as_numpy_dtype)
    for start in follow(range(0, size, chunk), -(-size // chunk), label):
        rows = some(tf.constant(start)).numpy()
        matrix[start : start + chunk] = rows[: size - start]  # zeros follow the last
    return tf.constant((matrix + matrix.T) / 2)
