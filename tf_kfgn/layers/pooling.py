"""Pooling that depends on the example: maxima, and the mean over positions that are not masked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tf_kfgn.layers.operation import LinearOperation, Operation, flattened, second_moment
from tf_kfgn.layers.recording import Recording
from tf_kfgn.tape import active_tape


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
    ) -> None:
        """Hold the ends, and the window of each place along each axis after the batch's.

        Args:
            layer: The layer.
            inputs: Its input.
            output: Its output, with an axis of length 1 for every axis that was pooled away.
            windows: For each of these axes, the number of the window for each place of the
                input; None for an axis that is not pooled.
        """
        super().__init__(layer, inputs, output)
        self._windows = windows

    def _factors(self, tape: tf.GradientTape, dtype: tf.DType) -> tf.Tensor:
        """The derivative of the sum of all outputs for each input, `(batch_size, features)`."""
        return flattened([tape.gradient(self.output, self.input)], self.input_widths, dtype)

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

    def pull_back(self, average: tf.Tensor, tape: tf.GradientTape) -> tf.Tensor:
        """See `Operation.pull_back`: the copied average times, elementwise, `E[m m^T]`."""
        copied = self._copied(tf.transpose(self._copied(average)))
        return copied * second_moment(self._factors(tape, average.dtype))

    def mean_transpose(self, columns: tf.Tensor, tape: tf.GradientTape) -> tf.Tensor:
        """See `Operation.mean_transpose`: the copied columns times `E[m]`."""
        mean = tf.reduce_mean(self._factors(tape, columns.dtype), axis=0)
        return mean[:, None] * tf.transpose(self._copied(tf.transpose(columns)))


def spatial_axes(rank: int, data_format: str) -> range:
    """The spatial axes among those after the batch's, for a tensor of that rank."""
    return range(1, rank - 1) if data_format == "channels_first" else range(rank - 2)


def whole_axes(inputs: tf.Tensor, data_format: str) -> list[np.ndarray | None]:
    """One window over all positions, as `WindowOperation` takes it."""
    windows: list[np.ndarray | None] = [None] * (inputs.shape.rank - 1)
    for axis in spatial_axes(inputs.shape.rank, data_format):
        windows[axis] = np.zeros(inputs.shape[1 + axis], int)
    return windows


class _MaxPooling(Recording):
    """Records the whole call of a layer that takes maxima over windows."""

    def call(self: Any, inputs: tf.Tensor) -> tf.Tensor:
        """The stock computation; inside a tape it is recorded."""
        tape = active_tape()
        if tape is None or not inputs.dtype.is_floating:
            return self.stock_call(inputs)
        tape.watch(inputs)
        outputs = self.stock_call(inputs)
        if inputs.shape[1:].is_fully_defined() and not self.overlapping():
            tape.record(WindowOperation(self, inputs, outputs, self.windows(inputs, outputs)))
        else:
            tape.record(Operation(self, inputs, outputs))
        return outputs

    def overlapping(self: Any) -> bool:
        """Whether an input can meet several windows."""
        return any(size > step for size, step in zip(self.pool_size, self.strides, strict=True))

    def windows(self: Any, inputs: tf.Tensor, outputs: tf.Tensor) -> list[np.ndarray | None]:
        """The window of each place along each axis."""
        found: list[np.ndarray | None] = [None] * (inputs.shape.rank - 1)
        for index, axis in enumerate(spatial_axes(inputs.shape.rank, self.data_format)):
            found[axis] = self._window_of_places(
                inputs.shape[1 + axis], outputs.shape[1 + axis], index
            )
        return found

    def _window_of_places(self: Any, length: int, count: int, index: int) -> np.ndarray:
        """The window of each place along one axis; a place outside of all has any."""
        size, step = self.pool_size[index], self.strides[index]
        before = 0
        if self.padding == "same":
            before = max((count - 1) * step + size - length, 0) // 2
        return np.minimum((np.arange(length) + before) // step, count - 1)


class _GlobalMaxPooling(_MaxPooling):
    """Records the whole call of a layer that takes the maximum over all positions."""

    def overlapping(self) -> bool:
        """See `_MaxPooling.overlapping`."""
        return False

    def windows(self: Any, inputs: tf.Tensor, outputs: tf.Tensor) -> list[np.ndarray | None]:
        """See `_MaxPooling.windows`."""
        del outputs
        return whole_axes(inputs, self.data_format)


@keras.saving.register_keras_serializable(package="tf_kfgn")
class GlobalAveragePooling1D(Recording, keras.layers.GlobalAveragePooling1D):
    """`keras.layers.GlobalAveragePooling1D` that records itself on an active tape."""

    def call(self, inputs: tf.Tensor, mask: tf.Tensor | None = None) -> tf.Tensor:
        """The stock computation; inside a tape it is recorded."""
        tape = active_tape()
        if tape is None or not inputs.dtype.is_floating:
            return super().call(inputs, mask=mask)
        tape.watch(inputs)
        outputs = super().call(inputs, mask=mask)
        if mask is None:
            tape.record(LinearOperation(self, inputs, outputs, self.stock_call))
        elif inputs.shape[1:].is_fully_defined():  # each example has its own mean
            windows = whole_axes(inputs, self.data_format)
            tape.record(WindowOperation(self, inputs, outputs, windows))
        else:
            tape.record(Operation(self, inputs, outputs))
        return outputs


@keras.saving.register_keras_serializable(package="tf_kfgn")
class MaxPooling1D(_MaxPooling, keras.layers.MaxPooling1D):
    """`keras.layers.MaxPooling1D` that records itself on an active tape."""


@keras.saving.register_keras_serializable(package="tf_kfgn")
class MaxPooling2D(_MaxPooling, keras.layers.MaxPooling2D):
    """`keras.layers.MaxPooling2D` that records itself on an active tape."""


@keras.saving.register_keras_serializable(package="tf_kfgn")
class MaxPooling3D(_MaxPooling, keras.layers.MaxPooling3D):
    """`keras.layers.MaxPooling3D` that records itself on an active tape."""


@keras.saving.register_keras_serializable(package="tf_kfgn")
class GlobalMaxPooling1D(_GlobalMaxPooling, keras.layers.GlobalMaxPooling1D):
    """`keras.layers.GlobalMaxPooling1D` that records itself on an active tape."""


@keras.saving.register_keras_serializable(package="tf_kfgn")
class GlobalMaxPooling2D(_GlobalMaxPooling, keras.layers.GlobalMaxPooling2D):
    """`keras.layers.GlobalMaxPooling2D` that records itself on an active tape."""


@keras.saving.register_keras_serializable(package="tf_kfgn")
class GlobalMaxPooling3D(_GlobalMaxPooling, keras.layers.GlobalMaxPooling3D):
    """`keras.layers.GlobalMaxPooling3D` that records itself on an active tape."""
