"""Dense layers: `h = a W + b` on the last axis, for inputs of any rank."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tf_kfgn.layers.activation import record_activation
from tf_kfgn.layers.operation import ParametrisedOperation, Recording, num_features
from tf_kfgn.layers.parameters import mark_weights
from tf_kfgn.tape import active_tape


class DenseOperation(ParametrisedOperation):
    """The affine part of a dense layer; its shared positions are all axes but batch and last."""

    @property
    def shared(self) -> int:
        """See `ParametrisedOperation.shared`."""
        return num_features(self.input) // self.input.shape[-1]

    @property
    def out_features(self) -> int:
        """See `ParametrisedOperation.out_features`."""
        return self.output.shape[-1]

    def input_rows(self) -> tf.Tensor:
        """See `ParametrisedOperation.input_rows`."""
        rows = tf.reshape(self.input, (-1, self.shared, self.input.shape[-1]))
        if self.layer.bias is None or not self.layer.bias.trainable:
            return rows
        return tf.concat([rows, tf.ones_like(rows[..., :1])], axis=-1)

    def cotangent_rows(self, cotangent: tf.Tensor) -> tf.Tensor:
        """See `ParametrisedOperation.cotangent_rows`."""
        return tf.reshape(cotangent, (-1, self.shared, self.out_features))

    def pull_back(self, average: tf.Tensor, tape: tf.GradientTape) -> tf.Tensor:
        """See `Operation.pull_back`: `W G W^T`, for each pair of shared positions."""
        del tape
        kernel = tf.cast(tf.convert_to_tensor(self.layer.kernel), average.dtype)
        if self.shared == 1:
            return tf.matmul(tf.matmul(kernel, average), kernel, transpose_b=True)
        n, (rows, columns) = self.shared, kernel.shape
        pairs = tf.reshape(average, (n, columns, n, columns))
        pulled = tf.einsum("io,sotp,jp->sitj", kernel, pairs, kernel)
        return tf.reshape(pulled, (n * rows, n * rows))


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
        if self.quantization_mode is not None or self.lora_enabled:
            raise ValueError(
                f"Layer {self.name!r} is quantized or uses LoRA: its kernel is not a trainable "
                "variable, so it has no curvature block. Use a plain Dense layer."
            )
        mark_weights(self, self.kernel, self.bias)

    def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """The stock computation; inside a tape its parts are recorded."""
        tape = active_tape()
        if tape is None:
            return super().call(inputs, training=training)
        pre_activation = keras.ops.matmul(inputs, self.kernel)
        if self.bias is not None:
            pre_activation = keras.ops.add(pre_activation, self.bias)
        tape.record(DenseOperation(self, inputs, pre_activation))
        return record_activation(tape, self, self.activation, pre_activation)
