"""How much the cotangents of different positions correlate, from sums that factors take anyway.

What it is for, and the shapes of rows, are in `tf_kfgn.factors.sharing`.
"""

from __future__ import annotations

import tensorflow as tf

from tf_kfgn.numerics.moments import batch_size


def square_of_sums(rows: tf.Tensor, others: tf.Tensor | None = None) -> tf.Tensor:
    """`1/N sum_n |sum_t g_t|²` of cotangents, shape `([groups,] 1, 1)`.

    Args:
        rows: Of one cotangent; zero at positions that are not used.
        others: Rows of another cotangent, whose products with the first are taken.
    """
    first = tf.reduce_sum(rows, axis=1)
    second = first if others is None else tf.reduce_sum(others, axis=1)
    return tf.reduce_sum(first * second, axis=(0, -1))[..., None, None] / batch_size(rows)


def square_of_sum_of_averages(average: tf.Tensor) -> tf.Tensor:
    """The same from KFRA's average over the rows of one use, `(shared, [groups,] features) * 2`."""
    group = "g" if average.shape.rank == 6 else ""
    return tf.einsum(f"s{group}it{group}i->{group}", average)[..., None, None]


def trace(factor: tf.Tensor) -> tf.Tensor:
    """Trace of a factor, or the sum of its diagonal: shape `([groups,] 1, 1)`."""
    if factor.shape[-1] == 1:
        return tf.reduce_sum(factor, axis=-2, keepdims=True)
    return tf.linalg.trace(factor)[..., None, None]


def correlation(
    trace: tf.Tensor, squares: tf.Tensor, count: tf.Tensor, count_squared: tf.Tensor
) -> tf.Tensor:
    """ρ: how much the cotangents of two positions of an example correlate, between 0 and 1.

    `E|sum_t g_t|² = E[n] tr G + E[n (n - 1)] ρ tr G` for n positions.

    Args:
        trace: Of the factor G of `"expand"`, shape `([groups,] 1, 1)`.
        squares: `E|sum_t g_t|²`, in the same shape.
        count: Mean of n over examples.
        count_squared: Mean of n².

    Returns:
        Shape `([groups,] 1, 1)`; 0 without curvature or pairs.
    """
    alone = count * trace
    pairs = (count_squared - count) * trace
    return tf.clip_by_value(tf.math.divide_no_nan(squares - alone, pairs), 0, 1)
