"""A symmetric factor of a block: dense, `([groups,] d, d)`, or its diagonal, `([groups,] d, 1)`."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

# Rows of a matrix that is factorised in one piece.
LARGEST_WHOLE = 256

# Of the operation in a graph whose output is an inverse, for those who count them.
NAME_OF_INVERSE = "cholesky_inverse"


def is_diagonal(factor: tf.Tensor) -> bool:
    """Whether a factor is kept as a column, its diagonal."""
    return factor.shape[-1] == 1


def identity(shape: tuple[int, ...], dtype: tf.DType) -> tf.Tensor:
    """The identity in the shape of a factor."""
    if shape[-1] == 1:
        return tf.ones(shape, dtype)
    return tf.eye(shape[-1], batch_shape=shape[:-2], dtype=dtype)


def mean_diagonal(factor: tf.Tensor) -> tf.Tensor:
    """Mean of the diagonal, for each group: shape `([groups,] 1, 1)`."""
    if is_diagonal(factor):
        return tf.reduce_mean(factor, axis=-2, keepdims=True)
    mean = tf.reduce_mean(tf.linalg.diag_part(factor), axis=-1, keepdims=True)
    return tf.expand_dims(mean, -1)


def damped_inverse(factor: tf.Tensor, damping: tf.Tensor) -> tf.Tensor:
    """Inverse of `factor + damping I`; not finite if that is not positive definite.

    Args:
        factor: A factor.
        damping: A scalar, or one for each group: shape `([groups,] 1, 1)`.
    """
    if is_diagonal(factor):
        damped = factor + damping
        return tf.where(damped > 0, 1 / damped, tf.constant(float("nan"), factor.dtype))
    unit = identity(tuple(factor.shape), factor.dtype)
    return cholesky_inverse(factor + damping * unit, unit)


def cholesky_inverse(matrix: tf.Tensor, unit: tf.Tensor) -> tf.Tensor:
    """Inverse of symmetric positive definite matrices; not finite if one is not that.

    Args:
        matrix: The matrices, of a known size.
        unit: The identity in their shape.
    """
    root = inverse_root(matrix, unit)
    return tf.matmul(root, root, transpose_a=True, name=NAME_OF_INVERSE)


def inverse_root(matrix: tf.Tensor, unit: tf.Tensor) -> tf.Tensor:
    """The inverse of the lower Cholesky factor of each matrix.

    Of large matrices it is put together from those of a half and of that half's Schur complement:
    nearly all of the work is then in matrix products, which use every core.

    Args:
        matrix: As for `cholesky_inverse`.
        unit: Likewise.
    """
    size = matrix.shape[-1]
    if size <= LARGEST_WHOLE:
        return tf.linalg.triangular_solve(tf.linalg.cholesky(matrix), unit)
    half = size // 2
    first = inverse_root(matrix[..., :half, :half], unit[..., :half, :half])
    below = tf.matmul(matrix[..., half:, :half], first, transpose_b=True)  # of the factor
    complement = matrix[..., half:, half:] - tf.matmul(below, below, transpose_b=True)
    last = inverse_root(complement, unit[..., half:, half:])
    beside = -tf.matmul(last, tf.matmul(below, first))
    above = tf.zeros_like(matrix[..., :half, half:])
    rows = [tf.concat([first, above], axis=-1), tf.concat([beside, last], axis=-1)]
    return tf.concat(rows, axis=-2)


def times(factor: tf.Tensor, matrix: tf.Tensor) -> tf.Tensor:
    """A factor times matrices of shape `([groups,] d, columns)`."""
    return factor * matrix if is_diagonal(factor) else tf.matmul(factor, matrix)


def times_on_right(matrix: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """Matrices of shape `([groups,] rows, d)` times a factor."""
    if is_diagonal(factor):
        return matrix * tf.linalg.matrix_transpose(factor)
    return tf.matmul(matrix, factor)


def is_finite(tensor: tf.Tensor) -> tf.Tensor:
    """Whether every element is finite, a scalar boolean."""
    return tf.reduce_all(tf.math.is_finite(tensor))


def are_finite(tensors: Sequence[tf.Tensor]) -> tf.Tensor:
    """Whether every element of some tensors is finite, a scalar boolean."""
    axes = {
        rank: tf.constant([*range(rank)], tf.int32)
        for rank in {tensor.shape.rank for tensor in tensors}
    }
    finite = [
        tf.reduce_all(tf.math.is_finite(tensor), axis=axes[tensor.shape.rank]) for tensor in tensors
    ]
    return tf.reduce_all(finite)
