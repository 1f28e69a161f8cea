"""The features of one example, flattened."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf


def num_features(tensor: tf.Tensor) -> int:
    """Features of one example.

    Raises:
        ValueError: If a feature axis has no static length.
    """
    features = tensor.shape[1:].num_elements()
    if features is None:
        raise ValueError(
            f"Curvature needs static feature axes, but a recorded tensor has shape {tensor.shape}. "
            "Fix the shape in keras.Input."
        )
    return features


def as_rows(tensor: tf.Tensor, features: int) -> tf.Tensor:
    """A tensor whose features are rows, one after the other: `(batch_size, rows, features)`.

    Args:
        tensor: Shape `(batch_size, ...)`; sequences may be of any length.
        features: Length of a row.
    """
    numbers = tensor.shape[1:].num_elements()
    rows = tf.reduce_prod(tf.shape(tensor)[1:]) if numbers is None else numbers
    return tf.reshape(tensor, (-1, rows // max(features, 1), features))


def flattened(tensors: Sequence[tf.Tensor], widths: Sequence[int], dtype: tf.DType) -> tf.Tensor:
    """The features of each example, tensor by tensor: shape `(batch_size, features)`."""
    rows = [
        tf.cast(tf.reshape(tensor, (-1, width)), dtype)
        for tensor, width in zip(tensors, widths, strict=True)
    ]
    return rows[0] if len(rows) == 1 else tf.concat(rows, axis=1)
