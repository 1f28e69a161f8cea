"""Attention with projections: the projections record themselves, and what lies between them.

Scores, softmax, dropout and weighted sum are one operation of the projected query, key and value.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf

from tf_kfgn._keras.attention import AttentionHook, projection
from tf_kfgn._keras.layers import inner_layers
from tf_kfgn.layers.adapted import refuse_adapted
from tf_kfgn.layers.einsum import mark_einsum_dense
from tf_kfgn.layers.parts import start_recording
from tf_kfgn.layers.recording import Recording
from tf_kfgn.layers.registry import register
from tf_kfgn.operations.elementwise import ElementwiseOperation
from tf_kfgn.operations.linear import LinearOperation
from tf_kfgn.operations.operation import Operation
from tf_kfgn.recording.active import active_tape, no_operations
from tf_kfgn.recording.tape import CurvatureTape


class _RecordingAttention(AttentionHook, Recording):
    """Records the attention between the projections, which are layers of their own."""

    def build(self, query_shape: Any, value_shape: Any, key_shape: Any = None) -> None:
        """Create the projections, let them record, and mark their weights."""
        super().build(query_shape, value_shape, key_shape)  # type: ignore[misc]
        self.mark_variables()
        layer: Any = self
        start_recording(layer).pop_all()

    def mark_variables(self) -> None:
        """Mark the matrix of each projection as a part of this layer.

        Raises:
            ValueError: If a projection is quantized or adapted with LoRA.
        """
        me: Any = self
        for layer in inner_layers(me):
            if isinstance(layer, keras.layers.EinsumDense):
                refuse_adapted(layer)
                mark_einsum_dense(layer, me.name, part=layer.name)

    def recorded_call(self, tape: CurvatureTape, *args: Any, **kwargs: Any) -> Any:
        """The stock call, with what Keras does outside of any layer filled in."""
        start = len(tape.operations)
        outputs = self.stock_call(*args, **kwargs)
        tape.operations[start:] = self._completed(tape.operations[start:])
        return outputs

    def attend(
        self, query: tf.Tensor, key: tf.Tensor, value: tf.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[tf.Tensor, tf.Tensor | None]:
        """The stock attention; inside a tape it is recorded as a whole."""
        tape = active_tape()
        if tape is None:
            return super().attend(query, key, value, *args, **kwargs)
        attend, wanted = super().attend, self.scores_wanted

        def function(index: int, *tensors: tf.Tensor) -> tf.Tensor:
            self.scores_wanted = wanted  # a later call may have changed it
            return attend(*tensors, *args, **kwargs)[index]

        function = tape.repeating(function)
        with no_operations():
            outputs = attend(query, key, value, *args, **kwargs)
        for index, output in enumerate(outputs):
            if output is not None:  # there are no scores where a fused kernel was used
                again = functools.partial(function, index)
                tape.record(Operation(self, [query, key, value], output, again))
        return outputs

    def _completed(self, recorded: Sequence[Operation]) -> Iterator[Operation]:
        """The operations of one call, and those between them that no layer ran."""
        made = {id(operation.layer): operation.output for operation in recorded}
        attended: tf.Tensor = None
        for operation in recorded:
            if operation.layer is self and attended is None:
                attended = operation.output
                for name, tensor in (("key", 1), ("value", 2)):
                    projected = made[id(projection(self, name))]
                    repeated = operation.inputs[tensor]
                    if projected is not repeated:
                        yield LinearOperation(self, projected, repeated, self.repeat_heads)
            if operation.layer is projection(self, "output"):
                [weighted] = operation.inputs
                if weighted is not attended and attended is not None:
                    inputs = [attended, made[id(projection(self, "gate"))]]
                    yield ElementwiseOperation(self, inputs, weighted, keras.ops.multiply)
            yield operation

    def repeat_heads(self, heads: tf.Tensor) -> tf.Tensor:
        """What is done to keys and values before the attention."""
        return heads


@register
class MultiHeadAttention(_RecordingAttention, keras.layers.MultiHeadAttention):
    """`keras.layers.MultiHeadAttention` that records itself and its projections."""


@register
class GroupedQueryAttention(_RecordingAttention, keras.layers.GroupQueryAttention):
    """`keras.layers.GroupQueryAttention` that records itself and its projections."""

    def repeat_heads(self, heads: tf.Tensor) -> tf.Tensor:
        """Several query heads share a key and value head."""
        return keras.ops.repeat(heads, self.num_repeats, axis=2)


GroupQueryAttention = GroupedQueryAttention  # the name that Keras exports
