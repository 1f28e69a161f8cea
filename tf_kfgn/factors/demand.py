"""What new factors G of a whole model take, counted on a recorded pass of any batch."""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from tf_kfgn.factors.carriers import Carrier
from tf_kfgn.numerics.precision import at_least_float32
from tf_kfgn.operations.features import num_features
from tf_kfgn.operations.operation import Operation


class Demand(NamedTuple):
    """What an estimator needs for new factors G of all matrices.

    Attributes:
        operations: Multiplications and additions.
        memory: Bytes that are held at one time, besides the factors.
    """

    operations: float
    memory: float


def cotangent_size(operations: Sequence[Operation], batch_size: int) -> float:
    """Bytes of the cotangents of every recorded operation, for one column and a batch."""
    outputs = [operation.output for operation in operations]
    return float(batch_size * sum(num_features(out) * out.dtype.size for out in outputs))


class Sweep:
    """What KFRA's recursion passes: what each operation costs, and what is held meanwhile.

    It follows the recorded operations backwards as the recursion does (`LiveAverages`), but looks
    at widths only. Held at one time are the averages over the live tensors, what an operation makes
    while one goes back through it, and the average at each weight matrix, from which its factor is
    made at the end.

    Attributes:
        operations: Multiplications and additions.
        peak: The most bytes that are held at one time.
        place: Where that is.
        width: Features of the tensor there.
        stuck: Live tensors that no recorded operation made.
    """

    def __init__(
        self,
        carrier: Carrier,
        ends: Sequence[Any],
        uses: Sequence[Operation],
        needed: Container[int],
        batch_size: int,
    ) -> None:
        """Follow the operations.

        Args:
            carrier: What it carries through the operations of a pass.
            ends: The tensors that the losses were given.
            uses: The operations with a trained matrix, which the recursion must reach.
            needed: Ids of the tensors that a matrix lies behind.
            batch_size: Examples in a batch.
        """
        recorded, width_of = carrier.operations, carrier.width
        self.operations = 0.0
        self.peak, self.place, self.width = 0.0, "the outputs", 0
        self._kept = 0
        waiting = {id(operation) for operation in uses}
        made = {id(operation.output) for operation in recorded}
        live = LiveWidths(width_of)
        for end in ends:
            if id(end) in needed:
                live.add(end)
                self._hold("the outputs", width_of(end), live.size, end.dtype)
        largest = ("the outputs", 0, tf.float32)
        for operation in reversed(recorded):
            if not waiting or operation.output not in live:
                continue
            layer, dtype = operation.layer, operation.output.dtype
            place = f"layer {layer.name!r} ({type(layer).__name__})"
            waiting -= {id(use) for use in getattr(operation, "within", ())}
            width = width_of(operation.output)
            own = width**2
            before = live.size
            others = live.remove(operation.output)
            if id(operation) in waiting:
                waiting.discard(id(operation))
                turned = 0 if getattr(operation, "rows_in_order", False) else 3 * own
                self._hold(place, width, before + self._kept + turned, dtype)
                self._kept += own
                largest = max(largest, (place, width, dtype), key=lambda found: found[1])
                own = 0  # held already
            inputs = [t for t in operation.inputs if id(t) in needed]
            if not inputs or not waiting:
                continue
            features = sum(map(width_of, operation.inputs))
            self.operations += carrier.pull_back_cost(operation, batch_size)
            crossing = sum(map(width_of, others))
            if crossing:
                cost = carrier.mean_transpose_cost(operation, crossing, batch_size)
                self.operations += cost
            held = live.size + own + crossing * (width + features)
            held += carrier.pull_back_memory(operation) + self._kept
            self._hold(place, max(features, width), held, dtype)
            live.spread(inputs, others)
            self._hold(place, features, live.size + self._kept, dtype)
        place, width, dtype = largest
        self._hold(f"the factor of {place}", width, self._kept + 2 * width**2, dtype)
        self.stuck = [tensor for tensor in live.tensors if id(tensor) not in made]

    def _hold(self, place: str, width: int, numbers: int, dtype: tf.DType) -> None:
        size = float(numbers * at_least_float32(dtype).size)
        if size > self.peak:
            self.peak, self.place, self.width = size, place, width


class LiveWidths:
    """`LiveAverages` without numbers: which pairs of live tensors have a block."""

    def __init__(self, width_of: Callable[[Any], int]) -> None:
        """Start without any live tensor.

        Args:
            width_of: Rows of the average of a tensor.
        """
        self._width_of = width_of
        self._live: dict[int, Any] = {}
        self._pairs: set[tuple[int, int]] = set()

    def __contains__(self, tensor: Any) -> bool:
        """Whether a tensor is live."""
        return id(tensor) in self._live

    @property
    def tensors(self) -> list[Any]:
        """The live tensors."""
        return list(self._live.values())

    @property
    def size(self) -> int:
        """Entries of all blocks, of which one of two that mirror each other is held."""
        widths = {key: self._width_of(tensor) for key, tensor in self._live.items()}
        return sum(widths[a] * widths[b] for a, b in self._pairs)

    def add(self, tensor: Any) -> None:
        """Let a tensor be live."""
        self._live[id(tensor)] = tensor
        self._pair(tensor, tensor)

    def remove(self, tensor: Any) -> list[Any]:
        """Take a tensor out; those that it has a block with."""
        key = id(tensor)
        gone = {pair for pair in self._pairs if key in pair}
        self._pairs -= gone
        del self._live[key]
        return [self._live[a if b == key else b] for a, b in gone if a != b]

    def spread(self, inputs: Sequence[Any], others: Sequence[Any]) -> None:
        """Let the inputs of an operation be live, with blocks among them and with the others."""
        for tensor in inputs:
            self.add(tensor)
            for other in (*inputs, *others):
                self._pair(tensor, other)

    def _pair(self, first: Any, second: Any) -> None:
        a, b = sorted((id(first), id(second)))
        self._pairs.add((a, b))
