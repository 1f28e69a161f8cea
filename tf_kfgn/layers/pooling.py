"""Pooling that depends on the example: maxima, and the mean over positions that are not masked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from typing_extensions import override

from tf_kfgn.layers.call_template import CallOutput
from tf_kfgn.layers.recording import Recording
from tf_kfgn.layers.registry import register
from tf_kfgn.layers.spatial_maps import spatial_sizes
from tf_kfgn.operations.linear import LinearOperation
from tf_kfgn.operations.operation import Operation
from tf_kfgn.operations.spatial import SpatialOperation
from tf_kfgn.operations.windows import WindowOperation, copied_to_windows
from tf_kfgn.recording.active import SEVERAL_COTANGENTS, drawing_tape


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
    """A layer that takes maxima over windows."""

    @override
    def recorded_operation(self, result: CallOutput, *args: Any, **kwargs: Any) -> Operation:
        del args, kwargs
        [inputs], output, again = result
        if not inputs.shape[1:].is_fully_defined() or self.overlapping():
            return Operation(self, *result)
        return WindowOperation(self, inputs, output, self.windows(inputs, output), again)

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


class _WindowMaxPooling(_MaxPooling):
    """One whose windows have a size, of which TensorFlow finds the maxima."""

    def stock_call(self, inputs: tf.Tensor) -> tf.Tensor:
        """The stock computation; where a tape is active, several cotangents share the maxima.

        TensorFlow looks for the maxima again for each cotangent, and outside of the graph of the
        forward pass slowly.
        """
        stock = super().stock_call
        if drawing_tape() is None or not inputs.dtype.is_floating:
            return stock(inputs)
        if not inputs.shape[1:].is_fully_defined() or self.overlapping():
            return stock(inputs)

        @tf.custom_gradient
        def pooled(inputs: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
            with tf.GradientTape(persistent=True) as tape:
                tape.watch(inputs)
                outputs = stock(inputs)
            maxima = tape.gradient(outputs, inputs)  # 1 at each, else 0; pruned where unused
            windows = self.windows(inputs, outputs)

            def gradient(cotangent: tf.Tensor) -> tf.Tensor:
                if not SEVERAL_COTANGENTS.get():
                    return tape.gradient(outputs, inputs, cotangent)
                return maxima * copied_to_windows(cotangent, windows)

            return outputs, gradient

        return pooled(inputs)


class _GlobalMaxPooling(_MaxPooling):
    """Records the whole call of a layer that takes the maximum over all positions."""

    @override
    def overlapping(self) -> bool:
        return False

    @override
    def windows(self: Any, inputs: tf.Tensor, outputs: tf.Tensor) -> list[np.ndarray | None]:
        del outputs
        return whole_axes(inputs, self.data_format)


@register
class GlobalAveragePooling1D(Recording, keras.layers.GlobalAveragePooling1D):
    """`keras.layers.GlobalAveragePooling1D` that records itself on an active tape."""

    @override
    def recorded_operation(
        self, result: CallOutput, inputs: tf.Tensor, mask: tf.Tensor | None = None
    ) -> Operation:
        static = inputs.shape[1:].is_fully_defined()
        if mask is None and static:
            [size] = spatial_sizes(inputs.shape, self.data_format)
            return SpatialOperation(self, *result, maps=lambda: [np.full((1, size), 1 / size)])
        if mask is None:
            return LinearOperation(self, *result)
        if not static:
            return Operation(self, *result)
        windows = whole_axes(inputs, self.data_format)  # each example has its own mean
        return WindowOperation(self, inputs, result.output, windows, result.again)


@register
class MaxPooling1D(_WindowMaxPooling, keras.layers.MaxPooling1D):
    """`keras.layers.MaxPooling1D` that records itself on an active tape."""


@register
class MaxPooling2D(_WindowMaxPooling, keras.layers.MaxPooling2D):
    """`keras.layers.MaxPooling2D` that records itself on an active tape."""


@register
class MaxPooling3D(_WindowMaxPooling, keras.layers.MaxPooling3D):
    """`keras.layers.MaxPooling3D` that records itself on an active tape."""


@register
class GlobalMaxPooling1D(_GlobalMaxPooling, keras.layers.GlobalMaxPooling1D):
    """`keras.layers.GlobalMaxPooling1D` that records itself on an active tape."""


@register
class GlobalMaxPooling2D(_GlobalMaxPooling, keras.layers.GlobalMaxPooling2D):
    """`keras.layers.GlobalMaxPooling2D` that records itself on an active tape."""


@register
class GlobalMaxPooling3D(_GlobalMaxPooling, keras.layers.GlobalMaxPooling3D):
    """`keras.layers.GlobalMaxPooling3D` that records itself on an active tape."""
