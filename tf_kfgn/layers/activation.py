"""Activations, as an argument of another layer or as layers of their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf
from typing_extensions import override

from tf_kfgn.layers.call_template import CallOutput
from tf_kfgn.layers.recording import Recording
from tf_kfgn.layers.registry import register
from tf_kfgn.operations.elementwise import ElementwiseOperation
from tf_kfgn.operations.operation import Operation
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
        tape.record(kind(layer, inputs, outputs, activation))
    return outputs


class _ElementwiseLayer(Recording):
    """A layer that maps each feature on its own."""

    @override
    def recorded_operation(self, result: CallOutput, *args: Any, **kwargs: Any) -> Operation:
        del args, kwargs
        return ElementwiseOperation(self, *result)


@register
class Activation(Recording, keras.layers.Activation):
    """`keras.layers.Activation` that records itself on an active tape."""

    @override
    def recorded_call(self, tape: CurvatureTape, inputs: tf.Tensor) -> tf.Tensor:
        return record_activation(tape, self, self.activation, inputs)


@register
class ReLU(_ElementwiseLayer, keras.layers.ReLU):
    """`keras.layers.ReLU` that records itself on an active tape."""


@register
class LeakyReLU(_ElementwiseLayer, keras.layers.LeakyReLU):
    """`keras.layers.LeakyReLU` that records itself on an active tape."""


@register
class ELU(_ElementwiseLayer, keras.layers.ELU):
    """`keras.layers.ELU` that records itself on an active tape."""


@register
class PReLU(_ElementwiseLayer, keras.layers.PReLU):
    """`keras.layers.PReLU` that records itself; its slopes have a diagonal block."""


@register
class Softmax(Recording, keras.layers.Softmax):
    """`keras.layers.Softmax` that records itself on an active tape."""
