"""What KFRA's recursion carries from one recorded operation to the one before.

`FullAverages` carry an average over all pairs of features, `ChannelAverages` one over pairs of
channels (see `operations.layout`). The sweep is the same for both.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Any

import tensorflow as tf
from typing_extensions import override

from tf_kfgn.losses import Likelihood
from tf_kfgn.operations.features import num_features
from tf_kfgn.operations.loop import LoopOperation, RowPairs
from tf_kfgn.operations.operation import Operation
from tf_kfgn.operations.parametrised import ParametrisedOperation


class Carrier(abc.ABC):
    """How averages go through the operations of one tape.

    Tensors are known by the keys of `LiveAverages`.

    Attributes:
        operations: The operations to go through, in recorded order.
    """

    def __init__(self, tape: Any, operations: Sequence[Operation]) -> None:
        """Hold the tape and its operations."""
        self.tape = tape
        self.operations = list(operations)

    @abc.abstractmethod
    def width(self, tensor: tf.Tensor) -> int:
        """Rows of the average of a tensor."""

    @abc.abstractmethod
    def start(self, likelihood: Likelihood) -> tf.Tensor:
        """The average at the outputs that a loss was given."""

    @abc.abstractmethod
    def pull_back(self, operation: Operation, average: tf.Tensor) -> tf.Tensor:
        """The average at the inputs of an operation, one input after the other."""

    @abc.abstractmethod
    def mean_transpose(
        self, operation: Operation, block: tf.Tensor, other: int
    ) -> tf.Tensor | None:
        """What the inputs have with another tensor; None if that is not carried.

        Args:
            operation: An operation.
            block: What its output has with the other tensor.
            other: The key of the other tensor.
        """

    @abc.abstractmethod
    def row_average(
        self,
        operation: ParametrisedOperation,
        block: tf.Tensor,
        other: ParametrisedOperation,
    ) -> tf.Tensor:
        """A block between two uses of a matrix, as `WeightSharing` takes averages."""

    @abc.abstractmethod
    def loop_factors(
        self,
        loop: LoopOperation,
        average: tf.Tensor,
        groups: Sequence[Sequence[ParametrisedOperation]],
        pairs: Sequence[RowPairs],
        zeros: Sequence[tf.Tensor],
    ) -> list[tf.Tensor]:
        """The factors of matrices inside a loop; arguments as of `LoopOperation`."""

    def depends_on_examples(self, operation: Operation) -> bool:
        """Whether replicas with other examples may find other averages before an operation."""
        del operation
        return True

    def kept(self, tensor: tf.Tensor, copy: int) -> None:
        """Note that the blocks of a live tensor are kept under another key."""
        del tensor, copy

    @abc.abstractmethod
    def pull_back_cost(self, operation: Operation, batch_size: int) -> float:
        """Multiplications and additions of `pull_back`."""

    @abc.abstractmethod
    def pull_back_memory(self, operation: Operation) -> int:
        """Numbers that `pull_back` holds besides the average, its result included."""

    @abc.abstractmethod
    def mean_transpose_cost(self, operation: Operation, columns: int, batch_size: int) -> float:
        """Multiplications and additions of `mean_transpose`."""


class FullAverages(Carrier):
    """Averages over all pairs of features: exact up to the mean over examples."""

    @override
    def width(self, tensor: tf.Tensor) -> int:
        return num_features(tensor)

    @override
    def start(self, likelihood: Likelihood) -> tf.Tensor:
        return likelihood.mean_hessian()

    @override
    def pull_back(self, operation: Operation, average: tf.Tensor) -> tf.Tensor:
        return operation.pull_back(average, self.tape)

    @override
    def mean_transpose(
        self, operation: Operation, block: tf.Tensor, other: int
    ) -> tf.Tensor | None:
        return operation.mean_transpose(block, self.tape)

    @override
    def depends_on_examples(self, operation: Operation) -> bool:
        return operation.depends_on_examples

    @override
    def row_average(
        self,
        operation: ParametrisedOperation,
        block: tf.Tensor,
        other: ParametrisedOperation,
    ) -> tf.Tensor:
        return operation.row_average(block, other)

    @override
    def loop_factors(
        self,
        loop: LoopOperation,
        average: tf.Tensor,
        groups: Sequence[Sequence[ParametrisedOperation]],
        pairs: Sequence[RowPairs],
        zeros: Sequence[tf.Tensor],
    ) -> list[tf.Tensor]:
        return loop.output_factors(average, self.tape, groups, pairs, zeros)

    @override
    def pull_back_cost(self, operation: Operation, batch_size: int) -> float:
        return operation.pull_back_cost(batch_size)

    @override
    def pull_back_memory(self, operation: Operation) -> int:
        return operation.pull_back_memory()

    @override
    def mean_transpose_cost(self, operation: Operation, columns: int, batch_size: int) -> float:
        return operation.mean_transpose_cost(columns, batch_size)
