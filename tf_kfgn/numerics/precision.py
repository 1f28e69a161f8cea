"""The precision of curvature: that of the model, but never less than float32."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf


def at_least_float32(dtype: tf.DType) -> tf.DType:
    """A floating type, or float32 if that is wider."""
    return dtype if dtype.size > 4 else tf.float32


def unit_scale(tensors: Sequence[tf.Tensor]) -> tf.Tensor:
    """The power of two that brings the largest magnitude among some tensors into [1, 2).

    What goes through float16 is multiplied with it before, and divided by it after, so that it
    neither vanishes nor overflows. A power of two changes no digit.

    Returns:
        A float32 scalar; 1 if every tensor is zero, or one is not finite.
    """
    # Not of the magnitudes, which would be one more tensor of each size.
    ends = [(tf.reduce_max(t), -tf.reduce_min(t)) for t in tensors]
    largest = tf.reduce_max([tf.cast(end, tf.float32) for pair in ends for end in pair])
    usable = tf.math.is_finite(largest) & (largest > 0)
    exponent = tf.floor(tf.math.log(tf.where(usable, largest, 1.0)) / tf.math.log(2.0))
    return tf.pow(2.0, -tf.clip_by_value(exponent, -100.0, 100.0))
