"""What an estimator of curvature is: a tape in, factors for each block out."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Container, Sequence
from typing import Any, ClassVar, NamedTuple, TypeVar

import tensorflow as tf

from tf_kfgn import replicas
from tf_kfgn.factors.correlation import correlation, trace
from tf_kfgn.factors.demand import Demand
from tf_kfgn.factors.sharing import (
    DEFAULT,
    Approximation,
    Sharing,
    WeightSharing,
    with_counts,
    with_sums,
)
from tf_kfgn.numerics.checks import check_choice, check_count
from tf_kfgn.numerics.precision import at_least_float32
from tf_kfgn.numerics.sums import ordered_sum
from tf_kfgn.operations.parametrised import OneHotOperation, ParametrisedOperation
from tf_kfgn.operations.weight_matrix import WeightMatrix, is_large
from tf_kfgn.recording.tape import CurvatureTape

Uses = dict[WeightMatrix, list[ParametrisedOperation]]

# In what factors may travel between replicas; None for their own type. Float16 would overflow.
COMMUNICATION_DTYPES = (None, "bfloat16", "float32")

# Estimators by the names that `kronecker_factors` takes.
ESTIMATORS: dict[str, type[FactorEstimator]] = {}

Estimator = TypeVar("Estimator", bound="type[FactorEstimator]")


def registered(name: str) -> Callable[[Estimator], Estimator]:
    """Let `kronecker_factors` find an estimator by a name."""

    def register(estimator: Estimator) -> Estimator:
        ESTIMATORS[name] = estimator
        return estimator

    return register


class KroneckerFactors(NamedTuple):
    """The Kronecker factors of one layer: its Gauss-Newton block is about `np.kron(A, G)`.

    With groups both have a leading axis, and the block is that of each group for itself. A factor
    above the estimator's `max_factor_size`, and A of an embedding, is a column: its diagonal.

    Attributes:
        A: Second moment of the inputs, shape `([groups,] in [+ 1], in [+ 1])`, the bias last.
        G: Second moment of the cotangents of the pre-activation, shape `([groups,] out, out)`, in
            the scale of the loss that Keras reports.
    """

    A: tf.Tensor
    G: tf.Tensor


class OutputFactors(NamedTuple):
    """What an estimator finds behind the layers, all in the order of what it is of.

    Attributes:
        factors: The factor G of each matrix.
        diagonals: The diagonal of the Gauss-Newton matrix for each further variable.
        squares: `E|sum_t g_t|²` of each matrix that is `FactorEstimator.correlated`, see
            `correlation.square_of_sums`; empty for an estimator that takes none to correlate.
    """

    factors: list[tf.Tensor]
    diagonals: list[tf.Tensor]
    squares: list[tf.Tensor] = []


class Estimate(NamedTuple):
    """What an estimator finds in one recorded pass.

    Attributes:
        factors: The factors of every trained weight matrix, in the order of the recording.
        diagonals: The diagonal of the Gauss-Newton matrix for each further variable.
    """

    factors: dict[WeightMatrix, KroneckerFactors]
    diagonals: list[tf.Tensor]


@dataclasses.dataclass(frozen=True, eq=False)
class FactorEstimator(abc.ABC):
    """Estimates the factors of every trained weight matrix, and diagonals of other variables.

    Subclasses supply G; A is the same for all. Under a `tf.distribute` strategy both are means
    over the examples of all replicas. No estimator knows a class of layer: it sees rows
    (`ParametrisedOperation`) and averages (`Operation.pull_back`). The fields of a subclass are
    its arguments; those of its optimizer beyond `GaussNewton`'s have the same names.

    Attributes:
        approximation: The weight-sharing approximation, `"correlated"`, `"expand"` or `"reduce"`,
            or a dictionary from names of layers to these.
        max_factor_size: Rows above which a factor is diagonal; None for no limit.
        communication_dtype: The type in which factors travel between replicas, `"bfloat16"` or
            `"float32"`; None for their own.

    Raises:
        ValueError: If an argument is out of its range.
    """

    # How the diagonals of variables without a matrix are found, for `curvature_summary`.
    diagonals: ClassVar[str] = "by columns"

    # Whether `output_curvature` finds the same G on every replica, since it averages on its way.
    crosses_replicas: ClassVar[bool] = False

    approximation: Approximation = DEFAULT
    max_factor_size: int | None = dataclasses.field(default=None, kw_only=True)
    communication_dtype: str | None = dataclasses.field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        """Refuse what is out of range."""
        Sharing(self.approximation)  # refuses a wrong name
        check_count("max_factor_size", self.max_factor_size, optional=True)
        check_choice("communication_dtype", self.communication_dtype, COMMUNICATION_DTYPES)

    @property
    def seed(self) -> int:
        """Seed that an optimizer calls the estimator with: in update t with `(seed, t)`.

        A subclass may have an argument of that name.
        """
        return 0

    def config(self) -> dict[str, Any]:
        """The arguments by name."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    def __call__(
        self, tape: CurvatureTape, seed: tf.Tensor
    ) -> dict[WeightMatrix, KroneckerFactors]:
        """The factors alone; see `estimate`."""
        return self.estimate(tape, seed).factors

    def estimate(
        self,
        tape: CurvatureTape,
        seed: tf.Tensor,
        variables: Sequence[Any] = (),
        matrices: Container[WeightMatrix] | None = None,
    ) -> Estimate:
        """Estimate the curvature from one recorded pass.

        Args:
            tape: A tape with recorded operations and a watched loss.
            seed: Two integers, from which whatever is random is drawn.
            variables: Variables that belong to no weight matrix.
            matrices: The weight matrices to estimate for. Defaults to all that are trained, if only
                their bias is: A is then of shape `([groups,] 1, 1)`.

        Raises:
            ValueError: If nothing was recorded, no loss was watched, or `approximation` names a
                layer that was not recorded.
        """
        uses = self.uses(tape, matrices)
        if not uses and not variables and tape.operations:
            raise ValueError(
                "The recorded layers train no weight matrix, so there are no Kronecker factors: "
                "their kernels are frozen, or they have none. Other trained weights have diagonal "
                "blocks; tf_kfgn.gauss_newton_blocks gives the exact ones."
            )
        if not uses and not variables:
            raise ValueError(
                "The CurvatureTape recorded no layer with weights. Call "
                "tf_kfgn.enable_curvature(model) before the model is called inside the tape, and "
                "open the tape inside a tf.function: one that was traced before records nothing."
            )
        Sharing(self.approximation).check_names(
            {op.matrix.layer for op in tape.operations if isinstance(op, ParametrisedOperation)}
        )
        output_factors, diagonals, squares = self.output_curvature(tape, uses, seed, variables)
        correlations = self._correlations(uses, output_factors, squares)
        whole = matrices is not None
        input_factors = [
            self._input_factor(matrix, ops, correlations.get(matrix), whole=whole)
            for matrix, ops in uses.items()
        ]
        of_replica = [input_factors] if self.crosses_replicas else [input_factors, output_factors]
        input_factors, *others = replicas.mean_of_factors(of_replica, self.communication_dtype)
        [output_factors] = others or [output_factors]
        factors = map(KroneckerFactors, input_factors, output_factors)
        return Estimate(dict(zip(uses, factors, strict=True)), diagonals)

    @abc.abstractmethod
    def output_curvature(
        self, tape: CurvatureTape, uses: Uses, seed: tf.Tensor, variables: Sequence[Any]
    ) -> OutputFactors:
        """The factor G of each matrix, and the diagonal of each variable.

        Under a strategy diagonals are those of the whole batch. G and the squares of sums are those
        of this replica's examples, to be averaged, or of the whole batch if `crosses_replicas`.
        """

    @abc.abstractmethod
    def output_cost(
        self,
        uses: Sequence[ParametrisedOperation],
        forward: int,
        batch_size: int,
        num_outputs: int,
    ) -> float:
        """Multiplications and additions for the factor G of one matrix.

        Args:
            uses: The recorded operations of the matrix.
            forward: Those of its product with the inputs of one example.
            batch_size: Examples in a batch.
            num_outputs: Outputs of the model for one example.
        """

    def demand(self, tape: CurvatureTape, uses: Uses, batch_size: int, num_outputs: int) -> Demand:
        """What new factors G of all matrices take.

        Args:
            tape: A recorded pass of any batch; nothing of it is estimated.
            uses: The recorded operations of each matrix.
            batch_size: Examples in a batch.
            num_outputs: Outputs of the model for one example.

        Raises:
            ValueError: If the estimator cannot be used.
        """
        del tape
        costs = [
            self.output_cost(ops, int(sum(op.row_cost for op in ops)), batch_size, num_outputs)
            for ops in uses.values()
        ]
        return Demand(float(sum(costs)), 0.0)

    def sharing_of(self, matrix: WeightMatrix) -> WeightSharing:
        """How the shared positions of a matrix enter."""
        return Sharing(self.approximation).of_layer(matrix.layer)

    def uses(self, tape: CurvatureTape, matrices: Container[WeightMatrix] | None) -> Uses:
        """The recorded operations of each matrix that is estimated; arguments as of `estimate`."""
        return uses_of_matrices(tape, matrices, biases=True)

    def correlated(self, uses: Uses) -> list[WeightMatrix]:
        """The matrices whose A depends on how the cotangents of their positions correlate."""
        return [
            matrix
            for matrix, operations in uses.items()
            if self.sharing_of(matrix).correlates
            and (len(operations) > 1 or operations[0].has_positions)
        ]

    def diagonal_output(self, matrix: WeightMatrix) -> bool:
        """Whether G of a matrix is only diagonal."""
        return is_large(matrix.out_features, self.max_factor_size)

    def _correlations(
        self, uses: Uses, factors: Sequence[tf.Tensor], squares: Sequence[tf.Tensor]
    ) -> dict[WeightMatrix, tf.Tensor]:
        """ρ of each matrix for which it counts, of the examples of all replicas."""
        wanted = self.correlated(uses)
        if not wanted or not squares:
            return {}
        factor_of = dict(zip(uses, factors, strict=True))
        found = [
            (trace(factor_of[matrix]), square, *position_moments(uses[matrix], square.dtype))
            for matrix, square in zip(wanted, squares, strict=True)
        ]
        means = replicas.mean(found)
        return {m: correlation(*parts) for m, parts in zip(wanted, means, strict=True)}

    def _input_factor(
        self,
        matrix: WeightMatrix,
        operations: list[ParametrisedOperation],
        correlation: tf.Tensor | None,
        *,
        whole: bool,
    ) -> tf.Tensor:
        """A; of a bias that is trained without its kernel, only its own entry unless `whole`."""
        sharing = self.sharing_of(matrix)
        dtype = at_least_float32(operations[0].output.dtype)
        if isinstance(operations[0], OneHotOperation):
            each = [op.tokens() for op in operations if isinstance(op, OneHotOperation)]
            tokens, size = tf.concat(each, axis=1), matrix.in_features
            diagonal = matrix.diagonal_input or is_large(size, self.max_factor_size)
            apart = sharing.token_factor(tokens, size, dtype, diagonal)
            return apart if correlation is None else with_counts(apart, tokens, correlation)
        bias_alone = not (whole or operations[0].trainable)
        apart = self._of_rows(operations, sharing, dtype, bias_alone=bias_alone)
        if correlation is None:
            return apart
        sums = ordered_sum([operation.input_sums(dtype) for operation in operations])
        return with_sums(apart, sums[..., -1:] if bias_alone else sums, correlation)

    def _of_rows(
        self,
        operations: list[ParametrisedOperation],
        sharing: WeightSharing,
        dtype: tf.DType,
        *,
        bias_alone: bool,
    ) -> tf.Tensor:
        """A of rows whose positions do not correlate."""
        used, first = used_positions(operations), operations[0]
        size = 1 if bias_alone else first.matrix.in_features + first.bias_trainable
        large = is_large(size, self.max_factor_size)
        if sharing.positions_alone and used is None and not (large or bias_alone):
            products = [operation.input_products(dtype) for operation in operations]
            known = [product for product in products if product is not None]
            if len(known) == len(operations):
                return ordered_sum(known) / tf.cast(tf.shape(first.input)[0], dtype)
        rows = tf.concat([operation.input_rows() for operation in operations], axis=1)
        if bias_alone:
            rows = rows[..., -1:]
        return sharing.input_factor(tf.cast(rows, dtype), large, used)


def used_positions(operations: Sequence[ParametrisedOperation]) -> tf.Tensor | None:
    """Which positions of some operations use the matrix, joined; None if all do."""
    if all(operation.used is None for operation in operations):
        return None
    return tf.concat([operation.used_or_ones() for operation in operations], axis=1)


def num_used_positions(operations: Sequence[ParametrisedOperation]) -> tf.Tensor | None:
    """How many positions of the batch use the matrix, a mean over replicas; None if all do.

    A sum over a replica's positions, divided by it, is the replica's part of the mean over all.
    """
    used = used_positions(operations)
    return None if used is None else replicas.mean(tf.reduce_sum(used))


def position_moments(
    operations: Sequence[ParametrisedOperation], dtype: tf.DType
) -> tuple[tf.Tensor, tf.Tensor]:
    """Mean of the number of positions of an example that use the matrix, and of its square."""
    used = used_positions(operations)
    if used is None:
        count = tf.cast(sum(operation.num_positions() for operation in operations), dtype)
        return count, tf.square(count)
    counts = tf.reduce_sum(tf.cast(used, dtype), axis=1)
    return tf.reduce_mean(counts), tf.reduce_mean(tf.square(counts))


def uses_of_matrices(
    tape: CurvatureTape, matrices: Container[WeightMatrix] | None = None, *, biases: bool = False
) -> Uses:
    """The recorded operations of each trained weight matrix, in recorded order.

    Args:
        tape: What was recorded.
        matrices: Look for these alone. Defaults to all.
        biases: Whether those count as well of which only the bias is trained.
    """
    uses: Uses = {}
    for operation in tape.operations:
        if (
            isinstance(operation, ParametrisedOperation)
            and (operation.trainable or (biases and operation.bias_trainable))
            and (matrices is None or operation.matrix in matrices)
        ):
            uses.setdefault(operation.matrix, []).append(operation)
    return uses
