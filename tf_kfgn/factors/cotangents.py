"""Estimators that send cotangents of the outputs back, and what these add to the curvature."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Container, Sequence
from typing import Any

import tensorflow as tf
from typing_extensions import override

from tf_kfgn import replicas
from tf_kfgn.factors.correlation import square_of_sums
from tf_kfgn.factors.demand import Demand, cotangent_size
from tf_kfgn.factors.estimator import FactorEstimator, OutputFactors, Uses, num_used_positions
from tf_kfgn.numerics.moments import batch_size
from tf_kfgn.numerics.precision import at_least_float32
from tf_kfgn.operations.parametrised import ParametrisedOperation
from tf_kfgn.operations.weight_matrix import WeightMatrix
from tf_kfgn.recording.tape import CurvatureTape


@dataclasses.dataclass(frozen=True, eq=False)
class CotangentEstimator(FactorEstimator):
    """An estimator whose G is a second moment of back-propagated columns."""

    @override
    def uses(self, tape: CurvatureTape, matrices: Container[WeightMatrix] | None) -> Uses:
        """Operations without a batch axis are those of all examples, if the batch has another size.

        That is told from static shapes.
        """
        found = super().uses(tape, matrices)
        numbers = {likelihood.recorded.shape[0] for likelihood in tape.likelihoods}
        if len(numbers) != 1:
            return found
        [number] = numbers
        return {matrix: [op.of_examples(number) for op in ops] for matrix, ops in found.items()}

    @abc.abstractmethod
    def passes(self, num_outputs: int) -> int:
        """Backward passes for one estimate.

        Args:
            num_outputs: Outputs of the model for one example.
        """

    @override
    def output_cost(
        self,
        uses: Sequence[ParametrisedOperation],
        forward: int,
        batch_size: int,
        num_outputs: int,
    ) -> float:
        matrix = uses[0].matrix
        positions = sum(use.shared for use in uses)
        width = 1 if self.diagonal_output(matrix) else matrix.out_features
        rows = batch_size * positions * (matrix.groups or 1)
        moment = 2 * rows * matrix.out_features * width
        return self.passes(num_outputs) * (batch_size * forward + moment)

    @override
    def demand(self, tape: CurvatureTape, uses: Uses, batch_size: int, num_outputs: int) -> Demand:
        operations, _ = super().demand(tape, uses, batch_size, num_outputs)
        column = cotangent_size(tape.operations, batch_size)
        return Demand(operations, self.columns_at_once(column, num_outputs) * column)

    def columns_at_once(self, size: float, num_outputs: int) -> float:
        """How many columns go backwards side by side.

        Args:
            size: Bytes of the cotangents of one column.
            num_outputs: Outputs of the model for one example.
        """
        del size, num_outputs
        return 1

    def curvature_of_column(
        self,
        tape: CurvatureTape,
        uses: Uses,
        outputs: tf.Tensor,
        column: tf.Tensor,
        variables: Sequence[Any],
    ) -> list[tf.Tensor]:
        """What one cotangent of the outputs adds to each G, then to squares, then to diagonals.

        Args:
            tape: A recorded pass.
            uses: The operations of each matrix.
            outputs: An output of the pass.
            column: A cotangent of it.
            variables: Those that have a diagonal.
        """
        positions = [num_used_positions(operations) for operations in uses.values()]
        found = self.products_of_column(tape, uses, outputs, column, variables, positions)
        return self.with_diagonals(found, uses, outputs)

    def products_of_column(
        self,
        tape: CurvatureTape,
        uses: Uses,
        outputs: tf.Tensor,
        column: tf.Tensor,
        variables: Sequence[Any],
        positions: Sequence[tf.Tensor | None],
    ) -> list[tf.Tensor]:
        """What one cotangent adds to each G and square, then each variable's gradient here.

        Nothing here waits for other replicas, unless the model does.

        Args:
            tape: As for `curvature_of_column`.
            uses: As for `curvature_of_column`.
            outputs: As for `curvature_of_column`.
            column: As for `curvature_of_column`.
            variables: As for `curvature_of_column`.
            positions: `num_used_positions` of each matrix.
        """
        operations = [operation for ops in uses.values() for operation in ops]
        examples = tf.shape(outputs)[0]
        targets = [operation.output for operation in operations] + list(variables)
        cotangents = tape.cotangents(outputs, column, targets)
        rows = {
            id(operation): operation.cotangent_rows(cotangent)
            for operation, cotangent in zip(operations, cotangents, strict=False)
        }
        factors, squares, correlated = [], [], self.correlated(uses)
        for (matrix, ops), used in zip(uses.items(), positions, strict=True):
            joined = tf.concat([rows[id(op)] for op in ops], axis=1)
            factor = self.sharing_of(matrix).output_factor(
                joined, self.diagonal_output(matrix), used
            )
            # A layer that is called without a batch axis, as on all positions, is called once for
            # all examples. Its cotangents are sums over them, which random signs keep apart.
            share = batch_size(joined) / tf.cast(examples, joined.dtype)
            factors.append(factor * share)
            if matrix in correlated:
                squares.append(square_of_sums(joined) * share)
        return factors + squares + cotangents[len(operations) :]

    def with_diagonals(
        self, found: list[tf.Tensor], uses: Uses, outputs: tf.Tensor
    ) -> list[tf.Tensor]:
        """`products_of_column`, with what the gradients say of diagonals in their place."""
        kept = len(uses) + len(self.correlated(uses))
        gradients = replicas.total(found[kept:])
        return found[:kept] + [squared_gradient(g, outputs) for g in gradients]

    def curvature_of(self, parts: list[tf.Tensor], uses: Uses) -> OutputFactors:
        """Sums over columns, by what they are."""
        first, last = len(uses), len(uses) + len(self.correlated(uses))
        return OutputFactors(parts[:first], parts[last:], parts[first:last])

    def zeros(self, uses: Uses, variables: Sequence[Any]) -> list[tf.Tensor]:
        """Zeros in the shapes of `curvature_of_column`."""
        shapes = [
            (
                *matrix.leading,
                matrix.out_features,
                1 if self.diagonal_output(matrix) else matrix.out_features,
            )
            for matrix in uses
        ]
        correlated = self.correlated(uses)
        shapes += [(*matrix.leading, 1, 1) for matrix in correlated]
        operations = [uses[matrix][0] for matrix in (*uses, *correlated)]
        types = [at_least_float32(operation.output.dtype) for operation in operations]
        return [tf.zeros(s, t) for s, t in zip(shapes, types, strict=True)] + [
            tf.zeros(v.shape, at_least_float32(tf.as_dtype(v.dtype))) for v in variables
        ]


def squared_gradient(gradient: tf.Tensor, outputs: tf.Tensor) -> tf.Tensor:
    """Estimate of the diagonal of the Gauss-Newton matrix from one column, `u^2 / N`.

    With `u = sum_n J_n^T c_n`, where the columns c_n of the examples have mean zero, are
    independent, and have the Hessians as covariances, the expectation of `u u^T / N` is the
    Gauss-Newton matrix itself: no gradient of a single example is needed. The estimator is the
    Gauss-Newton-Bartlett one of Liu et al., "Sophia", ICLR 2024.

    Args:
        gradient: u, summed over the examples of all replicas.
        outputs: Of the examples of this one.
    """
    examples = replicas.count() * tf.cast(tf.shape(outputs)[0], gradient.dtype)
    return tf.square(gradient) / examples


def random_signs(column: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """A column whose examples have independent random signs.

    The second moment of examples does not change, but the columns of the batch get mean zero:
    batch normalisation and `squared_gradient` need that.
    """
    uniform = replicas.uniform_of_examples(tf.shape(column)[:1], seed, column.dtype)
    signs = tf.where(uniform < 0.5, -tf.ones_like(uniform), tf.ones_like(uniform))
    return column * tf.cast(tf.reshape(signs, (-1, *[1] * (column.shape.rank - 1))), column.dtype)
