"""Casts of a layer's inputs, which Keras makes before `call` where precisions are mixed."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tf_kfgn._keras.layers import converts_inputs, mask_of, with_mask
from tf_kfgn.operations.linear import ReshapingOperation
from tf_kfgn.recording.active import active_tape
from tf_kfgn.swapping.swap import Role, Swapped


class RecordsCasts(Swapped):
    """Mixin for a layer class: an active tape learns of the casts of its inputs."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the layer."""
        tape = active_tape()
        if tape is not None:
            layer: Any = self
            args, kwargs = record_casts(tape, layer, args, kwargs)
        return super().__call__(*args, **kwargs)  # type: ignore[misc]


# Models inside a model: Keras casts what they are given, as it does for a layer.
NESTED_MODELS = Role(RecordsCasts)


@tf.autograph.experimental.do_not_convert
def record_casts(
    tape: Any, layer: keras.layers.Layer, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Cast the arguments of a call as the layer is about to, and record that.

    Args:
        tape: The active tape.
        layer: The layer that is called.
        args: Its positional arguments.
        kwargs: Its other arguments.

    Returns:
        The arguments, in the layer's precision.
    """

    def cast(value: Any) -> Any:
        if not tf.is_tensor(value) or not converts_inputs(layer):
            return value
        result = layer.dtype_policy.convert_input(value, layer.autocast, layer.input_dtype)
        if result is value:
            return value
        tape.record(ReshapingOperation(layer, value, with_mask(result, mask_of(value))))
        return result

    return keras.tree.map_structure(cast, (args, kwargs))
