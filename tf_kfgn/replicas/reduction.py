"""Means and sums over replicas, and values that all of them store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import tensorflow as tf

from tf_kfgn._keras.scopes import maybe_merge_call
from tf_kfgn.replicas.buffers import flattened, restored

Structure = TypeVar("Structure")


def count() -> int:
    """How many replicas share the batch of this call; 1 outside of a replica."""
    context = tf.distribute.get_replica_context()
    return 1 if context is None else int(context.num_replicas_in_sync)


def of_strategy() -> bool:
    """Whether this call is on a replica of a strategy, which may have one replica alone."""
    return tf.distribute.has_strategy() and not tf.distribute.in_cross_replica_context()


def index() -> int:
    """The number of this replica, from 0; 0 outside of a replica."""
    context = tf.distribute.get_replica_context()
    return 0 if context is None else int(tf.get_static_value(context.replica_id_in_sync_group))


def mean(structure: Structure) -> Structure:
    """Mean over replicas of every tensor in a structure.

    Inside a condition or loop only if that is one of `tf_kfgn.replicas.control_flow`.
    """
    return _reduce(tf.distribute.ReduceOp.MEAN, structure)


def total(structure: Structure) -> Structure:
    """Sum over replicas of every tensor in a structure; where, as for `mean`."""
    return _reduce(tf.distribute.ReduceOp.SUM, structure)


def mean_of_factors(structure: Structure, dtype: str | None = None) -> Structure:
    """Mean over replicas of tensors that travel in one buffer, without their upper triangles.

    Args:
        structure: Tensors of static shapes; those whose last two axes are alike are symmetric.
        dtype: The type in which they travel, as `"bfloat16"`. Defaults to their own.

    Returns:
        The means, in the types of the tensors.
    """
    flat = tf.nest.flatten(structure)
    if count() == 1 or not flat:
        return structure
    means: dict[int, tf.Tensor] = {}
    for own in dict.fromkeys(tensor.dtype for tensor in flat):
        places = [i for i, tensor in enumerate(flat) if tensor.dtype == own]
        some = [flat[i] for i in places]
        mean_of_some = mean(flattened(some, tf.as_dtype(dtype or own)))
        means |= zip(places, restored(mean_of_some, some), strict=True)
    return tf.nest.pack_sequence_as(structure, [means[i] for i in range(len(flat))])


def gathered(shares: Sequence[Sequence[tf.Tensor]]) -> list[list[tf.Tensor]]:
    """What every replica has made of its share, on all of them; as factors it travels.

    Args:
        shares: The tensors of each replica, of one type. Those of this one are handed on; of
            others only shapes are looked at.
    """
    mine = shares[index()]
    flat = [tensor for share in shares for tensor in share]
    if count() == 1 or not flat:
        return [list(share) for share in shares]
    dtype = flat[0].dtype
    buffer = flattened(mine, dtype)
    if dtype == tf.bfloat16:  # which TensorFlow does not gather; no digit changes on the way
        buffer = tf.bitcast(buffer, tf.float16)
    whole = tf.distribute.get_replica_context().all_gather(buffer, axis=0)
    found = iter(restored(tf.bitcast(whole, dtype), flat))
    return [[next(found) for _ in share] for share in shares]


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
    flat = tf.nest.flatten(structure)
    if count() == 1 or not flat:
        return structure
    reduced = tf.distribute.get_replica_context().all_reduce(operation, flat)
    return tf.nest.pack_sequence_as(structure, reduced)
