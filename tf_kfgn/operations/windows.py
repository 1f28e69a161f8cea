"""Operations over windows that do not overlap: maxima, and means that depend on the example."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import keras
import numpy as np
import tensorflow as tf
from typing_extensions import override

from tf_kfgn.numerics.moments import second_moment
from tf_kfgn.operations.features import flattened
from tf_kfgn.operations.operation import Operation


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
            function: As for `Operation`.
        """
        super().__init__(layer, inputs, output, function)
        self._windows = windows

    def _factors(self, tape: tf.GradientTape, dtype: tf.DType) -> tf.Tensor:
        """The derivative of the sum of all outputs for each input, `(batch_size, features)`."""
        inputs, output, tape = self.once_more(tape)
        return flattened(tape.gradient(output, inputs), self.input_widths, dtype)

    def _copied(self, rows: tf.Tensor) -> tf.Tensor:
        """`U^T` times each row: `(k, output features)` in, `(k, input features)` out."""
        sizes = [
            size if windows is None else int(windows.max()) + 1
            for windows, size in zip(self._windows, self.input.shape[1:], strict=True)
        ]
        grid = tf.reshape(rows, (-1, *sizes))
        for axis, windows in enumerate(self._windows, start=1):
            if windows is not None:
                grid = tf.gather(grid, windows, axis=axis)
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
