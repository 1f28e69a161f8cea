"""Poisson: counts whose rate the model gives as an exponential."""

from __future__ import annotations

import keras
import tensorflow as tf

from tf_kfgn.losses import random
from tf_kfgn.losses.base import Likelihood


class Poisson(Likelihood):
    """`mean(exp(h) - z h)` over a row of D log-rates h: its Hessian is `diag(exp(h)) / D`.

    For a model that ends in the activation `"exponential"`. Rates that come from anything else
    have a curvature that depends on the targets: see `tf_kfgn.losses.separable`.
    """

    functions = (keras.losses.poisson,)
    head = "Exp"

    def row_root_product(self, vector: tf.Tensor) -> tf.Tensor:
        """See `Likelihood.row_root_product`."""
        return tf.sqrt(self._diagonal()) * vector

    def row_product(self, vector: tf.Tensor) -> tf.Tensor:
        """See `Likelihood.row_product`."""
        return self._diagonal() * vector

    def row_sample(self, seed: tf.Tensor) -> tf.Tensor:
        """See `Likelihood.row_sample`."""
        return self.row_root_product(random.normal_like(self.outputs, seed))

    def mean_blocks(self) -> tf.Tensor:
        """See `Likelihood.mean_blocks`."""
        return tf.linalg.diag(self._mean_over_batch(self._diagonal()))

    def _diagonal(self) -> tf.Tensor:
        return tf.exp(self.outputs) / self.features
