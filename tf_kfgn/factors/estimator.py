"""What an estimator of Kronecker factors is: a tape in, a pair of factors for each layer out."""

from __future__ import annotations

import abc
from typing import NamedTuple

import keras
import tensorflow as tf

from tf_kfgn.factors.sharing import weight_sharing
from tf_kfgn.layers.operation import ParametrisedOperation
from tf_kfgn.losses.precision import at_least_float32
from tf_kfgn.tape import CurvatureTape


class KroneckerFactors(NamedTuple):
    """The Kronecker factors of one layer: its Gauss-Newton block is about `np.kron(A, G)`.

    Attributes:
        A: Second moment of the inputs, shape `(in [+ 1], in [+ 1])`, the bias last.
        G: Second moment of the cotangents of the pre-activation, shape `(out, out)`, in the scale
            of the loss that Keras reports.
    """

    A: tf.Tensor
    G: tf.Tensor


class FactorEstimator(abc.ABC):
    """Estimates the factors of every trainable recorded layer.

    Subclasses supply G; A is the same for all. No estimator knows a class of layer: it sees rows
    (`ParametrisedOperation`) and averages (`Operation.pull_back`).
    """

    def __init__(self, approximation: str = "expand") -> None:
        """Choose the approximation for shared weights, `"expand"` or `"reduce"`."""
        self.sharing = weight_sharing(approximation)

    def __call__(
        self, tape: CurvatureTape, seed: tf.Tensor
    ) -> dict[keras.layers.Layer, KroneckerFactors]:
        """Estimate the factors from one recorded pass.

        Args:
            tape: A tape with recorded operations and a watched loss.
            seed: Two integers; only an estimator that samples looks at them.

        Returns:
            The factors of each layer, in the order of the recording.

        Raises:
            ValueError: If nothing was recorded, or no loss was watched.
        """
        uses = uses_of_layers(tape)
        if not uses:
            raise ValueError(
                "The CurvatureTape recorded no layer with weights. Call "
                "tf_kfgn.enable_curvature(model) before the model is called inside the tape."
            )
        output_factors = self.output_factors(tape, uses, seed)
        return {
            layer: KroneckerFactors(self._input_factor(operations), output_factors[layer])
            for layer, operations in uses.items()
        }

    @abc.abstractmethod
    def output_factors(
        self, tape: CurvatureTape, uses: Uses, seed: tf.Tensor
    ) -> dict[keras.layers.Layer, tf.Tensor]:
        """The factor G of each layer."""

    def _input_factor(self, operations: list[ParametrisedOperation]) -> tf.Tensor:
        rows = tf.concat([operation.input_rows() for operation in operations], axis=1)
        return self.sharing.input_factor(tf.cast(rows, at_least_float32(rows.dtype)))


class CotangentEstimator(FactorEstimator):
    """An estimator whose G is a second moment of back-propagated columns."""

    def factors_of_column(
        self, tape: CurvatureTape, uses: Uses, outputs: tf.Tensor, column: tf.Tensor
    ) -> list[tf.Tensor]:
        """The contribution of one cotangent of the outputs to the G of each layer."""
        operations = [operation for ops in uses.values() for operation in ops]
        cotangents = tape.gradient(
            outputs,
            [operation.output for operation in operations],
            output_gradients=column,
            unconnected_gradients=tf.UnconnectedGradients.ZERO,
        )
        rows = {
            id(operation): operation.cotangent_rows(
                tf.cast(cotangent, at_least_float32(cotangent.dtype))
            )
            for operation, cotangent in zip(operations, cotangents, strict=True)
        }
        return [
            self.sharing.output_factor(tf.concat([rows[id(op)] for op in ops], axis=1))
            for ops in uses.values()
        ]


Uses = dict[keras.layers.Layer, list[ParametrisedOperation]]


def uses_of_layers(tape: CurvatureTape) -> Uses:
    """The recorded operations of each trainable layer with weights, in recorded order."""
    uses: Uses = {}
    for operation in tape.operations:
        if isinstance(operation, ParametrisedOperation) and operation.layer.trainable_variables:
            uses.setdefault(operation.layer, []).append(operation)
    return uses
