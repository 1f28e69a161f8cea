"""What new factors G of a whole model take, counted on a recorded pass of any batch."""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

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
    """What KFRA's recursion passes: which tensors are live, and what each operation costs.

    It follows the recorded operations backwards as the recursion does (`LiveAverages`), but looks
    at widths only.

    Attributes:
        operations: Multiplications and additions.
        peak: The largest number of entries of the average over all live tensors.
        widest: Layer, width and dtype of the widest average of a single operation.
        stuck: Live tensors that no recorded operation made.
    """

    def __init__(
        self,
        recorded: Sequence[Operation],
        ends: Sequence[Any],
        uses: Sequence[Operation],
        needed: Container[int],
        batch_size: int,
    ) -> None:
        """Follow the operations.

        Args:
            recorded: The operations of a pass.
            ends: The tensors that the losses were given.
            uses: The operations with a trained matrix, which the recursion must reach.
            needed: Ids of the tensors that a matrix lies behind.
            batch_size: Examples in a batch.
        """
        self.operations = 0.0
        self.widest: tuple[str, int, tf.DType] = ("the outputs", 0, tf.float32)
        waiting = {id(operation) for operation in uses}
        made = {id(operation.output) for operation in recorded}
        live: dict[int, Any] = {id(end): end for end in ends if id(end) in needed}
        for end in live.values():
            self._look("the outputs", num_features(end), end.dtype)
        self.peak = _size(live)
        for operation in reversed(recorded):
            if not waiting or id(operation.output) not in live:
                continue
            waiting.discard(id(operation))
            del live[id(operation.output)]
            inputs = {id(t): t for t in operation.inputs if id(t) in needed}
            if not inputs or not waiting:
                continue
            self.operations += operation.pull_back_cost(batch_size)
            crossing = sum(num_features(other) for other in live.values())
            if crossing:
                self.operations += operation.mean_transpose_cost(crossing, batch_size)
            layer = operation.layer
            name = f"layer {layer.name!r} ({type(layer).__name__})"
            self._look(name, sum(operation.input_widths), operation.output.dtype)
            live.update(inputs)
            self.peak = max(self.peak, _size(live))
        self.stuck = [tensor for key, tensor in live.items() if key not in made]

    def _look(self, place: str, width: int, dtype: tf.DType) -> None:
        if width > self.widest[1]:
            self.widest = (place, width, dtype)


def _size(live: dict[int, Any]) -> int:
    return int(sum(num_features(tensor) for tensor in live.values()) ** 2)
