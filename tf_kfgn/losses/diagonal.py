"""Likelihoods that treat each output by itself."""

from __future__ import annotations

import abc

import tensorflow as tf

from tf_kfgn.losses.base import Likelihood
from tf_kfgn.numerics import random


class Diagonal(Likelihood):
    """A likelihood whose Hessians are diagonal; a subclass says what is on the diagonal."""

    @abc.abstractmethod
    def diagonal(self) -> tf.Tensor:
        """The diagonal of the Hessian of each row, shaped like `outputs`."""

    def row_root_product(self, vector: tf.Tensor) -> tf.Tensor:
        """See `Likelihood.row_root_product`."""
        return tf.sqrt(self.diagonal()) * vector

    def row_product(self, vector: tf.Tensor) -> tf.Tensor:
        """See `Likelihood.row_product`."""
        return self.diagonal() * vector

    def row_sample(self, seed: tf.Tensor) -> tf.Tensor:
        """See `Likelihood.row_sample`: Gaussian."""
        return self.row_root_product(random.normal_like(self.outputs, seed))

    def mean_blocks(self) -> tf.Tensor:
        """See `Likelihood.mean_blocks`."""
        return tf.linalg.diag(self._mean_over_batch(self.diagonal()))
