"""Many tensors in one flat buffer, symmetric matrices by their triangles: what travels at once."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from tf_kfgn.numerics.triangles import packed, packed_shape, unpacked


def flattened(tensors: Sequence[tf.Tensor], dtype: tf.DType) -> tf.Tensor:
    """A vector of all tensors.

    Args:
        tensors: Of static shapes. Those whose last two axes are alike must be symmetric.
        dtype: The type of the vector.
    """
    parts = [tf.reshape(packed(t) if _is_square(t) else t, [-1]) for t in tensors]
    return tf.concat([tf.cast(part, dtype) for part in [*parts, tf.zeros((0,), dtype)]], axis=0)


def restored(buffer: tf.Tensor, like: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """The tensors of a vector.

    Args:
        buffer: What `flattened` returns.
        like: Tensors of the shapes and types of those that were flattened.
    """
    parts = tf.split(buffer, [numbers(tensor) for tensor in like]) if like else []
    return [tf.cast(_unflattened(part, t), t.dtype) for part, t in zip(parts, like, strict=True)]


def numbers(tensor: tf.Tensor) -> int:
    """How many numbers of a tensor travel."""
    shape = tensor.shape
    if not _is_square(tensor):
        return int(shape.num_elements())
    rows, columns = packed_shape(shape[-1])
    return int(shape[:-2].num_elements()) * rows * columns


def _unflattened(part: tf.Tensor, like: tf.Tensor) -> tf.Tensor:
    if not _is_square(like):
        return tf.reshape(part, like.shape)
    size = like.shape[-1]
    return unpacked(tf.reshape(part, [*like.shape[:-2], *packed_shape(size)]), size)


def _is_square(tensor: tf.Tensor) -> bool:
    return len(tensor.shape) > 1 and tensor.shape[-1] == tensor.shape[-2] > 1
