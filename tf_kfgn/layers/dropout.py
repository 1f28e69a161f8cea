"""Dropout: a random elementwise factor, the same in every product of one recorded pass."""

from __future__ import annotations

import keras
import tensorflow as tf

from tf_kfgn.layers.operation import ElementwiseOperation, Recording
from tf_kfgn.tape import active_replay, active_tape


@keras.saving.register_keras_serializable(package="tf_kfgn")
class Dropout(Recording, keras.layers.Dropout):
    """`keras.layers.Dropout` that records its mask, and repeats it when a tape is replayed."""

    def call(self, inputs: tf.Tensor, training: bool | None = False) -> tf.Tensor:
        """The stock computation; inside a tape it is recorded."""
        tape, replay = active_tape(), active_replay()
        if replay is not None and training and self.rate > 0:
            return replay.repeat(self, inputs)
        if tape is not None and training:
            tape.watch(inputs)  # the mask is a derivative, also with respect to the model's input
        outputs = super().call(inputs, training=training)
        if tape is not None and outputs is not inputs:
            tape.record(ElementwiseOperation(self, inputs, outputs))
        return outputs
