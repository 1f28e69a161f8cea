"""Operations of which every output depends on the same place of each input alone."""

from __future__ import annotations

import tensorflow as tf
from typing_extensions import override

from tf_kfgn.numerics.moments import second_moment
from tf_kfgn.operations.features import flattened
from tf_kfgn.operations.layout import Layout
from tf_kfgn.operations.operation import Ends, Operation


class ElementwiseOperation(Operation):
    """An operation whose every output depends on the same place of each input alone.

    Inputs have the shape of the output.
    """

    def derivative(self, tape: tf.GradientTape) -> tf.Tensor:
        """The derivative of each output for the first input, shaped like `output`."""
        return self.derivatives(tape)[0]

    def derivatives(self, tape: tf.GradientTape, *, alone: bool = False) -> list[tf.Tensor]:
        """The derivative of each output for each input, all shaped like `output`.

        Args:
            tape: The tape that recorded the operation.
            alone: As of `once_more`.
        """
        inputs, output, tape = self.once_more(tape, alone=alone)
        zero = tf.UnconnectedGradients.ZERO
        return tape.gradient(output, inputs, unconnected_gradients=zero)

    @override
    def pull_back(self, average: tf.Tensor, tape: tf.GradientTape) -> tf.Tensor:
        """The average times, elementwise, `E[f' f'^T]`."""
        slopes = flattened(self.derivatives(tape), self.input_widths, average.dtype)
        copies = len(self.inputs)
        tiled = average if copies == 1 else tf.tile(average, (copies, copies))
        return tiled * second_moment(slopes)

    @override
    def mean_transpose(self, columns: tf.Tensor, tape: tf.GradientTape) -> tf.Tensor:
        """The columns times, elementwise, `E[f']`."""
        slopes = flattened(self.derivatives(tape), self.input_widths, columns.dtype)
        copies = len(self.inputs)
        tiled = columns if copies == 1 else tf.tile(columns, (copies, 1))
        return tiled * tf.reduce_mean(slopes, axis=0)[:, None]

    @override
    def pull_back_cost(self, batch_size: int) -> float:
        return 2.0 * batch_size * sum(self.input_widths) ** 2

    @override
    def pull_back_memory(self) -> int:
        """The result, `E[f' f'^T]`, and the average as often as there are inputs."""
        return (2 if len(self.inputs) == 1 else 3) * sum(self.input_widths) ** 2

    @override
    def mean_transpose_cost(self, columns: int, batch_size: int) -> float:
        return float(sum(self.input_widths) * (columns + batch_size))

    @override
    def pull_back_channels(
        self, average: tf.Tensor, ends: Ends, tape: tf.GradientTape
    ) -> tf.Tensor | None:
        """S times, elementwise, the mean of `f' f'^T` over examples and positions."""
        if not ends.alike:
            return None
        slopes = self._rows_of_slopes(ends, average.dtype, tape)
        copies = len(self.inputs)
        tiled = average if copies == 1 else tf.tile(average, (copies, copies))
        return tiled * second_moment(slopes)

    @override
    def mean_transpose_channels(
        self, columns: tf.Tensor, ends: Ends, other: Layout, tape: tf.GradientTape
    ) -> tf.Tensor | None:
        """The columns times, elementwise, the mean slope."""
        if not ends.alike:
            return None
        slopes = self._rows_of_slopes(ends, columns.dtype, tape)
        copies = len(self.inputs)
        tiled = columns if copies == 1 else tf.tile(columns, (copies, 1))
        return tiled * tf.reduce_mean(slopes, axis=0)[:, None]

    def _rows_of_slopes(self, ends: Ends, dtype: tf.DType, tape: tf.GradientTape) -> tf.Tensor:
        """A row for each example and position, with the channels of each input."""
        slopes = self.derivatives(tape, alone=True)
        rows = [ends.output.rows(tf.cast(slope, dtype)) for slope in slopes]
        joined = rows[0] if len(rows) == 1 else tf.concat(rows, axis=-1)
        return tf.reshape(joined, (-1, joined.shape[-1]))
