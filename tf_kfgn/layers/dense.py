"""Dense layers: `h = a W + b` on the last axis, for inputs of any rank."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf
from typing_extensions import override

from tf_kfgn.layers.activation import record_activation
from tf_kfgn.layers.adapted import refuse_adapted
from tf_kfgn.layers.recording import Recording
from tf_kfgn.layers.registry import register
from tf_kfgn.operations.axis_maps import AxisMaps
from tf_kfgn.operations.features import as_rows, num_features
from tf_kfgn.operations.marks import mark_weights
from tf_kfgn.operations.operation import Ends
from tf_kfgn.operations.parametrised import ParametrisedOperation
from tf_kfgn.operations.taps import Taps
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

    @override
    def taps(self, ends: Ends) -> Taps | None:
        """The kernel; that of a flattened image is one for each position."""
        [before], kernel = ends.inputs, tf.convert_to_tensor(self.kernel)
        rows, columns = self.matrix.in_features, self.out_features
        if before.in_order and before.num_channels == rows:
            maps = AxisMaps([np.eye(size)[None] for size in before.sizes])
            return Taps(tf.reshape(kernel, (1, 1, rows, columns)), maps)
        if self.shared > 1:
            return None
        apart = before.rows(tf.transpose(kernel))  # (columns, positions, channels)
        return Taps(tf.transpose(apart, (1, 2, 0))[:, None], None)


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
