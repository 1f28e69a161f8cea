"""Marks on variables: which variables form one block, and how they become one matrix.

The optimizer is rebuilt from the variables alone when a model is loaded. So a recording layer
marks its variables when it is built, and the optimizer finds its blocks from these marks.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

_MARK = "_tf_kfgn_mark"


@dataclasses.dataclass(frozen=True, eq=False)
class WeightMatrix:
    """The joint weight matrix of a layer: the kernel's rows, the bias as the last row.

    Attributes:
        layer: Name of the layer, for messages.
        in_features: Rows of the kernel, the bias row not counted.
        out_features: Columns.
    """

    layer: str
    in_features: int
    out_features: int

    def join(self, tensors: Sequence[tf.Tensor]) -> tf.Tensor:
        """Stack kernel [and bias] into one matrix of shape `(in_features [+ 1], out_features)`."""
        rows = [tf.reshape(tensor, (-1, self.out_features)) for tensor in tensors]
        return tf.concat(rows, axis=0)

    def split(self, matrix: tf.Tensor, shapes: Sequence[tf.TensorShape]) -> list[tf.Tensor]:
        """Cut a joint matrix into tensors of the given shapes: the inverse of `join`."""
        kernel = tf.reshape(matrix[: self.in_features], shapes[0])
        return [kernel, *(tf.reshape(matrix[self.in_features :], shape) for shape in shapes[1:])]


@dataclasses.dataclass(frozen=True)
class Mark:
    """What a variable is to its block."""

    matrix: WeightMatrix
    is_kernel: bool


def mark_weights(layer: Any, kernel: Any, bias: Any) -> None:
    """Mark the kernel and the bias (or None) of a built layer as one weight matrix."""
    out_features = kernel.shape[-1]
    in_features = tf.TensorShape(kernel.shape[:-1]).num_elements()
    matrix = WeightMatrix(layer.name, in_features, out_features)
    setattr(kernel, _MARK, Mark(matrix, is_kernel=True))
    if bias is not None:
        setattr(bias, _MARK, Mark(matrix, is_kernel=False))


def mark_of(variable: Any) -> Mark | None:
    """The mark of a variable, or None."""
    return getattr(variable, _MARK, None)


def remove_marks(variables: Sequence[Any]) -> None:
    """Leave the variables as Keras made them."""
    for variable in variables:
        if mark_of(variable) is not None:
            delattr(variable, _MARK)
