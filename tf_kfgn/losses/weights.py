"""The weight of each row in the number that Keras reports."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tf_kfgn._keras.layers import mask_of, with_mask
from tf_kfgn.losses.row_losses import describe
from tf_kfgn.numerics.precision import at_least_float32


def row_weights(
    loss: keras.losses.Loss,
    outputs: tf.Tensor,
    sample_weight: Any,
    y: Any = None,
    mask: tf.Tensor | None = None,
) -> tf.Tensor:
    """Weight of each row along the last axis of the outputs in the per-example loss.

    Args:
        loss: A Keras loss object.
        outputs: What it takes, shape `(batch_size, *positions, D)`.
        sample_weight: As the loss takes it, or None.
        y: Targets, or None.
        mask: The mask that the loss itself sets, or None.

    Returns:
        Tensor of shape `(batch_size, *positions)`.
    """
    # Targets (batch, T) of outputs (batch, T, 1): Keras drops the last axis of the outputs and
    # means over T instead, so it is left with one value for each example.
    dropped = outputs.shape[-1] == 1 and 2 <= _rank(y) == outputs.shape.rank - 1
    axes = outputs.shape.rank - (2 if dropped else 1)
    values = tf.zeros(tf.shape(outputs)[:axes], at_least_float32(outputs.dtype))
    values = tf.ensure_shape(values, outputs.shape[:axes])
    weights = reduction_weights(loss, values, outputs, sample_weight, mask)
    if dropped:
        positions = tf.shape(outputs)[axes]
        weights = tf.repeat(weights[..., None], positions, axis=-1)
        weights /= tf.cast(positions, weights.dtype)
    return weights


def reduction_weights(
    loss: keras.losses.Loss,
    values: tf.Tensor,
    outputs: tf.Tensor,
    sample_weight: Any,
    mask: tf.Tensor | None,
) -> tf.Tensor:
    """Weight of each of the values that a loss reduces, in the per-example loss.

    The reported loss is linear in the losses of the rows. Its derivative, found by running
    Keras' own reduction, covers the reduction, sample weights, masks and the division by the
    number of replicas; times the batch size it is the weight in the per-example loss.

    Args:
        loss: A Keras loss object.
        values: The losses of the rows, shape `(batch_size, *positions)`, or their mean, a scalar.
        outputs: Of the model, which may carry a mask.
        sample_weight: As the loss takes it, or None.
        mask: The mask that the loss itself sets, or None.

    Returns:
        Tensor shaped like `values`, or `(batch_size,)` for a mean.
    """
    of_outputs = mask_of(outputs)
    if mask is None or of_outputs is None:
        mask = of_outputs if mask is None else mask
    else:
        mask = tf.logical_and(tf.cast(of_outputs, tf.bool), tf.cast(mask, tf.bool))
    with tf.GradientTape() as tape:
        tape.watch(values)
        rows = with_mask(tf.identity(values), mask)
        reduce = _Reduction("reduction", loss.reduction, values.dtype.name)
        reduced = reduce(rows, rows, sample_weight)
    replicas = tf.distribute.get_strategy().num_replicas_in_sync
    weights = tape.gradient(reduced, values) * tf.cast(replicas, values.dtype)
    batch_size = tf.shape(outputs)[:1]
    if values.shape.rank == 0:  # each example has its part in the mean
        return tf.broadcast_to(weights, batch_size)
    return weights * tf.cast(batch_size, values.dtype)


def check_reducible(loss: keras.losses.Loss, outputs: tf.Tensor) -> None:
    """Refuse what has no rows, or no single number to take the curvature of.

    Raises:
        ValueError: If the outputs have no feature axis, or the loss is not reduced to a scalar.
    """
    if outputs.shape.rank is None or outputs.shape.rank < 2:
        raise ValueError(
            "Curvature needs outputs of shape (batch_size, ..., features), but the model returned "
            f"shape {outputs.shape}. Keep a last axis, of length 1 for a scalar output."
        )
    if loss.reduction in (None, "none"):
        raise ValueError(
            f"The loss {describe(loss)} is not a single number: it has reduction="
            f'{loss.reduction!r}. Use reduction="sum_over_batch_size" or "sum".'
        )


class _Reduction(keras.losses.Loss):
    """Reduces given losses of rows as any Keras loss does its own."""

    def call(self, y_true: tf.Tensor, y_pred: tf.Tensor) -> tf.Tensor:
        del y_true
        return y_pred


def _rank(y: Any) -> int:
    return -1 if y is None else len(getattr(y, "shape", np.shape(y)))
