"""Separable losses: sums over the elements of a row, whose Hessian is diagonal."""

from __future__ import annotations

import keras
import tensorflow as tf
from typing_extensions import override

from tf_kfgn.losses.diagonal import Diagonal
from tf_kfgn.losses.row_losses import RowLosses


class Separable(Diagonal):
    """Any loss that treats each element of a row on its own, by automatic differentiation.

    Negative second derivatives are clipped at 0. They depend on the targets in general. As
    `General`, at a price that does not grow with the length of a row.
    """

    functions = (
        keras.losses.binary_crossentropy,
        keras.losses.binary_focal_crossentropy,
        keras.losses.huber,
        keras.losses.kl_divergence,
        keras.losses.log_cosh,
        keras.losses.mean_squared_error,
        keras.losses.mean_squared_logarithmic_error,
        keras.losses.poisson,
        keras.losses.squared_hinge,
    )

    def __init__(self, outputs: tf.Tensor, weights: tf.Tensor, losses: RowLosses) -> None:
        """Differentiate.

        Args:
            outputs: Where the curvature is taken, shape `(batch_size, *positions, *features)`.
            weights: Of each row in the per-example loss, shape `(batch_size, *positions)`.
            losses: The losses of the rows at these outputs, unweighted.
        """
        super().__init__(outputs, weights)
        self._diagonal = tf.cast(tf.maximum(losses.diagonal(), 0), self.outputs.dtype)

    @override
    def diagonal(self) -> tf.Tensor:
        return self._diagonal
