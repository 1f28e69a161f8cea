"""Layers that are affine maps without weights, the same for every example.

Average pooling, padding, cropping, up-sampling, permuting, repeating, rescaling: KFRA needs nothing
of them but to be called once more, and of those along spatial axes what they do along each.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from typing_extensions import override

from tf_kfgn.layers import spatial_maps
from tf_kfgn.layers.call_template import CallOutput
from tf_kfgn.layers.recording import Recording
from tf_kfgn.layers.registry import register
from tf_kfgn.operations.diagonal import DiagonalOperation
from tf_kfgn.operations.linear import LinearOperation
from tf_kfgn.operations.operation import Operation
from tf_kfgn.operations.spatial import SpatialOperation


class _LinearLayer(Recording):
    """An affine layer."""

    @override
    def recorded_operation(self, result: CallOutput, *args: Any, **kwargs: Any) -> Operation:
        del args, kwargs
        return LinearOperation(self, *result)


class _SpatialLayer(_LinearLayer):
    """An affine layer that does the same to every channel, along one axis after the other."""

    @override
    def recorded_operation(self, result: CallOutput, *args: Any, **kwargs: Any) -> Operation:
        [inputs] = result.inputs
        if not inputs.shape[1:].is_fully_defined() or self.mixes():
            return super().recorded_operation(result, *args, **kwargs)
        return SpatialOperation(self, *result, maps=lambda: self.axis_maps(inputs.shape))

    def mixes(self) -> bool:
        """Whether the axes cannot be told apart."""
        return False

    def axis_maps(self: Any, shape: tf.TensorShape) -> list[np.ndarray]:
        """The map along each axis, see `SpatialOperation`.

        Args:
            shape: Of the input.
        """
        sizes = spatial_maps.spatial_sizes(shape, getattr(self, "data_format", None))
        return [self.axis_map(size, axis) for axis, size in enumerate(sizes)]

    def axis_map(self, size: int, axis: int) -> np.ndarray:
        """The map along one axis, shape `(outputs, inputs)`."""
        raise NotImplementedError


class _AveragePooling(_SpatialLayer):
    @override
    def axis_map(self: Any, size: int, axis: int) -> np.ndarray:
        return spatial_maps.average(size, self.pool_size[axis], self.strides[axis], self.padding)


class _GlobalAveragePooling(_SpatialLayer):
    @override
    def axis_map(self, size: int, axis: int) -> np.ndarray:
        return np.full((1, size), 1 / size)


class _Cropping(_SpatialLayer):
    @override
    def axis_map(self: Any, size: int, axis: int) -> np.ndarray:
        before, after = spatial_maps.pair(self.cropping, axis)
        return np.eye(size)[before : size - after]


class _ZeroPadding(_SpatialLayer):
    @override
    def axis_map(self: Any, size: int, axis: int) -> np.ndarray:
        before, after = spatial_maps.pair(self.padding, axis)
        return np.pad(np.eye(size), ((before, after), (0, 0)))


class _UpSampling(_SpatialLayer):
    @override
    def mixes(self: Any) -> bool:
        return getattr(self, "interpolation", "nearest") != "nearest"

    @override
    def axis_map(self: Any, size: int, axis: int) -> np.ndarray:
        times = self.size if isinstance(self.size, int) else self.size[axis]
        return np.repeat(np.eye(size), times, axis=0)


@register
class AveragePooling1D(_AveragePooling, keras.layers.AveragePooling1D):
    """`keras.layers.AveragePooling1D` that records itself on an active tape."""


@register
class AveragePooling2D(_AveragePooling, keras.layers.AveragePooling2D):
    """`keras.layers.AveragePooling2D` that records itself on an active tape."""


@register
class AveragePooling3D(_AveragePooling, keras.layers.AveragePooling3D):
    """`keras.layers.AveragePooling3D` that records itself on an active tape."""


@register
class Cropping1D(_Cropping, keras.layers.Cropping1D):
    """`keras.layers.Cropping1D` that records itself on an active tape."""


@register
class Cropping2D(_Cropping, keras.layers.Cropping2D):
    """`keras.layers.Cropping2D` that records itself on an active tape."""


@register
class Cropping3D(_Cropping, keras.layers.Cropping3D):
    """`keras.layers.Cropping3D` that records itself on an active tape."""


@register
class GlobalAveragePooling2D(_GlobalAveragePooling, keras.layers.GlobalAveragePooling2D):
    """`keras.layers.GlobalAveragePooling2D` that records itself on an active tape."""


@register
class GlobalAveragePooling3D(_GlobalAveragePooling, keras.layers.GlobalAveragePooling3D):
    """`keras.layers.GlobalAveragePooling3D` that records itself on an active tape."""


@register
class Permute(_LinearLayer, keras.layers.Permute):
    """`keras.layers.Permute` that records itself on an active tape."""


@register
class RepeatVector(_SpatialLayer, keras.layers.RepeatVector):
    """`keras.layers.RepeatVector` that records itself on an active tape."""

    @override
    def axis_maps(self, shape: tf.TensorShape) -> list[np.ndarray]:
        return [np.ones((self.n, 1))]


@register
class Rescaling(_LinearLayer, keras.layers.Rescaling):
    """`keras.layers.Rescaling` that records itself on an active tape."""

    @override
    def recorded_operation(self, result: CallOutput, *args: Any, **kwargs: Any) -> Operation:
        del args, kwargs
        return DiagonalOperation(self, result.inputs, result.output, self._scaled)

    def _scaled(self, inputs: tf.Tensor) -> tf.Tensor:
        """The inputs times the slope, at the precision of the inputs."""
        slope = keras.ops.cast(self.scale, inputs.dtype)
        if slope.shape.rank and keras.config.image_data_format() == "channels_first":
            slope = tf.reshape(slope, [*slope.shape, *[1] * (3 - slope.shape.rank)])
        return inputs * slope


@register
class UpSampling1D(_UpSampling, keras.layers.UpSampling1D):
    """`keras.layers.UpSampling1D` that records itself on an active tape."""


@register
class UpSampling2D(_UpSampling, keras.layers.UpSampling2D):
    """`keras.layers.UpSampling2D` that records itself on an active tape."""


@register
class UpSampling3D(_UpSampling, keras.layers.UpSampling3D):
    """`keras.layers.UpSampling3D` that records itself on an active tape."""


@register
class ZeroPadding1D(_ZeroPadding, keras.layers.ZeroPadding1D):
    """`keras.layers.ZeroPadding1D` that records itself on an active tape."""


@register
class ZeroPadding2D(_ZeroPadding, keras.layers.ZeroPadding2D):
    """`keras.layers.ZeroPadding2D` that records itself on an active tape."""


@register
class ZeroPadding3D(_ZeroPadding, keras.layers.ZeroPadding3D):
    """`keras.layers.ZeroPadding3D` that records itself on an active tape."""
