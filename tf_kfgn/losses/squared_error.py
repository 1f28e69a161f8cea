"""Squared error: the negative log-likelihood of a Gaussian of fixed variance."""

from __future__ import annotations

import math

import keras
import tensorflow as tf

from tf_kfgn.losses import random
from tf_kfgn.losses.base import Likelihood


class SquaredError(Likelihood):
    """`mean((y - z)**2)` over a row of length D: its Hessian is `2 / D` times the identity."""

    functions = (keras.losses.mean_squared_error,)

    def row_root_product(self, vector: tf.Tensor) -> tf.Tensor:
        """See `Likelihood.row_root_product`."""
        return math.sqrt(2.0 / self.features) * vector

    def row_product(self, vector: tf.Tensor) -> tf.Tensor:
        """See `Likelihood.row_product`."""
        return vector * (2.0 / self.features)

    def row_sample(self, seed: tf.Tensor) -> tf.Tensor:
        """See `Likelihood.row_sample`: the gradient for targets drawn around the prediction."""
        return self.row_root_product(random.normal_like(self.outputs, seed))

    def mean_blocks(self) -> tf.Tensor:
        """See `Likelihood.mean_blocks`."""
        ones = tf.ones_like(self.outputs)
        return tf.linalg.diag(self._mean_over_batch(ones) * (2.0 / self.features))
