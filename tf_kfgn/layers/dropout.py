"""Dropout: a random elementwise factor, the same in every product of one recorded pass."""

from __future__ import annotations

import keras
import tensorflow as tf

from tf_kfgn.layers.recording import Recording
from tf_kfgn.operations.elementwise import ElementwiseOperation
from tf_kfgn.recording.active import active_tape


class _RecordingDropout(Recording):
    """Records the whole call of a dropout layer, where it does anything."""

    def call(self, inputs: tf.Tensor, training: bool | None = False) -> tf.Tensor:
        """The stock computation; inside a tape it is recorded."""
        tape = active_tape()
        if tape is not None and training:
            tape.watch(inputs)  # the mask is a derivative, also with respect to the model's input
        outputs = super().call(inputs, training=training)  # type: ignore[misc]
        if tape is not None and outputs is not inputs:
            tape.record(ElementwiseOperation(self, inputs, outputs))
        return outputs


@keras.saving.register_keras_serializable(package="tf_kfgn")
class Dropout(_RecordingDropout, keras.layers.Dropout):
    """`keras.layers.Dropout` that records its mask."""


@keras.saving.register_keras_serializable(package="tf_kfgn")
class SpatialDropout1D(_RecordingDropout, keras.layers.SpatialDropout1D):
    """`keras.layers.SpatialDropout1D` that records its mask."""


@keras.saving.register_keras_serializable(package="tf_kfgn")
class SpatialDropout2D(_RecordingDropout, keras.layers.SpatialDropout2D):
    """`keras.layers.SpatialDropout2D` that records its mask."""


@keras.saving.register_keras_serializable(package="tf_kfgn")
class SpatialDropout3D(_RecordingDropout, keras.layers.SpatialDropout3D):
    """`keras.layers.SpatialDropout3D` that records its mask."""


@keras.saving.register_keras_serializable(package="tf_kfgn")
class AlphaDropout(_RecordingDropout, keras.layers.AlphaDropout):
    """`keras.layers.AlphaDropout` that records its mask."""


@keras.saving.register_keras_serializable(package="tf_kfgn")
class GaussianDropout(_RecordingDropout, keras.layers.GaussianDropout):
    """`keras.layers.GaussianDropout` that records its factor."""


@keras.saving.register_keras_serializable(package="tf_kfgn")
class GaussianNoise(_RecordingDropout, keras.layers.GaussianNoise):
    """`keras.layers.GaussianNoise` that records itself."""
