"""What signatures take and return: one flat name for every tensor of a structure.

`x` alone is called `x`; of a dictionary or list it is called by its place, `x_image` or `x_0`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import keras
import tensorflow as tf

from tf_kfgn._keras.models import input_structure


def specs_of(name: str, example: Any) -> Any:
    """The named specs of a batch, of any size unless the spec of the user's own says otherwise.

    Args:
        name: Of the argument.
        example: A structure of arrays, tensors, Keras inputs or `tf.TensorSpec`.

    Returns:
        The same structure of `tf.TensorSpec`. Example arrays of floats become `floatx`, as in
        `fit`.

    Raises:
        TypeError: If a leaf has no shape and type.
    """

    def spec(name: str, leaf: Any) -> tf.TensorSpec:
        if isinstance(leaf, tf.TensorSpec):
            return tf.TensorSpec(leaf.shape, leaf.dtype, name)
        if not (hasattr(leaf, "shape") and hasattr(leaf, "dtype") and len(leaf.shape)):
            raise TypeError(
                f"`{name}` must be an example batch (an array or tensor) or a tf.TensorSpec, "
                f"received {leaf!r} of type {type(leaf).__name__}."
            )
        dtype = tf.as_dtype(leaf.dtype)
        if dtype.is_floating and not isinstance(leaf, keras.KerasTensor):
            dtype = tf.as_dtype(keras.config.floatx())
        return tf.TensorSpec((None, *leaf.shape[1:]), dtype, name)

    return _map_with_names(spec, name, example)


def input_specs(model: keras.Model) -> Any:
    """The named specs of the inputs that a functional or sequential model declares.

    Raises:
        ValueError: If it declares none.
    """
    structure = input_structure(model)
    if structure is None:
        raise ValueError(
            f"Model {model.name!r} of class {type(model).__name__} does not declare its inputs. "
            "Pass `x`, an example batch or tf.TensorSpec(shape, dtype)."
        )
    return specs_of("x", structure)


def named_tensors(name: str, structure: Any) -> dict[str, tf.Tensor]:
    """The tensors of a structure by their flat names, as a signature returns them."""
    tensors: dict[str, tf.Tensor] = {}
    _map_with_names(tensors.__setitem__, name, structure)
    return tensors


def _map_with_names(function: Callable[[str, Any], Any], name: str, structure: Any) -> Any:
    name = re.sub(r"\W", "_", name)
    if isinstance(structure, Mapping):
        return {k: _map_with_names(function, f"{name}_{k}", v) for k, v in structure.items()}
    if isinstance(structure, (list, tuple)):
        mapped = [_map_with_names(function, f"{name}_{i}", v) for i, v in enumerate(structure)]
        return tuple(mapped) if isinstance(structure, tuple) else mapped
    return function(name, structure)
