"""Weight sharing: how the shared positions of one layer enter its Kronecker factors.

Rows have shape `(batch_size, shared, features)`; N is the batch size, T the number of shared
positions. For T = 1 both approximations are the same. Names after Eschenhagen et al.,
"Kronecker-Factored Approximate Curvature for Modern Neural Network Architectures", NeurIPS 2023.
"""

from __future__ import annotations

import abc
from typing import ClassVar

import tensorflow as tf

from tf_kfgn.layers.operation import batch_size


class WeightSharing(abc.ABC):
    """Turns rows, and KFRA's averages, into Kronecker factors.

    Attributes:
        separable: Whether several uses of a layer enter G each on its own.
    """

    separable: ClassVar[bool]

    @abc.abstractmethod
    def input_factor(self, rows: tf.Tensor) -> tf.Tensor:
        """The factor A from input rows, shape `(in_features, in_features)`."""

    @abc.abstractmethod
    def output_factor(self, rows: tf.Tensor) -> tf.Tensor:
        """The factor G from the rows of one cotangent, shape `(out_features, out_features)`."""

    @abc.abstractmethod
    def output_factor_of_average(self, average: tf.Tensor, shared: int) -> tf.Tensor:
        """The factor G from an average of shape `(T * out_features, T * out_features)`."""


class Expand(WeightSharing):
    """Every position counts as an example: exact for a loss on each position of a linear layer."""

    separable = True

    def input_factor(self, rows: tf.Tensor) -> tf.Tensor:
        """See `WeightSharing.input_factor`: `1/N sum_n sum_t a a^T`."""
        flat = tf.reshape(rows, (-1, rows.shape[-1]))
        return tf.matmul(flat, flat, transpose_a=True) / batch_size(rows)

    def output_factor(self, rows: tf.Tensor) -> tf.Tensor:
        """See `WeightSharing.output_factor`: `1/(N T) sum_n sum_t g g^T`."""
        flat = tf.reshape(rows, (-1, rows.shape[-1]))
        return tf.matmul(flat, flat, transpose_a=True) / batch_size(flat)

    def output_factor_of_average(self, average: tf.Tensor, shared: int) -> tf.Tensor:
        """See `WeightSharing.output_factor_of_average`: the mean of the diagonal blocks."""
        pairs = _position_pairs(average, shared)
        return tf.einsum("sisj->ij", pairs) / tf.cast(shared, average.dtype)


class Reduce(WeightSharing):
    """Inputs are averaged and cotangents summed: exact for a layer before a global average."""

    separable = False

    def input_factor(self, rows: tf.Tensor) -> tf.Tensor:
        """See `WeightSharing.input_factor`, after averaging a over t."""
        mean = tf.reduce_mean(rows, axis=1)
        return tf.matmul(mean, mean, transpose_a=True) / batch_size(rows)

    def output_factor(self, rows: tf.Tensor) -> tf.Tensor:
        """See `WeightSharing.output_factor`, after summing g over t."""
        total = tf.reduce_sum(rows, axis=1)
        return tf.matmul(total, total, transpose_a=True) / batch_size(rows)

    def output_factor_of_average(self, average: tf.Tensor, shared: int) -> tf.Tensor:
        """See `WeightSharing.output_factor_of_average`: the sum of all blocks."""
        return tf.einsum("sitj->ij", _position_pairs(average, shared))


_APPROXIMATIONS: dict[str, WeightSharing] = {"expand": Expand(), "reduce": Reduce()}


def weight_sharing(approximation: str) -> WeightSharing:
    """The approximation of that name.

    Raises:
        ValueError: If the name is not `"expand"` or `"reduce"`.
    """
    if approximation not in _APPROXIMATIONS:
        raise ValueError(
            f"`approximation` must be one of {sorted(_APPROXIMATIONS)}, received {approximation!r}."
        )
    return _APPROXIMATIONS[approximation]


def _position_pairs(average: tf.Tensor, shared: int) -> tf.Tensor:
    features = average.shape[0] // shared
    return tf.reshape(average, (shared, features, shared, features))
