"""The damping τ: where it starts, how low it may get, and how it follows the predictions.

Levenberg-Marquardt, after Martens & Grosse (2015), section 6.5.
"""

from __future__ import annotations

import tensorflow as tf

from tf_kfgn.optimizers import replicas
from tf_kfgn.optimizers.memory import Memory, Scalars
from tf_kfgn.optimizers.settings import Settings
from tf_kfgn.recording.tape import CurvatureTape

# In units of the mean diagonal of the output curvature on the first batch.
INITIAL_DAMPING = 0.04

# In units of the initial damping.
MIN_DAMPING = 0.1

# How much a failed inversion, or a step that raised the objective, raises the damping.
RETRY = 2.0

GOOD, BAD = 0.75, 0.25


def with_initial_damping(
    settings: Settings, memory: Memory, tape: CurvatureTape, iteration: tf.Tensor
) -> Memory:
    """Take τ from a schedule; else, unless it is known, choose it from the first usable batch."""
    scalars = memory.scalars
    if settings.schedule is not None:
        scheduled = tf.cast(settings.schedule(iteration), scalars.damping.dtype)
        return memory.with_scalars(damping=tf.maximum(scheduled, floor(settings, scalars)))
    zero = tf.zeros_like(scalars.damping)

    def mean_diagonal() -> tf.Tensor:
        diagonals = [likelihood.mean_diagonal() for likelihood in tape.likelihoods]
        return tf.cast(tf.add_n(diagonals) / len(diagonals), zero.dtype)

    scale = tf.cond(scalars.initial_damping == 0, mean_diagonal, lambda: zero)
    chosen = INITIAL_DAMPING * replicas.mean(scale)
    unset = tf.math.is_finite(chosen) & (chosen > 0)
    return memory.with_scalars(
        initial_damping=tf.where(unset, chosen, scalars.initial_damping),
        damping=tf.where(unset, chosen, scalars.damping),
    )


def floor(settings: Settings, scalars: Scalars) -> tf.Tensor:
    """The least τ that is allowed."""
    if settings.min_damping is not None:
        return tf.constant(settings.min_damping, scalars.damping.dtype)
    if settings.schedule is not None:
        return tf.zeros_like(scalars.damping)
    return MIN_DAMPING * scalars.initial_damping


def with_adapted_damping(
    settings: Settings, memory: Memory, due: tf.Tensor, actual: tf.Tensor, predicted: tf.Tensor
) -> Memory:
    """Where due, measure ρ, and adapt a damping that follows no schedule.

    Args:
        settings: The optimizer's settings.
        memory: Its memory.
        due: Whether actual and predicted change were compared.
        actual: Objective after the step minus objective before it, on the same batch.
        predicted: M of the step; negative for any descent.
    """
    scalars = memory.scalars
    ratio = reduction_ratio(tf.cast(actual, predicted.dtype), predicted)
    damping = scalars.damping
    if settings.schedule is None and settings.damping_period is not None:
        damping = adapted(damping, ratio, settings.damping_decay**settings.damping_period)
    return memory.with_scalars(
        damping=tf.where(due, damping, scalars.damping),
        reduction_ratio=tf.where(due, ratio, scalars.reduction_ratio),
    )


def reduction_ratio(actual: tf.Tensor, predicted: tf.Tensor) -> tf.Tensor:
    """ρ: the change of the objective over the change that the quadratic model predicted.

    Args:
        actual: Objective after the step minus objective before it, on the same batch.
        predicted: M of the step; negative for any descent.

    Returns:
        ρ, or minus infinity if the change is not finite or the model predicts no descent.
    """
    ratio = actual / tf.where(predicted < 0, predicted, tf.ones_like(predicted))
    usable = tf.math.is_finite(ratio) & (predicted < 0)
    return tf.where(usable, ratio, tf.constant(float("-inf"), ratio.dtype))


def adapted(damping: tf.Tensor, ratio: tf.Tensor, factor: float) -> tf.Tensor:
    """The damping after one comparison: smaller after ρ > 3/4, larger after ρ < 1/4.

    Args:
        damping: τ.
        ratio: ρ; below 0, where the objective rose, τ is raised by `RETRY`.
        factor: What a good prediction multiplies τ with, and a bad one divides it by; below 1.
    """
    raised = tf.where(ratio < 0, RETRY * damping, damping / factor)
    return tf.where(ratio > GOOD, factor * damping, tf.where(ratio < BAD, raised, damping))
