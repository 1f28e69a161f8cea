"""Dense layers: `h = a W + b` on the last axis, for inputs of any rank."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tf_kfgn.layers.activation import record_activation
from tf_kfgn.layers.adapted import refuse_adapted
from tf_kfgn.layers.recording import Recording
from tf_kfgn.operations.features import num_features
from tf_kfgn.operations.marks import mark_weights
from tf_kfgn.operations.parametrised import ParametrisedOperation
from tf_kfgn.operations.weight_matrix import WeightMatrix
from tf_kfgn.recording.active import active_tape


class DenseOperation(ParametrisedOperation):
    """The affine part of a dense layer; its shared positions are all axes but batch and last."""

    rows_in_order = True

    @property
    def shared(self) -> int:
        """See `ParametrisedOperation.shared`."""
        return num_features(self.input) // self.input.shape[-1]

    def kernel_rows(self) -> tf.Tensor:
        """See `ParametrisedOperation.kernel_rows`."""
        return tf.reshape(self.input, (-1, self.shared, self.input.shape[-1]))

    def cotangent_rows(self, cotangent: tf.Tensor) -> tf.Tensor:
        """See `ParametrisedOperation.cotangent_rows`."""
        return tf.reshape(cotangent, (-1, self.shared, self.out_features))


@keras.saving.register_keras_serializable(package="tf_kfgn")
class Dense(Recording, keras.layers.Dense):
    """`keras.layers.Dense` that records its input and pre-activation on an active tape."""

    def build(self, input_shape: Any) -> None:
        """Create and mark the weights."""
        super().build(input_shape)
        self.mark_variables()

    def mark_variables(self) -> None:
        """Tell optimizers that kernel and bias form one Kronecker block.

        Raises:
            ValueError: If the layer is quantized or adapted with LoRA.
        """
        refuse_adapted(self)
        mark_weights(WeightMatrix(self.name, *self.kernel.shape), self.kernel, self.bias)

    def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """The stock computation; inside a tape its parts are recorded."""
        tape = active_tape()
        if tape is None:
            return super().call(inputs, training=training)
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
