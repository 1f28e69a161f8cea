"""A part of a batch: how large it is, and the recorded pass of its first examples."""

from __future__ import annotations

import math
from typing import Any

import keras
import tensorflow as tf

from tf_kfgn.numerics.structures import is_array


def batch_size_of(data: Any) -> int | None:
    """Examples in a batch, if its tensors know it while a graph is made of them.

    Args:
        data: A structure of tensors, some of which may be None.
    """
    sizes = {leaf.shape[0] for leaf in tf.nest.flatten(data) if is_array(leaf)}
    return sizes.pop() if len(sizes) == 1 else None


def rows_of_an_example(outputs: Any) -> int:
    """The fewest rows of outputs that one example has; 1 where that is not known.

    Args:
        outputs: A structure of tensors of shape `(batch_size, *, features)`.
    """
    shapes = [leaf.shape[1:-1] for leaf in tf.nest.flatten(outputs) if is_array(leaf)]
    return min((shape.num_elements() or 1 for shape in shapes), default=1)


def can_be_divided(model: keras.Model, data: Any) -> bool:
    """Whether a model takes the first examples of a batch alone.

    Not where an input has a fixed number of examples, as stateful layers need it, or no rows.

    Args:
        model: The model.
        data: A batch.
    """
    shapes = [tensor.shape for tensor in getattr(model, "inputs", None) or []]
    return all(not shape or shape[0] is None for shape in shapes) and all(
        is_array(leaf) for leaf in tf.nest.flatten(data) if leaf is not None
    )


def first_examples(data: Any, fraction: float) -> Any:
    """The first examples of a batch, one at least of each that has any.

    Args:
        data: A structure of tensors, some of which may be None.
        fraction: The part of the examples.
    """

    def first(values: Any) -> Any:
        if values is None:
            return None
        if values.shape[0] is not None:
            return values[: math.ceil(fraction * values.shape[0])]
        count = tf.cast(tf.shape(values)[0], tf.float64)
        return values[: tf.cast(tf.math.ceil(fraction * count), tf.int32)]

    return tf.nest.map_structure(first, data)
