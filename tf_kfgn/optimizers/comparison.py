"""Actual against predicted change: when they are compared, and whether the step may stay."""

from __future__ import annotations

import tensorflow as tf

from tf_kfgn.optimizers.batch import Batch
from tf_kfgn.optimizers.damping import BAD
from tf_kfgn.optimizers.memory import Memory
from tf_kfgn.optimizers.settings import Settings


def is_measurable(settings: Settings, batch: Batch) -> bool:
    """Whether the change can be measured and predicted, and is to be."""
    known = batch.tape is not None and batch.objective is not None
    return known and settings.damping_period is not None


def comparison_due(settings: Settings, memory: Memory, iteration: tf.Tensor) -> tf.Tensor:
    """Whether to compare actual and predicted change after this update.

    On the period, and in every update from the first until the model predicts well, and again
    from a bad prediction until a good one.
    """
    period = settings.damping_period
    return ((iteration + 1) % period == 0) | (memory.scalars.reduction_ratio < BAD)


def measured(batch: Batch, due: tf.Tensor, otherwise: tf.Tensor) -> tf.Tensor:
    """Where due, the objective at the current weights."""
    dtype = otherwise.dtype
    assert batch.objective is not None
    objective = batch.objective
    return tf.cond(due, lambda: tf.cast(objective(), dtype), lambda: otherwise)


def acceptable(settings: Settings, batch: Batch, actual: tf.Tensor) -> tf.Tensor:
    """Whether a step that was compared may stay.

    Not if the objective is not finite after it; nor if it rose, where both coefficients minimise
    the model of this very batch, which then was wrong.

    Args:
        settings: The optimizer's settings.
        batch: What the batch brings.
        actual: Change of the objective.
    """
    if batch.alone and settings.step_size is None and settings.momentum is None:
        return actual <= 0
    return tf.math.is_finite(actual)
