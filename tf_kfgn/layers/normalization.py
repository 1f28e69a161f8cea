"""Normalisation. Scale and shift have diagonal blocks; KFRA goes through the whole."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from typing_extensions import override

from tf_kfgn import replicas
from tf_kfgn._keras.normalization import batch_statistics, corrects
from tf_kfgn.layers.call_template import CallOutput
from tf_kfgn.layers.recording import Recording
from tf_kfgn.layers.registry import register
from tf_kfgn.operations.diagonal import DiagonalOperation
from tf_kfgn.operations.operation import Operation
from tf_kfgn.operations.row_normalization import RowNormalization
from tf_kfgn.recording.active import active_replay
from tf_kfgn.recording.tape import CurvatureTape


@register
class BatchNormalization(Recording, keras.layers.BatchNormalization):
    """`keras.layers.BatchNormalization` that records itself on an active tape.

    In training every output depends on the whole batch. KFLR and KFAC follow that; KFRA, whose
    averages are over single examples, takes the statistics of the batch as constants.

    A replay computes with the statistics of the batch too but leaves all moving ones as they are.
    """

    def stock_call(
        self, inputs: tf.Tensor, training: bool | None = None, mask: tf.Tensor | None = None
    ) -> tf.Tensor:
        """The stock computation, which updates no statistic in a replay."""
        if not self._is_of_batch(training) or active_replay() is None:
            return super().stock_call(inputs, training=training, mask=mask)
        outputs = self._normalised(inputs, *self._constants(inputs, training, mask))
        return keras.ops.cast(outputs, self.compute_dtype)

    @override
    def recorded_call(
        self,
        tape: CurvatureTape,
        inputs: tf.Tensor,
        training: bool | None = None,
        mask: tf.Tensor | None = None,
    ) -> tf.Tensor:
        # The correction of renorm depends on statistics that the call then updates.
        corrected = self._is_of_batch(training) and corrects(self)
        early = self._constants(inputs, training, mask) if corrected else None
        outputs = self.stock_call(inputs, training=training, mask=mask)

        def function(tensor: tf.Tensor) -> tf.Tensor:
            constants = early or self._constants(inputs, training, mask)
            return keras.ops.cast(self._normalised(tensor, *constants), tensor.dtype)

        def scales() -> list[tf.Tensor]:
            constants = early or self._constants(inputs, training, mask)
            return [self._scale(*constants, shape=inputs.shape)]

        operation = DiagonalOperation(self, inputs, outputs, function, scales=scales)
        of_batch = self._is_of_batch(training)
        operation.depends_on_examples = of_batch and not self.synchronized
        operation.crosses_replicas = of_batch and self.synchronized and replicas.of_strategy()
        operation.vectorisable = not operation.crosses_replicas
        tape.record(operation)
        return outputs

    def _is_of_batch(self, training: bool | None) -> bool:
        """Whether a call uses the statistics of its batch."""
        return bool(training) and self.trainable

    def _constants(self, inputs: tf.Tensor, training: bool | None, mask: Any) -> tuple[Any, ...]:
        """Mean, variance, scale and offset; the last two may be None."""
        if self._is_of_batch(training):
            return batch_statistics(self, _at_least_float32(inputs), mask)
        gamma = self.gamma if self.scale else None
        beta = self.beta if self.center else None
        return self.moving_mean, self.moving_variance, gamma, beta

    def _scale(
        self, mean: Any, variance: Any, gamma: Any, beta: Any, *, shape: tf.TensorShape
    ) -> tf.Tensor:
        """What an input is multiplied by, along all axes of one example."""
        del mean, beta
        scale = tf.math.rsqrt(tf.convert_to_tensor(variance) + self.epsilon)
        if gamma is not None:
            scale *= tf.cast(tf.convert_to_tensor(gamma), scale.dtype)
        axis = self.axis % shape.rank
        return tf.reshape(scale, [-1 if i == axis else 1 for i in range(1, shape.rank)])

    def _normalised(self, inputs: tf.Tensor, *constants: Any) -> tf.Tensor:
        """Normalise with given statistics, in float32 or better."""
        inputs = _at_least_float32(inputs)
        mean, variance, gamma, beta = (
            None if value is None else keras.ops.cast(value, inputs.dtype) for value in constants
        )
        return keras.ops.batch_normalization(
            inputs, mean, variance, self.axis, offset=beta, scale=gamma, epsilon=self.epsilon
        )


class _RowNormalization(Recording):
    """A layer that normalises rows of one example's features."""

    @override
    def recorded_operation(self, result: CallOutput, *args: Any, **kwargs: Any) -> Operation:
        del args, kwargs
        [inputs], output, _ = result
        static = inputs.shape[1:].is_fully_defined()
        rule = self.row_operation(inputs, output) if static else None
        return rule or Operation(self, *result)

    def row_operation(self, inputs: tf.Tensor, outputs: tf.Tensor) -> Operation | None:
        """The rule for rows, or None where it does not fit."""
        raise NotImplementedError


@register
class LayerNormalization(_RowNormalization, keras.layers.LayerNormalization):
    """`keras.layers.LayerNormalization` that records itself on an active tape."""

    @override
    def row_operation(self, inputs: tf.Tensor, outputs: tf.Tensor) -> Operation | None:
        places = rows_along(self.axis, inputs)
        if places is None or self.rms_scaling:
            return None
        gamma = None if self.gamma is None else tf.reshape(self.gamma, (-1,))
        return RowNormalization(self, inputs, outputs, places, gamma=gamma, eps=self.epsilon)


@register
class GroupNormalization(_RowNormalization, keras.layers.GroupNormalization):
    """`keras.layers.GroupNormalization` that records itself on an active tape."""

    @override
    def row_operation(self, inputs: tf.Tensor, outputs: tf.Tensor) -> Operation | None:
        shape = list(inputs.shape[1:])
        axis = self.axis % inputs.shape.rank - 1
        if axis < 0:
            return None
        # Channels first, so that each group is one stretch.
        places = np.moveaxis(np.arange(np.prod(shape)).reshape(shape), axis, 0)
        gamma = None
        if self.gamma is not None:
            positions = places.size // shape[axis]
            gamma = tf.repeat(tf.convert_to_tensor(self.gamma), positions)
            gamma = tf.reshape(gamma, (self.groups, -1))
        places = places.reshape(self.groups, -1)
        return RowNormalization(self, inputs, outputs, places, gamma=gamma, eps=self.epsilon)


@register
class RMSNormalization(_RowNormalization, keras.layers.RMSNormalization):
    """`keras.layers.RMSNormalization` that records itself on an active tape."""

    @override
    def row_operation(self, inputs: tf.Tensor, outputs: tf.Tensor) -> Operation | None:
        places = rows_along(self.axis, inputs)
        if places is None or np.any(np.diff(places.ravel()) != 1):
            return None  # Keras lets the scale broadcast along the last axes
        gamma = tf.reshape(self.scale, (-1,))
        return RowNormalization(
            self, inputs, outputs, places, gamma=gamma, eps=self.epsilon, centred=False
        )


@register
class UnitNormalization(_RowNormalization, keras.layers.UnitNormalization):
    """`keras.layers.UnitNormalization` that records itself on an active tape."""

    @override
    def row_operation(self, inputs: tf.Tensor, outputs: tf.Tensor) -> Operation | None:
        """By the root mean square, but for its scale."""
        places = rows_along(self.axis, inputs)
        if places is None:
            return None
        gamma = tf.constant(places.shape[1] ** -0.5, tf.float64)
        limit = 1e-12 / places.shape[1] ** 0.5  # Keras' lower bound of the norm
        return RowNormalization(
            self, inputs, outputs, places, gamma=gamma, centred=False, smallest=limit
        )


def rows_along(axis: int | Sequence[int], inputs: tf.Tensor) -> np.ndarray | None:
    """The places of the flattened features of each row along some axes, `(rows, D)`.

    None if the rows cross examples.
    """
    rank = inputs.shape.rank
    axes = sorted({one % rank for one in ([axis] if isinstance(axis, int) else axis)})
    if 0 in axes:
        return None
    places = np.arange(inputs.shape[1:].num_elements()).reshape(inputs.shape[1:])
    others = [other for other in range(1, rank) if other not in axes]
    length = int(np.prod([inputs.shape[one] for one in axes]))
    return np.transpose(places, [one - 1 for one in (*others, *axes)]).reshape(-1, length)


def _at_least_float32(tensor: tf.Tensor) -> tf.Tensor:
    return keras.ops.cast(tensor, keras.backend.result_type(tensor.dtype, "float32"))
