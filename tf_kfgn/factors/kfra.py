"""KFRA: Kronecker factors from one recursion on the batch mean of the output curvature.

Botev, Ritter & Barber (2017), section 3.5, averaged after every recorded operation:
`G_in = E[J^T G_out J]`. No factor is sampled and the cost does not grow with the outputs. Where the
graph branches, the recursion carries one average over all live tensors (`LiveAverages`): an
operation `x -> y` sends each block between y and another live tensor t to `E[J]^T G_yt`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import tensorflow as tf
from typing_extensions import override

from tf_kfgn import replicas
from tf_kfgn.factors.carriers import Carrier, FullAverages
from tf_kfgn.factors.channel_averages import ChannelAverages, layouts_of, widest
from tf_kfgn.factors.correlation import square_of_sum_of_averages, square_of_sums, trace
from tf_kfgn.factors.demand import Demand, Sweep
from tf_kfgn.factors.estimator import (
    FactorEstimator,
    OutputFactors,
    Uses,
    num_used_positions,
    registered,
)
from tf_kfgn.factors.kfac import KFACEstimator
from tf_kfgn.factors.live_averages import LiveAverages
from tf_kfgn.factors.reach import Reach
from tf_kfgn.factors.sharing import Reduce, WeightSharing
from tf_kfgn.numerics.checks import POSITIVE, check_choice, check_flag, check_number
from tf_kfgn.numerics.precision import at_least_float32
from tf_kfgn.numerics.random import fold_in
from tf_kfgn.numerics.sums import ordered_sum
from tf_kfgn.operations.loop import LoopOperation, RowPairs, StepOperation
from tf_kfgn.operations.operation import Ends, Operation
from tf_kfgn.operations.parametrised import ParametrisedOperation
from tf_kfgn.operations.weight_matrix import WeightMatrix
from tf_kfgn.recording.tape import CurvatureTape

MEMORY_LIMIT = 2048
SPATIAL = ("auto", "full", "uncorrelated")
MAX_FULL_WIDTH = 256  # features with positions up to which "auto" carries all pairs of them
_MIB = 2**20


@registered("kfra")
@dataclasses.dataclass(frozen=True, eq=False)
class KFRAEstimator(FactorEstimator):
    """G is read off the average that the recursion carries to each pre-activation.

    Diagonals of other variables, which the recursion does not reach, come from one sampled
    cotangent for each example, as KFAC's do.

    The averages have the shape of G better than its size. A mean of products of slopes is not that
    of the slopes of one example, and averages over pairs of channels do not know that positions are
    alike which attention, or a global average, adds up. So the sampled cotangents can tell two
    numbers of each layer besides: the trace of G, and how much the cotangents of its positions
    correlate, which A depends on.

    A product of two means is none of the examples behind them. So under a strategy each mean is one
    over all replicas before the next operation takes it, and every replica has the same averages.

    Attributes:
        memory_limit: MiB that the recursion may hold at one time; what would take more is refused
            before anything is allocated.
        spatial: What is carried of a tensor with positions: `"full"`, the average over all pairs
            of its features; `"uncorrelated"`, that over pairs of channels, as if cotangents were
            uncorrelated between positions and alike at all of them; `"auto"`, the first for a
            model whose tensors with positions have at most 256 features, else the second.
        rescale: Whether each G has the trace, and positions the correlation, that sampled
            cotangents have.
    """

    diagonals = "sampled"
    crosses_replicas = True

    memory_limit: float = dataclasses.field(default=MEMORY_LIMIT, kw_only=True)
    spatial: str = dataclasses.field(default="auto", kw_only=True)
    rescale: bool = dataclasses.field(default=False, kw_only=True)

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("memory_limit", self.memory_limit, POSITIVE, optional=False)
        check_choice("spatial", self.spatial, SPATIAL)
        check_flag("rescale", self.rescale)

    def carries_channels(self, width: int) -> bool:
        """Whether averages are over pairs of channels alone.

        Args:
            width: Features of the widest tensor with several positions.
        """
        return self.spatial == "uncorrelated" or (self.spatial == "auto" and width > MAX_FULL_WIDTH)

    @override
    def output_cost(
        self,
        uses: Sequence[ParametrisedOperation],
        forward: int,
        batch_size: int,
        num_outputs: int,
    ) -> float:
        sampled = 0.0
        if self.rescale:
            sampled = self._sampler.output_cost(uses, forward, batch_size, num_outputs)
        if self.carries_channels(widest([*uses], {id(use.output) for use in uses})):
            layouts = layouts_of([*uses])
            ends = [Ends([layouts[id(t)] for t in u.inputs], layouts[id(u.output)]) for u in uses]
            costs = [use.channels_cost(e, batch_size) for use, e in zip(uses, ends, strict=True)]
            return sum(costs) + sampled
        groups = uses[0].matrix.groups or 1
        widths = [sum(use.input_widths) + use.shared * groups * use.out_features for use in uses]
        return sum(widths) * forward / len(uses) + sampled

    @override
    def demand(self, tape: CurvatureTape, uses: Uses, batch_size: int, num_outputs: int) -> Demand:
        """What the recursion takes, from the widths that it meets, and then the samples.

        Raises:
            ValueError: As `output_curvature`.
        """
        recursion = _Sweep(self, tape, uses, tf.zeros((2,), tf.int64))
        sweep = recursion.planned(batch_size)
        recursion.reach.check_gaps(sweep.stuck)
        operations, memory = sweep.operations, sweep.peak
        if self.rescale:
            sampled = self._sampler.demand(tape, uses, batch_size, num_outputs)
            operations, memory = operations + sampled.operations, max(memory, sampled.memory)
        return Demand(operations, memory)

    @override
    def output_curvature(
        self, tape: CurvatureTape, uses: Uses, seed: tf.Tensor, variables: Sequence[Any]
    ) -> OutputFactors:
        """The factor G of each matrix from the recursion, and sampled diagonals.

        Raises:
            ValueError: If an operation between the loss and a layer with weights was not
                recorded, or the recursion would hold more than `memory_limit`.
        """
        factors, squares = _Sweep(self, tape, uses, seed).factors() if uses else ([], [])
        rescaled = uses if self.rescale else {}
        if not (rescaled or variables):
            return OutputFactors(factors, [], squares)
        sampled = self._sampler.output_curvature(tape, rescaled, seed, variables)
        if rescaled:
            sizes, squares = replicas.mean((list(map(trace, sampled.factors)), sampled.squares))
            factors = [
                factor * tf.math.divide_no_nan(size, trace(factor))
                for factor, size in zip(factors, sizes, strict=True)
            ]
        return OutputFactors(factors, sampled.diagonals, squares)

    @property
    def _sampler(self) -> KFACEstimator:
        """Samples cotangents; of factors nothing but the diagonal."""
        return KFACEstimator(self.approximation, max_factor_size=1)


class _Sweep:
    """One pass backwards over the operations of a tape."""

    def __init__(
        self, estimator: KFRAEstimator, tape: CurvatureTape, uses: Uses, seed: tf.Tensor
    ) -> None:
        self._estimator = estimator
        self._tape = tape
        self._uses = uses
        self._waiting = {id(op) for operations in uses.values() for op in operations}
        self.reach = Reach(tape, [op for operations in uses.values() for op in operations])
        self.needed = self.reach.needed
        self._carrier = self._carrier_of(seed)
        self._live = LiveAverages()
        self._copies: dict[WeightMatrix, dict[int, int]] = {matrix: {} for matrix in uses}
        self._averages: dict[WeightMatrix, dict[tuple[int, int], tf.Tensor]] = {
            matrix: {} for matrix in uses
        }
        self._within: dict[WeightMatrix, list[tuple[tf.Tensor, int]]] = {}
        # Samples know that too, if they are taken for the sizes.
        self._correlated = [] if estimator.rescale else estimator.correlated(uses)
        self._squares_within: dict[WeightMatrix, list[tf.Tensor]] = {}
        self._inside: set[int] = set()  # uses whose factors these are

    def _carrier_of(self, seed: tf.Tensor) -> Carrier:
        """What is carried."""
        tape = self._tape
        if not self._estimator.carries_channels(widest(tape.operations, self.needed)):
            return FullAverages(tape, tape.operations)
        ends = [likelihood.recorded for likelihood in tape.likelihoods]
        return ChannelAverages(tape, ends, self.needed, fold_in(seed, len(ends)))

    def planned(self, batch_size: int) -> Sweep:
        """What the recursion is about to do.

        Raises:
            ValueError: If it would hold more than `memory_limit`.
        """
        ends = [likelihood.recorded for likelihood in self._tape.likelihoods]
        operations = [operation for ops in self._uses.values() for operation in ops]
        sweep = Sweep(self._carrier, ends, operations, self.needed, batch_size)
        size, limit = sweep.peak / _MIB, self._estimator.memory_limit
        if size > limit:
            raise ValueError(
                f"At {sweep.place} KFRA needs averages over {sweep.width} features, which take "
                f"{size:.0f} MiB with all that is held beside them; memory_limit is {limit:.0f} "
                "MiB. Use KFLR or KFAC, whose memory does not grow with the square of a layer's "
                "width, or raise memory_limit."
            )
        return sweep

    def factors(self) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
        """G of each matrix, and the square of sums of each that is correlated."""
        self.planned(batch_size=1)
        for likelihood in self._tape.likelihoods:
            if id(likelihood.recorded) in self.needed:
                hessian = self._mean(self._carrier.start(likelihood))
                hessian = tf.cast(hessian, likelihood.outputs.dtype)
                self._live.add(likelihood.recorded, hessian)
        for operation in reversed(self._carrier.operations):
            if not self._waiting:
                break
            if operation.output in self._live:
                self._go_through(operation)
        self.reach.check_gaps(self._live.tensors)
        factors = [self._factor(matrix) for matrix in self._uses]
        return factors, [self._square(matrix) for matrix in self._correlated]

    def _go_through(self, operation: Operation) -> None:
        live, carrier = self._live, self._carrier
        if id(operation) in self._waiting:
            self._waiting.remove(id(operation))
            self._read(operation)
        average, crosses = live.remove(operation.output)
        if isinstance(operation, LoopOperation):
            self._read_within(operation, average)
        inputs = [t if id(t) in self.needed else None for t in operation.inputs]
        if all(tensor is None for tensor in inputs) or not self._waiting:
            return
        widths = [carrier.width(tensor) for tensor in operation.inputs]
        pulled = carrier.pull_back(operation, average)
        moved = {
            key: carrier.mean_transpose(operation, block, key) for key, block in crosses.items()
        }
        carried = {key: block for key, block in moved.items() if block is not None}
        if carrier.depends_on_examples(operation):
            pulled, carried = self._mean(pulled), replicas.mean(carried)
        live.spread(inputs, widths, pulled, carried)

    def _read(self, operation: Any) -> None:
        """Read the average at one use of a matrix, and that between this use and later ones."""
        matrix, live = operation.matrix, self._live
        uses, key = self._uses[matrix], id(operation.output)
        index = next(i for i, use in enumerate(uses) if use is operation)
        own = live.block(key, key)
        averages, copies = self._averages[matrix], self._copies[matrix]
        averages[index, index] = self._carrier.row_average(operation, own, operation)
        if len(uses) == 1 or not isinstance(self._estimator.sharing_of(matrix), Reduce):
            return
        for other, copy in copies.items():
            between = live.block(key, copy)
            if between is not None:
                pairs = self._carrier.row_average(operation, between, uses[other])
                averages[index, other] = pairs
                averages[other, index] = tf.transpose(pairs, _swapped(pairs.shape.rank))
        copies[index] = live.keep(operation.output)
        self._carrier.kept(operation.output, copies[index])
        if len(copies) == len(uses):
            live.drop(list(copies.values()))

    def _read_within(self, loop: LoopOperation, average: tf.Tensor) -> None:
        """Read the factors of the matrices inside a loop from the average behind it."""
        groups: Uses = {}
        for use in loop.within:
            if id(use) in self._waiting:
                groups.setdefault(use.matrix, []).append(use)
        pairs: list[RowPairs] = []
        zeros = []
        for matrix, uses in groups.items():
            self._waiting -= {id(use) for use in uses}
            sharing = self._estimator.sharing_of(matrix)
            diagonal = self._estimator.diagonal_output(matrix)
            positions = num_used_positions(uses)

            def pair(
                rows: tf.Tensor,
                others: tf.Tensor,
                used: tf.Tensor | None = positions,
                sharing: WeightSharing = sharing,
                diagonal: bool = diagonal,
            ) -> tf.Tensor:
                return sharing.output_factor(rows, diagonal, used, others)

            pairs.append(pair)
            zeros.append(self._zero_factor(uses[0], average.dtype))
        if not groups:
            return
        correlated = [matrix for matrix in groups if matrix in self._correlated]
        pairs += [square_of_sums] * len(correlated)
        zeros += [tf.zeros((*matrix.leading, 1, 1), average.dtype) for matrix in correlated]
        read = [*groups.values(), *(groups[matrix] for matrix in correlated)]
        found = self._mean(self._carrier.loop_factors(loop, average, read, pairs, zeros))
        for matrix, square in zip(correlated, found[len(groups) :], strict=True):
            self._squares_within.setdefault(matrix, []).append(square)
        for (matrix, uses), factor in zip(groups.items(), found[: len(groups)], strict=True):
            positions = sum(use.shared for use in uses)
            self._within.setdefault(matrix, []).append((factor, positions))
            self._inside |= {id(use) for use in uses}

    def _mean(self, averages: Any) -> Any:
        """Symmetric averages over the examples of all replicas."""
        return replicas.mean_of_factors(averages, self._estimator.communication_dtype)

    def _factor(self, matrix: WeightMatrix) -> tf.Tensor:
        averages = self._averages[matrix]
        operations = self._uses[matrix]
        sharing = self._estimator.sharing_of(matrix)
        diagonal = self._estimator.diagonal_output(matrix)
        within = self._within.get(matrix, [])
        if within or any(isinstance(use, StepOperation) for use in operations):
            parts = [*within]
            for index, use in enumerate(operations):
                if id(use) in self._inside:
                    continue
                if (index, index) in averages:
                    own = {(0, 0): averages[index, index]}
                    factor = sharing.output_factor_of_averages(own, use.shared, diagonal)
                else:
                    factor = self._zero_factor(use, at_least_float32(use.output.dtype))
                parts.append((factor, use.shared))
            return sharing.output_factor_of_uses(*zip(*parts, strict=True))
        for index, operation in enumerate(operations):
            if (index, index) not in averages:  # without any influence on the loss
                rows = (operation.shared, *matrix.leading, matrix.out_features)
                dtype = at_least_float32(operation.output.dtype)
                averages[index, index] = tf.zeros((*rows, *rows), dtype)
        positions = sum(use.shared for use in operations)
        return sharing.output_factor_of_averages(averages, positions, diagonal)

    def _square(self, matrix: WeightMatrix) -> tf.Tensor:
        """`E|sum_t g_t|²`; the cotangents of different uses count as uncorrelated."""
        operations = self._uses[matrix]
        parts = [*self._squares_within.get(matrix, [])]
        for index, operation in enumerate(operations):
            if id(operation) not in self._inside and (index, index) in self._averages[matrix]:
                parts.append(square_of_sum_of_averages(self._averages[matrix][index, index]))
        zero = tf.zeros((*matrix.leading, 1, 1), at_least_float32(operations[0].output.dtype))
        return ordered_sum(parts) if parts else zero

    def _zero_factor(self, use: ParametrisedOperation, dtype: tf.DType) -> tf.Tensor:
        columns = use.out_features
        thin = self._estimator.diagonal_output(use.matrix)
        return tf.zeros((*use.matrix.leading, columns, 1 if thin else columns), dtype)


def _swapped(rank: int) -> list[int]:
    return [*range(rank // 2, rank), *range(rank // 2)]
