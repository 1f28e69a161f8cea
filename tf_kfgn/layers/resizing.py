"""Resizing of images: an affine map of the pixels, the same for every example."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tf_kfgn.layers.recording import Recording
from tf_kfgn.operations.linear import LinearOperation
from tf_kfgn.recording.active import active_tape


@keras.saving.register_keras_serializable(package="tf_kfgn")
class Resizing(Recording, keras.layers.Resizing):
    """`keras.layers.Resizing` that records itself on an active tape.

    A single image, or a dictionary of images and boxes, is input preparation: not recorded.
    """

    def call(self, data: Any, training: bool = True) -> Any:
        """The stock computation; inside a tape it is recorded."""
        outputs = super().call(data, training=training)
        tape = active_tape()
        if tape is not None and outputs is not data and self._is_batch(data):
            tape.record(LinearOperation(self, data, outputs, self.stock_call))
        return outputs

    @staticmethod
    def _is_batch(data: Any) -> bool:
        return tf.is_tensor(data) and data.dtype.is_floating and data.shape.rank == 4
