"""Separable losses: sums over the elements of a row, whose Hessian is diagonal."""

from __future__ import annotations

from collections.abc import Callable

import keras
import tensorflow as tf

from tf_kfgn.losses import random
from tf_kfgn.losses.base import Likelihood


class Separable(Likelihood):
    """Any loss that treats each element of a row on its own, by automatic differentiation.

    Negative second derivatives are clipped at 0. They depend on the targets in general.
    """

    functions = (
        keras.losses.binary_crossentropy,
        keras.losses.binary_focal_crossentropy,
        keras.losses.huber,
        keras.losses.log_cosh,
        keras.losses.mean_squared_error,
        keras.losses.mean_squared_logarithmic_error,
        keras.losses.poisson,
        keras.losses.squared_hinge,
    )

    def __init__(
        self,
        outputs: tf.Tensor,
        weights: tf.Tensor,
        row_losses: Callable[[tf.Tensor], tf.Tensor],
    ) -> None:
        """Differentiate.

        Args:
            outputs: See `Likelihood`.
            weights: See `Likelihood`.
            row_losses: The loss of each row, unweighted, as a function of `outputs`.
        """
        super().__init__(outputs, weights)
        with tf.GradientTape() as outer:
            outer.watch(outputs)
            with tf.GradientTape() as inner:
                inner.watch(outputs)
                total = tf.reduce_sum(row_losses(outputs))
            gradient = inner.gradient(total, outputs)
        second = outer.gradient(
            gradient, outputs, unconnected_gradients=tf.UnconnectedGradients.ZERO
        )
        self._diagonal = tf.maximum(second, 0)

    def row_root_product(self, vector: tf.Tensor) -> tf.Tensor:
        """See `Likelihood.row_root_product`."""
        return tf.sqrt(self._diagonal) * vector

    def row_product(self, vector: tf.Tensor) -> tf.Tensor:
        """See `Likelihood.row_product`."""
        return self._diagonal * vector

    def row_sample(self, seed: tf.Tensor) -> tf.Tensor:
        """See `Likelihood.row_sample`."""
        return self.row_root_product(random.normal_like(self.outputs, seed))

    def mean_blocks(self) -> tf.Tensor:
        """See `Likelihood.mean_blocks`."""
        return tf.linalg.diag(self._mean_over_batch(self._diagonal))
