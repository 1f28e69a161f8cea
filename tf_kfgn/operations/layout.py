"""Positions and channels: how the features of one example are split where they are homogeneous.

KFRA carries an average over all pairs of features of a tensor, or, with `spatial="uncorrelated"`,
one over pairs of *channels* alone: it then takes cotangents as uncorrelated between positions (of
an image, of a sequence) and alike at all of them. The average over P positions of C channels is
`I_P (x) S` for a matrix S of shape `(C, C)`, the mean of the P blocks on the diagonal.
"""

from __future__ import annotations

import dataclasses
import math

import tensorflow as tf

from tf_kfgn.operations.features import num_features


@dataclasses.dataclass(frozen=True)
class Layout:
    """Which axes of the features of one example are positions; the others are channels.

    Attributes:
        shape: Lengths of the axes, whose product is the number of features. It may be finer than
            the shape of the tensor: that of a flattened image is still `(height, width, channels)`.
        positions: Those of the axes that are positions.
    """

    shape: tuple[int, ...]
    positions: tuple[int, ...]

    @classmethod
    def of_axes(cls, tensor: tf.Tensor, positions: tuple[int, ...]) -> Layout:
        """The layout of a tensor by its own axes, the batch not counted.

        Raises:
            ValueError: If an axis has no static length.
        """
        num_features(tensor)
        return cls(tuple(tensor.shape[1:].as_list()), positions)

    @classmethod
    def natural(cls, tensor: tf.Tensor) -> Layout:
        """Channels last, positions before; a tensor of rank 2 has a single position."""
        return cls.of_axes(tensor, tuple(range(max(tensor.shape.rank - 2, 0))))

    @property
    def channels(self) -> tuple[int, ...]:
        """The axes that are channels."""
        return tuple(axis for axis in range(len(self.shape)) if axis not in self.positions)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Lengths of the axes that are positions."""
        return tuple(self.shape[axis] for axis in self.positions)

    @property
    def num_positions(self) -> int:
        """Number of positions."""
        return math.prod(self.sizes)

    @property
    def num_channels(self) -> int:
        """Number of channels."""
        return math.prod(self.shape[axis] for axis in self.channels)

    @property
    def in_order(self) -> bool:
        """Whether all positions come before all channels."""
        return self.positions == tuple(range(len(self.positions)))

    def rows(self, tensor: tf.Tensor) -> tf.Tensor:
        """A tensor of this layout as `(batch_size, positions, channels)`."""
        if not self.in_order:
            apart = tf.reshape(tensor, (-1, *self.shape))
            tensor = tf.transpose(apart, [0, *(a + 1 for a in self.positions + self.channels)])
        return tf.reshape(tensor, (-1, self.num_positions, self.num_channels))

    def features(self, rows: tf.Tensor) -> tf.Tensor:
        """The inverse of `rows`, flattened: `(batch_size, features)`."""
        if not self.in_order:
            order = self.positions + self.channels
            apart = tf.reshape(rows, (-1, *(self.shape[axis] for axis in order)))
            back = sorted(range(len(order)), key=order.__getitem__)
            rows = tf.transpose(apart, [0, *(axis + 1 for axis in back)])
        return tf.reshape(rows, (-1, math.prod(self.shape)))

    def mean_block(self, average: tf.Tensor) -> tf.Tensor:
        """S of an average over all pairs of features: the mean of its blocks on the diagonal.

        Args:
            average: Shape `(features, features)`.

        Returns:
            Shape `(channels, channels)`.
        """
        P, C = self.num_positions, self.num_channels
        half = tf.reshape(self.rows(average), (-1, P * C))
        both = tf.reshape(self.rows(tf.transpose(half)), (P, C, P, C))
        return tf.einsum("pipj->ij", both) / tf.cast(P, average.dtype)
