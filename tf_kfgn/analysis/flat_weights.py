"""Vectors over all weights of a model: its trainable variables one after the other, row-major."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tf_kfgn.operations.parametrised import ParametrisedOperation


def sizes_of(variables: Sequence[Any]) -> list[int]:
    """Number of weights of each variable."""
    return [math.prod(variable.shape) for variable in variables]


def cut(vector: tf.Tensor, variables: Sequence[Any]) -> list[tf.Tensor]:
    """A vector over all weights as tensors shaped like the variables, of their types."""
    pieces = tf.split(vector, sizes_of(variables))
    return [
        tf.cast(tf.reshape(piece, variable.shape), variable.dtype)
        for piece, variable in zip(pieces, variables, strict=True)
    ]


def joined(tensors: Sequence[tf.Tensor], dtype: Any) -> tf.Tensor:
    """Tensors shaped like the variables as one vector."""
    return tf.concat([tf.reshape(tf.cast(t, dtype), (-1,)) for t in tensors], axis=0)


def dtype_of(variables: Sequence[Any]) -> tf.DType:
    """The widest floating type among some variables, but never less than float32."""
    types = [tf.as_dtype(variable.dtype).as_numpy_dtype for variable in variables]
    return tf.as_dtype(np.result_type(np.float32, *types))


def matrix_variables(operation: ParametrisedOperation) -> list[Any]:
    """The trained variables of a weight matrix: the kernel, and the bias if it is trained."""
    kernel, bias = operation.kernel, operation.bias
    return [kernel, bias] if operation.bias_trainable else [kernel]


def matrix_order(operation: ParametrisedOperation) -> np.ndarray:
    """Where the entries of the joint matrix, row-major, are in the joined variables of it."""
    variables = matrix_variables(operation)
    sizes = sizes_of(variables)
    numbers = tf.split(tf.range(sum(sizes)), sizes)
    pieces = [tf.reshape(n, v.shape) for n, v in zip(numbers, variables, strict=True)]
    return tf.reshape(operation.matrix.join(pieces), (-1,)).numpy()


def places_among(variables: Sequence[Any], everything: Sequence[Any]) -> np.ndarray:
    """Where the weights of some variables are in a vector over all weights."""
    starts = np.cumsum([0, *sizes_of(everything)])
    places = []
    for variable in variables:
        [index] = [i for i, other in enumerate(everything) if other is variable]
        places.append(np.arange(starts[index], starts[index + 1]))
    return np.concatenate(places)
