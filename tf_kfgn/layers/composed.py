"""Layers made of other layers: these record themselves, and what lies between them is bridged.

A layer may do anything between the layers inside it: add, slice, multiply. KFRA, which goes from
one recorded operation to the next, then takes the whole layer as one operation with weight matrices
inside, as it does a loop.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tf_kfgn.layers.call_template import is_input
from tf_kfgn.layers.recording import Recording
from tf_kfgn.operations.loop import LoopOperation
from tf_kfgn.operations.operation import Operation
from tf_kfgn.operations.parametrised import ParametrisedOperation
from tf_kfgn.swapping.swap import Role


class Composed(Recording):
    """Mixin for a layer class whose instances contain layers."""

    def recorded_call(self, tape: Any, *args: Any, **kwargs: Any) -> Any:
        """Let the layers inside record, then the whole, if they leave gaps."""
        inputs, again = self.watched_inputs(tape, *args, **kwargs)
        before = len(tape.operations)
        outputs = self.stock_call(*args, **kwargs)
        inner = tape.operations[before:]
        made = [output for output in tf.nest.flatten(outputs) if is_input(output)]
        if len(made) == 1 and inputs and _has_gap(inputs, inner, made[0]):
            within = [op for op in inner if isinstance(op, ParametrisedOperation)]
            place = next(i for i, out in enumerate(tf.nest.flatten(outputs)) if out is made[0])
            function = functools.partial(_one_of, again, place)
            tape.record(LoopOperation(self, inputs, made[0], function, within=within))
        return outputs


COMPOSED = Role(Composed, base=Recording)


def _has_gap(inputs: Sequence[Any], inner: Sequence[Operation], output: Any) -> bool:
    """Whether some tensor on the way from the inputs to the output was made by no operation."""
    made = {id(tensor) for tensor in inputs}
    for operation in inner:
        if any(id(tensor) not in made for tensor in operation.inputs):
            return True
        made.add(id(operation.output))
    return id(output) not in made


def _one_of(again: Any, place: int, *tensors: tf.Tensor) -> tf.Tensor:
    return again(*tensors)[place]
