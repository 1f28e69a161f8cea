"""Operations with a weight matrix: their ends as rows `[batch, shared, features]`."""

from __future__ import annotations

import abc
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import keras
import tensorflow as tf
from typing_extensions import override

from tf_kfgn.operations.layout import Layout
from tf_kfgn.operations.linear import LinearOperation
from tf_kfgn.operations.marks import mark_of
from tf_kfgn.operations.operation import Ends
from tf_kfgn.operations.taps import Taps
from tf_kfgn.operations.weight_matrix import WeightMatrix


class ParametrisedOperation(LinearOperation, abc.ABC):
    """An operation with a weight matrix: `output = [input, 1] W` for each shared position.

    Estimators see its two ends as *rows* of shape `(batch_size, shared, features)`, where
    `shared` counts the places of one example that use the same weights. With a grouped matrix
    (a convolution whose groups of channels do not meet) rows have shape
    `(batch_size, shared, groups, features)`.

    Attributes:
        kernel: The variable of the kernel.
        bias: The variable of the bias, or None.
        matrix: The matrix that both belong to.
        rows_in_order: Whether the flattened features of `output` are its rows, one after the other.
        used: 1 for each position that meets the weights, 0 for one that a mask skips, floats of
            shape `(batch_size, shared)`; None if all do.
    """

    def __init__(
        self,
        layer: keras.layers.Layer,
        inputs: Any,
        output: tf.Tensor,
        function: Callable[..., tf.Tensor],
        kernel: Any,
        bias: Any = None,
    ) -> None:
        """Hold the ends, as `Operation` does, and the variables, which must be marked."""
        super().__init__(layer, inputs, output, function)
        self.kernel = kernel
        self.bias = bias
        mark = mark_of(kernel)
        assert mark is not None
        assert mark.matrix is not None
        self.matrix: WeightMatrix = mark.matrix

    rows_in_order: ClassVar[bool] = False
    used: tf.Tensor | None = None

    @property
    def trainable(self) -> bool:
        """Whether the kernel is trained, so that the matrix has a block."""
        return bool(self.kernel.trainable)

    @property
    def bias_trainable(self) -> bool:
        """Whether there is a bias, and it is trained."""
        return self.bias is not None and bool(self.bias.trainable)

    @property
    def out_features(self) -> int:
        """Columns of the weight matrix (of one group)."""
        return self.matrix.out_features

    @property
    @abc.abstractmethod
    def shared(self) -> int:
        """Number of shared positions."""

    def of_examples(self, number: int | None) -> ParametrisedOperation:
        """This operation, seen as one of a batch of so many examples (None: any number)."""
        del number
        return self

    @property
    def has_positions(self) -> bool:
        """Whether there may be more than one of them."""
        columns = (self.matrix.groups or 1) * self.out_features
        return bool(self.output.shape[1:].num_elements() != columns)

    def num_positions(self) -> int | tf.Tensor:
        """Number of shared positions; a tensor for sequences of any length."""
        columns = (self.matrix.groups or 1) * self.out_features
        features = self.output.shape[1:].num_elements()
        if features is None:
            features = tf.reduce_prod(tf.shape(self.output)[1:])
        return features // columns

    @abc.abstractmethod
    def kernel_rows(self) -> tf.Tensor:
        """Inputs as the kernel meets them, `(batch_size, shared, [groups,] in_features)`."""

    @abc.abstractmethod
    def cotangent_rows(self, cotangent: tf.Tensor) -> tf.Tensor:
        """A cotangent of `output` as `(batch_size, shared, [groups,] out_features)`."""

    @property
    @override
    def row_cost(self) -> float:
        matrix = self.matrix
        return 2.0 * self.shared * (matrix.groups or 1) * matrix.in_features * matrix.out_features

    def input_rows(self) -> tf.Tensor:
        """The rows of the kernel, with a last 1 if a bias is trained besides it."""
        rows = self.kernel_rows()
        if not self.bias_trainable:
            return rows
        return tf.concat([rows, tf.ones_like(rows[..., :1])], axis=-1)

    def input_products(self, dtype: tf.DType) -> tf.Tensor | None:
        """The sum of the outer products of all `input_rows`, if there is a cheaper way to it.

        Args:
            dtype: In which it is computed.
        """
        del dtype
        return None

    @property
    def equal_products(self) -> int:
        """How many products of features are equal, of which `input_products` computes one."""
        return 1

    def input_sums(self, dtype: tf.DType) -> tf.Tensor:
        """`input_rows`, summed over the used positions: `(batch_size, [groups,] features)`.

        Args:
            dtype: In which it is computed.
        """
        rows = tf.cast(self.input_rows(), dtype)
        if self.used is None:
            return tf.reduce_sum(rows, axis=1)
        return tf.einsum("nt,nt...->n...", tf.cast(self.used, dtype), rows)

    def used_or_ones(self) -> tf.Tensor:
        """Which positions are used, as numbers in any case."""
        if self.used is not None:
            return self.used
        return tf.ones(tf.shape(self.kernel_rows())[:2], self.output.dtype)

    def row_average(self, average: tf.Tensor, other: ParametrisedOperation) -> tf.Tensor:
        """An average over this output's features and another's, in the order of their rows.

        Args:
            average: Over the flattened features of `output` and of `other.output`.
            other: This operation, or another one with the same matrix.

        Returns:
            Shape `(shared, [groups,] out_features, shared, [groups,] out_features)`.
        """
        if self.rows_in_order:
            rows = (*self.matrix.leading, self.out_features)
            return tf.reshape(average, (self.shared, *rows, other.shared, *rows))
        columns = other.cotangent_rows(tf.reshape(average, (-1, *other.output.shape[1:])))
        turned = tf.transpose(tf.reshape(columns, (average.shape[0], -1)))
        sorted_rows = self.cotangent_rows(tf.reshape(turned, (-1, *self.output.shape[1:])))
        pairs = tf.transpose(tf.reshape(sorted_rows, (average.shape[1], -1)))
        return tf.reshape(pairs, (*sorted_rows.shape[1:], *columns.shape[1:]))

    # Averages over channels alone

    def position_axes(self) -> tuple[int, ...]:
        """The axes of the output, the batch not counted, that are shared positions."""
        return tuple(range(self.output.shape.rank - 2))

    def taps(self, ends: Ends) -> Taps | None:
        """The kernel as a sum over taps, or None if the layouts do not fit."""
        del ends
        return None

    def row_channels(self, average: tf.Tensor) -> tf.Tensor:
        """Channels of the output in the order of `cotangent_rows`, along the first axis."""
        return average

    @override
    def output_layout(self, inputs: Sequence[Layout]) -> Layout:
        del inputs
        return Layout.of_axes(self.output, self.position_axes())

    @override
    def pull_back_channels(
        self, average: tf.Tensor, ends: Ends, tape: tf.GradientTape
    ) -> tf.Tensor | None:
        """The sum over taps of `K S K^T`, weighted by how many positions each tap meets."""
        taps = self.taps(ends)
        return None if taps is None else taps.pull_back(average)

    @override
    def mean_transpose_channels(
        self, columns: tf.Tensor, ends: Ends, other: Layout, tape: tf.GradientTape
    ) -> tf.Tensor | None:
        """The sum over taps of K, weighted by the aligned positions each tap meets."""
        taps = self.taps(ends)
        return None if taps is None else taps.mean_transpose(columns, other)

    @override
    def channels_cost(self, ends: Ends, batch_size: int) -> float:
        del batch_size
        if not ends.inputs:
            return 0.0
        groups, columns = self.matrix.groups or 1, self.out_features
        rows = ends.inputs[0].num_channels // groups
        return 2.0 * groups**2 * self.matrix.in_features * columns * (rows + columns)


class OneHotOperation(ParametrisedOperation):
    """An operation whose input rows each hold a single 1, so that its A counts tokens."""

    @abc.abstractmethod
    def tokens(self) -> tf.Tensor:
        """The place of the 1 in each row, integers of shape `(batch_size, shared)`."""

    @property
    @override
    def row_cost(self) -> float:
        """A row is looked up."""
        return 2.0 * self.shared * self.matrix.out_features

    @override
    def kernel_rows(self) -> tf.Tensor:
        """Estimators do without them."""
        return tf.one_hot(self.tokens(), self.matrix.in_features, dtype=self.output.dtype)
