"""The precision of curvature: that of the model, but never less than float32."""

from __future__ import annotations

import tensorflow as tf


def at_least_float32(dtype: tf.DType) -> tf.DType:
    """A floating type, or float32 if that is wider."""
    return dtype if dtype.size > 4 else tf.float32
