"""Exact mean and variance over any number of batches, one batch after the other."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf

from tf_kfgn.numerics.precision import at_least_float32


class PooledMoments:
    """Count, mean and sum of squared deviations of each channel, in double precision.

    Two sets of values are joined as in Chan, Golub & LeVeque, "Algorithms for Computing the Sample
    Variance", The American Statistician 37 (1983), equation 2.1: no large sums are subtracted, and
    the result is that of all values at once, however they were split into batches.

    The sums are variables, since a layer may be called inside a loop of a graph.
    """

    def __init__(self, channels: int) -> None:
        """Start without any values."""
        self._sums = [tf.Variable(tf.zeros(channels, tf.float64)) for _ in range(3)]

    def clear(self) -> None:
        """Forget all values."""
        for total in self._sums:
            total.assign(tf.zeros_like(total))

    def add(self, inputs: tf.Tensor, mask: tf.Tensor | None, axis: int) -> None:
        """Add what one call of a layer sees.

        Args:
            inputs: Any shape with a static rank.
            mask: Which places count, without the last axis of `inputs`; None for all.
            axis: The axis of the channels.
        """
        values = tf.cast(inputs, at_least_float32(inputs.dtype))
        seen = tf.ones((), tf.bool) if mask is None else tf.cast(mask, tf.bool)[..., None]
        seen = tf.broadcast_to(seen, tf.shape(values))
        axes = [other for other in range(values.shape.rank) if other != axis % values.shape.rank]

        def total(tensor: tf.Tensor) -> tf.Tensor:
            return tf.reduce_sum(tf.where(seen, tensor, tf.zeros_like(tensor)), axes, True)

        new = total(tf.ones_like(values))
        mean = tf.math.divide_no_nan(total(values), new)
        squares = total(tf.square(values - mean))
        self._join(*(tf.cast(tf.reshape(part, (-1,)), tf.float64) for part in (new, mean, squares)))

    def result(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Mean and (biased) variance of each channel, in float64; None without any values."""
        count, mean, squares = (keras.ops.convert_to_numpy(total) for total in self._sums)
        return (mean, squares / count) if np.all(count > 0) else None

    def _join(self, new: tf.Tensor, new_mean: tf.Tensor, new_squares: tf.Tensor) -> None:
        count, mean, squares = (tf.convert_to_tensor(total) for total in self._sums)
        share = tf.math.divide_no_nan(new, count + new)
        difference = new_mean - mean
        joined = (
            count + new,
            mean + share * difference,
            squares + new_squares + share * count * tf.square(difference),
        )
        for total, value in zip(self._sums, joined, strict=True):
            total.assign(value)
