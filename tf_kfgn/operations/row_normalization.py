"""KFRA's rule for the normalisation of rows of one example's features."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from typing_extensions import override

from tf_kfgn.operations.features import flattened
from tf_kfgn.operations.layout import Layout
from tf_kfgn.operations.operation import Ends, Operation


class RowNormalization(Operation):
    """Normalisation of each row `x` of an example, with D entries: `γ s (x - m)`.

    With `x̂ = s (x - m)` and P the projection that subtracts the mean, the Jacobian of a row is
    `s γ (P - x̂ x̂^T / D)`. Without the mean, as in RMS normalisation, P is the identity. Rows do
    not meet, so a pair of them takes a few matrix products instead of one for each output.
    """

    def __init__(
        self,
        layer: keras.layers.Layer,
        inputs: tf.Tensor,
        output: tf.Tensor,
        places: np.ndarray,
        *,
        gamma: Any = None,
        centred: bool = True,
        eps: float = 0.0,
        smallest: float = 0.0,
    ) -> None:
        """Hold the ends and what the layer computes with.

        Args:
            layer: The layer.
            inputs: Its input.
            output: Its output.
            places: The flattened features of each row, `(rows, D)`; every feature once.
            gamma: The scale, which broadcasts to `(rows, D)`; None for 1.
            centred: Whether the mean of the row is subtracted.
            eps: What is added to the mean square before `s` is its inverse root.
            smallest: Lower bound of the root mean square.
        """
        super().__init__(layer, inputs, output)
        self._places, self._gamma, self._centred = places, gamma, centred
        self._eps, self._smallest = eps, smallest

    @override
    def pull_back(self, average: tf.Tensor, tape: tf.GradientTape) -> tf.Tensor:
        del tape
        x, s = self._rows(average.dtype)
        P, D = self._places.shape
        scaled = x * s[..., None]
        scales = tf.matmul(s, s, transpose_a=True)
        projected = self._projected(tf.transpose(self._projected(average)))
        projected = tf.reshape(projected, (P, D, P, D))

        def half(row: tf.Tensor) -> tf.Tensor:
            """What the blocks of one row with all rows add to the sum and to its transpose."""
            met = tf.matmul(x[:, row], tf.reshape(projected[row], (D, P * D))) / D
            met = tf.reshape(met, (-1, P, D))
            twice = tf.reduce_sum(met * x, axis=-1, keepdims=True) / D
            with_own = twice * scaled / 2 - met * s[..., None]
            outer = tf.matmul(scaled[:, row], tf.reshape(with_own, (-1, P * D)), transpose_a=True)
            return tf.reshape(projected[row] * scales[row][:, None] / 2, (D, P * D)) + outer

        halves = tf.map_fn(
            half, tf.range(P), fn_output_signature=average.dtype, parallel_iterations=1
        )
        halves = tf.reshape(halves, average.shape) / tf.cast(tf.shape(x)[0], average.dtype)
        return self._in_place(tf.transpose(self._in_place(halves + tf.transpose(halves))))

    @override
    def mean_transpose(self, columns: tf.Tensor, tape: tf.GradientTape) -> tf.Tensor:
        del tape
        x, s = self._rows(columns.dtype)
        P, D = self._places.shape
        count = tf.cast(tf.shape(x)[0], columns.dtype)
        blocks = tf.reshape(self._projected(columns), (P, D, -1))
        outer = tf.einsum("np,npi,npj->pij", s, x, x) / D
        moved = tf.reduce_sum(s, axis=0)[:, None, None] * blocks - tf.matmul(outer, blocks)
        return self._in_place(tf.reshape(moved, (P * D, -1)) / count)

    @override
    def pull_back_cost(self, batch_size: int) -> float:
        return 4.0 * batch_size * self._places.size**2

    @override
    def mean_transpose_cost(self, columns: int, batch_size: int) -> float:
        return 2.0 * self._places.size * self._places.shape[1] * (columns + batch_size)

    @override
    def pull_back_channels(
        self, average: tf.Tensor, ends: Ends, tape: tf.GradientTape
    ) -> tf.Tensor | None:
        """The mean over examples and positions of `J^T S J`, if each row is one position."""
        del tape
        if not self._rows_are_positions(ends):
            return None
        x, s = self._rows(average.dtype)
        D = x.shape[-1]
        x, s = tf.reshape(x, (-1, D)), tf.reshape(s, (-1, 1))
        count = tf.cast(tf.shape(x)[0], average.dtype)
        core = self._scaled_core(self._scaled_core(average))
        met = tf.matmul(x, core)
        scaled = x * tf.square(s)
        quadratic = tf.reduce_sum(met * x, axis=-1, keepdims=True) / D
        half = tf.matmul(scaled, quadratic * x / 2 - met, transpose_a=True) / (D * count)
        return core * tf.reduce_mean(tf.square(s)) + half + tf.transpose(half)

    @override
    def mean_transpose_channels(
        self, columns: tf.Tensor, ends: Ends, other: Layout, tape: tf.GradientTape
    ) -> tf.Tensor | None:
        """The mean of `J^T`, if each row is one position."""
        del other, tape
        if not self._rows_are_positions(ends):
            return None
        x, s = self._rows(columns.dtype)
        D = x.shape[-1]
        x, s = tf.reshape(x, (-1, D)), tf.reshape(s, (-1, 1))
        count = tf.cast(tf.shape(x)[0], columns.dtype)
        core = self._scaled_core(tf.transpose(columns))
        outer = tf.matmul(x * s, x, transpose_a=True) / (D * count)
        return core * tf.reduce_mean(s) - tf.matmul(outer, core)

    def _rows_are_positions(self, ends: Ends) -> bool:
        """Whether a row holds the channels of one position, and all have the same scale."""
        layout = ends.output
        if not ends.alike or self._places.shape != (layout.num_positions, layout.num_channels):
            return False
        if self._gamma is not None and np.prod(self._gamma.shape) > layout.num_channels:
            return False
        features = np.arange(self._places.size).reshape(layout.shape)
        order = np.transpose(features, layout.positions + layout.channels)
        return bool(np.all(self._places == order.reshape(self._places.shape)))

    def _scaled_core(self, matrix: tf.Tensor) -> tf.Tensor:
        """`P γ` times each row of a matrix, transposed."""
        if self._gamma is not None:
            matrix *= tf.cast(tf.convert_to_tensor(self._gamma), matrix.dtype)
        if self._centred:
            matrix -= tf.reduce_mean(matrix, axis=-1, keepdims=True)
        return tf.transpose(matrix)

    def _rows(self, dtype: tf.DType) -> tuple[tf.Tensor, tf.Tensor]:
        """`x̂` of shape `(batch_size, rows, D)`, and `s` of shape `(batch_size, rows)`."""
        rows = tf.gather(flattened(self.inputs, self.input_widths, dtype), self._places, axis=1)
        if self._centred:
            rows -= tf.reduce_mean(rows, axis=-1, keepdims=True)
        square = tf.reduce_mean(tf.square(rows), axis=-1) + tf.constant(self._eps, dtype)
        s = tf.math.rsqrt(tf.maximum(square, tf.constant(self._smallest**2, dtype)))
        return rows * s[..., None], s

    def _projected(self, matrix: tf.Tensor) -> tf.Tensor:
        """`P γ` times each row's part of a matrix; sorts its rows."""
        P, D = self._places.shape
        blocks = tf.gather(matrix, self._places)
        if self._gamma is not None:
            gamma = tf.cast(tf.convert_to_tensor(self._gamma), matrix.dtype)
            blocks *= tf.broadcast_to(gamma, (P, D))[..., None]
        if self._centred:
            blocks -= tf.reduce_mean(blocks, axis=1, keepdims=True)
        return tf.reshape(blocks, tf.shape(matrix))

    def _in_place(self, matrix: tf.Tensor) -> tf.Tensor:
        """Undo the sorting of a matrix's rows."""
        return tf.gather(matrix, np.argsort(self._places.ravel()))
