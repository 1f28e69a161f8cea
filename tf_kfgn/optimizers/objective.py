"""The objective before a step: what is known of it for free, and what it usually is."""

from __future__ import annotations

import tensorflow as tf

from tf_kfgn import replicas
from tf_kfgn.optimizers.averaging import running_geometric_mean
from tf_kfgn.optimizers.batch import Batch
from tf_kfgn.optimizers.memory import Memory

# Weight of the old mean when a new objective comes.
_DECAY = 0.5

# The same of the deviation.
_SLOW_DECAY = 0.9

# An objective stands out if its logarithm is more than this many usual deviations above the usual
# one, and the objective itself more than `SUSPICIOUS` times as large.
_OUTLYING = 4.0

# Times the usual objective from which a batch is suspicious.
SUSPICIOUS = 2.0

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

    The deviation of its logarithm from that of the usual one enters a mean of its own.

    Args:
        memory: The optimizer's memory.
        objective: Of this batch; passed over if it is not finite.
        learns: Whether it counts.
    """
    scalars = memory.scalars
    magnitude = tf.maximum(tf.abs(objective), _TINY)
    old = tf.where(scalars.usual_objective > 0, scalars.usual_objective, magnitude)
    mean = running_geometric_mean(old, magnitude, _DECAY)
    usable = learns & tf.math.is_finite(mean)
    deviation = tf.abs(tf.math.log(magnitude / old))
    usual = scalars.usual_deviation
    deviation = tf.where(usual > 0, tf.minimum(deviation, _OUTLYING * usual), deviation)
    first = usable & (scalars.initial_objective == 0)
    return memory.with_scalars(
        usual_objective=tf.where(usable, mean, scalars.usual_objective),
        usual_deviation=tf.where(
            usable, _SLOW_DECAY * usual + (1 - _SLOW_DECAY) * deviation, usual
        ),
        initial_objective=tf.where(first, objective, scalars.initial_objective),
    )


def is_unusual(memory: Memory, batch: Batch, objective: tf.Tensor | None) -> tf.Tensor:
    """Whether the objective of a batch is far above the usual one, or not finite.

    Args:
        memory: The optimizer's memory, before it learns of this batch.
        batch: What the batch brings.
        objective: Before the step, if it is known. One that may be negative has no usual magnitude,
            and is unusual only where it is not finite.
    """
    if objective is None or batch.tape is None:
        return tf.constant(False)
    unusual = ~tf.math.is_finite(objective)
    if batch.tape.losses_are_nonnegative:
        usual = memory.scalars.usual_objective
        unusual |= (usual > 0) & (objective > SUSPICIOUS * usual)
    return unusual


def stands_out(memory: Memory, unusual: tf.Tensor, objective: tf.Tensor | None) -> tf.Tensor:
    """Whether an unusual objective is also far above the usual one as these batches differ.

    Args:
        memory: The optimizer's memory, before it learns of this batch.
        unusual: Whether the objective is.
        objective: Before the step, if it is known.
    """
    if objective is None:
        return unusual
    scalars = memory.scalars
    above = tf.math.log(tf.math.divide_no_nan(tf.abs(objective), scalars.usual_objective))
    within = above <= _OUTLYING * scalars.usual_deviation
    return unusual & ~within  # what is not finite stands out
