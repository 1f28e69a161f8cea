"""Dense layers: `h = a W + b` on the last axis, for inputs of any rank."""

from __future__ import annotations

import keras
import tensorflow as tf
from typing_extensions import override

from tf_kfgn.layers.activation import record_activation
from tf_kfgn.layers.adapted import refuse_adapted
from tf_kfgn.layers.recording import Recording
from tf_kfgn.layers.registry import register
from tf_kfgn.operations.features import as_rows, num_features
from tf_kfgn.operations.marks import mark_weights
from tf_kfgn.operations.parametrised import ParametrisedOperation
from tf_kfgn.operations.weight_matrix import WeightMatrix
from tf_kfgn.recording.tape import CurvatureTape


class DenseOperation(ParametrisedOperation):
    """The affine part of a dense layer; its shared positions are all axes but batch and last."""

    rows_in_order = True

    @property
    @override
    def shared(self) -> int:
        return num_features(self.input) // self.input.shape[-1]

    @override
    def kernel_rows(self) -> tf.Tensor:
        return as_rows(self.input, self.input.shape[-1])

    @override
    def cotangent_rows(self, cotangent: tf.Tensor) -> tf.Tensor:
        return as_rows(cotangent, self.out_features)


@register
class Dense(Recording, keras.layers.Dense):
    """`keras.layers.Dense` that records its input and pre-activation on an active tape."""

    def mark_variables(self) -> None:
        """Tell optimizers that kernel and bias form one Kronecker block.

        Raises:
            ValueError: If the layer is quantized or adapted with LoRA.
        """
        refuse_adapted(self)
        mark_weights(WeightMatrix(self.name, *self.kernel.shape), self.kernel, self.bias)

    @override
    def recorded_call(
        self, tape: CurvatureTape, inputs: tf.Tensor, training: bool | None = None
    ) -> tf.Tensor:
        del training  # it is for quantized layers
        pre_activation = keras.ops.matmul(inputs, self.kernel)
        if self.bias is not None:
            pre_activation = keras.ops.add(pre_activation, self.bias)
        tape.record(
            DenseOperation(
                self, inputs, pre_activation, self._linear, kernel=self.kernel, bias=self.bias
            )
        )
        return record_activation(tape, self, self.activation, pre_activation)

    def _linear(self, inputs: tf.Tensor) -> tf.Tensor:
        return keras.ops.matmul(inputs, self.kernel)
