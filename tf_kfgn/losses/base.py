"""What a likelihood is: the curvature of a loss with respect to the outputs of a model.

A likelihood looks at *rows*: the parts of an example that have a weight of their own. Most losses
compare vectors of length D along the last axis of the outputs, one for each of an example's P
positions (P = 1 for outputs of shape `(batch_size, D)`); a loss may also look at all positions of
an example together (P = 1) or at each output by itself (D = 1). A method called `row_*` is
unweighted and per row. Everything else belongs to the *per-example loss*, whose mean over the
batch is the number that Keras reports: weights of any kind are inside it.
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any, ClassVar

import tensorflow as tf

from tf_kfgn.numerics.precision import at_least_float32


class Likelihood(abc.ABC):
    """The curvature of one loss at one output of the model.

    Roots and samples take the square root of the weights: with a negative weight they are NaN,
    while products and means follow its sign.

    Attributes:
        outputs: Where the curvature is taken, in float32 at least: logits, or the predictions of a
            squared error. Has shape `(batch_size, *positions, *features)`.
        recorded: The tensor of the recorded pass that `outputs` are the values of.
        weights: The weight of each row in the per-example loss. Has shape
            `(batch_size, *positions)`: its rank says which axes of the outputs are positions.
        functions: The Keras loss functions of this likelihood.
        head: The TensorFlow operation that turns the natural parameter into what the Keras loss
            takes (probabilities, with `from_logits=False`); None if the loss takes the natural
            parameter itself.
    """

    functions: ClassVar[tuple[Callable[..., Any], ...]] = ()
    head: ClassVar[str | None] = None

    def __init__(self, outputs: tf.Tensor, weights: tf.Tensor) -> None:
        """Hold the outputs and their weights."""
        self.recorded = outputs
        self.outputs = tf.cast(outputs, at_least_float32(outputs.dtype))
        self.weights = tf.cast(weights, self.outputs.dtype)

    @abc.abstractmethod
    def row_root_product(self, vector: tf.Tensor) -> tf.Tensor:
        """S times a vector shaped like `outputs`, where S S^T is the Hessian of a row."""

    @abc.abstractmethod
    def row_product(self, vector: tf.Tensor) -> tf.Tensor:
        """The Hessian of each row times a vector shaped like `outputs`."""

    @abc.abstractmethod
    def row_sample(self, seed: tf.Tensor) -> tf.Tensor:
        """A random cotangent for each row, with the Hessian of the row as its covariance.

        Args:
            seed: Two integers.
        """

    @abc.abstractmethod
    def mean_blocks(self) -> tf.Tensor:
        """Batch mean of the weighted row Hessians, shape `(P, D, D)`."""

    # Derived from these

    @property
    def features(self) -> int:
        """Length D of a row.

        Raises:
            ValueError: If an axis of features has no static length.
        """
        return self._static_size(self.outputs.shape[self.weights.shape.rank :])

    @property
    def positions(self) -> int:
        """Number P of rows of one example.

        Raises:
            ValueError: If an axis of positions has no static length.
        """
        return self._static_size(self.outputs.shape[1 : self.weights.shape.rank])

    @property
    def batch_size(self) -> tf.Tensor:
        """Number of examples, a scalar of the dtype of the outputs."""
        return tf.cast(tf.shape(self.outputs)[0], self.outputs.dtype)

    @property
    def num_columns(self) -> int:
        """Columns of the root S of the per-example Hessian: one for each output of an example."""
        return self.positions * self.features

    def column(self, index: tf.Tensor) -> tf.Tensor:
        """Column `index` of the root of the per-example Hessian, shaped like `outputs`."""
        return self.root_product(tf.one_hot(index, self.num_columns, dtype=self.outputs.dtype))

    def root_product(self, vector: tf.Tensor) -> tf.Tensor:
        """The root S of the per-example Hessian, S S^T, times a vector.

        Args:
            vector: One vector for each example, or one for all: anything that reshapes to
                `(batch_size, *outputs.shape[1:])` or `(1, *outputs.shape[1:])`.

        Returns:
            Tensor shaped like `outputs`, NaN in rows of negative weight.

        Raises:
            ValueError: If an axis of the outputs other than the first has no static length.
        """
        self._static_size(self.outputs.shape[1:])
        vectors = tf.reshape(tf.cast(vector, self.outputs.dtype), (-1, *self.outputs.shape[1:]))
        vectors = tf.broadcast_to(vectors, tf.shape(self.outputs))
        return self.row_root_product(vectors) * self._like_outputs(tf.sqrt(self.weights))

    def sample(self, seed: tf.Tensor) -> tf.Tensor:
        """A random cotangent with the per-example Hessian as its covariance."""
        return self.row_sample(seed) * self._like_outputs(tf.sqrt(self.weights))

    def hessian_product(self, vector: tf.Tensor) -> tf.Tensor:
        """The per-example Hessian times a vector shaped like `outputs`."""
        return self.row_product(vector) * self._like_outputs(self.weights)

    def mean_hessian_product(self, vector: tf.Tensor) -> tf.Tensor:
        """The Hessian of the mean over the batch times a vector shaped like `outputs`."""
        return self.hessian_product(vector) / self.batch_size

    def mean_hessian(self) -> tf.Tensor:
        """Batch mean of the per-example Hessian, shape `(P * D, P * D)`."""
        blocks = self.mean_blocks()
        if self.positions == 1:
            return blocks[0]
        spread = tf.einsum("pq,pij->piqj", tf.eye(self.positions, dtype=blocks.dtype), blocks)
        return tf.reshape(spread, (self.num_columns, self.num_columns))

    def mean_diagonal(self) -> tf.Tensor:
        """Mean over examples and outputs of the Hessian's diagonal, a scalar: the loss's scale."""
        return tf.reduce_mean(tf.linalg.diag_part(self.mean_blocks()))

    def _mean_over_batch(self, rows: tf.Tensor) -> tf.Tensor:
        """Weighted batch mean of a quantity shaped like `outputs`, shape `(P, D)`."""
        mean = tf.reduce_mean(rows * self._like_outputs(self.weights), axis=0)
        return tf.reshape(mean, (self.positions, self.features))

    def _like_outputs(self, rows: tf.Tensor) -> tf.Tensor:
        """A number for each row, with axes of length 1 for the features."""
        for _ in range(self.outputs.shape.rank - rows.shape.rank):
            rows = rows[..., None]
        return rows

    def _static_size(self, axes: tf.TensorShape) -> int:
        size = axes.num_elements()
        if size is None:
            raise ValueError(
                "Curvature needs static feature axes, but the outputs of the model have shape "
                f"{self.outputs.shape}. Fix the shape in keras.Input."
            )
        return int(size)
