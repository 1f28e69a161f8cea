"""A way back: the next batch tells, for nothing, that a step that nobody compared went wrong.

The forward pass of a batch shows the objective after the last step, on examples that did not make
it. If that is far above the usual one, either the batch is unlike the others or the step was bad.
One more forward pass, of the same batch at the weights before the step, tells which.
"""

from __future__ import annotations

import tensorflow as tf

from tf_kfgn.optimizers.damping import retried
from tf_kfgn.optimizers.memory import Memory

# A step that has multiplied the objective of the next batch by this is taken back.
WORSE = 2.0


def seems_astray(memory: Memory, unusual: tf.Tensor) -> tf.Tensor:
    """Whether the last step is to be looked at again.

    Args:
        memory: The optimizer's memory, before it learns of this batch.
        unusual: Whether the objective of this batch is.
    """
    return unusual & (memory.scalars.last_moved > 0)


def is_much_better(back: tf.Tensor, here: tf.Tensor) -> tf.Tensor:
    """Whether the objective was much lower before the last step, or finite where it no longer is.

    Args:
        back: The objective of this batch at the weights before the last step.
        here: The same at the weights now.
    """
    return tf.math.is_finite(back) & ((WORSE * back < here) | ~tf.math.is_finite(here))


def with_retreat(memory: Memory, retreats: tf.Tensor) -> Memory:
    """Where the weights went back: more damping, and comparisons until one step is predicted well.

    Args:
        memory: The optimizer's memory.
        retreats: Whether the weights went back.
    """
    scalars = memory.scalars
    wrong = tf.constant(float("-inf"), scalars.reduction_ratio.dtype)
    return memory.with_scalars(
        damping=tf.where(retreats, retried(scalars), scalars.damping),
        reduction_ratio=tf.where(retreats, wrong, scalars.reduction_ratio),
    )
