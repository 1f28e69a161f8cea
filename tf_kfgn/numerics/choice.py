"""One of two lists of tensors."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

# Numbers in a tensor that are copied without a thought. A condition copies nothing, but it takes
# six operations for each tensor where a selection takes one, in every trace and in every update.
_SMALL = 2**14


def select(
    condition: tf.Tensor, first: Sequence[tf.Tensor], second: Sequence[tf.Tensor]
) -> list[tf.Tensor]:
    """One of two lists of tensors.

    Args:
        condition: Whether the first one, a boolean scalar.
        first: Tensors.
        second: As many, of the same types, and of the same shapes; a small one may have a scalar
            for it in `first`. One that is in both lists is handed on.
    """
    chosen = list(second)
    large = []
    for index, (one, other) in enumerate(zip(first, second, strict=True)):
        if one is other:
            continue
        if _is_small(one):
            chosen[index] = tf.where(condition, one, other)
        else:
            large.append(index)
    if large:
        handed_on = tf.cond(
            condition,
            lambda: [first[index] for index in large],
            lambda: [second[index] for index in large],
        )
        for index, tensor in zip(large, handed_on, strict=True):
            chosen[index] = tensor
    return chosen


def zeros_if(condition: tf.Tensor, tensors: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """Zeros in the shapes of some tensors, or these themselves.

    Args:
        condition: Whether zeros, a boolean scalar.
        tensors: Tensors.
    """
    zeros = [
        tf.zeros((), tensor.dtype) if _is_small(tensor) else tf.zeros_like(tensor)
        for tensor in tensors
    ]
    return select(condition, zeros, tensors)


def _is_small(tensor: tf.Tensor) -> bool:
    count = tensor.shape.num_elements()
    return count is not None and count <= _SMALL
