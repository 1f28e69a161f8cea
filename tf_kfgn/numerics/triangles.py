"""Symmetric matrices in half of their numbers, without a table of indices.

Row i of the upper half of a lower triangle, turned around, fills what row i from the bottom of its
lower half leaves empty: `(d, d)` becomes `(d / 2, d + 1)`, with one row and column of zeros more
where d is odd.
"""

from __future__ import annotations

import tensorflow as tf


def packed_shape(size: int) -> tuple[int, int]:
    """Shape of a packed `(size, size)` matrix."""
    half = (size + 1) // 2
    return half, 2 * half + 1


def packed(matrices: tf.Tensor) -> tf.Tensor:
    """The lower triangles of matrices.

    Args:
        matrices: Shape `(..., d, d)`; only what is not above the diagonal is looked at.

    Returns:
        Shape `(..., *packed_shape(d))`.
    """
    half, _ = packed_shape(matrices.shape[-1])
    odd = 2 * half - matrices.shape[-1]
    leading = [[0, 0]] * (len(matrices.shape) - 2)
    even = tf.pad(matrices, [*leading, [0, odd], [0, odd]])
    top, bottom = even[..., :half, :], tf.reverse(even[..., half:, :], [-2])
    return tf.where(
        _is_of_bottom(half),
        tf.pad(bottom, [*leading, [0, 0], [0, 1]]),
        tf.pad(tf.reverse(top, [-1]), [*leading, [0, 0], [1, 0]]),
    )


def unpacked(triangles: tf.Tensor, size: int) -> tf.Tensor:
    """The symmetric matrices whose lower triangles these are.

    Args:
        triangles: What `packed` returns.
        size: d, of which the packed shape tells only whether it is above some even number.

    Returns:
        Shape `(..., size, size)`.
    """
    half, _ = packed_shape(size)
    of_bottom, zero = _is_of_bottom(half), tf.zeros((), triangles.dtype)
    bottom = tf.where(of_bottom, triangles, zero)[..., :-1]
    top = tf.where(of_bottom, zero, triangles)[..., 1:]
    even = tf.concat([tf.reverse(top, [-1]), tf.reverse(bottom, [-2])], axis=-2)
    lower = even[..., :size, :size]
    upper = tf.linalg.set_diag(lower, tf.zeros(lower.shape[:-1], lower.dtype))
    return lower + tf.linalg.matrix_transpose(upper)


def _is_of_bottom(half: int) -> tf.Tensor:
    """Where a packed matrix holds entries of the lower half."""
    return tf.range(half)[:, None] + tf.range(2 * half + 1) < 2 * half
