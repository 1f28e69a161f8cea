"""The memory that the tensors of a graph take while it runs, found without running it.

A tensor is freed after its last use; one that is changed element by element and not used again
keeps its place. Of conditions the branch counts that is taken if they hold; a loop adds what its
body takes and what it collects. In which order operations run is up to the threads of the device:
the peak is the mean of two orders, as they were written, and the latest that is ready first.
"""

from __future__ import annotations

import collections
import dataclasses
import heapq
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import tensorflow as tf

from tf_kfgn._keras.graphs import graph_of_function

Place = tuple[int, int]  # a node, and the number of its output

# What hands a tensor on without a copy.
_HANDED_ON = {
    *("Identity", "IdentityN", "Reshape", "ExpandDims", "Squeeze", "StopGradient", "EnsureShape"),
    *("PreventGradient", "CheckNumerics", "TensorListFromTensor"),
}
# What lies elsewhere: variables, what is fed in, and constants.
_HELD = {"Placeholder", "Const", "VarHandleOp", "ReadVariableOp"}
# What may write its result over an operand.
_IN_PLACE = {
    *("Abs", "Add", "AddN", "AddV2", "BiasAdd", "Cast", "Cholesky", "Div", "DivNoNan", "Elu"),
    *(
        "EluGrad",
        "Erf",
        "Erfc",
        "Exp",
        "Expm1",
        "Inv",
        "Log",
        "Log1p",
        "LogicalAnd",
        "MatrixSetDiag",
    ),
    *("Maximum", "Minimum", "Mul", "MulNoNan", "Neg", "Pow", "RealDiv", "Reciprocal", "Relu"),
    *("ReluGrad", "Rsqrt", "Select", "SelectV2", "Sigmoid", "SigmoidGrad", "Sign", "Softmax"),
    *("Softplus", "SoftplusGrad", "Sqrt", "Square", "SquaredDifference", "Sub", "Tanh", "TanhGrad"),
    *("TensorListSetItem", "TensorListPushBack", "TensorListPopBack"),
}
_COLLECTING = {"TensorListSetItem", "TensorListPushBack"}
_CALLS = {"PartitionedCall": "f", "StatefulPartitionedCall": "f"}
_CONDITIONS = {"If": "then_branch", "StatelessIf": "then_branch"}
_LOOPS = {"While", "StatelessWhile"}
_STORING = ("Assign", "ResourceScatter")


@dataclasses.dataclass
class _Node:
    """An operation, those of inner graphs among the others.

    Attributes:
        kind: Its type.
        inputs: Where its inputs come from.
        after: Nodes that must have run before.
        sizes: Bytes of its outputs.
        inside: Bytes that it takes besides while it runs.
    """

    kind: str
    inputs: list[Place]
    after: list[int]
    sizes: list[float]
    inside: float = 0.0


@dataclasses.dataclass(frozen=True)
class GraphMemory:
    """What running a graph takes.

    Attributes:
        peak: The most bytes of tensors at one time, without variables, inputs and constants: a mean
            over orders.
        operations: How many operations there are, all branches and bodies included.
    """

    peak: float
    operations: int


def memory_of_graph(graph: tf.Graph) -> GraphMemory:
    """What running a graph takes.

    Args:
        graph: That of a concrete function, all of whose shapes are known; of a tensor of unknown
            shape nothing counts.
    """
    return GraphMemory(_peak_of(graph), sum(1 for _ in _operations(graph)))


def _operations(graph: Any) -> Iterator[tf.Operation]:
    for operation in graph.get_operations():
        yield operation
        names = {**_CALLS, **_CONDITIONS, **dict.fromkeys(_LOOPS, "body")}
        if operation.type in names:
            yield from _operations(_inner(graph, operation, names[operation.type]))
        if operation.type in _CONDITIONS:
            yield from _operations(_inner(graph, operation, "else_branch"))


def _inner(graph: Any, operation: tf.Operation, attribute: str) -> Any:
    return graph_of_function(graph, operation.get_attr(attribute).name)


def _peak_of(graph: Any) -> float:
    flat = _Flat()
    return flat.peak(flat.add(graph, None))


class _Flat:
    """A graph with its calls and conditions put in their places."""

    def __init__(self) -> None:
        self._nodes: list[_Node] = []
        self._turns: dict[Place, int] = {}  # of the loop whose counter a tensor is

    def add(self, graph: Any, arguments: Sequence[Place] | None) -> list[Place]:
        """Add a graph, and say where its results come from.

        Args:
            graph: The graph.
            arguments: Where its inputs come from; None if they are fed in.
        """
        places: dict[Any, Place] = {}
        last: dict[tf.Operation, int] = {}
        # A branch or body that a gradient was taken of has got more inputs and results since.
        if arguments is not None:
            places.update(zip((t.ref() for t in graph.inputs), arguments, strict=False))
        for operation in _in_order(graph):
            if operation.outputs and operation.outputs[0].ref() in places:
                continue  # an input
            inputs = [places[tensor.ref()] for tensor in operation.inputs]
            after = [last[one] for one in operation.control_inputs if one in last]
            if operation.type in _CALLS or operation.type in _CONDITIONS:
                condition = operation.type in _CONDITIONS
                attribute = {**_CALLS, **_CONDITIONS}[operation.type]
                outputs = self.add(_inner(graph, operation, attribute), inputs[condition:])
            else:
                outputs = self._add_node(graph, operation, inputs, after)
            last[operation] = len(self._nodes) - 1
            places.update(zip((t.ref() for t in operation.outputs), outputs, strict=False))
        return [places[tensor.ref()] for tensor in graph.outputs]

    def _add_node(
        self, graph: Any, operation: tf.Operation, inputs: list[Place], after: list[int]
    ) -> list[Place]:
        node = _Node(operation.type, inputs, after, [_size(t) for t in operation.outputs])
        number = len(self._nodes)
        if operation.type in _LOOPS:
            body = _inner(graph, operation, "body")
            node.inside = _peak_of(body)
            turns = tf.get_static_value(operation.inputs[1]) or self._turns.get(inputs[1]) or 1
            self._turns[number, 0] = int(turns)
            for place, result in enumerate(body.outputs):
                node.sizes[place] += int(turns) * _collected(result)
        self._nodes.append(node)
        return [(number, place) for place in range(len(node.sizes))]

    def peak(self, results: Sequence[Place]) -> float:
        """The most bytes at one time, if these are the results: the mean over orders."""
        nodes = self._nodes
        needed: set[int] = set()
        found = [number for number, _ in results]
        found += [i for i, node in enumerate(nodes) if node.kind.startswith(_STORING)]
        while found:
            number = found.pop()
            if number not in needed:
                needed.add(number)
                found += _before(nodes[number])
        uses = collections.Counter(results)
        for number in needed:
            uses.update(nodes[number].inputs)
        peaks = []
        for latest_first in (False, True):
            buffers = _Buffers(uses)
            for number in self._order(sorted(needed), latest_first):
                buffers.run(number, nodes[number])
            peaks.append(buffers.peak)
        return sum(peaks) / len(peaks)

    def _order(self, needed: Sequence[int], latest_first: bool) -> Iterator[int]:
        """Nodes, each after those that it needs."""
        waiting: dict[int, int] = {}
        following = collections.defaultdict(list)
        for number in needed:
            before = _before(self._nodes[number])
            waiting[number] = len(before)
            for other in before:
                following[other].append(number)
        turn = itertools.count()  # of what is ready

        def entry(number: int) -> tuple[int, int]:
            return (-next(turn) if latest_first else number, number)

        ready = [entry(number) for number in reversed(needed) if not waiting[number]]
        heapq.heapify(ready)
        while ready:
            _, number = heapq.heappop(ready)
            yield number
            for other in following[number]:
                waiting[other] -= 1
                if not waiting[other]:
                    heapq.heappush(ready, entry(other))


class _Buffers:
    """The memory of tensors, some of which share it."""

    def __init__(self, uses: collections.Counter[Place]) -> None:
        self._uses = uses
        self._of: dict[Place, Place] = {}  # the first tensor in the same memory
        self._sizes: dict[Place, float] = {}
        self._left: collections.Counter[Place] = collections.Counter()
        self._now = self.peak = 0.0

    def run(self, number: int, node: _Node) -> None:
        """Allocate the outputs of a node, and free what it was the last to use."""
        operands = [self._of[place] for place in node.inputs if place in self._of]
        made = [] if node.kind in _HELD else [(number, i) for i in range(len(node.sizes))]
        for place, size in zip(made, node.sizes, strict=False):
            buffer = self._shared(node, operands, size)
            if buffer is None:
                buffer = place
                self._sizes[buffer] = size
                self._now += size
            self._of[place] = buffer
            self._left[buffer] += self._uses[place]
        self.peak = max(self.peak, self._now + node.inside)
        for buffer in operands:
            self._left[buffer] -= 1
        for buffer in {*operands, *(self._of[place] for place in made)}:
            if self._left[buffer] <= 0:
                self._now -= self._sizes.pop(buffer, 0.0)

    def _shared(self, node: _Node, operands: list[Place], size: float) -> Place | None:
        """The buffer that an output shares with an operand, or None."""
        if node.kind in _HANDED_ON:
            return operands[0] if operands else None
        if node.kind in _IN_PLACE:
            for buffer in operands:
                if self._left[buffer] == 1 and self._sizes.get(buffer) == size:
                    return buffer
        return None


def _before(node: _Node) -> set[int]:
    return {*node.after, *(number for number, _ in node.inputs)}


def _in_order(graph: Any) -> Iterator[tf.Operation]:
    """The operations, each after all that it depends on: a rewritten loop is not in that order."""
    done: set[tf.Operation] = set()
    for operation in graph.get_operations():
        stack = [operation]
        while stack:
            one = stack[-1]
            before = [*(tensor.op for tensor in one.inputs), *one.control_inputs]
            missing = [other for other in before if other not in done]
            if one in done or not missing:
                stack.pop()
                if one not in done:
                    done.add(one)
                    yield one
            else:
                stack += missing[::-1]


def _size(tensor: tf.Tensor) -> float:
    if tensor.dtype in (tf.resource, tf.variant, tf.string):
        return 0.0
    return float((tensor.shape.num_elements() or 0) * tensor.dtype.size)


def _collected(result: tf.Tensor) -> float:
    """Bytes that one turn of a loop adds to a list, if that is what a result is."""
    while result.op.type == "Identity":
        result = result.op.inputs[0]
    return _size(result.op.inputs[-1]) if result.op.type in _COLLECTING else 0.0
