"""Likelihoods that treat each output by itself."""

from __future__ import annotations

import abc

import tensorflow as tf
from typing_extensions import override

from tf_kfgn.losses.base import Likelihood
from tf_kfgn.replicas import normal_of_examples


class Diagonal(Likelihood):
    """A likelihood whose Hessians are diagonal; a subclass says what is on the diagonal."""

    @abc.abstractmethod
    def diagonal(self) -> tf.Tensor:
        """The diagonal of the Hessian of each row, shaped like `outputs`."""

    @override
    def row_root_product(self, vector: tf.Tensor) -> tf.Tensor:
        return tf.sqrt(self.diagonal()) * vector

    @override
    def row_product(self, vector: tf.Tensor) -> tf.Tensor:
        return self.diagonal() * vector

    @override
    def row_sample(self, seed: tf.Tensor) -> tf.Tensor:
        """Gaussian."""
        return self.row_root_product(normal_of_examples(self.outputs, seed))

    @override
    def mean_blocks(self) -> tf.Tensor:
        return tf.linalg.diag(self._mean_over_batch(self.diagonal()))
