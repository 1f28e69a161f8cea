"""What a traced graph makes every device do, and what it sends between them."""

from __future__ import annotations

import collections
from collections.abc import Iterator
from typing import Any, NamedTuple

import tensorflow as tf

from tf_kfgn.blocks.factor import NAME_OF_INVERSE


class Counts(NamedTuple):
    """Of one call of a graph, all branches of its conditions included, by device.

    Attributes:
        inversions: The cubes of all matrices that are inverted.
        reduced: Bytes that enter sums over all devices.
        gathered: Bytes that are handed to all other devices.
    """

    inversions: dict[str, int]
    reduced: dict[str, int]
    gathered: dict[str, int]

    @property
    def busiest(self) -> int:
        """The cubes of the device with the most."""
        return max(self.inversions.values(), default=0)

    @property
    def sent(self) -> float:
        """Bytes that the device sends which sends most, over a ring of all."""
        devices = {*self.inversions, *self.reduced, *self.gathered}
        others = len(devices) - 1
        sums = {d: 2 * self.reduced.get(d, 0) / len(devices) for d in devices}
        return max((others * (sums[d] + self.gathered.get(d, 0)) for d in devices), default=0.0)


def counts_of(graph: tf.Graph) -> Counts:
    """Count in a graph, and in the functions that it calls."""
    found = [collections.Counter[str]() for _ in Counts._fields]
    inversions, reduced, gathered = found
    for operation in (op for inside in _graphs(graph) for op in inside.get_operations()):
        if operation.name.rpartition("/")[-1].startswith(NAME_OF_INVERSE):
            *batch, rows, _ = operation.outputs[0].shape
            inversions[operation.device] += int(tf.TensorShape(batch).num_elements()) * rows**3
        elif operation.type == "CollectiveReduceV2":
            reduced[operation.device] += _size(operation.inputs[0])
        elif operation.type == "CollectiveGatherV2":
            gathered[operation.device] += _size(operation.inputs[0])
    return Counts(*map(dict, found))


def _size(tensor: tf.Tensor) -> int:
    """Bytes of a tensor, without what pads it to the size of those of other devices."""
    while not tensor.shape.is_fully_defined():
        tensor = tensor.op.inputs[0]
    return int(tensor.shape.num_elements()) * tensor.dtype.size


def _graphs(graph: tf.Graph) -> Iterator[tf.Graph]:
    """A graph, and those of the branches, loops and calls in it."""
    yield graph
    for name in {n for operation in graph.get_operations() for n in _called(operation)}:
        yield from _graphs(graph._get_function(name).graph)


def _called(operation: tf.Operation) -> Iterator[str]:
    for value in operation.node_def.attr.values():
        named: Any = [value.func, *value.list.func]
        yield from (function.name for function in named if function.name)
