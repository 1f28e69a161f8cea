"""What an update does across the replicas of a `tf.distribute` strategy; nothing with one device.

Keras divides the loss by the number of replicas and sums gradients. Curvature is a mean over
examples, so it is averaged.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import tensorflow as tf

from tf_kfgn._keras.scopes import maybe_merge_call

Structure = TypeVar("Structure")


def mean(structure: Structure) -> Structure:
    """Mean over replicas of every tensor in a structure. Must not be called inside a condition."""
    return _reduce(tf.distribute.ReduceOp.MEAN, structure)


def total(structure: Structure) -> Structure:
    """Sum over replicas of every tensor in a structure. Must not be called inside a condition."""
    return _reduce(tf.distribute.ReduceOp.SUM, structure)


def store(variables: Sequence[Any], values: Sequence[tf.Tensor]) -> None:
    """Assign one value to each variable, on every replica. Must not be called inside a condition.

    Args:
        variables: Keras or TensorFlow variables.
        values: One tensor for each, the same on every replica.
    """
    targets = [getattr(variable, "value", variable) for variable in variables]

    def assign_all(strategy: tf.distribute.Strategy, values: Sequence[tf.Tensor]) -> None:
        for target, value in zip(targets, values, strict=True):
            strategy.extended.update(target, _assign, args=(value,), group=False)

    maybe_merge_call(assign_all, list(values))


def _assign(variable: tf.Variable, value: tf.Tensor) -> None:
    variable.assign(tf.cast(value, variable.dtype))


def _reduce(operation: tf.distribute.ReduceOp, structure: Structure) -> Structure:
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return structure
    return tf.nest.pack_sequence_as(
        structure, context.all_reduce(operation, tf.nest.flatten(structure))
    )
