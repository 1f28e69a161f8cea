"""Where a call is made: by a symbolic pass of Keras, or on one replica of several."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf
from keras.src.backend.common import symbolic_scope

from tf_kfgn._keras.inventory import stands_for


@stands_for("keras.src.backend.common.symbolic_scope.in_symbolic_scope")
def in_symbolic_scope() -> bool:
    """Whether Keras only infers shapes: what a layer computes then belongs to no pass."""
    return bool(symbolic_scope.in_symbolic_scope())


@stands_for("tf.__internal__.distribute.interim.maybe_merge_call")
def maybe_merge_call(update: Callable[..., None], values: Sequence[tf.Tensor]) -> Any:
    """Run `update(strategy, values)` once for all replicas, in the mode that the strategy has.

    The public `merge_call` fails under strategies that run replicas without threads, or XLA.
    """
    return tf.__internal__.distribute.interim.maybe_merge_call(
        update, tf.distribute.get_strategy(), values
    )
