"""Many tensors in one flat buffer, symmetric matrices by their triangles: what travels at once."""

from __future__ import annotations

import math
from collections.abc import Sequence

import tensorflow as tf

from tf_kfgn.numerics.triangles import packed, packed_shape, unpacked


def flattened(tensors: Sequence[tf.Tensor], dtype: tf.DType) -> tf.Tensor:
    """A vector of all tensors.

    Args:
        tensors: Of static shapes. Those whose last two axes are alike must be symmetric.
        dtype: The type of the vector.
    """
    parts = [tf.reshape(packed(t) if _is_square(t.shape) else t, [-1]) for t in tensors]
    return tf.concat([tf.cast(part, dtype) for part in [*parts, tf.zeros((0,), dtype)]], axis=0)


def restored(buffer: tf.Tensor, like: Sequence[tf.Tensor | tf.TensorSpec]) -> list[tf.Tensor]:
    """The tensors of a vector.

    Args:
        buffer: What `flattened` returns.
        like: Tensors, or specs, of the shapes and types of those that were flattened.
    """
    parts = tf.split(buffer, [numbers(each.shape) for each in like]) if like else []
    return [
        tf.cast(_unflattened(part, t.shape), t.dtype) for part, t in zip(parts, like, strict=True)
    ]


def numbers(shape: Sequence[int]) -> int:
    """How many numbers a tensor of some shape has in a buffer."""
    if not _is_square(shape):
        return math.prod(shape)
    return math.prod([*shape[:-2], *packed_shape(shape[-1])])


def _unflattened(part: tf.Tensor, shape: Sequence[int]) -> tf.Tensor:
    if not _is_square(shape):
        return tf.reshape(part, shape)
    size = shape[-1]
    return unpacked(tf.reshape(part, [*shape[:-2], *packed_shape(size)]), size)


def _is_square(shape: Sequence[int]) -> bool:
    return len(shape) > 1 and shape[-1] == shape[-2] > 1
