"""Layers that are affine maps without weights, the same for every example.

Average pooling, padding, cropping, up-sampling, permuting, repeating, rescaling: KFRA needs nothing
of them but to be called once more.
"""

from __future__ import annotations

import keras
import tensorflow as tf

from tf_kfgn.layers.recording import Recording
from tf_kfgn.operations.linear import LinearOperation
from tf_kfgn.recording.active import active_tape


class _LinearLayer(Recording):
    """Records the whole call of an affine layer."""

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """The stock computation; inside a tape it is recorded."""
        outputs = super().call(inputs)  # type: ignore[misc]
        tape = active_tape()
        if tape is not None and outputs is not inputs and inputs.dtype.is_floating:
            tape.record(LinearOperation(self, inputs, outputs, self.repeated))
        return outputs

    def repeated(self, inputs: tf.Tensor) -> tf.Tensor:
        """The stock computation once more, for any number of examples and any floating type."""
        return self.stock_call(inputs)


@keras.saving.register_keras_serializable(package="tf_kfgn")
class AveragePooling1D(_LinearLayer, keras.layers.AveragePooling1D):
    """`keras.layers.AveragePooling1D` that records itself on an active tape."""


@keras.saving.register_keras_serializable(package="tf_kfgn")
class AveragePooling2D(_LinearLayer, keras.layers.AveragePooling2D):
    """`keras.layers.AveragePooling2D` that records itself on an active tape."""


@keras.saving.register_keras_serializable(package="tf_kfgn")
class AveragePooling3D(_LinearLayer, keras.layers.AveragePooling3D):
    """`keras.layers.AveragePooling3D` that records itself on an active tape."""


@keras.saving.register_keras_serializable(package="tf_kfgn")
class Cropping1D(_LinearLayer, keras.layers.Cropping1D):
    """`keras.layers.Cropping1D` that records itself on an active tape."""


@keras.saving.register_keras_serializable(package="tf_kfgn")
class Cropping2D(_LinearLayer, keras.layers.Cropping2D):
    """`keras.layers.Cropping2D` that records itself on an active tape."""


@keras.saving.register_keras_serializable(package="tf_kfgn")
class Cropping3D(_LinearLayer, keras.layers.Cropping3D):
    """`keras.layers.Cropping3D` that records itself on an active tape."""


@keras.saving.register_keras_serializable(package="tf_kfgn")
class GlobalAveragePooling2D(_LinearLayer, keras.layers.GlobalAveragePooling2D):
    """`keras.layers.GlobalAveragePooling2D` that records itself on an active tape."""


@keras.saving.register_keras_serializable(package="tf_kfgn")
class GlobalAveragePooling3D(_LinearLayer, keras.layers.GlobalAveragePooling3D):
    """`keras.layers.GlobalAveragePooling3D` that records itself on an active tape."""


@keras.saving.register_keras_serializable(package="tf_kfgn")
class Permute(_LinearLayer, keras.layers.Permute):
    """`keras.layers.Permute` that records itself on an active tape."""


@keras.saving.register_keras_serializable(package="tf_kfgn")
class RepeatVector(_LinearLayer, keras.layers.RepeatVector):
    """`keras.layers.RepeatVector` that records itself on an active tape."""


@keras.saving.register_keras_serializable(package="tf_kfgn")
class Rescaling(_LinearLayer, keras.layers.Rescaling):
    """`keras.layers.Rescaling` that records itself on an active tape."""

    def repeated(self, inputs: tf.Tensor) -> tf.Tensor:
        """See `_LinearLayer.repeated`: the slope, at the precision of the inputs."""
        slope = keras.ops.cast(self.scale, inputs.dtype)
        if slope.shape.rank and keras.config.image_data_format() == "channels_first":
            slope = tf.reshape(slope, [*slope.shape, *[1] * (3 - slope.shape.rank)])
        return inputs * slope


@keras.saving.register_keras_serializable(package="tf_kfgn")
class UpSampling1D(_LinearLayer, keras.layers.UpSampling1D):
    """`keras.layers.UpSampling1D` that records itself on an active tape."""


@keras.saving.register_keras_serializable(package="tf_kfgn")
class UpSampling2D(_LinearLayer, keras.layers.UpSampling2D):
    """`keras.layers.UpSampling2D` that records itself on an active tape."""


@keras.saving.register_keras_serializable(package="tf_kfgn")
class UpSampling3D(_LinearLayer, keras.layers.UpSampling3D):
    """`keras.layers.UpSampling3D` that records itself on an active tape."""


@keras.saving.register_keras_serializable(package="tf_kfgn")
class ZeroPadding1D(_LinearLayer, keras.layers.ZeroPadding1D):
    """`keras.layers.ZeroPadding1D` that records itself on an active tape."""


@keras.saving.register_keras_serializable(package="tf_kfgn")
class ZeroPadding2D(_LinearLayer, keras.layers.ZeroPadding2D):
    """`keras.layers.ZeroPadding2D` that records itself on an active tape."""


@keras.saving.register_keras_serializable(package="tf_kfgn")
class ZeroPadding3D(_LinearLayer, keras.layers.ZeroPadding3D):
    """`keras.layers.ZeroPadding3D` that records itself on an active tape."""
