"""Where a model ends in the inverse of a link function: the natural parameter before it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tf_kfgn._keras.losses import logits_behind

_REMEMBERED = {"Softmax", "Sigmoid"}  # Keras hangs the logits on the outputs of these


def natural_parameter(
    outputs: tf.Tensor, head: str | None, from_logits: bool, operations: Sequence[Any] = ()
) -> tf.Tensor | None:
    """The tensor that a loss really works on: logits behind a softmax or sigmoid head.

    Args:
        outputs: What the loss takes.
        head: The TensorFlow operation that makes the outputs from the natural parameter; None if
            they are the same.
        from_logits: Whether the loss was told that its outputs are logits.
        operations: The recorded operations of the pass that made the outputs.

    Returns:
        The natural parameter, or None if the outputs do not come directly from the head.
    """
    if head is None:
        return outputs
    logits = logits_behind(outputs)
    if logits is not None and head in _REMEMBERED:
        return logits
    symbolic = not hasattr(outputs, "numpy")
    if symbolic and outputs.op.type == head:
        return outputs.op.inputs[0]
    if from_logits:
        return outputs
    return _recorded_logarithm(outputs, operations) if head == "Exp" and not symbolic else None


def _recorded_logarithm(outputs: tf.Tensor, operations: Sequence[Any]) -> tf.Tensor | None:
    """What an eager exponential was given, if an operation that was recorded computed it."""
    for operation in reversed(operations):
        if operation.output is outputs:
            before = operation.input
            same = before.shape == outputs.shape and before.dtype == outputs.dtype
            return before if same and bool(tf.reduce_all(tf.exp(before) == outputs)) else None
    return None
