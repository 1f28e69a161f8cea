"""Activations, as an argument of another layer or as layers of their own."""

from __future__ import annotations

from collections.abc import Callable

import keras
import tensorflow as tf

from tf_kfgn.layers.recording import Recording
from tf_kfgn.operations.elementwise import ElementwiseOperation
from tf_kfgn.operations.operation import Operation
from tf_kfgn.recording.active import active_tape
from tf_kfgn.recording.tape import CurvatureTape

# Everything in keras.activations but these maps each feature on its own.
_MIXING = {"glu", "log_softmax", "softmax", "sparsemax"}
_ELEMENTWISE = {
    getattr(keras.activations, name)
    for name in dir(keras.activations)
    if not name.startswith("_") and name not in {*_MIXING, "get", "serialize", "deserialize"}
}


def record_activation(
    tape: CurvatureTape,
    layer: keras.layers.Layer,
    activation: Callable[[tf.Tensor], tf.Tensor] | None,
    inputs: tf.Tensor,
) -> tf.Tensor:
    """Apply an activation and record it.

    A function of `keras.activations` gets the elementwise rule; any other callable is recorded as
    a general operation. An activation that is itself a recording layer records itself.
    """
    if activation is None:
        return inputs
    outputs = activation(inputs)
    if outputs is not inputs and not isinstance(activation, Recording):
        elementwise = any(activation is known for known in _ELEMENTWISE)
        kind = ElementwiseOperation if elementwise else Operation
        tape.record(kind(layer, inputs, outputs))
    return outputs


class _ElementwiseLayer(Recording):
    """Records the whole call of a layer that maps each feature on its own."""

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """The stock computation; inside a tape it is recorded."""
        outputs = super().call(inputs)  # type: ignore[misc]
        tape = active_tape()
        if tape is not None and outputs is not inputs:
            tape.record(ElementwiseOperation(self, inputs, outputs))
        return outputs


@keras.saving.register_keras_serializable(package="tf_kfgn")
class Activation(Recording, keras.layers.Activation):
    """`keras.layers.Activation` that records itself on an active tape."""

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """The stock computation; inside a tape it is recorded."""
        tape = active_tape()
        if tape is None:
            return super().call(inputs)
        return record_activation(tape, self, self.activation, inputs)


@keras.saving.register_keras_serializable(package="tf_kfgn")
class ReLU(_ElementwiseLayer, keras.layers.ReLU):
    """`keras.layers.ReLU` that records itself on an active tape."""


@keras.saving.register_keras_serializable(package="tf_kfgn")
class LeakyReLU(_ElementwiseLayer, keras.layers.LeakyReLU):
    """`keras.layers.LeakyReLU` that records itself on an active tape."""


@keras.saving.register_keras_serializable(package="tf_kfgn")
class ELU(_ElementwiseLayer, keras.layers.ELU):
    """`keras.layers.ELU` that records itself on an active tape."""


@keras.saving.register_keras_serializable(package="tf_kfgn")
class PReLU(_ElementwiseLayer, keras.layers.PReLU):
    """`keras.layers.PReLU` that records itself; its slopes have a diagonal block."""


@keras.saving.register_keras_serializable(package="tf_kfgn")
class Softmax(Recording, keras.layers.Softmax):
    """`keras.layers.Softmax` that records itself on an active tape."""

    def call(self, inputs: tf.Tensor, mask: tf.Tensor | None = None) -> tf.Tensor:
        """The stock computation; inside a tape it is recorded."""
        outputs = super().call(inputs, mask=mask)
        tape = active_tape()
        if tape is not None:
            tape.record(Operation(self, inputs, outputs))
        return outputs
