"""Attention with projections: the projections record themselves, and what lies between them.

Scores, softmax, dropout and weighted sum are one operation of the projected query, key and value.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf

from tf_kfgn.layers.adapted import refuse_adapted
from tf_kfgn.layers.einsum import mark_einsum_dense
from tf_kfgn.layers.recording import Recording
from tf_kfgn.operations.elementwise import ElementwiseOperation
from tf_kfgn.operations.linear import LinearOperation
from tf_kfgn.operations.operation import Operation
from tf_kfgn.recording.active import active_tape, no_operations


class _RecordingAttention(Recording):
    """Records the attention between the projections, which are layers of their own."""

    def build(self, query_shape: Any, value_shape: Any, key_shape: Any = None) -> None:
        """Create the projections, let them record, and mark their weights."""
        from tf_kfgn.layers.parts import start_recording  # which knows this class

        super().build(query_shape, value_shape, key_shape)  # type: ignore[misc]
        self.mark_variables()
        start_recording(self).pop_all()

    def mark_variables(self) -> None:
        """Mark the matrix of each projection as a part of this layer.

        Raises:
            ValueError: If a projection is quantized or adapted with LoRA.
        """
        for layer in self._layers:  # type: ignore[attr-defined]
            if isinstance(layer, keras.layers.EinsumDense):
                refuse_adapted(layer)
                mark_einsum_dense(layer, self.name, part=layer.name)  # type: ignore[attr-defined]

    def _recorded_call(self, *args: Any, **kwargs: Any) -> Any:
        """The stock call; inside a tape, fill in what Keras does outside of any layer."""
        tape = active_tape()
        if tape is None:
            return super().call(*args, **kwargs)  # type: ignore[misc]
        start = len(tape.operations)
        outputs = super().call(*args, **kwargs)  # type: ignore[misc]
        tape.operations[start:] = self._completed(tape.operations[start:])
        return outputs

    def _compute_attention(
        self, query: tf.Tensor, key: tf.Tensor, value: tf.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[tf.Tensor, tf.Tensor | None]:
        """The stock computation; inside a tape it is recorded as a whole."""
        attend = functools.partial(self._attend, *self._state())
        tape = active_tape()
        if tape is None:
            return attend(query, key, value, *args, **kwargs)

        def function(index: int, *tensors: tf.Tensor) -> tf.Tensor:
            return attend(*tensors, *args, **kwargs)[index]

        function = tape.repeating(function)
        with no_operations():
            outputs = attend(query, key, value, *args, **kwargs)
        for index, output in enumerate(outputs):
            if output is not None:  # there are no scores where a fused kernel was used
                again = functools.partial(function, index)
                tape.record(Operation(self, [query, key, value], output, again))
        return outputs

    def _state(self) -> tuple[Any, ...]:
        """What the stock computation reads from the layer and a later call may change."""
        return ()

    def _attend(self, *args: Any, **kwargs: Any) -> Any:
        """The stock computation, given the state."""
        return super()._compute_attention(*args, **kwargs)  # type: ignore[misc]

    def _completed(self, recorded: Sequence[Operation]) -> Iterator[Operation]:
        """The operations of one call, and those between them that no layer ran."""
        made = {id(operation.layer): operation.output for operation in recorded}
        attended: tf.Tensor = None
        for operation in recorded:
            if operation.layer is self and attended is None:
                attended = operation.output
                for name, tensor in (("_key_dense", 1), ("_value_dense", 2)):
                    projected = made[id(getattr(self, name))]
                    repeated = operation.inputs[tensor]
                    if projected is not repeated:
                        yield LinearOperation(self, projected, repeated, self._repeat)
            if operation.layer is self._output_dense:  # type: ignore[attr-defined]
                [weighted] = operation.inputs
                if weighted is not attended and attended is not None:
                    gate = made[id(self._gate_dense)]  # type: ignore[attr-defined]
                    inputs = [attended, gate]
                    yield ElementwiseOperation(self, inputs, weighted, keras.ops.multiply)
            yield operation

    def _repeat(self, heads: tf.Tensor) -> tf.Tensor:
        """What is done to keys and values before the attention."""
        return heads


@keras.saving.register_keras_serializable(package="tf_kfgn")
class MultiHeadAttention(_RecordingAttention, keras.layers.MultiHeadAttention):
    """`keras.layers.MultiHeadAttention` that records itself and its projections."""

    @functools.wraps(keras.layers.MultiHeadAttention.call)
    def call(self, *args: Any, **kwargs: Any) -> Any:
        """The stock computation; inside a tape its parts are recorded."""
        return self._recorded_call(*args, **kwargs)


@keras.saving.register_keras_serializable(package="tf_kfgn")
class GroupedQueryAttention(_RecordingAttention, keras.layers.GroupQueryAttention):
    """`keras.layers.GroupQueryAttention` that records itself and its projections."""

    @functools.wraps(keras.layers.GroupQueryAttention.call)
    def call(self, *args: Any, **kwargs: Any) -> Any:
        """The stock computation; inside a tape its parts are recorded."""
        return self._recorded_call(*args, **kwargs)

    def _state(self) -> tuple[Any, ...]:
        return (self._return_attention_scores,)

    def _attend(self, return_attention_scores: bool, *args: Any, **kwargs: Any) -> Any:
        self._return_attention_scores = return_attention_scores
        return super()._attend(*args, **kwargs)

    def _repeat(self, heads: tf.Tensor) -> tf.Tensor:
        return keras.ops.repeat(heads, self.num_repeats, axis=2)


GroupQueryAttention = GroupedQueryAttention  # the name that Keras exports
