"""KFRA's recursion with averages over pairs of channels: `spatial="uncorrelated"`.

Between a tensor's positions cotangents count as uncorrelated, and alike at all positions. The
average of a tensor with C channels then has `(C, C)` entries, whatever the number of positions.
An operation with a rule of its own uses that (`Operation.pull_back_channels`); where all its ends
have a single position, the rule for all features is the same; any other operation gets
`general_rules`.
"""

from __future__ import annotations

import math
from collections.abc import Container, Sequence
from typing import Any

import tensorflow as tf
from typing_extensions import override

from tf_kfgn.factors import general_rules
from tf_kfgn.factors.carriers import Carrier
from tf_kfgn.factors.joint_operations import joined
from tf_kfgn.losses import Likelihood
from tf_kfgn.numerics.random import fold_in
from tf_kfgn.operations.axis_maps import alignment
from tf_kfgn.operations.layout import Layout
from tf_kfgn.operations.loop import LoopOperation, RowPairs
from tf_kfgn.operations.operation import MAX_EXACT_WIDTH, Ends, Operation
from tf_kfgn.operations.parametrised import ParametrisedOperation


class ChannelAverages(Carrier):
    """Averages over pairs of channels.

    Args:
        tape: What was recorded.
        ends: The tensors that the losses were given.
        needed: Ids of the tensors that a matrix lies behind.
        seed: What the general rule draws from.
    """

    def __init__(
        self, tape: Any, ends: Sequence[tf.Tensor], needed: Container[int], seed: tf.Tensor
    ) -> None:
        """Find out what is positions and what is channels, which the class describes."""
        super().__init__(tape, joined(tape.operations, ends))
        self._seed = seed
        self._layouts = layouts_of(tape.operations, needed)
        self._draws = 0

    @override
    def width(self, tensor: tf.Tensor) -> int:
        return self._layout(tensor).num_channels

    @override
    def start(self, likelihood: Likelihood) -> tf.Tensor:
        layout = self._layout(likelihood.recorded)
        if layout.num_positions == 1:
            return likelihood.mean_hessian()
        if likelihood.features == 1:  # each output by itself
            diagonal = tf.reshape(likelihood.mean_blocks(), (1, -1))
            return tf.linalg.diag(tf.reduce_mean(layout.rows(diagonal)[0], axis=0))
        split = (likelihood.positions, likelihood.features)
        if layout.in_order and split == (layout.num_positions, layout.num_channels):
            return tf.reduce_mean(likelihood.mean_blocks(), axis=0)
        return layout.mean_block(likelihood.mean_hessian())

    @override
    def pull_back(self, operation: Operation, average: tf.Tensor) -> tf.Tensor:
        ends = self._ends(operation)
        found = operation.pull_back_channels(average, ends, self.tape)
        if found is not None:
            return found
        if _has_single_positions(ends):
            return operation.pull_back(average, self.tape)
        return general_rules.pull_back(operation, average, ends, self.tape, self._next_seed())

    @override
    def mean_transpose(
        self, operation: Operation, block: tf.Tensor, other: int
    ) -> tf.Tensor | None:
        ends, layout = self._ends(operation), self._layouts[other]
        found = operation.mean_transpose_channels(block, ends, layout, self.tape)
        if found is not None:
            return found
        if _has_single_positions(ends):
            return operation.mean_transpose(block, self.tape)
        seed = self._next_seed()
        return general_rules.mean_transpose(operation, block, ends, layout, self.tape, seed)

    @override
    def row_average(
        self,
        operation: ParametrisedOperation,
        block: tf.Tensor,
        other: ParametrisedOperation,
    ) -> tf.Tensor:
        """Of one position, and as often as there are positions that are aligned."""
        first, second = self._layout(operation.output), self._layout(other.output)
        aligned = alignment(first, second)
        count = 0 if aligned is None else aligned.sum()
        rows = operation.row_channels(block)
        rows = tf.transpose(other.row_channels(tf.transpose(rows)))
        shape = (1, *operation.matrix.leading, operation.out_features)
        return tf.reshape(rows, (*shape, *shape)) * tf.constant(count, rows.dtype)

    @override
    def loop_factors(
        self,
        loop: LoopOperation,
        average: tf.Tensor,
        groups: Sequence[Sequence[ParametrisedOperation]],
        pairs: Sequence[RowPairs],
        zeros: Sequence[tf.Tensor],
    ) -> list[tf.Tensor]:
        layout = self._layout(loop.output)
        if layout.num_positions == 1 and layout.num_channels <= MAX_EXACT_WIDTH:
            return loop.output_factors(average, self.tape, groups, pairs, zeros)
        column = general_rules.drawn_cotangent(loop, average, layout, self._next_seed())
        uses = [use.output for group in groups for use in group]
        products = iter(general_rules.products(loop.output, uses, column, self.tape))
        rows = [
            tf.concat([use.cotangent_rows(next(products)) for use in group], axis=1)
            for group in groups
        ]
        return [pair(own, own) for pair, own in zip(pairs, rows, strict=True)]

    @override
    def kept(self, tensor: tf.Tensor, copy: int) -> None:
        self._layouts[copy] = self._layout(tensor)

    @override
    def pull_back_cost(self, operation: Operation, batch_size: int) -> float:
        return operation.channels_cost(self._ends(operation), batch_size)

    @override
    def pull_back_memory(self, operation: Operation) -> int:
        ends = self._ends(operation)
        return (
            3
            * max(sum(layout.num_channels for layout in ends.inputs), ends.output.num_channels) ** 2
        )

    @override
    def mean_transpose_cost(self, operation: Operation, columns: int, batch_size: int) -> float:
        ends = self._ends(operation)
        inputs = sum(layout.num_channels for layout in ends.inputs)
        share = columns / max(ends.output.num_channels + inputs, 1)
        return operation.channels_cost(ends, batch_size) * share

    def _ends(self, operation: Operation) -> Ends:
        inputs = [self._layout(tensor) for tensor in operation.inputs]
        return Ends(inputs, self._layout(operation.output))

    def _layout(self, tensor: tf.Tensor) -> Layout:
        return self._layouts.get(id(tensor)) or Layout.natural(tensor)

    def _next_seed(self) -> tf.Tensor:
        self._draws += 1
        return fold_in(self._seed, self._draws)


def layouts_of(
    operations: Sequence[Operation], needed: Container[int] | None = None
) -> dict[int, Layout]:
    """The layout of each tensor that was recorded, by its id.

    Args:
        operations: The operations of a pass, in recorded order.
        needed: Ids of the tensors whose makers count; None for all.

    Raises:
        ValueError: If an axis has no static length.
    """
    found: dict[int, Layout] = {}
    for operation in operations:
        if needed is not None and id(operation.output) not in needed:
            continue
        for tensor in operation.inputs:
            found.setdefault(id(tensor), _input_layout(operation, tensor))
        inputs = [found[id(tensor)] for tensor in operation.inputs]
        found[id(operation.output)] = operation.output_layout(inputs)
    return found


def _input_layout(operation: Operation, tensor: tf.Tensor) -> Layout:
    """The layout of a tensor that nothing recorded made: as at the output, if the axes allow."""
    if isinstance(operation, ParametrisedOperation):
        axes = operation.position_axes()
        if tensor.shape.rank == operation.output.shape.rank:
            return Layout.of_axes(tensor, axes)
    return Layout.natural(tensor)


def widest(operations: Sequence[Operation], needed: Container[int]) -> int:
    """Features of the widest needed tensor that has several positions, or 0."""
    layouts = layouts_of(operations, needed)
    found = [layout for tensor, layout in layouts.items() if tensor in needed]
    return max((math.prod(one.shape) for one in found if one.num_positions > 1), default=0)


def _has_single_positions(ends: Ends) -> bool:
    return all(layout.num_positions == 1 for layout in (*ends.inputs, ends.output))
