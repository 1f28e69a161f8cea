"""Linear operations of which every output depends on the same place of each input alone."""

from __future__ import annotations

import tensorflow as tf
from typing_extensions import override

from tf_kfgn.numerics.moments import second_moment
from tf_kfgn.operations.layout import Layout
from tf_kfgn.operations.linear import LinearOperation
from tf_kfgn.operations.operation import Ends


class DiagonalOperation(LinearOperation):
    """A sum of inputs in the shape of the output, each scaled in the same way for every example.

    Addition, subtraction, means, batch normalisation with its statistics as constants, rescaling.
    """

    @override
    def pull_back_channels(
        self, average: tf.Tensor, ends: Ends, tape: tf.GradientTape
    ) -> tf.Tensor | None:
        """S times, elementwise, the mean of `s s^T` over positions, with the scales s."""
        del tape
        if not ends.alike:
            return None
        copies = len(self.inputs)
        return tf.tile(average, (copies, copies)) * second_moment(self._scales(ends, average))

    @override
    def mean_transpose_channels(
        self, columns: tf.Tensor, ends: Ends, other: Layout, tape: tf.GradientTape
    ) -> tf.Tensor | None:
        """The columns times, elementwise, the mean scale."""
        del other, tape
        if not ends.alike:
            return None
        mean = tf.reduce_mean(self._scales(ends, columns), axis=0)
        return tf.tile(columns, (len(self.inputs), 1)) * mean[:, None]

    def _scales(self, ends: Ends, like: tf.Tensor) -> tf.Tensor:
        """A row for each position, with the channels of each input."""
        ones = tf.ones((1, sum(self.input_widths) // len(self.inputs)), like.dtype)
        scales = tf.split(self.transpose(ones), self.input_widths, axis=1)
        return tf.concat([ends.output.rows(scale)[0] for scale in scales], axis=-1)

    @override
    def channels_cost(self, ends: Ends, batch_size: int) -> float:
        del batch_size
        inputs = sum(layout.num_channels for layout in ends.inputs)
        return 2.0 * ends.output.num_positions * inputs**2
