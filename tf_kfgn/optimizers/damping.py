"""The damping τ: where it starts, how low it may get, and how it follows the predictions.

Levenberg-Marquardt, after Martens & Grosse (2015), section 6.5.
"""

from __future__ import annotations

import tensorflow as tf

from tf_kfgn import replicas
from tf_kfgn.numerics.sums import ordered_sum
from tf_kfgn.optimizers.memory import Memory, Scalars
from tf_kfgn.optimizers.settings import Settings
from tf_kfgn.recording.tape import CurvatureTape

# In units of the mean diagonal of the output curvature on the first batch.
INITIAL_DAMPING = 0.04

# In units of the initial damping.
MIN_DAMPING = 0.1

# In units of the initial damping: τ does not grow beyond it by itself.
MAX_DAMPING = 1e4

# How much a failed inversion, or a prediction that fails altogether, raises the damping.
RETRY = 3.0

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
        return replicas.mean(tf.cast(ordered_sum(diagonals) / len(diagonals), zero.dtype))

    scale = replicas.conditional(scalars.initial_damping == 0, mean_diagonal, lambda: zero)
    chosen = INITIAL_DAMPING * scale
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


def ceiling(scalars: Scalars) -> tf.Tensor:
    """The largest τ that an update may choose; above it, τ stays where it is."""
    return tf.maximum(MAX_DAMPING * scalars.initial_damping, scalars.damping)


def retried(scalars: Scalars) -> tf.Tensor:
    """τ after a failure."""
    return tf.minimum(RETRY * scalars.damping, ceiling(scalars))


def with_adapted_damping(
    settings: Settings, memory: Memory, due: tf.Tensor, ratio: tf.Tensor
) -> Memory:
    """Where due, remember ρ, and adapt a damping that follows no schedule.

    Args:
        settings: The optimizer's settings.
        memory: Its memory.
        due: Whether actual and predicted change were compared, and that said something.
        ratio: ρ.
    """
    scalars = memory.scalars
    damping = scalars.damping
    if settings.schedule is None and settings.damping_period is not None:
        factor = settings.damping_decay**settings.damping_period
        damping = tf.minimum(adapted(damping, ratio, factor), ceiling(scalars))
    return memory.with_scalars(
        damping=tf.where(due, damping, scalars.damping),
        reduction_ratio=tf.where(due, ratio, scalars.reduction_ratio),
    )


def reduction_ratio(actual: tf.Tensor, predicted: tf.Tensor, curved: tf.Tensor) -> tf.Tensor:
    """ρ: how well the quadratic model predicted the change of the objective.

    `ρ = 1 - (actual - M(δ)) / (1/2 δ^T C δ)`: 1 where the model is exact. For the minimiser, where
    `M(δ) = -1/2 δ^T C δ`, it is the ratio of actual to predicted change (Martens & Grosse 2015,
    section 6.5). Any other step, which may predict hardly a change or a rise, is judged by the same
    error against the same scale.

    Args:
        actual: Objective after the step minus objective before it, on the same batch.
        predicted: M(δ), with the slope of the batch's own objective.
        curved: `1/2 δ^T C δ`, damping included.

    Returns:
        ρ, or minus infinity if the change is not finite or the step has no curvature.
    """
    ratio = 1 - (actual - predicted) / tf.where(curved > 0, curved, tf.ones_like(curved))
    usable = tf.math.is_finite(ratio) & (curved > 0)
    return tf.where(usable, ratio, tf.constant(float("-inf"), ratio.dtype))


def adapted(damping: tf.Tensor, ratio: tf.Tensor, factor: float) -> tf.Tensor:
    """The damping after one comparison: smaller after ρ > 3/4, larger after ρ < 1/4.

    Args:
        damping: τ.
        ratio: ρ; below 0 τ is raised by `RETRY`.
        factor: What a good prediction multiplies τ with, and a bad one divides it by; below 1.
    """
    raised = tf.where(ratio < 0, RETRY * damping, damping / factor)
    return tf.where(ratio > GOOD, factor * damping, tf.where(ratio < BAD, raised, damping))
