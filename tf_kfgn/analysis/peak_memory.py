"""The memory that training takes at its peak, from the graph of one update."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import keras
import tensorflow as tf

from tf_kfgn._keras.losses import built_loss
from tf_kfgn.analysis.cost import MIB
from tf_kfgn.analysis.graph_memory import memory_of_graph
from tf_kfgn.analysis.inspection import example_inputs
from tf_kfgn.analysis.traced_update import traced_update
from tf_kfgn.numerics.checks import check_count
from tf_kfgn.optimizers import GaussNewton

# What a process on a CPU takes besides, and what its allocator leaves between tensors: fitted to
# examples/benchmarks/MEMORY.md.
_RUNTIME_MIB = 60.0
_MIB_OF_OPERATION = 0.0145
_ALLOCATED = 1.45


@dataclasses.dataclass(frozen=True)
class PeakMemory:
    """What training takes at its peak, in MiB.

    Attributes:
        weights: All variables of the model.
        state: What the optimizer remembers.
        batch: One batch of inputs and targets.
        temporary: All other tensors at one time, when an update estimates factors, inverts them and
            compares.
        operations: Operations in the graph of an update.
    """

    weights: float
    state: float
    batch: float
    temporary: float
    operations: int

    @property
    def tensors(self) -> float:
        """All tensors at one time: what a device needs."""
        return self.weights + self.state + self.batch + self.temporary

    @property
    def process(self) -> float:
        """About by how much a process on a CPU grows beyond TensorFlow and the model.

        Tensors with what its allocator leaves between them, and the graph of the plain step.
        """
        besides = self.state + self.batch + self.temporary
        return _RUNTIME_MIB + _MIB_OF_OPERATION * self.operations + _ALLOCATED * besides

    def __str__(self) -> str:
        """One line."""
        return (
            f"Training takes about {self.tensors:,.0f} MiB at its peak: weights "
            f"{self.weights:,.1f}, state {self.state:,.1f}, batch {self.batch:,.1f}, temporary "
            f"tensors {self.temporary:,.1f}; a process on a CPU grows by about "
            f"{self.process:,.0f} MiB."
        )


def peak_memory(
    model: keras.Model,
    optimizer: GaussNewton,
    loss: Any,
    *,
    x: Any = None,
    y: Any = None,
    batch_size: int = 128,
) -> PeakMemory:
    """Predict what training takes at its peak, without allocating it.

    Traces one update, which takes as long as the first step of `fit` without its computations, and
    follows every tensor of its graph from the operation that makes it to the last that uses it. The
    model is unchanged afterwards.

    Args:
        model: A built Keras model.
        optimizer: Whose arguments count.
        loss: What `compile(loss=...)` takes.
        x: One example or more to call the model with. Defaults to zeros in the shapes of
            `model.inputs`.
        y: Their targets. Defaults to zeros like the outputs, or class indices for a loss that
            takes these.
        batch_size: Examples in a batch.

    Raises:
        TypeError: If `model` is not a Keras model.
        ValueError: If it has not been built, or it is not known how to call it.
    """
    check_count("batch_size", batch_size)
    x = example_inputs(model) if x is None else x
    if x is None:
        raise ValueError(
            f"It is not known how to call the model {model.name!r}: it declares no inputs, or some "
            "of their axes have no length. Pass one example as `x`."
        )
    outputs = model(x, training=False)
    y = _targets(loss, outputs) if y is None else y
    loss = built_loss(loss, y, outputs)  # which may make variables
    batch = [_specs(part, batch_size) for part in (x, y)]
    update = traced_update(model, optimizer, loss, *batch)
    found = memory_of_graph(update.graph)
    return PeakMemory(
        weights=_size(model.variables) / MIB,
        state=update.state_size / MIB,
        batch=_size(tf.nest.flatten(batch)) / MIB,
        temporary=found.peak / MIB,
        operations=found.operations,
    )


def _targets(loss: Any, outputs: Any) -> Any:
    """Zeros like the outputs, without their last axis where a loss takes class indices."""
    losses = loss if tf.nest.is_nested(loss) else tf.nest.map_structure(lambda _: loss, outputs)

    def target(output: tf.Tensor, loss: Any) -> tf.Tensor:
        name = loss if isinstance(loss, str) else getattr(loss, "name", None) or loss.__name__
        sparse = str(name).lower().startswith("sparse")
        return tf.zeros(output.shape[:-1], tf.int32) if sparse else tf.zeros_like(output)

    return tf.nest.map_structure(target, outputs, losses)


def _specs(structure: Any, batch_size: int) -> Any:
    def spec(leaf: Any) -> tf.TensorSpec:
        leaf = tf.convert_to_tensor(leaf)
        return tf.TensorSpec((batch_size, *leaf.shape[1:]), leaf.dtype)

    return tf.nest.map_structure(spec, structure)


def _size(tensors: Any) -> int:
    return sum(math.prod(tensor.shape) * tf.as_dtype(tensor.dtype).size for tensor in tensors)
