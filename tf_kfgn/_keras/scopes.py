"""Where a call is made: by a symbolic pass of Keras, or on one replica of several."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf
from keras.src.backend.common import symbolic_scope

from tf_kfgn._keras.inventory import stands_for


@stands_for("keras.src.backend.common.symbolic_scope.in_symbolic_scope")
def in_symbolic_scope() -> bool:
    """Whether Keras only infers shapes: what a layer computes then belongs to no pass."""
    return bool(symbolic_scope.in_symbolic_scope())


@stands_for("keras.Variable._value")
class DroppedAssignments(keras.StatelessScope):
    """A scope in which a variable that was not assigned has the value that it has outside."""

    def get_current_value(self, variable: Any) -> Any:
        """The value; Keras asks for it before it applies a regulariser."""
        assigned = super().get_current_value(variable)
        return variable._value if assigned is None else assigned


@stands_for("keras.Layer._losses", "keras.Layer._get_own_losses")
@contextlib.contextmanager
def leaving_no_trace(layers: Sequence[keras.layers.Layer]) -> Iterator[None]:
    """Let layers read their variables inside, and change none: what they assign is dropped.

    Losses that they add are theirs afterwards, as without this context.

    Args:
        layers: Models that are called inside, and every layer in them.
    """
    raw = [v for layer in layers for v in vars(layer).values() if isinstance(v, tf.Variable)]
    values = [tf.identity(variable) for variable in raw]  # no scope of Keras' sees these
    with DroppedAssignments(collect_losses=True):
        yield
        added = [(layer, layer._get_own_losses()) for layer in layers]
    for layer, losses in added:
        layer._losses.extend(losses)
    for variable, value in zip(raw, values, strict=True):
        variable.assign(value)


@stands_for("tf.__internal__.distribute.interim.maybe_merge_call")
def maybe_merge_call(update: Callable[..., None], values: Sequence[tf.Tensor]) -> Any:
    """Run `update(strategy, values)` once for all replicas, in the mode that the strategy has.

    The public `merge_call` fails under strategies that run replicas without threads, or XLA.
    """
    return tf.__internal__.distribute.interim.maybe_merge_call(
        update, tf.distribute.get_strategy(), values
    )


@stands_for("tf.__internal__.distribute.strategy_supports_no_merge_call")
def needs_no_merge_call() -> bool:
    """Whether replicas can meet inside a condition, as they do in collectives under XLA."""
    return bool(tf.__internal__.distribute.strategy_supports_no_merge_call())
