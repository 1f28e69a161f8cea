"""Operations that repeat a step over a sequence, with weight matrices inside the step.

A matrix inside a loop has no pre-activation that a tape could see. Zeros are added to it, one row
for each step, and stand for it: the cotangent of the zeros is that of the pre-activation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf
from typing_extensions import override

from tf_kfgn import replicas
from tf_kfgn.operations.operation import Operation, vector_products
from tf_kfgn.operations.parametrised import ParametrisedOperation

# The rows of two cotangents to the factor G that they have together.
RowPairs = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]


class StepOperation(ParametrisedOperation):
    """A weight matrix inside the step of a loop; its shared positions are the steps.

    Its `output` are the zeros beside its pre-activation, `(batch_size, steps, columns)`. It has no
    inputs that could be differentiated for: the loop has them.
    """

    def __init__(
        self,
        layer: Any,
        rows: tf.Tensor,
        zeros: tf.Tensor,
        kernel: Any,
        bias: Any = None,
        used: tf.Tensor | None = None,
    ) -> None:
        """Hold the rows that the matrix meets.

        Args:
            layer: The layer that runs the loop.
            rows: What the kernel meets, `(batch_size, steps, [groups,] in_features)`.
            zeros: What is added to the pre-activation of each step.
            kernel: The variable of the kernel.
            bias: The variable of the bias, or None.
            used: Which steps count, see `ParametrisedOperation.used`.
        """
        super().__init__(layer, [], zeros, tf.zeros_like, kernel=kernel, bias=bias)
        self._rows = rows
        self.used = used

    @property
    @override
    def shared(self) -> int:
        steps = self.output.shape[1]
        if steps is None:
            raise ValueError(
                f"Layer {self.layer.name!r} was called with sequences of unknown length. Fix "
                "their length in keras.Input for this estimator or table."
            )
        return int(steps)

    @override
    def kernel_rows(self) -> tf.Tensor:
        return self._rows

    @override
    def cotangent_rows(self, cotangent: tf.Tensor) -> tf.Tensor:
        columns = (*self.matrix.leading, self.out_features)
        if self.matrix.groups is not None:
            cotangent = tf.reshape(cotangent, [*tf.unstack(tf.shape(cotangent)[:2]), *columns])
        # The gradient of a loop over arrays does not know its shape.
        return tf.ensure_shape(cotangent, (None, self.output.shape[1], *columns))


class LoopOperation(Operation):
    """All steps of a loop as one operation of the whole sequence; or all of a layer of layers.

    Its averages are exact: the Jacobian of the whole loop on both sides, and only then the mean
    over the batch.

    Attributes:
        within: The weight matrices inside.
    """

    vectorisable = False

    def __init__(self, *args: Any, within: Sequence[ParametrisedOperation], **kwargs: Any) -> None:
        """Hold the ends as `Operation` does, and the matrices inside."""
        super().__init__(*args, **kwargs)
        self.within = list(within)

    def output_factors(
        self,
        average: tf.Tensor,
        tape: tf.GradientTape,
        groups: Sequence[Sequence[ParametrisedOperation]],
        pairs: Sequence[RowPairs],
        zeros: Sequence[tf.Tensor],
    ) -> list[tf.Tensor]:
        """What the average at the output gives to the factor G of matrices inside.

        Needs two vector-Jacobian products for each output, and no average over all steps.

        Args:
            average: Over the flattened features of `output`.
            tape: The tape that recorded the loop.
            groups: The uses of some matrices inside, for each matrix all of them.
            pairs: For each matrix, the factor that the rows of two cotangents have together.
            zeros: For each matrix, a factor to start from.

        Returns:
            For each matrix, the sum of its factors over the outputs.

        Raises:
            ValueError: If the output is too wide for the exact rule.
        """
        width = average.shape[0]
        self._check_width(width)

        def rows(vector: tf.Tensor) -> list[tf.Tensor]:
            uses = [use for group in groups for use in group]
            products = iter(vector_products(tape, self.output, [u.output for u in uses], vector))
            return [
                tf.concat([use.cotangent_rows(next(products)) for use in group], axis=1)
                for group in groups
            ]

        def add(index: tf.Tensor, *totals: tf.Tensor) -> list[tf.Tensor]:
            units = rows(tf.one_hot(index, width, dtype=average.dtype))
            ends = zip(pairs, units, rows(average[index]), strict=True)
            added = [pair(unit, curved) for pair, unit, curved in ends]
            return [index + 1, *(old + new for old, new in zip(totals, added, strict=True))]

        _, *totals = replicas.repeated(
            lambda index, *_: index < width, add, [tf.constant(0), *zeros]
        )
        return totals
