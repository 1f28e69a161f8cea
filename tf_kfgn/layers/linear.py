"""Layers that are affine maps without weights, the same for every example.

Average pooling, padding, cropping, up-sampling, permuting, repeating, rescaling: KFRA needs nothing
of them but to be called once more.
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf
from typing_extensions import override

from tf_kfgn.layers.call_template import CallOutput
from tf_kfgn.layers.recording import Recording
from tf_kfgn.layers.registry import register
from tf_kfgn.operations.linear import LinearOperation
from tf_kfgn.operations.operation import Operation


class _LinearLayer(Recording):
    """An affine layer."""

    @override
    def recorded_operation(self, result: CallOutput, *args: Any, **kwargs: Any) -> Operation:
        del args, kwargs
        return LinearOperation(self, *result)


@register
class AveragePooling1D(_LinearLayer, keras.layers.AveragePooling1D):
    """`keras.layers.AveragePooling1D` that records itself on an active tape."""


@register
class AveragePooling2D(_LinearLayer, keras.layers.AveragePooling2D):
    """`keras.layers.AveragePooling2D` that records itself on an active tape."""


@register
class AveragePooling3D(_LinearLayer, keras.layers.AveragePooling3D):
    """`keras.layers.AveragePooling3D` that records itself on an active tape."""


@register
class Cropping1D(_LinearLayer, keras.layers.Cropping1D):
    """`keras.layers.Cropping1D` that records itself on an active tape."""


@register
class Cropping2D(_LinearLayer, keras.layers.Cropping2D):
    """`keras.layers.Cropping2D` that records itself on an active tape."""


@register
class Cropping3D(_LinearLayer, keras.layers.Cropping3D):
    """`keras.layers.Cropping3D` that records itself on an active tape."""


@register
class GlobalAveragePooling2D(_LinearLayer, keras.layers.GlobalAveragePooling2D):
    """`keras.layers.GlobalAveragePooling2D` that records itself on an active tape."""


@register
class GlobalAveragePooling3D(_LinearLayer, keras.layers.GlobalAveragePooling3D):
    """`keras.layers.GlobalAveragePooling3D` that records itself on an active tape."""


@register
class Permute(_LinearLayer, keras.layers.Permute):
    """`keras.layers.Permute` that records itself on an active tape."""


@register
class RepeatVector(_LinearLayer, keras.layers.RepeatVector):
    """`keras.layers.RepeatVector` that records itself on an active tape."""


@register
class Rescaling(_LinearLayer, keras.layers.Rescaling):
    """`keras.layers.Rescaling` that records itself on an active tape."""

    @override
    def recorded_operation(self, result: CallOutput, *args: Any, **kwargs: Any) -> Operation:
        del args, kwargs
        return LinearOperation(self, result.inputs, result.output, self._scaled)

    def _scaled(self, inputs: tf.Tensor) -> tf.Tensor:
        """The inputs times the slope, at the precision of the inputs."""
        slope = keras.ops.cast(self.scale, inputs.dtype)
        if slope.shape.rank and keras.config.image_data_format() == "channels_first":
            slope = tf.reshape(slope, [*slope.shape, *[1] * (3 - slope.shape.rank)])
        return inputs * slope


@register
class UpSampling1D(_LinearLayer, keras.layers.UpSampling1D):
    """`keras.layers.UpSampling1D` that records itself on an active tape."""


@register
class UpSampling2D(_LinearLayer, keras.layers.UpSampling2D):
    """`keras.layers.UpSampling2D` that records itself on an active tape."""


@register
class UpSampling3D(_LinearLayer, keras.layers.UpSampling3D):
    """`keras.layers.UpSampling3D` that records itself on an active tape."""


@register
class ZeroPadding1D(_LinearLayer, keras.layers.ZeroPadding1D):
    """`keras.layers.ZeroPadding1D` that records itself on an active tape."""


@register
class ZeroPadding2D(_LinearLayer, keras.layers.ZeroPadding2D):
    """`keras.layers.ZeroPadding2D` that records itself on an active tape."""


@register
class ZeroPadding3D(_LinearLayer, keras.layers.ZeroPadding3D):
    """`keras.layers.ZeroPadding3D` that records itself on an active tape."""
