"""Categorical: softmax cross-entropy, with dense or with integer targets."""

from __future__ import annotations

import keras
import tensorflow as tf
from typing_extensions import override

from tf_kfgn.losses.base import Likelihood
from tf_kfgn.replicas import uniform_of_examples


class Categorical(Likelihood):
    """Cross-entropy of a row of softmax logits: its Hessian is `diag(p) - p p^T`."""

    functions = (
        keras.losses.categorical_crossentropy,
        keras.losses.sparse_categorical_crossentropy,
    )
    head = "Softmax"

    @override
    def row_root_product(self, vector: tf.Tensor) -> tf.Tensor:
        """Column k is `sqrt(p_k) (e_k - p)`."""
        p = tf.nn.softmax(self.outputs)
        scaled = tf.sqrt(p) * vector
        return scaled - p * tf.reduce_sum(scaled, axis=-1, keepdims=True)

    @override
    def row_product(self, vector: tf.Tensor) -> tf.Tensor:
        p = tf.nn.softmax(self.outputs)
        return p * (vector - tf.reduce_sum(p * vector, axis=-1, keepdims=True))

    @override
    def row_sample(self, seed: tf.Tensor) -> tf.Tensor:
        """The gradient for a class drawn from the model."""
        dtype = self.outputs.dtype
        uniform = uniform_of_examples(tf.shape(self.outputs), seed, dtype)
        gumbel = -tf.math.log(-tf.math.log(uniform))
        drawn = tf.argmax(tf.cast(self.outputs, gumbel.dtype) + gumbel, axis=-1)
        return tf.nn.softmax(self.outputs) - tf.one_hot(drawn, self.features, dtype=dtype)

    @override
    def mean_blocks(self) -> tf.Tensor:
        p = tf.nn.softmax(self.outputs)
        flat = tf.reshape(p, (-1, self.positions, self.features))
        weighted = flat * tf.reshape(self.weights, (-1, self.positions, 1))
        outer = tf.einsum("npi,npj->pij", weighted, flat) / self.batch_size
        return tf.linalg.diag(self._mean_over_batch(p)) - outer
