"""Casts of a layer's inputs, which Keras makes before `call` where precisions are mixed."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf
from keras.src import backend

from tf_kfgn.operations.linear import ReshapingOperation


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
        if not tf.is_tensor(value) or not layer._convert_input_args:
            return value
        result = layer.dtype_policy.convert_input(value, layer.autocast, layer.input_dtype)
        if result is value:
            return value
        mask = backend.get_keras_mask(value)
        if mask is not None:
            backend.set_keras_mask(result, mask)
        tape.record(ReshapingOperation(layer, value, result))
        return result

    return keras.tree.map_structure(cast, (args, kwargs))
