"""Operations that are affine in their inputs, in the same way for every example."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf
from typing_extensions import override

from tf_kfgn.operations.features import flattened, num_features
from tf_kfgn.operations.layout import Layout
from tf_kfgn.operations.operation import Ends, Operation


class LinearOperation(Operation):
    """An operation that is affine in its inputs, in the same way for every example.

    `function` must work for any number of examples and any floating type. Its transpose comes
    from one vector-Jacobian product, in which the rows of a matrix stand for examples.
    """

    depends_on_examples = False

    def transpose(self, rows: tf.Tensor) -> tf.Tensor:
        """`J^T` times each row: `(k, output features)` in, `(k, input features)` out."""
        assert self.function is not None
        count = tf.shape(rows)[0]
        inputs = [tf.zeros((count, *tensor.shape[1:]), rows.dtype) for tensor in self.inputs]
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            output = self.function(*inputs)
        products = tape.gradient(
            output,
            inputs,
            output_gradients=tf.reshape(rows, tf.shape(output)),
            unconnected_gradients=tf.UnconnectedGradients.ZERO,
        )
        flat = flattened(products, self.input_widths, rows.dtype)
        return tf.ensure_shape(flat, (rows.shape[0], sum(self.input_widths)))

    @override
    def pull_back(self, average: tf.Tensor, tape: tf.GradientTape) -> tf.Tensor:
        """The transpose on both sides."""
        del tape
        return self.transpose(tf.transpose(self.transpose(average)))

    @override
    def mean_transpose(self, columns: tf.Tensor, tape: tf.GradientTape) -> tf.Tensor:
        """The transpose."""
        del tape
        return tf.transpose(self.transpose(tf.transpose(columns)))

    @property
    def row_cost(self) -> float:
        """Multiplications and additions of `transpose` for one row."""
        return 2.0 * (sum(self.input_widths) + num_features(self.output))

    @override
    def pull_back_cost(self, batch_size: int) -> float:
        del batch_size
        return (sum(self.input_widths) + num_features(self.output)) * self.row_cost

    @override
    def pull_back_memory(self) -> int:
        """The result, and what the first transpose gives, twice."""
        features = sum(self.input_widths)
        return features**2 + 2 * features * num_features(self.output)

    @override
    def mean_transpose_cost(self, columns: int, batch_size: int) -> float:
        del batch_size
        return columns * self.row_cost


class ReshapingOperation(Operation):
    """An operation that keeps every feature and the order of the flattened features."""

    depends_on_examples = False

    @override
    def pull_back(self, average: tf.Tensor, tape: tf.GradientTape) -> tf.Tensor:
        """Nothing changes."""
        del tape
        return average

    @override
    def mean_transpose(self, columns: tf.Tensor, tape: tf.GradientTape) -> tf.Tensor:
        """Nothing changes."""
        del tape
        return columns

    @override
    def pull_back_cost(self, batch_size: int) -> float:
        return 0.0

    @override
    def pull_back_memory(self) -> int:
        return 0

    @override
    def mean_transpose_cost(self, columns: int, batch_size: int) -> float:
        return 0.0

    @override
    def output_layout(self, inputs: Sequence[Layout]) -> Layout:
        """Positions stay positions, if only in the layout."""
        natural, [before] = Layout.natural(self.output), inputs
        split = (natural.num_positions, natural.num_channels)
        if before.in_order and split == (before.num_positions, before.num_channels):
            return natural
        return before

    @override
    def pull_back_channels(
        self, average: tf.Tensor, ends: Ends, tape: tf.GradientTape
    ) -> tf.Tensor | None:
        """Nothing changes."""
        del tape
        return average if self._keeps(ends) else None

    @override
    def mean_transpose_channels(
        self, columns: tf.Tensor, ends: Ends, other: Layout, tape: tf.GradientTape
    ) -> tf.Tensor | None:
        """Nothing changes."""
        del tape
        return columns if self._keeps(ends) else None

    @staticmethod
    def _keeps(ends: Ends) -> bool:
        [before], behind = ends.inputs, ends.output
        in_order = before.in_order and behind.in_order
        return before == behind or (in_order and before.num_channels == behind.num_channels)

    @override
    def channels_cost(self, ends: Ends, batch_size: int) -> float:
        return 0.0
