"""Flatten and Reshape: nothing but a new shape for the features of each example."""

from __future__ import annotations

import keras
import tensorflow as tf

from tf_kfgn.layers.recording import Recording
from tf_kfgn.operations.linear import LinearOperation, ReshapingOperation
from tf_kfgn.recording.active import active_tape


@keras.saving.register_keras_serializable(package="tf_kfgn")
class Flatten(Recording, keras.layers.Flatten):
    """`keras.layers.Flatten` that records itself on an active tape."""

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """The stock computation; inside a tape it is recorded."""
        outputs = super().call(inputs)
        tape = active_tape()
        if tape is not None:
            reordered = self.data_format == "channels_first" and inputs.shape.rank > 2
            kind = LinearOperation if reordered else ReshapingOperation
            tape.record(kind(self, inputs, outputs, self.stock_call))
        return outputs


@keras.saving.register_keras_serializable(package="tf_kfgn")
class Reshape(Recording, keras.layers.Reshape):
    """`keras.layers.Reshape` that records itself on an active tape."""

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """The stock computation; inside a tape it is recorded."""
        outputs = super().call(inputs)
        tape = active_tape()
        if tape is not None:
            tape.record(ReshapingOperation(self, inputs, outputs))
        return outputs
