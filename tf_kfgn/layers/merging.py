"""Layers that merge several tensors of one example into one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from tf_kfgn.layers.operation import ElementwiseOperation, LinearOperation, Operation
from tf_kfgn.layers.recording import Recording
from tf_kfgn.tape import CurvatureTape, active_tape


class _Merging(Recording):
    """Records the whole call of a merging layer."""

    def call(self: Any, inputs: Sequence[tf.Tensor]) -> tf.Tensor:
        """The stock computation; inside a tape it is recorded."""
        tape = active_tape()
        if tape is None or not all(tensor.dtype.is_floating for tensor in inputs):
            return self.stock_call(inputs)
        inputs = self.prepared(tape, list(inputs))
        outputs = self.stock_call(inputs)
        if all(outputs is not tensor for tensor in inputs):
            tape.record(self.operation(inputs, outputs))
        return outputs

    def prepared(self, tape: CurvatureTape, inputs: list[tf.Tensor]) -> list[tf.Tensor]:
        """The inputs as the recorded operation takes them."""
        del tape
        return inputs

    def operation(self, inputs: list[tf.Tensor], outputs: tf.Tensor) -> Operation:
        """What to record."""
        return Operation(self, inputs, outputs, self.merged)

    def merged(self, *inputs: tf.Tensor) -> tf.Tensor:
        """The stock computation, as a function of the inputs one by one."""
        return self.stock_call(list(inputs))


class _LinearMerging(_Merging):
    """A merging layer that is linear in all inputs together."""

    def operation(self, inputs: list[tf.Tensor], outputs: tf.Tensor) -> Operation:
        """See `_Merging.operation`."""
        return LinearOperation(self, inputs, outputs, self.merged)


class _ElementwiseMerging(_Merging):
    """A merging layer whose every output depends on one place of each input."""

    def prepared(self, tape: CurvatureTape, inputs: list[tf.Tensor]) -> list[tf.Tensor]:
        """See `_Merging.prepared`: smaller inputs are repeated, as an operation of its own."""
        ranks = {tensor.shape.rank for tensor in inputs}
        if len(ranks) > 1 or not all(t.shape[1:].is_fully_defined() for t in inputs):
            return inputs
        shape = inputs[0].shape[1:]
        for tensor in inputs[1:]:
            shape = tf.broadcast_static_shape(shape, tensor.shape[1:])
        return [self._repeated(tape, tensor, shape) for tensor in inputs]

    def operation(self, inputs: list[tf.Tensor], outputs: tf.Tensor) -> Operation:
        """See `_Merging.operation`."""
        shapes = [tuple(tensor.shape[1:]) for tensor in (*inputs, outputs)]
        alike = None not in shapes[0] and len(set(shapes)) == 1
        return (ElementwiseOperation if alike else Operation)(self, inputs, outputs, self.merged)

    def _repeated(self, tape: CurvatureTape, tensor: tf.Tensor, shape: tf.TensorShape) -> tf.Tensor:
        if tensor.shape[1:] == shape:
            return tensor

        def repeat(tensor: tf.Tensor) -> tf.Tensor:
            return tf.broadcast_to(tensor, (tf.shape(tensor)[0], *shape))

        wide = repeat(tensor)
        tape.record(LinearOperation(self, tensor, wide, repeat))
        return wide


@keras.saving.register_keras_serializable(package="tf_kfgn")
class Add(_LinearMerging, keras.layers.Add):
    """`keras.layers.Add` that records itself on an active tape."""


@keras.saving.register_keras_serializable(package="tf_kfgn")
class Average(_LinearMerging, keras.layers.Average):
    """`keras.layers.Average` that records itself on an active tape."""


@keras.saving.register_keras_serializable(package="tf_kfgn")
class Concatenate(_LinearMerging, keras.layers.Concatenate):
    """`keras.layers.Concatenate` that records itself on an active tape."""


@keras.saving.register_keras_serializable(package="tf_kfgn")
class Dot(_Merging, keras.layers.Dot):
    """`keras.layers.Dot` that records itself on an active tape."""


@keras.saving.register_keras_serializable(package="tf_kfgn")
class Maximum(_ElementwiseMerging, keras.layers.Maximum):
    """`keras.layers.Maximum` that records itself on an active tape."""


@keras.saving.register_keras_serializable(package="tf_kfgn")
class Minimum(_ElementwiseMerging, keras.layers.Minimum):
    """`keras.layers.Minimum` that records itself on an active tape."""


@keras.saving.register_keras_serializable(package="tf_kfgn")
class Multiply(_ElementwiseMerging, keras.layers.Multiply):
    """`keras.layers.Multiply` that records itself on an active tape."""


@keras.saving.register_keras_serializable(package="tf_kfgn")
class Subtract(_LinearMerging, keras.layers.Subtract):
    """`keras.layers.Subtract` that records itself on an active tape."""
