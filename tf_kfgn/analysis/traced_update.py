"""The graph of one update of an optimizer whose state is never allocated."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from tf_kfgn._keras.models import additional_losses
from tf_kfgn.blocks.layout import Layout
from tf_kfgn.enabling import recording
from tf_kfgn.optimizers import GaussNewton
from tf_kfgn.optimizers.wrapping import make_update
from tf_kfgn.recording.part import can_be_divided, first_examples, rows_of_an_example
from tf_kfgn.recording.tape import CurvatureTape


class TracedUpdate(NamedTuple):
    """One update, as a graph.

    Attributes:
        graph: The graph, which holds every branch.
        state_size: Bytes of the optimizer's state.
    """

    graph: tf.Graph
    state_size: int


def traced_update(
    model: keras.Model, optimizer: GaussNewton, loss: Any, x: Any, y: Any
) -> TracedUpdate:
    """Trace one update, as `fit` makes it, without running it.

    Args:
        model: A built Keras model, which is unchanged afterwards.
        optimizer: Whose arguments count; it need not be built, and stays as it is.
        loss: What `compile(loss=...)` takes; built, where that makes variables.
        x: A `tf.TensorSpec` for each input of a batch.
        y: The same for the targets.

    Raises:
        ValueError: If the model or the loss cannot be used.
    """
    sketch = _without_allocation(optimizer)
    batch_size = tf.nest.flatten(x)[0].shape[0]

    def step(x: Any, y: Any) -> None:
        def recorded(x: Any, y: Any) -> Any:
            outputs = model(x, training=True)
            tape.watch_loss(loss, y, outputs)
            return outputs

        def objective() -> tf.Tensor:
            with tape.replaying():
                return tape.loss_of(model(x, training=True)) + additional_losses(model)

        variables = model.trainable_variables
        sketch.build(variables)
        with CurvatureTape() as tape:
            outputs = recorded(x, y)
            value = tape.loss_of(outputs) + additional_losses(model)
        gradients = tape.gradient(value, variables)
        fraction = sketch.fraction_for_curvature(batch_size, rows_of_an_example(outputs))
        part = None
        if fraction < 1 and can_be_divided(model, (x, y)):
            whole = tape
            first_x, first_y = first_examples((x, y), fraction)
            with whole.of_part() as part:
                outputs = model(first_x, training=True)
                part.watch_loss(loss, first_y, outputs)
        make_update(sketch, gradients, variables, tape, objective, value, part)

    with recording(model):
        graph = tf.function(step, autograph=False).get_concrete_function(x, y).graph
    allocated = sum(_size(v.shape, v.dtype) for v in sketch.variables)
    return TracedUpdate(graph, allocated + sketch.unallocated.size)


def _without_allocation(optimizer: GaussNewton) -> Any:
    """An optimizer with the same arguments, whose state has shapes but no values."""
    base: Any = type(optimizer)

    class Sketch(base):
        def new_memory(self, layout: Layout) -> Any:
            self.unallocated = _Unallocated(self)
            return base.new_memory(self.unallocated, layout)

    return Sketch(**optimizer.get_config())


class _Unallocated:
    """Stands for an optimizer where its state is made."""

    def __init__(self, optimizer: Any) -> None:
        self._optimizer = optimizer
        self.size = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._optimizer, name)

    def add_variable(
        self, shape: Sequence[int], initializer: Any, dtype: str, *_: Any, **__: Any
    ) -> _Variable:
        del initializer
        self.size += _size(shape, dtype)
        return _Variable(shape, dtype)

    def add_optimizer_variables(self, variables: Sequence[Any], *_: Any) -> list[_Variable]:
        return [self.add_variable(v.shape, None, v.dtype) for v in variables]


class _Variable:
    """A variable of a graph that is never run."""

    def __init__(self, shape: Sequence[int], dtype: str) -> None:
        self.shape, self.dtype = tf.TensorShape(shape), tf.as_dtype(dtype)
        self.handle = tf.raw_ops.VarHandleOp(dtype=self.dtype, shape=self.shape)

    def __tf_tensor__(self, dtype: Any = None, name: Any = None) -> tf.Tensor:
        del dtype, name
        value = tf.raw_ops.ReadVariableOp(resource=self.handle, dtype=self.dtype)
        value.set_shape(self.shape)
        return value

    def assign(self, value: tf.Tensor) -> None:
        tf.raw_ops.AssignVariableOp(resource=self.handle, value=value)


def _size(shape: Sequence[int], dtype: Any) -> int:
    return math.prod(shape) * tf.as_dtype(dtype).size
