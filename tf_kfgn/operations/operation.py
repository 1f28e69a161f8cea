"""Operations: what a recording layer leaves on the tape, and how an average goes back through it.

An *average* is a matrix over the features of one tensor, flattened per example: for a tensor of
shape `(batch_size, *features)` it has shape `(d, d)` with `d = prod(features)`. KFRA sends such
averages backwards, one recorded operation at a time. An operation with several inputs is treated
as one with a single input: their flattened features, one after the other.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from tf_kfgn import replicas
from tf_kfgn.numerics.precision import unit_scale
from tf_kfgn.operations.features import flattened, num_features
from tf_kfgn.operations.layout import Layout

MAX_EXACT_WIDTH = 4096


@dataclasses.dataclass(frozen=True)
class Ends:
    """What is positions and what is channels at the ends of an operation.

    Attributes:
        inputs: Layout of each input.
        output: Layout of the output.
    """

    inputs: list[Layout]
    output: Layout

    @property
    def alike(self) -> bool:
        """Whether all ends have the same layout."""
        return all(layout == self.output for layout in self.inputs)


class Operation:
    """One recorded, differentiable, parameter-free operation `inputs -> output`.

    Its rules are exact for any operation that treats examples independently, at the price of two
    vector-Jacobian products for every output. Subclasses know cheaper ones.

    Attributes:
        layer: The layer that ran the operation.
        inputs: Its inputs, each of shape `(batch_size, *features)`.
        output: Its output, shape `(batch_size, *features)`.
        vectorisable: Whether TensorFlow can run its gradient for many cotangents at once.
        depends_on_examples: Whether `pull_back` or `mean_transpose` depends on the examples, so
            that replicas with others find other results.
        crosses_replicas: Whether its output and gradient depend on the examples of other replicas.
    """

    vectorisable: bool = True
    crosses_replicas: bool = False
    depends_on_examples: bool = True

    def __init__(
        self,
        layer: keras.layers.Layer,
        inputs: tf.Tensor | Sequence[tf.Tensor],
        output: tf.Tensor,
        function: Callable[..., tf.Tensor] | None = None,
    ) -> None:
        """Hold the ends of an operation.

        Args:
            layer: The layer that ran it.
            inputs: A tensor or several.
            output: What came out.
            function: Makes the output from the inputs once more. Needed with several inputs,
                whose derivatives must not mix where one was made from another.
        """
        self.layer = layer
        self.inputs: list[tf.Tensor] = (
            list(inputs) if isinstance(inputs, (list, tuple)) else [inputs]
        )
        self.output = output
        self.function = function

    @property
    def input(self) -> tf.Tensor:
        """The first input."""
        return self.inputs[0]

    @property
    def input_widths(self) -> list[int]:
        """Features of one example of each input."""
        return [num_features(tensor) for tensor in self.inputs]

    def pull_back(self, average: tf.Tensor, tape: tf.GradientTape) -> tf.Tensor:
        """Average of `J_n^T G J_n` over the batch.

        Args:
            average: G, over the flattened features of `output`.
            tape: The tape that recorded the operation.

        Returns:
            The average over the flattened features of the inputs.

        Raises:
            ValueError: If the output is too wide for the exact rule.
        """
        width = average.shape[0]
        transposed = self._transposed_jacobian(width, average.dtype, tape)

        def add_column(index: tf.Tensor, total: tf.Tensor) -> list[tf.Tensor]:
            unit = transposed(tf.one_hot(index, width, dtype=average.dtype))
            curved = transposed(average[index])
            return [index + 1, total + tf.matmul(unit, curved, transpose_a=True)]

        features = sum(self.input_widths)
        return self._sum_over_outputs(add_column, width, (features, features), average.dtype)

    def mean_transpose(self, columns: tf.Tensor, tape: tf.GradientTape) -> tf.Tensor:
        """The transposed mean Jacobian times a matrix: `E[J_n]^T C`.

        Args:
            columns: C, with one row for each of the flattened features of `output`.
            tape: The tape that recorded the operation.

        Returns:
            A matrix with one row for each of the flattened features of the inputs.

        Raises:
            ValueError: If the output is too wide for the exact rule.
        """
        width = columns.shape[0]
        transposed = self._transposed_jacobian(width, columns.dtype, tape)

        def add_row(index: tf.Tensor, total: tf.Tensor) -> list[tf.Tensor]:
            unit = transposed(tf.one_hot(index, width, dtype=columns.dtype))
            return [index + 1, total + tf.reduce_sum(unit, axis=0)[:, None] * columns[index]]

        shape = (sum(self.input_widths), columns.shape[1])
        return self._sum_over_outputs(add_row, width, shape, columns.dtype)

    def pull_back_cost(self, batch_size: int) -> float:
        """Multiplications and additions of `pull_back`; what the layer itself computes is left out.

        Args:
            batch_size: Examples in a batch.
        """
        features = sum(self.input_widths)
        return 2.0 * batch_size * num_features(self.output) * features**2

    def pull_back_memory(self) -> int:
        """Numbers that `pull_back` holds at one time besides the average, its result included."""
        return 3 * sum(self.input_widths) ** 2

    def mean_transpose_cost(self, columns: int, batch_size: int) -> float:
        """Multiplications and additions of `mean_transpose`, in the same way.

        Args:
            columns: Columns of the matrix.
            batch_size: Examples in a batch.
        """
        features = sum(self.input_widths)
        return 2.0 * num_features(self.output) * features * (columns + batch_size)

    # The same for averages over channels alone

    def output_layout(self, inputs: Sequence[Layout]) -> Layout:
        """What is positions and what is channels at the output.

        Args:
            inputs: The layout of each input.
        """
        for layout, tensor in zip(inputs, self.inputs, strict=True):
            if tensor.shape[1:] == self.output.shape[1:]:
                return layout
        return Layout.natural(self.output)

    def pull_back_channels(
        self, average: tf.Tensor, ends: Ends, tape: tf.GradientTape
    ) -> tf.Tensor | None:
        """Mean blocks of the average of `J_n^T (I (x) S) J_n`.

        Args:
            average: S, over the channels of `output`.
            ends: The layouts.
            tape: The tape that recorded the operation.

        Returns:
            A matrix over the channels of all inputs, one input after the other; between two
            inputs the mean over aligned pairs of positions. None if there is no rule of its own
            for these layouts.
        """
        del average, ends, tape
        return None

    def mean_transpose_channels(
        self, columns: tf.Tensor, ends: Ends, other: Layout, tape: tf.GradientTape
    ) -> tf.Tensor | None:
        """The transposed mean Jacobian times what the output has with another tensor.

        Args:
            columns: One row for each channel of `output`, one column for each of the other tensor:
                the mean over aligned pairs of positions.
            ends: The layouts.
            other: Layout of the other tensor.
            tape: The tape that recorded the operation.

        Returns:
            The same for the channels of all inputs, or None if there is no rule of its own.
        """
        del columns, ends, other, tape
        return None

    def channels_cost(self, ends: Ends, batch_size: int) -> float:
        """Multiplications and additions of `pull_back_channels`.

        Args:
            ends: The layouts.
            batch_size: Examples in a batch.
        """
        inputs = sum(layout.num_channels for layout in ends.inputs)
        positions = max(layout.num_positions for layout in (*ends.inputs, ends.output))
        return 2.0 * batch_size * positions * (inputs**2 + ends.output.num_channels**2)

    def _sum_over_outputs(
        self, add: Callable[..., Any], width: int, shape: tuple[int, int], dtype: tf.DType
    ) -> tf.Tensor:
        """Batch mean of a sum with one term for each feature of the output."""
        _, total = replicas.repeated(
            lambda index, _: index < width, add, [tf.constant(0), tf.zeros(shape, dtype)]
        )
        return total / tf.cast(tf.shape(self.output)[0], dtype)

    def _transposed_jacobian(
        self, width: int, dtype: tf.DType, tape: tf.GradientTape
    ) -> Callable[[tf.Tensor], tf.Tensor]:
        """The map of a vector over the output to `J_n^T v`, shape `(batch_size, features)`."""
        self._check_width(width)
        inputs, output, tape = self.once_more(tape)

        def transposed(vector: tf.Tensor) -> tf.Tensor:
            products = vector_products(tape, output, inputs, vector)
            return flattened(products, self.input_widths, dtype)

        return transposed

    def _check_width(self, width: int) -> None:
        """Refuse an output that is too wide for the exact rule."""
        if width > MAX_EXACT_WIDTH:
            raise ValueError(
                f"KFRA has no rule of its own for layer {self.layer.name!r} "
                f"({type(self.layer).__name__}), and its {width} outputs per example are more "
                f"than the {MAX_EXACT_WIDTH} that the exact rule takes. Use KFLR or KFAC."
            )

    def once_more(
        self, tape: tf.GradientTape, *, alone: bool = False
    ) -> tuple[list[tf.Tensor], tf.Tensor, tf.GradientTape]:
        """Inputs and output of a pass whose tape holds nothing but this operation.

        With a single input that is the recorded pass itself, if not `alone`: a tape goes back to
        its beginning, whatever it is asked for, which takes long in a deep network. What it finds
        beyond the input is pruned, but a reduction over replicas is not: a pass with one is not
        used either.
        """
        alone = alone or getattr(tape, "crosses_replicas", False)
        if len(self.inputs) == 1 and not (alone and self.function is not None):
            return self.inputs, self.output, tape
        if self.function is None:
            raise ValueError(
                f"The operation of layer {self.layer.name!r} has {len(self.inputs)} inputs and no "
                "`function` that makes its output once more."
            )
        inputs = [tf.identity(tensor) for tensor in self.inputs]
        with tf.GradientTape(persistent=True) as again:
            again.watch(inputs)
            output = self.function(*inputs)
        return inputs, output, again


def vector_products(
    tape: tf.GradientTape, output: tf.Tensor, targets: Sequence[tf.Tensor], vector: tf.Tensor
) -> list[tf.Tensor]:
    """The transposed Jacobian of each example times one vector.

    Args:
        tape: A tape that recorded how the output came about.
        output: Shape `(batch_size, *features)`.
        targets: What it depends on.
        vector: Over the flattened features of the output, the same for every example.

    Returns:
        A tensor for each target, shaped like it, of the vector's type.
    """
    dtype = vector.dtype
    half = output.dtype == tf.float16
    scale = tf.cast(unit_scale([vector]), dtype) if half else tf.ones((), dtype)
    cotangent = tf.broadcast_to(
        tf.reshape(vector * scale, (1, *output.shape[1:])), tf.shape(output)
    )
    products = tape.gradient(
        output,
        list(targets),
        output_gradients=tf.cast(cotangent, output.dtype),
        unconnected_gradients=tf.UnconnectedGradients.ZERO,
    )
    return [tf.cast(product, dtype) / scale for product in products]
