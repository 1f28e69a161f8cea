"""Normalisation. Scale and shift have diagonal blocks; KFRA goes through the whole."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tf_kfgn.context import active_replay
from tf_kfgn.layers.operation import LinearOperation, Operation
from tf_kfgn.layers.recording import Recording
from tf_kfgn.tape import active_tape


@keras.saving.register_keras_serializable(package="tf_kfgn")
class BatchNormalization(Recording, keras.layers.BatchNormalization):
    """`keras.layers.BatchNormalization` that records itself on an active tape.

    In training every output depends on the whole batch. KFLR and KFAC follow that; KFRA, whose
    averages are over single examples, takes the statistics of the batch as constants.

    A replay computes with the statistics of the batch too but leaves the moving ones as they
    are. Not so with `renorm=True`, which updates them in a replay as well.
    """

    def call(
        self, inputs: tf.Tensor, training: bool | None = None, mask: tf.Tensor | None = None
    ) -> tf.Tensor:
        """The stock computation; inside a tape it is recorded."""
        of_batch = bool(training) and self.trainable
        if of_batch and not self.renorm and active_replay() is not None:
            statistics = self._moments(_at_least_float32(inputs), mask)
            return keras.ops.cast(self._normalised(inputs, *statistics), self.compute_dtype)
        outputs = super().call(inputs, training=training, mask=mask)
        tape = active_tape()
        if tape is None:
            return outputs
        if of_batch and self.renorm:
            tape.record(Operation(self, inputs, outputs))
            return outputs

        def function(tensor: tf.Tensor) -> tf.Tensor:
            if of_batch:
                statistics = self._moments(_at_least_float32(inputs), mask)
            else:
                statistics = (self.moving_mean, self.moving_variance)
            outputs = self._normalised(tensor, *statistics)
            return keras.ops.cast(outputs, tensor.dtype)

        tape.record(LinearOperation(self, inputs, outputs, function))
        return outputs

    def _normalised(self, inputs: tf.Tensor, mean: Any, variance: Any) -> tf.Tensor:
        """Normalise with given statistics, in float32 or better."""
        inputs = _at_least_float32(inputs)
        cast = {
            name: None if value is None else keras.ops.cast(value, inputs.dtype)
            for name, value in {
                "mean": mean,
                "variance": variance,
                "offset": self.beta if self.center else None,
                "scale": self.gamma if self.scale else None,
            }.items()
        }
        return keras.ops.batch_normalization(inputs, axis=self.axis, epsilon=self.epsilon, **cast)


class RowNormalization(Operation):
    """Normalisation of each row `x` along the last axis: `γ s (x - m)`.

    With `x̂ = s (x - m)` and P the projection that subtracts the mean, the Jacobian of a row is
    `s γ (P - x̂ x̂^T / D)`. Without the mean, as in RMS normalisation, P is the identity.
    """

    def __init__(
        self,
        layer: keras.layers.Layer,
        inputs: tf.Tensor,
        output: tf.Tensor,
        *,
        gamma: Any,
        centred: bool,
        epsilon: float,
    ) -> None:
        """Hold the ends and what the layer computes with; γ is None if it has no scale."""
        super().__init__(layer, inputs, output)
        self._gamma, self._centred, self._epsilon = gamma, centred, epsilon

    def pull_back(self, average: tf.Tensor, tape: tf.GradientTape) -> tf.Tensor:
        """See `Operation.pull_back`."""
        del tape
        rows, scale = self._rows(average.dtype)
        count = tf.cast(tf.shape(rows)[0], average.dtype)
        P, D = rows.shape[1:]
        projected = self._projected(tf.transpose(self._projected(average)))
        blocks = tf.reshape(projected, (P, D, P, D))
        scaled = rows * scale[..., None]
        met = tf.einsum("npi,piqj->npqj", rows, blocks) / D
        once = tf.einsum("npi,nq,npqj->piqj", scaled, scale, met)
        twice = tf.einsum("npqj,nqj->npq", met, rows) / D
        both = tf.einsum("npq,npi,nqj->piqj", twice, scaled, scaled)
        straight = tf.matmul(scale, scale, transpose_a=True)[:, None, :, None] * blocks
        total = straight - once - tf.transpose(once, (2, 3, 0, 1)) + both
        return tf.reshape(total, average.shape) / count

    def mean_transpose(self, columns: tf.Tensor, tape: tf.GradientTape) -> tf.Tensor:
        """See `Operation.mean_transpose`."""
        del tape
        rows, scale = self._rows(columns.dtype)
        count = tf.cast(tf.shape(rows)[0], columns.dtype)
        P, D = rows.shape[1:]
        blocks = tf.reshape(self._projected(columns), (P, D, -1))
        outer = tf.einsum("np,npi,npj->pij", scale, rows, rows) / D
        moved = tf.reduce_sum(scale, axis=0)[:, None, None] * blocks - tf.matmul(outer, blocks)
        return tf.reshape(moved, (P * D, -1)) / count

    def _rows(self, dtype: tf.DType) -> tuple[tf.Tensor, tf.Tensor]:
        """`x̂` of shape `(batch_size, positions, D)`, and `s` of shape `(batch_size, positions)`."""
        D = self.input.shape[-1]
        rows = tf.cast(tf.reshape(self.input, (-1, self.input_widths[0] // D, D)), dtype)
        if self._centred:
            rows -= tf.reduce_mean(rows, axis=-1, keepdims=True)
        square = tf.reduce_mean(tf.square(rows), axis=-1)
        scale = tf.math.rsqrt(square + tf.constant(self._epsilon, dtype))
        return rows * scale[..., None], scale

    def _projected(self, matrix: tf.Tensor) -> tf.Tensor:
        """`P γ` times each row's part of a matrix."""
        D = self.input.shape[-1]
        blocks = tf.reshape(matrix, (-1, D, matrix.shape[-1]))
        if self._gamma is not None:
            blocks *= tf.cast(tf.convert_to_tensor(self._gamma), matrix.dtype)[:, None]
        if self._centred:
            blocks -= tf.reduce_mean(blocks, axis=1, keepdims=True)
        return tf.reshape(blocks, tf.shape(matrix))


@keras.saving.register_keras_serializable(package="tf_kfgn")
class LayerNormalization(Recording, keras.layers.LayerNormalization):
    """`keras.layers.LayerNormalization` that records itself on an active tape."""

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """The stock computation; inside a tape it is recorded."""
        outputs = super().call(inputs)
        tape = active_tape()
        if tape is not None:
            tape.watch(inputs)
            centred = not getattr(self, "rms_scaling", False)
            if _is_last(self.axis, inputs) and centred:
                operation: Operation = RowNormalization(
                    self, inputs, outputs, gamma=self.gamma, centred=True, epsilon=self.epsilon
                )
            else:
                operation = Operation(self, inputs, outputs)
            tape.record(operation)
        return outputs


def _is_last(axis: Any, inputs: tf.Tensor) -> bool:
    axes = [axis] if isinstance(axis, int) else list(axis)
    return len(axes) == 1 and axes[0] in (-1, inputs.shape.rank - 1)


def _at_least_float32(tensor: tf.Tensor) -> tf.Tensor:
    return keras.ops.cast(tensor, keras.backend.result_type(tensor.dtype, "float32"))
