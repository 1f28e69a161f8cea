"""Levenberg-Marquardt: damping that follows how well the quadratic model predicts.

Martens & Grosse (2015), section 6.5.
"""

from __future__ import annotations

import tensorflow as tf

# In units of the mean diagonal of the output curvature on the first batch.
INITIAL_DAMPING = 0.04

# In units of the initial damping.
MIN_DAMPING = 0.1

# How much a failed inversion, or a step that raised the objective, raises the damping.
RETRY = 2.0

GOOD, BAD = 0.75, 0.25


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
