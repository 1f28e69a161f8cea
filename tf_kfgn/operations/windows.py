"""Operations over windows that do not overlap: maxima, and means that depend on the example."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import keras
import numpy as np
import tensorflow as tf
from typing_extensions import override

from tf_kfgn.numerics.moments import second_moment
from tf_kfgn.operations.axis_maps import AxisMaps
from tf_kfgn.operations.features import flattened
from tf_kfgn.operations.layout import Layout
from tf_kfgn.operations.operation import Ends, Operation


class WindowOperation(Operation):
    """A maximum or weighted mean over windows that do not overlap.

    Each input meets a single window, so the transposed Jacobian copies what arrives at a window
    to its inputs and scales it there: `J_n^T = diag(m_n) U^T`, where only the factors m depend
    on the example. For a maximum they are 1 at the maximum alone.
    """

    def __init__(
        self,
        layer: keras.layers.Layer,
        inputs: tf.Tensor,
        output: tf.Tensor,
        windows: Sequence[np.ndarray | None],
        function: Callable[..., tf.Tensor] | None = None,
    ) -> None:
        """Hold the ends, and the window of each place along each axis after the batch's.

        Args:
            layer: The layer.
            inputs: Its input.
            output: Its output, with an axis of length 1 for every axis that was pooled away.
            windows: For each of these axes, the number of the window for each place of the
                input; None for an axis that is not pooled.
            function: Makes the output from the input once more.
        """
        super().__init__(layer, inputs, output, function)
        self.windows = windows

    def _factors(self, tape: tf.GradientTape, dtype: tf.DType, *, alone: bool = False) -> tf.Tensor:
        """The derivative of the sum of all outputs for each input, `(batch_size, features)`."""
        inputs, output, tape = self.once_more(tape, alone=alone)
        return flattened(tape.gradient(output, inputs), self.input_widths, dtype)

    def _copied(self, rows: tf.Tensor) -> tf.Tensor:
        """`U^T` times each row: `(k, output features)` in, `(k, input features)` out."""
        sizes = [
            size if windows is None else int(windows.max()) + 1
            for windows, size in zip(self.windows, self.input.shape[1:], strict=True)
        ]
        grid = copied_to_windows(tf.reshape(rows, (-1, *sizes)), self.windows)
        return tf.reshape(grid, (-1, *self.input_widths))

    @override
    def pull_back(self, average: tf.Tensor, tape: tf.GradientTape) -> tf.Tensor:
        """The copied average times, elementwise, `E[m m^T]`."""
        copied = self._copied(tf.transpose(self._copied(average)))
        return copied * second_moment(self._factors(tape, average.dtype))

    @override
    def mean_transpose(self, columns: tf.Tensor, tape: tf.GradientTape) -> tf.Tensor:
        """The copied columns times `E[m]`."""
        mean = tf.reduce_mean(self._factors(tape, columns.dtype), axis=0)
        return mean[:, None] * tf.transpose(self._copied(tf.transpose(columns)))

    @override
    def pull_back_cost(self, batch_size: int) -> float:
        return 2.0 * batch_size * sum(self.input_widths) ** 2

    @override
    def mean_transpose_cost(self, columns: int, batch_size: int) -> float:
        return float(sum(self.input_widths) * (columns + batch_size))

    @override
    def output_layout(self, inputs: Sequence[Layout]) -> Layout:
        return pooled_layout(inputs[0], self.input, self.output)

    @override
    def pull_back_channels(
        self, average: tf.Tensor, ends: Ends, tape: tf.GradientTape
    ) -> tf.Tensor | None:
        """S times, elementwise, the mean of `m m^T` over examples and positions of the input."""
        maps = self._maps(ends)
        if maps is None:
            return None
        rows = self._rows_of_factors(ends, average.dtype, tape)
        return average * second_moment(rows)

    @override
    def mean_transpose_channels(
        self, columns: tf.Tensor, ends: Ends, other: Layout, tape: tf.GradientTape
    ) -> tf.Tensor | None:
        """The columns times the mean of m, and the share of aligned pairs within a window."""
        maps = self._maps(ends)
        weights = None if maps is None else maps.cross_weights(other)
        if weights is None:
            return None
        mean = tf.reduce_mean(self._rows_of_factors(ends, columns.dtype, tape), axis=0)
        return columns * mean[:, None] * tf.constant(weights[0], columns.dtype)

    def _maps(self, ends: Ends) -> AxisMaps | None:
        """Which positions of the input are in the window of which output."""
        [before], behind = ends.inputs, ends.output
        own = tuple(self.input.shape[1:].as_list())
        axes = range(len(own))
        if before.shape != own or before.num_channels != behind.num_channels:
            return None
        if any(self.windows[axis] is not None for axis in axes if axis not in before.positions):
            return None
        found = []
        for axis in before.positions:
            windows = self.windows[axis]
            windows = np.arange(own[axis]) if windows is None else windows
            found.append(np.eye(int(windows.max()) + 1)[windows].T[None])
        return AxisMaps(found)

    def _rows_of_factors(self, ends: Ends, dtype: tf.DType, tape: tf.GradientTape) -> tf.Tensor:
        """The factors m, a row for each example and position of the input."""
        [before] = ends.inputs
        factors = self._factors(tape, dtype, alone=True)
        return tf.reshape(before.rows(factors), (-1, before.num_channels))


def pooled_layout(before: Layout, inputs: tf.Tensor, outputs: tf.Tensor) -> Layout:
    """The layout of what an operation along spatial axes makes of its input.

    Args:
        before: The layout of the input.
        inputs: The input.
        outputs: The output; without spatial axes if all were pooled away.
    """
    own = tuple(inputs.shape[1:].as_list())
    if before.shape != own or inputs.shape.rank != outputs.shape.rank:
        return Layout.natural(outputs)
    return Layout.of_axes(outputs, before.positions)


def copied_to_windows(grid: tf.Tensor, windows: Sequence[np.ndarray | None]) -> tf.Tensor:
    """Each value copied to all places of its window.

    Args:
        grid: Values of shape `(k, *windows)`.
        windows: For each axis after the first the number of the window of each place; None for an
            axis that is not pooled.
    """
    for axis, of_places in enumerate(windows, start=1):
        if of_places is not None:
            grid = tf.gather(grid, of_places, axis=axis)
    return grid
