"""The objective before a step: what is known of it for free, and what it usually is."""

from __future__ import annotations

import tensorflow as tf

from tf_kfgn.optimizers import replicas
from tf_kfgn.optimizers.batch import Batch
from tf_kfgn.optimizers.memory import Memory

# Weight of the old mean when a new objective comes.
_DECAY = 0.5

# So that the logarithm of an objective of 0 is finite.
_TINY = 1e-30


def known_objective(batch: Batch, dtype: tf.DType) -> tf.Tensor | None:
    """The objective before the step, without another forward pass.

    Args:
        batch: What the batch brings.
        dtype: Of the result.

    Returns:
        A scalar, summed over replicas: the loss of the batch if it was given, else the value of
        the losses that its tape watched, without regularisers; None if neither is known.
    """
    if batch.loss is not None:
        return replicas.total(tf.cast(batch.loss, dtype))
    value = None if batch.tape is None else batch.tape.watched_value()
    return None if value is None else replicas.mean(tf.cast(value, dtype))


def with_usual_objective(memory: Memory, objective: tf.Tensor, learns: tf.Tensor) -> Memory:
    """Mix an objective into the usual one: a geometric mean, which an outlier moves little.

    Args:
        memory: The optimizer's memory.
        objective: Of this batch; passed over if it is not finite.
        learns: Whether it counts.
    """
    scalars = memory.scalars
    magnitude = tf.maximum(tf.abs(objective), _TINY)
    old = tf.where(scalars.usual_objective > 0, scalars.usual_objective, magnitude)
    mean = tf.exp(_DECAY * tf.math.log(old) + (1 - _DECAY) * tf.math.log(magnitude))
    usable = learns & tf.math.is_finite(mean)
    first = usable & (scalars.initial_objective == 0)
    return memory.with_scalars(
        usual_objective=tf.where(usable, mean, scalars.usual_objective),
        initial_objective=tf.where(first, objective, scalars.initial_objective),
    )
