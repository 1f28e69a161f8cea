"""Resizing of images: an affine map of the pixels, the same for every example."""

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


@register
class Resizing(Recording, keras.layers.Resizing):
    """`keras.layers.Resizing` that records itself on an active tape.

    A single image, or a dictionary of images and boxes, is input preparation: not recorded.
    """

    @override
    def recorded_operation(
        self, result: CallOutput, data: Any, training: bool = True
    ) -> Operation | None:
        del training
        is_batch = tf.is_tensor(data) and data.shape.rank == 4
        return LinearOperation(self, *result) if is_batch else None
