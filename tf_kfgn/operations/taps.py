"""Kernels as sums over taps, and how averages over channels alone go back through them."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from tf_kfgn.operations.axis_maps import AxisMaps
from tf_kfgn.operations.layout import Layout


class Taps:
    """A kernel of which each tap maps the channels of one position to those of another.

    Attributes:
        kernel: Shape `(taps, groups, in, out)`; channels are ordered by groups.
        maps: Which positions each tap joins; None if each tap is one position of the input, and
            the output has a single one.
    """

    def __init__(self, kernel: tf.Tensor, maps: AxisMaps | None) -> None:
        """Hold both."""
        self.kernel = kernel
        self.maps = maps

    def pull_back(self, average: tf.Tensor) -> tf.Tensor:
        """The weighted sum over taps of `K S K^T`."""
        kernel = self._weighted(self._own_weights(), average.dtype, root=True)
        taps, groups, rows, columns = kernel.shape
        if groups == 1:
            met = tf.matmul(kernel[:, 0], average)
            left, right = (
                tf.reshape(tf.transpose(x, (1, 0, 2)), (rows, taps * columns))
                for x in (met, kernel[:, 0])
            )
            return tf.matmul(left, right, transpose_b=True)
        blocks = tf.reshape(average, (groups, columns, groups, columns))
        if rows == columns == 1:
            flat = kernel[:, :, 0, 0]
            return average * tf.matmul(flat, flat, transpose_a=True)
        found = tf.einsum("tgio,gohq,thjq->gihj", kernel, blocks, kernel)
        return tf.reshape(found, (groups * rows, groups * rows))

    def mean_transpose(self, columns: tf.Tensor, other: Layout) -> tf.Tensor | None:
        """The weighted sum over taps of K, times columns."""
        taps = self.kernel.shape[0]
        weights = np.full(taps, 1 / taps) if self.maps is None else self.maps.cross_weights(other)
        if weights is None:
            return None
        mean = tf.reduce_sum(self._weighted(weights, columns.dtype, root=False), axis=0)
        groups, _, out = mean.shape
        met = tf.matmul(mean, tf.reshape(columns, (groups, out, -1)))
        return tf.reshape(met, (-1, columns.shape[1]))

    def _own_weights(self) -> np.ndarray:
        taps = self.kernel.shape[0]
        return np.full(taps, 1 / taps) if self.maps is None else self.maps.own_weights()

    def _weighted(self, weights: np.ndarray, dtype: tf.DType, *, root: bool) -> tf.Tensor:
        """The kernel times a weight for each tap, or its root, without taps that weigh nothing."""
        met = np.flatnonzero(weights)
        kernel = self.kernel if len(met) == len(weights) else tf.gather(self.kernel, met)
        scale = np.sqrt(weights[met]) if root else weights[met]
        return tf.cast(kernel, dtype) * tf.constant(scale[:, None, None, None], dtype)
