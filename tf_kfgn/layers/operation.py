"""Operations: what a recording layer leaves on the tape, and how an average goes back through it.

An *average* is a matrix over the features of one tensor, flattened per example: for a tensor of
shape `(batch_size, *features)` it has shape `(d, d)` with `d = prod(features)`. KFRA sends such
averages backwards, one recorded operation at a time.
"""

from __future__ import annotations

import abc

import keras
import tensorflow as tf

MAX_EXACT_WIDTH = 4096


class Operation:
    """One recorded, differentiable, parameter-free operation `input -> output`.

    Its `pull_back` is exact for any operation that treats examples independently, at the price
    of two vector-Jacobian products for every output. Subclasses know cheaper rules.

    Attributes:
        layer: The layer that ran the operation.
        input: Its input, shape `(batch_size, *features)`.
        output: Its output, shape `(batch_size, *features)`.
    """

    def __init__(self, layer: keras.layers.Layer, input: tf.Tensor, output: tf.Tensor) -> None:
        """Hold the two ends."""
        self.layer = layer
        self.input = input
        self.output = output

    def pull_back(self, average: tf.Tensor, tape: tf.GradientTape) -> tf.Tensor:
        """Average of `J_n^T G J_n` over the batch.

        Args:
            average: G, over the flattened features of `output`.
            tape: The tape that recorded the operation.

        Returns:
            The average over the flattened features of `input`.

        Raises:
            ValueError: If the output is too wide for the exact rule.
        """
        width = average.shape[0]
        if width > MAX_EXACT_WIDTH:
            raise ValueError(
                f"KFRA has no rule of its own for layer {self.layer.name!r} "
                f"({type(self.layer).__name__}), and its {width} outputs per example are more "
                f"than the {MAX_EXACT_WIDTH} that the exact rule takes. Use KFLR or KFAC."
            )
        features = num_features(self.input)

        def transposed(vector: tf.Tensor) -> tf.Tensor:
            cotangent = tf.broadcast_to(
                tf.reshape(vector, (1, *self.output.shape[1:])), tf.shape(self.output)
            )
            product = tape.gradient(
                self.output, self.input, output_gradients=tf.cast(cotangent, self.output.dtype)
            )
            return tf.cast(tf.reshape(product, (-1, features)), average.dtype)

        def add_column(index: tf.Tensor, total: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            unit = transposed(tf.one_hot(index, width, dtype=average.dtype))
            curved = transposed(average[:, index])
            return index + 1, total + tf.matmul(unit, curved, transpose_a=True)

        _, total = tf.while_loop(
            lambda index, _: index < width,
            add_column,
            (tf.constant(0), tf.zeros((features, features), average.dtype)),
            parallel_iterations=1,
        )
        return total / tf.cast(tf.shape(self.input)[0], total.dtype)


class ElementwiseOperation(Operation):
    """An operation whose every output depends on the input of the same place alone."""

    def derivative(self, tape: tf.GradientTape) -> tf.Tensor:
        """The derivative of each output, shaped like `output`."""
        return tape.gradient(self.output, self.input)

    def pull_back(self, average: tf.Tensor, tape: tf.GradientTape) -> tf.Tensor:
        """See `Operation.pull_back`: the average times, elementwise, `E[f' f'^T]`."""
        slopes = tf.reshape(self.derivative(tape), (-1, num_features(self.output)))
        return average * second_moment(tf.cast(slopes, average.dtype))


class ReshapingOperation(Operation):
    """An operation that keeps every feature and the order of the flattened features."""

    def pull_back(self, average: tf.Tensor, tape: tf.GradientTape) -> tf.Tensor:
        """See `Operation.pull_back`: nothing changes."""
        del tape
        return average


class ParametrisedOperation(Operation, abc.ABC):
    """An operation with a weight matrix: `output = [input, 1] W` for each shared position.

    Estimators see its two ends as *rows* of shape `(batch_size, shared, features)`, where
    `shared` counts the places of one example that use the same weights.
    """

    @property
    @abc.abstractmethod
    def shared(self) -> int:
        """Number of shared positions."""

    @property
    @abc.abstractmethod
    def out_features(self) -> int:
        """Columns of the weight matrix."""

    @abc.abstractmethod
    def input_rows(self) -> tf.Tensor:
        """Inputs, with a last 1 if there is a bias; `(batch_size, shared, in_features [+ 1])`."""

    @abc.abstractmethod
    def cotangent_rows(self, cotangent: tf.Tensor) -> tf.Tensor:
        """A cotangent of `output` as `(batch_size, shared, out_features)`."""


def num_features(tensor: tf.Tensor) -> int:
    """Features of one example.

    Raises:
        ValueError: If a feature axis has no static length.
    """
    features = tensor.shape[1:].num_elements()
    if features is None:
        raise ValueError(
            f"Curvature needs static feature axes, but a recorded tensor has shape {tensor.shape}. "
            "Fix the shape in keras.Input."
        )
    return features


def batch_size(tensor: tf.Tensor) -> tf.Tensor:
    """Number of examples, as a scalar of the tensor's own dtype."""
    return tf.cast(tf.shape(tensor)[0], tensor.dtype)


def second_moment(rows: tf.Tensor) -> tf.Tensor:
    """Mean outer product `X^T X / N` of a matrix of N rows."""
    return tf.matmul(rows, rows, transpose_a=True) / batch_size(rows)


class Recording:
    """Marks a layer class that records itself; see `tf_kfgn.layers`."""

    @classmethod
    def stock_class(cls) -> type[keras.layers.Layer]:
        """The Keras class that this class stands for."""
        position = cls.__mro__.index(Recording)
        return next(
            base for base in cls.__mro__[position + 1 :] if issubclass(base, keras.layers.Layer)
        )
