"""The joint weight matrix of a layer: how kernel and bias become one matrix, and back."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class AxisOrder:
    """How the axes of a weight come into the order of a matrix.

    Attributes:
        shape: Shape that the weight is given first; it may split axes.
        order: Its axes in the order (groups, rows, columns).
    """

    shape: tuple[int, ...]
    order: tuple[int, ...]

    def apply(self, tensor: tf.Tensor) -> tf.Tensor:
        """The weight in the order of the matrix."""
        return tf.transpose(tf.reshape(tensor, self.shape), self.order)

    def undo(self, tensor: tf.Tensor) -> tf.Tensor:
        """The inverse of `apply`, but for the weight's own shape."""
        ordered = tf.reshape(tensor, [self.shape[axis] for axis in self.order])
        return tf.transpose(ordered, np.argsort(self.order))


@dataclasses.dataclass(frozen=True)
class RowOrder:
    """How one row of a weight enters a matrix; its other rows belong to other matrices.

    Attributes:
        row: Which row.
        rows: Rows of the weight.
    """

    row: int
    rows: int

    def apply(self, tensor: tf.Tensor) -> tf.Tensor:
        """The row."""
        return tensor[self.row]

    def undo(self, tensor: tf.Tensor) -> tf.Tensor:
        """The weight with zeros in its other rows: pieces of several matrices are added."""
        place = tf.one_hot(self.row, self.rows, dtype=tensor.dtype)
        return place[:, None] * tf.reshape(tensor, (1, -1))


# Rows of an embedding above which its A is diagonal.
MOST_TOKENS = 512


@dataclasses.dataclass(frozen=True, eq=False)
class WeightMatrix:
    """The joint weight matrix of a layer: the kernel's rows, the bias as the last row.

    Attributes:
        layer: Name of the layer.
        in_features: Rows of the kernel (of one group), the bias row not counted.
        out_features: Columns (of one group).
        groups: Number of matrices side by side, or None for a single one without that axis.
        kernel_order: Order of the kernel's axes; None if rows come first and columns last.
        bias_order: Order of the bias's axes; None if they are groups and columns already. Or
            which row of a weight that holds the biases of several matrices.
        part: Which of several matrices of the layer this is, or None for its only one.
        one_hot: Whether a row of the matrix is looked up, as in an embedding: input rows hold a
            single 1.
    """

    layer: str
    in_features: int
    out_features: int
    groups: int | None = None
    kernel_order: AxisOrder | None = None
    bias_order: AxisOrder | RowOrder | None = None
    part: str | None = None
    one_hot: bool = False

    @property
    def name(self) -> str:
        """Name of the matrix, that of its layer if it is the only one there."""
        return self.layer if self.part is None else f"{self.layer}/{self.part}"

    @property
    def diagonal_input(self) -> bool:
        """Whether only the diagonal of A is kept, since most pairs of so many tokens never meet."""
        return self.one_hot and self.in_features > MOST_TOKENS

    @property
    def leading(self) -> tuple[int, ...]:
        """The axis of groups, as a shape."""
        return () if self.groups is None else (self.groups,)

    def join(self, tensors: Sequence[tf.Tensor]) -> tf.Tensor:
        """Stack kernel [and bias] into one matrix, `([groups,] in [+ 1], out)`."""
        orders = (self.kernel_order, self.bias_order)
        rows = [
            tf.reshape(
                tensor if order is None else order.apply(tensor),
                (*self.leading, -1, self.out_features),
            )
            for tensor, order in zip(tensors, orders, strict=False)
        ]
        return tf.concat(rows, axis=-2)

    def split(self, matrix: tf.Tensor, shapes: Sequence[tf.TensorShape]) -> list[tf.Tensor]:
        """Cut a joint matrix into tensors of the given shapes: the inverse of `join`."""
        pieces = (matrix[..., : self.in_features, :], matrix[..., self.in_features :, :])
        orders = (self.kernel_order, self.bias_order)
        return [
            tf.reshape(piece if order is None else order.undo(piece), shape)
            for piece, order, shape in zip(pieces, orders, shapes, strict=False)
        ]


def is_large(size: int, max_factor_size: int | None) -> bool:
    """Whether a Kronecker factor of that many rows is kept as a diagonal only."""
    return max_factor_size is not None and size > max_factor_size
