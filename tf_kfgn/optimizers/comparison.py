"""Actual against predicted change: when they are compared, and whether the step may stay."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from tf_kfgn import replicas
from tf_kfgn.optimizers.batch import Batch
from tf_kfgn.optimizers.damping import BAD
from tf_kfgn.optimizers.memory import Memory, Scalars
from tf_kfgn.optimizers.proposal import Proposal
from tf_kfgn.optimizers.settings import Settings

# Updates from the first that are all compared.
EARLY = 10

# A step along which the model curves this many times as much as usual is compared.
UNUSUAL = 4.0

# In units of the float's spacing at the magnitude of the objective.
ROUND_OFF = 8.0


def is_measurable(settings: Settings, batch: Batch) -> bool:
    """Whether the change can be measured and predicted, and is to be."""
    known = batch.tape is not None and batch.objective is not None
    return known and settings.damping_period is not None


def comparison_due(
    settings: Settings, memory: Memory, proposal: Proposal, iteration: tf.Tensor
) -> tf.Tensor:
    """Whether to compare actual and predicted change after this update.

    On the period; in each of the first `EARLY` updates, and from the start or a bad prediction
    until a good one; and whenever the model curves much more along the step than it did along
    the steps before, whose predictions then say little about this one.
    """
    scalars = memory.scalars
    on_period = (iteration + 1) % settings.damping_period == 0
    unsure = (iteration < EARLY) | (scalars.reduction_ratio < BAD)
    return on_period | unsure | (proposal.curved > UNUSUAL * scalars.usual_curvature)


def measured(
    batch: Batch, due: tf.Tensor, otherwise: tf.Tensor, *, again: bool = False
) -> tf.Tensor:
    """The objective at the current weights, or another value where it is not due.

    Args:
        batch: What the batch brings.
        due: Whether it is needed.
        otherwise: The value to return if it is not.
        again: Whether the weights have moved; before, the loss of the batch may be known.
    """
    dtype = otherwise.dtype
    if batch.loss is not None and not again:
        return tf.cast(batch.loss, dtype)
    assert batch.objective is not None
    objective = batch.objective
    return replicas.conditional(due, lambda: tf.cast(objective(), dtype), lambda: otherwise)


def is_informative(
    scalars: Scalars, before: tf.Tensor, actual: tf.Tensor, proposal: Proposal
) -> tf.Tensor:
    """Whether the difference of actual and predicted change is more than round-off.

    Args:
        scalars: The optimizer's scalars.
        before: The objective before the step. The outputs keep about the magnitude that they had at
            the start, and with them their round-off, however small the objective has become.
        actual: Its change.
        proposal: The step.
    """
    magnitude = tf.maximum(tf.abs(before), tf.abs(scalars.initial_objective))
    least = ROUND_OFF * np.finfo(before.dtype.as_numpy_dtype).eps * magnitude
    error = tf.abs(actual - proposal.change)
    return (proposal.curved > least) | (error > least) | ~tf.math.is_finite(actual)


def acceptable(settings: Settings, batch: Batch, actual: tf.Tensor, ratio: tf.Tensor) -> tf.Tensor:
    """Whether a step that was compared may stay.

    Not if the objective is not finite after it; nor if it rose although the model of this very
    batch, whose minimiser the step is, predicted otherwise (ρ < 0). Where the direction comes from
    earlier gradients too, the model may predict a rise itself: that is the noise of the batch.

    Args:
        settings: The optimizer's settings.
        batch: What the batch brings.
        actual: Change of the objective.
        ratio: ρ, if the comparison says something; else anything.
    """
    if batch.alone and settings.chooses_step:
        return tf.math.is_finite(actual) & ((actual <= 0) | (ratio >= 0))
    return tf.math.is_finite(actual)
